"""Evidence with known answers: vectors as pictures, tables and texts drawn from known laws."""
from __future__ import annotations

from typing import Any

import numpy as np

from morphogen.contracts import Item
from morphogen.evaluation.evidence import Evidence


class VectorCodec:
    """Raw items are float vectors; features are the vectors."""

    feature_name = "the numbers themselves"

    def features(self, raws: Any) -> np.ndarray:
        return np.stack([np.asarray(r, dtype=np.float64).ravel() for r in raws])

    def size_of(self, raw: np.ndarray) -> tuple[int, str]:
        return raw.size, "dimension"

    def encode(self, raw: np.ndarray) -> np.ndarray:
        return raw

    def decode(self, x: np.ndarray) -> np.ndarray:
        return x


class SmallerCodec(VectorCodec):
    """Models the first half of the numbers, as a picture codec does that was asked for smaller pictures."""

    def encode(self, raw: np.ndarray) -> np.ndarray:
        return raw[: raw.size // 2]


class RowCodec:
    """Raw items are dicts of numbers and words."""

    feature_name = "numbers and one-hot words"
    words = ("a", "b", "c", "rare")

    def features(self, raws: Any) -> np.ndarray:
        return np.array([[r["x"], r["y"], *[float(r["word"] == w) for w in self.words]] for r in raws])

    def size_of(self, raw: dict[str, Any]) -> tuple[int, str]:
        return len(raw), "cell"

    def checks(self, raw: dict[str, Any], cond: dict[str, Any]) -> dict[str, bool]:
        return {"y is not negative": raw["y"] >= 0}


class TextCodec:
    """Raw items are strings; features count letters."""

    feature_name = "letter counts"

    def features(self, raws: Any) -> np.ndarray:
        return np.array([[r.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz "] for r in raws], dtype=np.float64)

    def size_of(self, raw: str) -> tuple[int, str]:
        return len(raw.encode()), "byte"


def blobs(n: int, seed: int, shift: float = 0.0, dims: int = 8) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(shift, 1, size=(n, dims)))


def table_rows(n: int, seed: int, rare: float = 0.03) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    word = rng.choice(["a", "b", "c", "rare"], size=n, p=[0.5, 0.3, 0.2 - rare, rare])
    x = np.round(rng.normal(10, 2, n) + 3 * (word == "b"), 2)
    y = np.round(np.abs(x + np.round(rng.exponential(1, n), 2)), 2)
    return [{"x": float(a), "y": float(b), "word": str(w)} for a, b, w in zip(x, y, word)]


def as_items(raws: Any, conds: Any = None) -> list[Item]:
    return [Item(r, (conds or {})[i] if conds else {}, str(i)) for i, r in enumerate(raws)]


def vectors(generated: Any, n: int = 300, dims: int = 8, **more: Any) -> Evidence:
    """Evidence whose real data are a standard normal."""
    real = {"train": as_items(blobs(n, 1, dims=dims)), "heldout": as_items(blobs(n, 2, dims=dims))}
    return Evidence(codec=VectorCodec(), generated=generated, **{**real, **more})


def table(generated: Any, n: int = 600, **more: Any) -> Evidence:
    """Evidence whose real data are `table_rows`."""
    real = {"train": as_items(table_rows(n, 1)), "heldout": as_items(table_rows(n // 2, 2))}
    return Evidence(codec=RowCodec(), generated=generated, **{**real, **more})


def sentences(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    nouns = ["cat", "dog", "bird", "house", "tree", "river", "cloud", "stone"]
    verbs = ["sees", "likes", "moves", "finds", "holds", "paints"]
    pick = lambda words: words[rng.integers(len(words))]
    return [" ".join(f"the {pick(nouns)} {pick(verbs)} a {pick(nouns)}" for _ in range(8)) for _ in range(n)]


def texts(generated: Any, n: int = 120, **more: Any) -> Evidence:
    """Evidence whose real data are `sentences`."""
    real = {"train": as_items(sentences(n, 1)), "heldout": as_items(sentences(n // 2, 2))}
    return Evidence(codec=TextCodec(), generated=generated, **{**real, **more})
