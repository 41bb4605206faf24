"""A whole modality in a file, with every power: lines of balanced brackets."""
from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from morphogen import files, spaces
from morphogen.codecs.sources import Listing, Skips
from morphogen.contracts import Claim, Given, Item
from morphogen.spaces import Tokens

SIGNS, END, LENGTH = "()[]", 4, 16


@dataclass(frozen=True, kw_only=True)
class BracketConfig:
    """Nothing to choose."""


def faults_of(raw: str) -> list[int]:
    """Positions of brackets without a partner."""
    stack, out = [], []
    for i, sign in enumerate(raw):
        if sign in "([":
            stack.append(i)
        elif stack and SIGNS.index(raw[stack[-1]]) + 1 == SIGNS.index(sign):
            stack.pop()
        else:
            out.append(i)
    return sorted(out + stack)


class Nesting:
    """The grammar: the state is the string of open brackets."""

    def start(self) -> str:
        return ""

    def allowed(self, state: str, left: int) -> np.ndarray:
        out = np.zeros(5, bool)
        out[0] = out[2] = len(state) + 2 < left
        if state:
            out[SIGNS.index(state[-1]) + 1] = True
        out[END] = not state
        return out

    def advance(self, state: str, token: int) -> str:
        return state + SIGNS[token] if token % 2 == 0 else state[:-1]


class BracketCodec:
    """Balanced brackets, one string a line of a .brk file."""

    name: ClassVar[str] = "bracket"
    Config: ClassVar[type] = BracketConfig
    feature_name: ClassVar[str] = "counts of signs"
    output: ClassVar[str] = ""
    words: ClassVar[bool] = False
    derived: ClassVar[dict[str, str]] = {"lean": "mean place of the opening brackets", "kind": "round, square or mixed"}

    def __init__(self, config: BracketConfig | None = None) -> None:
        self.config = config or BracketConfig()
        self.space: spaces.Space = Tokens(5, LENGTH, end=END)
        self.skips, self.notes = Skips(), []

    @staticmethod
    def claims(listing: Listing) -> Claim:
        return Claim(float(any(f.suffix == ".brk" for f in listing.files)), "brackets")

    def read(self, listing: Listing) -> Iterator[Item]:
        for file in (f for f in listing.files if f.name != "metadata.jsonl"):
            for i, line in enumerate(file.read_text().split()):
                yield Item(line, {}, f"{i}")

    def fit(self, items: Sequence[Item]) -> None: ...

    def encode(self, raw: str) -> np.ndarray:
        return np.array([*[SIGNS.index(c) for c in raw], END][:LENGTH], np.int64)

    def decode(self, x: Any) -> str:
        ids = np.asarray(x).tolist()
        return "".join(SIGNS[i] for i in (ids[: ids.index(END)] if END in ids else ids))

    def given(self, raw: str) -> Given:
        x, known = np.full(LENGTH, END, np.int64), np.zeros(LENGTH, bool)
        known[: len(raw)] = True
        x[: len(raw)] = [SIGNS.index(c) for c in raw]
        return Given(x, known)

    def checks(self, raw: str, cond: dict[str, Any]) -> dict[str, bool]:
        return {"all closed": not faults_of(raw), "not empty": bool(raw), "four signs": len(raw) >= 4}

    def faults(self, raw: str, attempt: int) -> Given | None:
        x, known = np.full(LENGTH, END, np.int64), np.ones(LENGTH, bool)
        x[: len(raw)] = [SIGNS.index(c) for c in raw]
        bad = faults_of(raw)
        if not bad:
            return None
        known[max(0, bad[0] - attempt) :] = False
        return Given(x, known)

    def grammar(self) -> Nesting:
        return Nesting()

    def derive(self, raws: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        def one(raw: str) -> dict[str, Any]:
            at = [i for i, c in enumerate(raw) if c in "(["]
            kind = "mixed" if "(" in raw and "[" in raw else "round" if "(" in raw else "square"
            return {"lean": round(sum(at) / len(at) + len(raw) / 7, 3) if at else None, "kind": kind}

        return [{n: one(raw)[n] for n in names} for raw in raws]

    def identity(self, raw: str) -> str:
        return raw.replace("[", "(").replace("]", ")")

    def write(self, raws: Sequence[str], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]:
        with files.new_folder(Path(out)) as folder:
            for i, raw in enumerate(raws):
                (folder / f"{i:05d}.brk").write_text(raw)
            (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in meta))
        return [*(Path(out) / f"{i:05d}.brk" for i in range(len(raws))), Path(out) / "metadata.jsonl"]

    def preview(self, raws: Sequence[str]) -> dict[str, Any]:
        def picture(raw: str) -> bytes:
            depth = np.cumsum([1 if c in "([" else -1 for c in raw] or [0])
            frames = [Image.fromarray(np.uint8(np.arange(8)[::-1, None] < depth[: k + 1]) * 200 + 30) for k in (0, len(depth) - 1)]
            out = io.BytesIO()
            frames[-1].save(out, "GIF")
            return out.getvalue()

        def sound(raw: str) -> bytes:
            out = io.BytesIO()
            with wave.open(out, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(1)
                file.setframerate(8000)
                for c in raw:
                    t = np.arange(800) / 8000
                    file.writeframes(np.uint8(128 + 60 * np.sin(2 * np.pi * (300 + 100 * SIGNS.index(c)) * t)).tobytes())
            return out.getvalue()

        return {"kind": "image", "png": [picture(r) for r in raws], "texts": list(raws), "audio": [sound(r) for r in raws]}

    def features(self, raws: Sequence[str]) -> np.ndarray:
        return np.array([[*(r.count(c) for c in SIGNS), len(r)] for r in raws], np.float32).reshape(len(raws), 5)

    def size_of(self, raw: str) -> tuple[int, str]:
        return len(raw) + 1, "sign"

    def describe(self) -> list[str]:
        return ["brackets"]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None: ...


def strings(n: int, seed: int = 0) -> list[str]:
    """Balanced strings of 4 to 14 signs, each seen once or more."""
    rng = np.random.default_rng(seed)
    out: list[str] = []
    while len(out) < n:
        size, state, raw = 2 * int(rng.integers(2, 8)), "", ""
        square = rng.random()
        while len(raw) < size:
            if state and (rng.random() < 0.5 or len(state) == size - len(raw)):
                raw, state = raw + SIGNS[SIGNS.index(state[-1]) + 1], state[:-1]
            else:
                sign = "[" if rng.random() < square else "("
                raw, state = raw + sign, state + sign
        out.append(raw)
    return out
