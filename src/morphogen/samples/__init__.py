"""Small data sets to try everything with: digits, emoji, penguins, and the docstrings of the Python that runs. No torch here.

Pictures travel as one sheet each (thousands of small files would triple the wheel) and are unpacked as the folders a
user would have. Sources and licences: CREDITS.md beside this file.
"""
from __future__ import annotations

import ast
import io
import json
import sysconfig
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from morphogen import files
from morphogen.errors import ResourceError

TEXT_LIMIT = 1_000_000
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PLACES = (*DEFINITIONS, ast.If, ast.Try)


def unpack(folder: Path) -> dict[str, Path]:
    """Fill a new folder and return where each set lies: "digits", "emoji", "penguins", "docstrings".

    digits/7/0007.png (8×8, 17 grey levels, class folders), emoji/1f600.png (32×32, transparent) with metadata.jsonl of
    file_name, caption and category, penguins.csv, docstrings.txt (entries separated by blank lines).
    Raises UsageError when the folder exists and is not empty, ResourceError when it cannot be written.
    """
    folder = Path(folder)
    files.check_output(folder)
    with files.new_folder(folder) as new:
        _digits(new / "digits")
        _emoji(new / "emoji")
        (new / "penguins.csv").write_bytes(_packed("penguins.csv"))
        (new / "docstrings.txt").write_text("\n\n".join(docstrings()) + "\n", encoding="utf-8")
        (new / "CREDITS.md").write_bytes(_packed("CREDITS.md"))
    names = {"digits": "digits", "emoji": "emoji", "penguins": "penguins.csv", "docstrings": "docstrings.txt"}
    return {name: folder / file for name, file in names.items()}


def docstrings(limit: int = TEXT_LIMIT) -> list[str]:
    """Docstrings of the standard library's modules, classes and functions, in order of file and line, each once.

    Read from source without importing anything; blank lines inside are left out; at most `limit` characters in all.
    Raises ResourceError where Python is installed without its source.
    """
    found: dict[str, None] = {}
    total = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for text in _docstrings_of(path):
            if text in found:
                continue
            total += len(text) + 2
            if total > limit:
                return list(found)
            found[text] = None
    if not found:
        raise ResourceError("the standard library's source is not installed", remedy="use any text file of your own instead")
    return list(found)


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():  # old escapes in other people's source are not ours to report
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        waiting += [child for child in reversed(node.body) if isinstance(child, PLACES)]
        if isinstance(node, DEFINITIONS):
            lines = [line.rstrip() for line in (ast.get_docstring(node) or "").splitlines()]
            text = "\n".join(line for line in lines if line).encode("utf-8", "ignore").decode("utf-8")  # without lone surrogates
            if len(text) >= 20:
                yield text


def _packed(name: str) -> bytes:
    return resources.files("morphogen.samples").joinpath(name).read_bytes()


def _cells(sheet: str, cell: int, columns: int, count: int) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(_packed(sheet))) as image:
        pixels = np.asarray(image)
    for i in range(count):
        row, column = i // columns * cell, i % columns * cell
        yield Image.fromarray(np.ascontiguousarray(pixels[row : row + cell, column : column + cell]))


def _digits(folder: Path) -> None:
    about = json.loads(_packed("digits.json"))
    for label in "0123456789":
        (folder / label).mkdir(parents=True)
    for i, picture in enumerate(_cells("digits.png", about["cell"], about["columns"], len(about["labels"]))):
        picture.save(folder / about["labels"][i] / f"{i:04d}.png", compress_level=1)


def _emoji(folder: Path) -> None:
    about = json.loads(_packed("emoji.json"))
    folder.mkdir(parents=True)
    rows = []
    entries = about["entries"]
    for (name, caption, category), picture in zip(entries, _cells("emoji.webp", about["cell"], about["columns"], len(entries))):
        picture.save(folder / f"{name}.png", compress_level=1)
        rows.append(json.dumps({"file_name": f"{name}.png", "caption": caption, "category": category}, ensure_ascii=False) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
