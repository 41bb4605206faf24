"""What a model models: a closed sum of three Spaces. No torch here.

Layouts (host side without, device side with a leading batch axis B):
    Array   float32 (C, *space)
    Tokens  int64   (L,)            (L, K) when streams = K > 1
    Record  dict    name -> sample of that field's Space
"""
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Array:
    """Real numbers of shape (C, *space): pixels, waveform, point set, vector. One axis may be ragged (None).

    `symmetry` ("flip_x", "rot90", "shift") is what augmentation may use, so no modality need be named for it.
    """

    shape: tuple[int | None, ...]
    symmetry: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers one sample holds (ragged axes count once)."""
        return prod([n or 1 for n in self.shape])  # a list: torch.compile reads no generators


@dataclass(frozen=True)
class Tokens:
    """Integers below `vocab`. `length` is the largest; a sample ends after `end`, which also pads.

    `grid`: the shape when positions lie on a grid (prod(grid) == length). `slots`: legal ids [low, high) per position.
    """

    vocab: int
    length: int
    streams: int = 1
    grid: tuple[int, ...] = ()
    end: int | None = None
    slots: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Record:
    """A product of named Spaces: a table row, an (image, caption) pair. `rows=None` is ragged."""

    fields: tuple[tuple[str, Space], ...]
    rows: int | None = 1


Space: TypeAlias = Array | Tokens | Record


def to_json(space: Space) -> dict[str, Any]:
    """A Space as plain JSON; `from_json` gives it back equal."""
    match space:
        case Array():
            return {"kind": "array", "shape": list(space.shape), "symmetry": list(space.symmetry)}
        case Tokens():
            return {"kind": "tokens", "vocab": space.vocab, "length": space.length, "streams": space.streams,
                    "grid": list(space.grid), "end": space.end, "slots": [list(s) for s in space.slots]}
        case Record():
            return {"kind": "record", "fields": [[k, to_json(s)] for k, s in space.fields], "rows": space.rows}


def from_json(data: dict[str, Any]) -> Space:
    """The inverse of `to_json`."""
    match data["kind"]:
        case "array":
            return Array(tuple(data["shape"]), tuple(data["symmetry"]))
        case "tokens":
            slots = tuple((int(a), int(b)) for a, b in data["slots"])
            return Tokens(data["vocab"], data["length"], data["streams"], tuple(data["grid"]), data["end"], slots)
        case "record":
            return Record(tuple((k, from_json(s)) for k, s in data["fields"]), data["rows"])
        case kind:
            raise ValueError(f"unknown space kind {kind!r}")


def describe(space: Space) -> str:
    """A Space in a few words, for `inspect` and reports."""
    match space:
        case Array():
            return "array " + "×".join("?" if n is None else str(n) for n in space.shape)
        case Tokens():
            shape = "×".join(map(str, space.grid)) if space.grid else ("≤" if space.end is not None else "") + str(space.length)
            return f"{shape} tokens of {space.vocab:,}"
        case Record():
            return f"record of {len(space.fields)} fields"
