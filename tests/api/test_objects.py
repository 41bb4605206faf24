"""Objects handed to the verbs: trained on, given, scored, compared and judged without a file."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import morphogen
from morphogen.api.evaluate import plan_again
from morphogen.errors import DataError, MorphogenError
from morphogen.run import Run

pandas = pytest.importorskip("pandas")
arrow = pytest.importorskip("pyarrow")

FRAME = pandas.DataFrame({"kind": ["a", "b", "c"] * 40, "x": np.arange(120) % 7 + 0.5, "y": np.arange(120) % 3})


def test_a_frame_goes_through_the_verbs(tmp_path: Path) -> None:
    run = morphogen.train(FRAME, tmp_path / "run", family="cart")
    known = pandas.DataFrame({"kind": ["a", None], "x": [np.nan, 3.5]})
    filled = morphogen.generate(run, n=2, given=known)
    assert filled[0]["kind"] == "a" and filled[1]["x"] == 3.5
    assert filled == morphogen.generate(run, n=2, given=arrow.Table.from_pandas(known, preserve_index=False))
    found = morphogen.score(FRAME.head(10), run)
    assert len(found["items"]) == 10
    assert morphogen.nearest(arrow.Table.from_pandas(FRAME.head(5)), run)["exact"] == 5
    with pytest.raises(DataError, match="hand over the Run that `train` returned"):
        morphogen.evaluate(tmp_path / "run")
    with pytest.raises(DataError, match="those given are others"):
        morphogen.evaluate(tmp_path / "run", data=FRAME.head(60))
    assert [item.raw for item in plan_again(Run.load(tmp_path / "run"), FRAME).items] == [item.raw for item in plan_again(run).items]


def test_labelled_pictures_in_a_dict(tmp_path: Path) -> None:
    pixels = np.zeros((60, 6, 6), np.uint8)
    pixels[np.arange(60), np.arange(60) % 2 * 5] = 255
    run = morphogen.train({"image": pixels, "label": np.arange(60) % 2}, tmp_path / "run", family="kde")
    assert run.recipe["conditions"] == {"label": "label"}
    for label in (0, 1):
        drawn = morphogen.generate(run, n=4, cond={"label": label})
        assert all(picture[5 * label].mean() > 150 > 100 > picture[5 - 5 * label].mean() for picture in drawn)
    masked = np.concatenate([np.full((1, 6, 6, 3), 255, np.uint8), np.zeros((1, 6, 6, 1), np.uint8)], -1)
    masked[0, 0, :, 3] = 255
    (filled,) = morphogen.generate(run, n=1, given=masked)
    assert (filled[0] == 255).all() and filled.shape == (6, 6, 1)


def test_what_cannot_be_given_is_refused_in_one_line(tmp_path: Path) -> None:
    run = morphogen.train(FRAME, tmp_path / "run", family="cart")
    for bad in (42, {"kind": "a"}, np.zeros((2, 3, 4, 5))):
        with pytest.raises(MorphogenError) as error:
            morphogen.generate(run, n=1, given=bad)
        assert "\n" not in str(error.value)
