"""compare: what is asked for is checked first, what does not work out is on the page, and Ctrl-C ends all of it."""
from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import morphogen
from morphogen.errors import DataError, Interrupted, UsageError


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "rows.csv"
    path.write_text("kind,size\n" + "".join(f"{'ab'[i % 2]},{(i * 7) % 13}.5\n" for i in range(60)))
    return path


@pytest.mark.parametrize("wish", [{"families": ["catr"]}, {"minutes": 0}, {"minutes": -1.0}, {"n": 0}, {"families": ["cart", "x"]}])
def test_wrong_wishes_are_refused_before_any_work(rows: Path, tmp_path: Path, wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        morphogen.compare(rows, tmp_path / "out", **wish)
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_the_whole_comparison(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def stopped(data: Any, out: Path, **more: Any) -> Any:
        tried.append(out.name)
        raise Interrupted("stopped", remedy="go on with --resume")

    monkeypatch.setattr(import_module("morphogen.api.compare"), "train", stopped)  # the verb hides its module
    with pytest.raises(Interrupted, match="--force begins again"):
        morphogen.compare(rows, tmp_path / "out", families=["cart", "mixture", "cart"])
    assert tried == ["cart"]


def test_a_family_that_does_not_fit_is_on_the_page(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(data: Any, out: Path, *, family: str, **more: Any) -> Any:
        if family == "mixture":
            raise DataError("no mixture fits", remedy="give other data")
        return morphogen.train(data, out, family=family, **more)

    monkeypatch.setattr(import_module("morphogen.api.compare"), "train", trained)
    answer = morphogen.compare(rows, tmp_path / "out", families=["mixture", "neighbour"], n=20)
    assert answer["use"] == "neighbour" and list(answer["failed"]) == ["mixture"]
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["failed"] == answer["failed"]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "No result: " in page and ">mixture<" in page


def test_a_sample_of_pictures_is_the_same_for_every_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    from morphogen.codecs import image

    module = import_module("morphogen.api.compare")
    monkeypatch.setattr(image, "FIRST", 20)
    sizes = iter([120, *range(110, 60, -10)])  # every reading has room for another number
    monkeypatch.setattr(image, "in_rounds", lambda n, room, first: [np.random.default_rng(0).permutation(n)[: next(sizes) if room else n]])
    for i in range(150):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i:03d}.png")
    plans, plain = [], module.make_plan
    monkeypatch.setattr(module, "make_plan", lambda *a, **k: plans.append(plain(*a, **k)) or plans[-1])
    morphogen.compare(tmp_path, tmp_path.parent / "compared", minutes=0.5, families=["kde", "mixture"], n=16)
    assert len(plans) == 3 and [len(plan.items) for plan in plans] == [120] * 3
    assert all(plan.held_out == plans[0].held_out and plan.codec.config.pictures == 120 for plan in plans)
