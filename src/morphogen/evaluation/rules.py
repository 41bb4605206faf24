"""Rules that outputs should keep: the codec's own checks, and what every training item keeps."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from morphogen.evaluation.evidence import Evidence, TableCoder

LEAST = 20  # items checked however long it takes
PAIRS = 40  # columns among which orderings (start <= end) are looked for


@dataclass(frozen=True)
class Rules:
    """What may be checked on one raw item; `kept` says for each rule which items keep it."""

    checked: bool
    "Whether the codec has checks of its own."
    coder: TableCoder | None
    ranges: dict[str, tuple[float, float, int]]
    "Number column -> smallest, largest, decimals."
    never_missing: tuple[str, ...]
    orders: tuple[tuple[str, str], ...]
    "Pairs of number columns of which the first never exceeds the second in training."
    shapes: frozenset[tuple[Any, ...]]
    texts: bool

    @property
    def any(self) -> bool:
        """Whether there is anything to check."""
        return self.checked or self.coder is not None or bool(self.shapes) or self.texts

    @classmethod
    def fit(cls, evidence: Evidence) -> Rules:
        """Learn the rules of the training items."""
        raws = [item.raw for item in evidence.train]
        coder = evidence.coder
        ranges: dict[str, tuple[float, float, int]] = {}
        present: tuple[str, ...] = ()
        orders: tuple[tuple[str, str], ...] = ()
        if coder is not None:
            columns = {c: coder.number(raws, c) for c in coder.numbers}
            for name, values in columns.items():
                values = values[np.isfinite(values)]
                if len(values):
                    ranges[name] = (float(values.min()), float(values.max()), _decimals(values))
            present = tuple(c for c in coder.columns if all(row.get(c) is not None for row in raws))
            orders = _orders({c: v for c, v in columns.items() if c in present}) if len(raws) >= 200 else ()
        shapes = frozenset(_shape(r) for r in raws if isinstance(r, np.ndarray)) if _keeps_shape(evidence.codec, raws) else frozenset()
        return cls(hasattr(evidence.codec, "checks"), coder, ranges, present, orders, shapes if len(shapes) <= 20 else frozenset(),
                   all(isinstance(r, str) and r.strip() for r in raws))

    def kept(self, evidence: Evidence, name: str) -> dict[str, np.ndarray]:
        """Rule -> which of a set's rows keep it, (n,) bool; n may be less than all, since a codec's checks may take a solver."""
        raws, out = evidence.raws(name), {}
        if self.checked:
            found = _checked(evidence, name)
            raws = raws[: len(found)]
            for key in dict.fromkeys(k for f in found for k in f):
                out[key] = np.array([bool(f.get(key, True)) for f in found])
        if self.coder is not None:
            out |= self._table(raws, self.coder)
        if self.shapes:
            out["size seen in training"] = np.array([isinstance(r, np.ndarray) and _shape(r) in self.shapes for r in raws])
        if self.texts:
            out["not empty"] = np.array([isinstance(r, str) and bool(r.strip()) for r in raws])
        return out

    def _table(self, rows: Sequence[dict[str, Any]], coder: TableCoder) -> dict[str, np.ndarray]:
        out = {}
        numbers = {c: coder.number(rows, c) for c in self.ranges}
        for c, (low, high, decimals) in self.ranges.items():
            v, absent = numbers[c], np.array([row.get(c) is None for row in rows])
            inside = np.zeros(len(v), bool)
            inside[np.isfinite(v)] = (v[np.isfinite(v)] >= low) & (v[np.isfinite(v)] <= high)
            out[f"{c} in range"] = absent | inside
            if decimals <= 6:
                out[f"{c} has {'no' if decimals == 0 else decimals} decimals"] = absent | ~np.isfinite(v) | _rounded(v, decimals)
        for c in coder.categories:
            out[f"{c} is a known category"] = coder.codes(rows, c) != -2
        for c in self.never_missing:
            out[f"{c} is present"] = np.array([row.get(c) is not None for row in rows])
        for a, b in self.orders:
            out[f"{a} <= {b}"] = ~(numbers[a] > numbers[b])
        return out


def _checked(evidence: Evidence, name: str) -> list[dict[str, bool]]:
    """What the codec's checks say of a set's rows, until `patience` is over: rows come in random order, so the first stand for all."""
    raws, begun, found = evidence.raws(name), time.monotonic(), []
    for raw, cond in zip(raws, evidence.conds(name), strict=True):
        if len(found) >= LEAST and time.monotonic() - begun > evidence.patience:
            break
        found.append(evidence.codec.checks(raw, cond))
        evidence.tell(f"{name} items checked: {len(found)} of {len(raws)}")
    return found


def _keeps_shape(codec: Any, raws: Sequence[Any]) -> bool:
    """Whether what is modelled has the size the data have: a codec that was told to work at another cannot be blamed for it."""
    return len(raws) > 0 and isinstance(raws[0], np.ndarray) and _shape(codec.decode(codec.encode(raws[0]))) == _shape(raws[0])


def _shape(raw: np.ndarray) -> tuple[Any, ...]:
    return (*raw.shape, raw.dtype.str)


def _rounded(v: np.ndarray, decimals: int) -> np.ndarray:
    safe = np.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0)
    return np.abs(safe - np.round(safe, decimals)) <= np.maximum(1e-9, 4 * np.spacing(np.abs(safe)))


def _decimals(v: np.ndarray) -> int:
    """The fewest decimals that write all values, 7 when six are not enough."""
    return next((d for d in range(7) if _rounded(v, d).all()), 7)


def _orders(columns: dict[str, np.ndarray]) -> tuple[tuple[str, str], ...]:
    """Orderings that every row keeps although independent columns would break them in ten rows or more."""
    found = []
    for (a, x), (b, y) in combinations(list(columns.items())[:PAIRS], 2):
        for first, second, u, v in ((a, b, x, y), (b, a, y, x)):
            if bool((u <= v).all()) and bool((u < v).any()):
                smaller = np.searchsorted(np.sort(v), u, "left") / len(v)  # for each u the share of v below it
                if float(smaller.sum()) >= 10:
                    found.append((first, second))
    return tuple(found)
