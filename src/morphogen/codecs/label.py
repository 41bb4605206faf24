"""What is said about an item: one of a few names, or a number. No torch here."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from morphogen import spaces
from morphogen.errors import DataError, UsageError, suggest
from morphogen.spaces import Array, Tokens

FEW = 256


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Which names are learned."""

    least: int = 1
    "A name seen fewer times is not learned."


@dataclass(frozen=True, kw_only=True)
class NumberConfig:
    """How numbers are read."""

    quantiles: int = 257
    "Points of the distribution kept for drawing."


class LabelCodec:
    """A name (str, int, bool) <-> int64 (1,) below the number of names; 3 and "3" are the same name."""

    name: ClassVar[str] = "label"
    Config: ClassVar[type] = LabelConfig

    def __init__(self, config: LabelConfig | None = None) -> None:
        self.config = config or LabelConfig()
        self.space: spaces.Space = Tokens(0, 1)
        self.values: list[Any] = []
        self.counts: list[int] = []
        self.ids: dict[str, int] = {}
        self.notes: list[str] = []
        if self.config.least < 1:
            raise UsageError(f"label least = {self.config.least}", remedy="choose 1 or more")

    def fit(self, values: Sequence[Any]) -> None:
        """Learn the names and how often each occurs; None counts as nothing said. Raises DataError when none is left."""
        counts = Counter(str(value) for value in values if value is not None)
        firsts = {str(value): _plain(value) for value in reversed(values) if value is not None}
        kept = sorted((name for name, count in counts.items() if count >= self.config.least), key=_order)
        if not kept:
            raise DataError("no labels to learn from", remedy=f"each must occur at least {self.config.least} times")
        if len(kept) < len(counts):
            self.notes.append(f"{len(counts) - len(kept):,} labels occur fewer than {self.config.least} times and are not learned")
        if len(kept) == 1:
            self.notes.append(f"only one label, '{kept[0]}': it says nothing")
        self._set([firsts[name] for name in kept], [counts[name] for name in kept])

    def _set(self, values: list[Any], counts: list[int]) -> None:
        self.values, self.counts = values, counts
        self.ids = {str(value): i for i, value in enumerate(values)}
        self.space = Tokens(len(values), 1)

    def knows(self, value: Any) -> bool:
        """Whether `encode` takes it."""
        return str(value) in self.ids

    def encode(self, raw: Any) -> np.ndarray:
        """A known name -> int64 (1,). Raises UsageError with the nearest known name otherwise."""
        if str(raw) not in self.ids:
            raise UsageError(f"unknown label '{raw}'", remedy=suggest(str(raw), list(self.ids)[:100]))
        return np.array([self.ids[str(raw)]], np.int64)

    def parse(self, raw: Any) -> Any:
        """What a person wrote -> the name as the data had it. Raises UsageError for an unknown one."""
        return self.decode(self.encode(raw))

    def decode(self, x: Any) -> Any:
        """int64 (1,) -> the name as the data had it."""
        return self.values[int(np.asarray(x).reshape(-1)[0])]

    def draw(self, uniforms: np.ndarray) -> list[Any]:
        """Names as often as in the data: inverse distribution function of uniforms (N,) in [0, 1)."""
        edges = np.cumsum(self.counts) / sum(self.counts)
        ids = np.searchsorted(edges, np.asarray(uniforms, np.float64), side="right")
        return [self.values[min(int(i), len(self.values) - 1)] for i in ids]

    def state(self) -> dict[str, Any]:
        """What `fit` found, as JSON."""
        return {"values": self.values, "counts": self.counts}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self._set(list(state["values"]), [int(count) for count in state["counts"]])


class NumberCodec:
    """A number <-> float32 (1,), (value - mean) / deviation of the data."""

    name: ClassVar[str] = "number"
    Config: ClassVar[type] = NumberConfig

    def __init__(self, config: NumberConfig | None = None) -> None:
        self.config = config or NumberConfig()
        self.space: spaces.Space = Array((1,))
        self.mean, self.scale, self.whole, self.few = 0.0, 1.0, False, False
        self.quantiles: list[float] = [0.0]
        self.notes: list[str] = []
        if self.config.quantiles < 2:
            raise UsageError(f"number quantiles = {self.config.quantiles}", remedy="choose 2 or more")

    def fit(self, values: Sequence[Any]) -> None:
        """Learn mean, deviation and quantiles; None counts as nothing said. Raises DataError for what is no finite number."""
        try:
            numbers = np.array([_finite(value) for value in values if value is not None], np.float64)
        except UsageError as error:
            raise DataError(error.what, remedy="remove it or leave the cell empty") from None
        if not len(numbers):
            raise DataError("no numbers to learn from", remedy="give at least two")
        size = float(np.abs(numbers).max()) or 1.0  # scaled first: the square of 1e300 is infinite
        self.mean = float((numbers / size).mean()) * size
        self.scale = float((numbers / size).std()) * size
        if not self.scale > 1e-12 * size:
            self.notes.append(f"always {self.mean:g}: it says nothing")
            self.scale = 1.0
        self.whole = bool((numbers == np.rint(numbers)).all())
        self.few = len(np.unique(numbers)) <= FEW
        at = np.linspace(0, 1, self.config.quantiles)
        self.quantiles = np.quantile(numbers, at, method="inverted_cdf" if self.few else "linear").tolist()

    def encode(self, raw: Any) -> np.ndarray:
        """A finite number (or its text) -> float32 (1,). Raises UsageError for anything else."""
        return np.array([(_finite(raw) - self.mean) / self.scale], np.float32)

    def parse(self, raw: Any) -> float | int:
        """What a person wrote -> the number. Raises UsageError for anything else."""
        value = _finite(raw)
        return round(value) if value == round(value) and self.whole else value

    def decode(self, x: Any) -> float | int:
        """float (1,) -> the number, whole when all the data were."""
        value = float(np.asarray(x, np.float64).reshape(-1)[0]) * self.scale + self.mean
        return round(value) if self.whole else value

    def draw(self, uniforms: np.ndarray) -> list[float | int]:
        """Numbers distributed as the data, from uniforms (N,) in [0, 1); only values seen when these are few."""
        at = np.asarray(uniforms, np.float64) * (len(self.quantiles) - 1)
        table = np.array(self.quantiles)
        drawn = table[np.rint(at).astype(int)] if self.few else np.interp(at, np.arange(len(table)), table)
        return [round(value) if self.whole else value for value in drawn.tolist()]

    def state(self) -> dict[str, Any]:
        """What `fit` found, as JSON."""
        return {"mean": self.mean, "scale": self.scale, "whole": self.whole, "few": self.few, "quantiles": self.quantiles}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.mean, self.scale = float(state["mean"]), float(state["scale"])
        self.whole, self.few = bool(state["whole"]), bool(state["few"])
        self.quantiles = [float(q) for q in state["quantiles"]]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else str(value)


def _order(name: str) -> tuple[float, str]:
    """2 before 10, numbers before words."""
    return (float(name), name) if name.isascii() and name.removeprefix("-").isdigit() else (math.inf, name)


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"'{value}' is not a number", remedy="write it as 12 or 3.5") from None
    if not math.isfinite(number):
        raise UsageError(f"{number} is not a finite number", remedy="write it as 12 or 3.5")
    return number
