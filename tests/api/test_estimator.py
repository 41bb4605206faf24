"""scikit-learn's manners: its own checks, and what a synthesizer does beside them."""
from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import morphogen
from morphogen import Synthesizer
from morphogen.errors import UsageError

pandas = pytest.importorskip("pandas")

# What of scikit-learn's list does not fit, and why. Everything else it names for an estimator without predict is run.
LEFT_OUT: dict[str, str] = {}


@pytest.mark.slow
@parametrize_with_checks([Synthesizer("cart", random_state=0)], expected_failed_checks=lambda estimator: LEFT_OUT)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def blobs(n: int = 120) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 1, (n // 2, 2)), rng.normal(6, 1, (n // 2, 2))])


def test_arrays_come_back_as_arrays_and_seeds_decide() -> None:
    model = Synthesizer("cart", random_state=3).fit(blobs())
    drawn = model.sample(200)
    assert drawn.shape == (200, 2) and drawn.dtype == np.float64 and np.isfinite(drawn).all()
    assert (model.sample(200) == drawn).all() and (model.sample(200, random_state=4) != drawn).any()
    assert (model.sample(20) == drawn[:20]).all(), "an item depends on the seed and its number"
    assert 2 < drawn.mean() < 4 and drawn.std() > 2
    near, far = model.score_samples([[0.0, 0.0]]), model.score_samples([[40.0, -40.0]])
    assert near.shape == (1,) and near > far + 5
    assert model.score(blobs()) == pytest.approx(model.score_samples(blobs()).mean())


def test_frames_keep_names_kinds_and_gaps() -> None:
    frame = pandas.DataFrame({"size": blobs()[:, 0], "kind": ["a", "b"] * 60, "n": np.arange(120) % 4})
    frame.loc[::7, "size"] = np.nan
    model = Synthesizer("cart", random_state=0).fit(frame)
    assert model.feature_names_in_.tolist() == ["size", "kind", "n"] and model.n_features_in_ == 3
    drawn = model.sample(60)
    assert list(drawn.columns) == ["size", "kind", "n"] and set(drawn.kind) == {"a", "b"} and set(drawn.n) <= {0, 1, 2, 3}
    assert 0 < drawn["size"].isna().sum() < 30
    with pytest.raises(ValueError, match="feature names should match"):
        model.score_samples(frame.rename(columns={"n": "m"}))


def test_columns_can_be_asked_for() -> None:
    frame = pandas.DataFrame({"a": blobs()[:, 0], "level": np.repeat(["low", "high"], 60)})
    model = Synthesizer("cart", cond=["level"], random_state=0).fit(frame)
    low, high = (model.sample(80, cond={"level": name}) for name in ("low", "high"))
    assert set(low.level) == {"low"} and low.a.mean() < 1.5 < 4.5 < high.a.mean()


def test_pictures_and_texts() -> None:
    pixels = np.zeros((60, 6, 6), np.uint8)
    pixels[np.arange(60), np.arange(60) % 6] = 255
    drawn = Synthesizer("neighbour", random_state=0).fit(pixels).sample(3)
    assert drawn.shape == (3, 6, 6) and drawn.dtype == np.uint8
    texts = [f"number {i % 10} of many, written out in words" for i in range(80)]
    model = Synthesizer("ngram", random_state=0).fit(texts)
    assert all(isinstance(text, str) for text in model.sample(3))
    assert model.score_samples(texts[:1]) > model.score_samples(["zzz qqq xxx"])


def test_unfitted_and_impossible_calls_are_refused() -> None:
    with pytest.raises(NotFittedError):
        Synthesizer().sample(3)
    with pytest.raises(NotFittedError):
        Synthesizer().score_samples(blobs())
    model = Synthesizer("neighbour", random_state=0).fit(blobs())
    with pytest.raises(UsageError, match="gives no likelihood"):
        model.score_samples(blobs())
    for n in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match="n_samples"):
            model.sample(n)  # type: ignore[arg-type]


def test_copies_and_run_folders(tmp_path: Path) -> None:
    model = Synthesizer("kde", path=tmp_path / "run", random_state=0)
    assert clone(model).get_params() == model.get_params() and clone(model).set_params(steps=5).steps == 5
    model.fit(blobs())
    again = pickle.loads(pickle.dumps(model))
    assert (again.sample(5) == model.sample(5)).all()
    assert len(morphogen.generate(tmp_path / "run", n=3)) == 3, "the folder is a run like any other"


@pytest.mark.slow
def test_importing_the_package_loads_neither_torch_nor_sklearn() -> None:
    script = "import sys, morphogen\nassert not {'torch', 'sklearn'} & set(sys.modules)\nmorphogen.Synthesizer"
    subprocess.run([sys.executable, "-c", script], check=True)
