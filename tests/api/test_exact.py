"""Items that depend on their seed and index alone, files that carry their recipe and nothing private, replays that say what differs.

All families with 1,000 items each: benchmarks/exact.py.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import morphogen
from morphogen.api.common import Watch
from morphogen.api.drawing import Drawn, Said, Wish, sampling_of
from morphogen.api.writing import way_to
from morphogen.errors import FormatError, ResourceError
from morphogen.run import Run
from morphogen.trust import provenance


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classical model of rows with two columns: quick, and drawn in tiles like all others."""
    folder, rng = tmp_path_factory.mktemp("exact"), np.random.default_rng(0)
    rows = "".join(f"{'ab'[i % 2]},{rng.normal(10 * (i % 2)):.2f}\n" for i in range(80))
    (folder / "rows.csv").write_text("kind,size\n" + rows)
    return morphogen.train(folder / "rows.csv", folder / "run", family="kde")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("part", [16, 48])
def test_parts_and_company_change_nothing(run: Run, part: int) -> None:
    whole = morphogen.generate(run, n=100, seed=4)
    model = run.model()
    drawn = Drawn(model, Wish(4, 100), sampling_of(model, {}))
    drawn.part = part
    assert list(drawn) == whole and len(drawn._part) <= part, "no more than a part is held"
    assert [drawn[i] for i in (99, 0, 57)] == [whole[i] for i in (99, 0, 57)] and drawn[-1] == whole[-1]
    assert [Drawn(model, Wish(4, 1, first=i), sampling_of(model, {}))[0] for i in (3, 70)] == [whole[3], whole[70]]
    assert Said(drawn)[7] == {"seed": 4, "index": 7}


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_files_are_the_same_bytes_at_any_batch_and_replay(run: Run, tmp_path: Path, name: str) -> None:
    for batch in (1, 7, 64):
        morphogen.generate(run, tmp_path / str(batch) / name, n=70, seed=1, cond={"kind": "a"}, batch=batch)
    made = [files_of(tmp_path / str(batch)) for batch in (1, 7, 64)]
    assert made[0] == made[1] == made[2] and len(made[0]) == 2
    facts = provenance.read(tmp_path / "7" / name)
    assert facts["made_with"]["threads"] == 1 and facts["made_with"]["tile"] == run.recipe["generation"]["tile"]
    again = morphogen.replay(tmp_path / "7" / name, tmp_path / f"again-{name}")
    assert again.read_bytes() == made[0][name]


def test_a_replay_that_differs_says_what_differs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ear(Watch):
        lines: list[str] = []

        def say(self, line: str, kind: str = "info") -> None:
            self.lines.append(line)

    file = tmp_path / "a.csv"
    morphogen.generate(run, file, n=5)
    facts = provenance.read(file)
    then = {**facts["made_with"], "torch": "1.0", "cpu": "a machine of another kind"}
    file.write_text(file.read_text().replace("a", "b"))
    provenance.stamp(file, {**facts, "made_with": then})
    morphogen.replay(file, tmp_path / "b.csv", watch=Ear())
    assert [line.partition(":")[0] for line in Ear.lines] == ["torch", "cpu"] and "1.0 then" in Ear.lines[0]
    provenance.stamp(file, {**facts, "model": "0" * 64})
    with pytest.raises(FormatError, match="another model now"):
        morphogen.replay(file, tmp_path / "c.csv")


def test_what_was_asked_for_can_be_left_out(run: Run, tmp_path: Path) -> None:
    asked, plain = tmp_path / "asked.csv", tmp_path / "plain.jsonl"
    morphogen.generate(run, asked, n=5, cond={"kind": "b"}, metadata=False)
    facts = provenance.read(asked)
    assert facts["cond"] == {} and facts["given"] is None and facts["left_out"] == ["cond"]
    with pytest.raises(FormatError, match="left out"):
        morphogen.replay(asked, tmp_path / "again.csv")
    morphogen.generate(run, plain, n=5, metadata=False)  # nothing was asked for: the recipe is whole
    assert morphogen.replay(plain, tmp_path / "again.jsonl").read_bytes() == plain.read_bytes()


def test_recipes_name_no_user_and_no_place(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "someone"
    monkeypatch.setenv("HOME", str(home))
    (home / "runs" / "a").mkdir(parents=True)
    assert way_to(home / "runs" / "a", home / "out") == "../runs/a"
    assert way_to(home / "runs" / "a", tmp_path / "elsewhere") == "a", "a way over the folder of users"
    assert way_to(tmp_path / "someone" / "a", tmp_path / "b") == "a", "a user's name on the way"
    morphogen.generate(run, tmp_path / "a.csv", n=2)
    text = json.dumps(provenance.read(tmp_path / "a.csv"))
    assert str(tmp_path) not in text and os.uname().nodename not in text


def test_interrupted_writing_leaves_nothing_and_keeps_the_old(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    morphogen.generate(run, tmp_path / "a.csv", n=5)
    before = files_of(tmp_path)

    def stops(self: Drawn) -> Iterator[Any]:
        yield self[0]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Drawn, "__iter__", stops)
        with pytest.raises(KeyboardInterrupt):
            morphogen.generate(run, tmp_path / "a.csv", n=9, seed=2, force=True)
        with pytest.raises(KeyboardInterrupt):
            morphogen.generate(run, tmp_path / "b.jsonl", n=9)
    assert files_of(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "stamp", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(ResourceError, match="No space"):
            morphogen.generate(run, tmp_path / "a.csv", n=9, seed=2, force=True)
    assert files_of(tmp_path) == before
