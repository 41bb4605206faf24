"""Every family of the registry draws the same items whatever the company; 1,000 of each: benchmarks/exact.py."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.exact import judge, steps_of
from tests.training.small import write

import morphogen
from morphogen.registry import FAMILIES
from morphogen.run import Run

N, TILE = 3, 2  # two tiles, the last of one row: reversed, every row has other company
TINY = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 0, "checks": 0, "batch": 8}}
BYTES = {**TINY, "codec": {"tokens": "bytes", "length": 24}}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # family: its data, what is asked of it, options
    **{name: ("pictures", {"label": "dark"}, TINY) for name in ("vae", "gan", "diffusion", "flow")},
    **{name: ("pictures", {}, {}) for name in ("neighbour", "latent_class")},
    "masked": ("rows.csv", {"kind": "a"}, TINY), "autoregressive": ("lines.txt", {}, BYTES), "seq2seq": ("pairs.jsonl", {}, BYTES),
    "ngram": ("lines.txt", {}, {}), **{name: ("rows.csv", {}, {}) for name in ("mixture", "kde", "cart")},
    "vae + diffusion": ("pictures", {}, TINY), "vae + autoregressive": ("pictures", {}, TINY),
}
LATENT = {"vae + diffusion": "kl", "vae + autoregressive": "vq"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    write(folder)
    rows = [{"text": f"the {a} {b}", "caption": a} for a in ("old", "red", "big") for b in ("fox", "dog", "cat")] * 4
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def trained(folder: Path, name: str, out: Path) -> Run:
    data, _, options = CASES[name]
    more: dict[str, Any] = {"cond": ("caption",)} if name == "seq2seq" else {}
    family = name
    if name in LATENT:
        family = name.split(" + ")[1]
        first = {**TINY, "family": {"kind": LATENT[name], **({"grid": 2, "codes": 16} if LATENT[name] == "vq" else {})}}
        more["bridge"] = morphogen.train(folder / data, out / "first", family="vae", steps=3, options=first).path
    run = morphogen.train(folder / data, out / "run", family=family, steps=3, options=options, **more)
    run.recipe["generation"]["tile"] = TILE
    run.save_recipe()
    return Run.load(run.path)


KEEP = {"kde", "neighbour", "cart", "ngram"}  # models that hold training rows, or pieces of them


def test_every_family_has_a_case() -> None:
    assert set(FAMILIES) <= set(CASES)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LATENT else ()) for name in CASES])
def test_company_changes_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    """Raw tensors, items and files are the same at --batch 1 and 7 and in reverse, and every item is replayed from its file's recipe."""
    data, cond, _ = CASES[name]
    ending = {"pictures": "", "rows.csv": ".csv"}.get(data, ".jsonl")
    run = trained(folder, name, tmp_path)
    found = judge(run, cond, ending, N, tmp_path / "drawn", (1, 7), steps_of(name))
    assert run.provenance()["contains_training_rows"] is (name in KEEP)
    assert found == {"files": found["of"], "of": found["of"], "tensors": N, "items": N, "replayed": N} and found["of"] >= 2
