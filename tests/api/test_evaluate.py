"""evaluate: what a report compares with are the items the run learned from, wherever they are now."""
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import morphogen
from morphogen.api.common import Watch
from morphogen.api.evaluate import _other_data, evaluate, plan_again
from morphogen.api.train import fitted_classical
from morphogen.errors import DataError
from morphogen.plan import make_plan
from morphogen.run import Run


class Ear(Watch):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str, kind: str = "info") -> None:
        self.lines.append(line)


def table(path: Path, n: int = 60) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("kind,size\n" + "".join(f"{'ab'[i % 2]},{(i * 7) % 13}.5\n" for i in range(n)))
    return path


def test_data_that_moved_are_told_by_their_hash(tmp_path: Path) -> None:
    here, there = table(tmp_path / "a" / "rows.csv"), tmp_path / "b" / "rows.csv"
    run = morphogen.train(here, tmp_path / "run", family="neighbour")
    before = [item.raw for item in plan_again(run).items]
    there.parent.mkdir()
    shutil.move(here, there)
    with pytest.raises(DataError, match="--data"):
        evaluate(tmp_path / "run")
    with pytest.raises(DataError, match="those given are others"):
        evaluate(tmp_path / "run", data=table(tmp_path / "c" / "rows.csv", 61))
    assert [item.raw for item in plan_again(Run.load(tmp_path / "run"), there).items] == before


def test_changed_data_are_said(tmp_path: Path) -> None:
    data = table(tmp_path / "a" / "rows.csv")
    run, ear = morphogen.train(data, tmp_path / "run", family="neighbour"), Ear()
    plan_again(run, watch=ear)
    assert ear.lines == []
    data.write_text(data.read_text().replace("a,", "b,", 1))
    plan_again(run, watch=ear)
    assert len(ear.lines) == 1 and "changed since the run learned" in ear.lines[0]


def test_other_data_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    run, ear = morphogen.train(table(tmp_path / "a" / "rows.csv"), tmp_path / "run", family="neighbour"), Ear()
    (tmp_path / "new.csv").write_text("kind,size\na,3.5\nz,4.5\nb,\n")
    found = _other_data(run, plan_again(run), tmp_path / "new.csv", run.model(), ear)
    assert [item.raw["kind"] for item in found] == ["a"] and "2 of 3 items do not fit the run" in ear.lines[0]
    (tmp_path / "other.csv").write_text("name\nx\ny\n")
    with pytest.raises(DataError, match="no item fits the run"):
        _other_data(run, plan_again(run), tmp_path / "other.csv", run.model(), ear)


def test_baselines_see_the_items_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec's own variants (turned levels, molecules written otherwise) are for training, not for the yardstick."""
    from morphogen.training import data as room

    levels = [("#" * (5 + i % 4), "#@$." + " " * (i % 4) + "#", "#" * (5 + i % 4)) for i in range(24)]
    (tmp_path / "levels.txt").write_text("\n\n".join(f"; {i}\n" + "\n".join(rows) for i, rows in enumerate(levels)) + "\n")
    plan = make_plan(tmp_path / "levels.txt", family="ngram")
    assert len(plan.lessons()) > len(plan.train), "these levels have other orientations"
    seen, real = [], room.Dataset

    def counted(model: Any, items: Any) -> Any:
        seen.append(len(items))
        return real(model, items)

    monkeypatch.setattr(room, "Dataset", counted)
    fitted_classical(plan)
    assert seen == [len(plan.train)]
