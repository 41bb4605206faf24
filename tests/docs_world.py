"""The folder in which the documents' examples run: small stand-ins for every file they name, and trainings cut to a few steps."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
STEPS = 3
JUDGED = 40  # items of a report
NET = {"width": 16, "depth": 1}


@contextlib.contextmanager
def short_trainings(*, reports: bool = True) -> Iterator[None]:
    """Trainings of a few steps of tiny nets: what a page asks for stays as printed, only the plan that comes of it is smaller.

    `reports`: whether runs are judged, which takes longer than training them.
    """

    def patched(original: Any) -> Any:
        def make_plan(data: Any, **wishes: Any) -> Any:
            options = dict(wishes.get("options") or {})
            options["net"] = {**options.get("net", {}), **NET}
            options["training"] = {"previews": 1, "checks": 1, "batch": 8, **options.get("training", {}), "aims": ()}
            wishes |= {"options": options, "steps": min(wishes.get("steps") or STEPS, STEPS), "minutes": None, "size": "tiny"}
            return original(data, **wishes)

        return make_plan

    with pytest.MonkeyPatch.context() as patch:
        for name in ("morphogen.api.train", "morphogen.api.compare"):
            module = importlib.import_module(name)  # `morphogen.api.train` as an attribute is the function
            patch.setattr(module, "make_plan", patched(module.make_plan))
        module = importlib.import_module("morphogen.api.evaluate")
        judge = module.judge
        patch.setattr(module, "judge", lambda *a, n, **more: judge(*a, n=min(n or JUDGED, JUDGED), **more))
        if not reports:
            patch.setattr(module, "evaluate", lambda *a, **more: {"verdict": ""})
        yield


def run(command: str, *, said: str = "Hello") -> str:
    """Run one `morphogen ...` line in this process; returns what it printed. Fails with its error line when it does not end well."""
    from morphogen.cli import main

    words = shlex.split(command, comments=True)
    assert words[0] == "morphogen", command
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "stdin", io.StringIO(said))  # chat answers what comes by a pipe
        patch.setenv("COLUMNS", "100")
        try:
            main(words[1:])
        except SystemExit as end:
            assert not end.code, f"{command}\n{err.getvalue()[-2000:]}"
    return out.getvalue()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# ------------------------------------------------------------------ the files that pages name
def simple(folder: Path) -> Path:
    """Data that take no time to make: tables, pictures, texts, molecules, tunes, levels."""
    from morphogen.samples import docstrings

    rng = np.random.default_rng(0)
    for name in ("photos", "my_folder", "digits", "new_parts"):
        for label, shade in (("cats", 60), ("dogs", 190)):
            (folder / name / label).mkdir(parents=True)
            for i in range(24):
                pixels = np.clip(rng.normal(shade, 25, (8, 8)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / label / f"{i}.png")
    Image.fromarray(np.dstack([np.full((8, 8, 3), 90, np.uint8), np.kron([[255, 0], [255, 255]], np.ones((4, 4)))]).astype(np.uint8)).save(
        folder / "torn.png"
    )
    for name in ("a.png", "b.png", "photo.png"):
        shutil.copy(folder / "photos/cats/1.png", folder / name)
    for name in ("penguins.csv", "table.csv"):
        (folder / name).write_bytes(resources.files("morphogen.samples").joinpath("penguins.csv").read_bytes())
    header, *rows = (folder / "table.csv").read_text().splitlines()
    (folder / "holes.csv").write_text("\n".join([header, *(r.rsplit(",", 3)[0] + ",,," for r in rows[:5])]) + "\n")
    text = "\n\n".join(docstrings(20_000))
    for name in ("notes.txt", "tales.txt"):
        (folder / name).write_text(text)
    (folder / "opening.txt").write_text("Return the ")
    (folder / "prompts.jsonl").write_text('{"prompt": "the quick"}\n{"prompt": "a small"}\n')
    (folder / "person.json").write_text('{"type": "object", "properties": {"ok": {"type": "boolean"}}, "additionalProperties": false}')
    lessons = [
        {"prompt": f"{a} fox", "completion": f" jumps over {b}"}
        for a in ("quick", "brown", "lazy")
        for b in ("dogs", "words", "models", "it")
    ]
    for name in ("examples.jsonl", "letters.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in lessons))
    data = ROOT / "tests" / "data"
    shutil.copy(data / "molecule" / "small.csv", folder / "molecules.csv")
    shutil.copy(data / "music" / "airs.abc", folder / "tunes.abc")
    shutil.copy(data / "level" / "rooms.txt", folder / "levels.txt")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    return folder


def models(folder: Path) -> Path:
    """Language models of random weights with real tokenizers, as a folder and as GGUF, and the runs that pages take for granted."""
    spec = importlib.util.spec_from_file_location("language_conftest", ROOT / "tests" / "language" / "conftest.py")
    assert spec and spec.loader
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    tiny.checkpoint(folder / "model")
    with inside(folder), short_trainings():
        run("morphogen export model --format gguf --out model.gguf")
        run("morphogen train penguins.csv --out runs/penguins --family cart --no-report")
        run("morphogen train notes.txt --out runs/notes --no-report")
        run("morphogen train notes.txt --out runs/tales --no-report")
        run("morphogen train new_parts --out runs/parts --family mixture --no-report")
    return folder
