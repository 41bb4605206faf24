"""What a judgement rests on: generated, training and held-out items, and the views of them that the metrics share."""
from __future__ import annotations

import datetime
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from morphogen.contracts import Item, Raw
from morphogen.errors import UsageError
from morphogen.spaces import Record

PART = 500  # arrays whose features are taken at once: of pictures of 64 a side each holds 0.8 MB while it lasts
DIMS = 64  # beyond this, distances in a feature space of so few points say little
TRAIN, HELD, MODEL = "train", "held-out", "generated"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything `evaluate` looks at. Sets are "generated", "train", "held-out" and the names of the baselines.

    Raises UsageError when lengths contradict each other or a set is empty.
    """

    codec: Any
    "Needs features(raws) -> (N, D), feature_name and size_of(raw); checks, derive and identity are used where they are."
    generated: Sequence[Raw]
    train: Sequence[Item]
    heldout: Sequence[Item]
    asked: Sequence[dict[str, Any]] = ()
    "The conditions each generated item was asked for; empty when nothing was asked."
    baselines: dict[str, Sequence[Raw]] = field(default_factory=dict)
    "Samples of classical families, asked for the same conditions in the same order."
    conditions: dict[str, str] = field(default_factory=dict)
    "Name -> label, number or caption."
    log_prob: dict[str, np.ndarray] = field(default_factory=dict)
    "Nats per held-out item, for `model` and for baselines."
    kinds: dict[str, str] = field(default_factory=dict)
    "exact, bound or estimate for each entry of log_prob."
    target: str = ""
    "The column a table's usefulness is tried on; empty picks one."
    trains: bool = True
    "Whether the model learns by steps, so that more minutes or a smaller net may help."
    seed: int = 0
    limit: int = 5000
    "Most rows of a set that enter a metric (copying looks at ten times as many training rows)."
    patience: float = 15.0
    "Seconds after which a codec's checks of a set stop: solvers have no end."
    tell: Callable[[str], None] = lambda line: None
    "Hears how far slow parts have come."

    def __post_init__(self) -> None:
        for name, n in (("generated", len(self.generated)), ("training", len(self.train)), ("held-out", len(self.heldout))):
            if n == 0:
                raise UsageError(f"there are no {name} items", remedy="evaluation needs some of each")
        if self.asked and len(self.asked) != len(self.generated):
            raise UsageError(f"{len(self.asked)} conditions for {len(self.generated)} generated items", remedy="give one for each")
        for name, values in self.log_prob.items():
            if len(values) != len(self.heldout):
                said = f"{len(values)} log-probabilities of '{name}' for {len(self.heldout)} held-out items"
                raise UsageError(said, remedy="give one for each")

    @cached_property
    def _cache(self) -> dict[Any, Any]:
        return {}

    def rng(self, name: str) -> np.random.Generator:
        """Random numbers of one purpose: adding a metric does not change another's."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def _of(self, name: str, rows: Iterable[int]) -> Iterator[Raw]:
        """Raw items of a set at these places; items may be made when they are asked for, so no others are."""
        if name in (TRAIN, HELD):
            items = self.train if name == TRAIN else self.heldout
            return (items[i].raw for i in rows)
        raws = self.generated if name == MODEL else self.baselines[name]
        return (raws[i] for i in rows)

    def _size(self, name: str) -> int:
        return len({TRAIN: self.train, HELD: self.heldout, MODEL: self.generated}.get(name, self.baselines.get(name, ())))

    def rows(self, name: str) -> np.ndarray:
        """Which items of a set are looked at: a seeded random order, cut at `limit`."""
        return self.rng(f"rows.{name}").permutation(self._size(name))[: self.limit]

    def raws(self, name: str) -> list[Raw]:
        """The raw items of `rows`."""
        return list(self._of(name, self.rows(name).tolist()))

    def conds(self, name: str) -> list[dict[str, Any]]:
        """The conditions of `rows`: what was said of real items, what was asked of generated ones."""
        if name in (TRAIN, HELD):
            items = self.train if name == TRAIN else self.heldout
            return [items[i].cond for i in self.rows(name)]
        return [self.asked[i] if i < len(self.asked) else {} for i in self.rows(name)]

    def features(self, name: str) -> np.ndarray:
        """The codec's features of `rows`, (n, D) float64, finite."""
        key = ("features", name)
        if key not in self._cache:
            self._cache[key] = featurise(self.codec, self.raws(name))
        return self._cache[key]

    @property
    def spared(self) -> int:
        """How many of the training `rows`, from the first, the space is not fitted on: they stand for real data in floors.

        Principal axes are the directions in which their own rows happen to spread; other rows spread less along them, so
        rows that fitted the axes would look unlike new real ones.
        """
        return min(len(self.heldout), len(self.rows(TRAIN)) // 2)

    @cached_property
    def scaler(self) -> Scaler:
        """The map from features to the space distances are taken in, fitted on training data alone, but for the `spared` rows."""
        return Scaler.fit(self.features(TRAIN)[self.spared :], getattr(self.codec, "feature_name", "features"), self.seed)

    @property
    def floor(self) -> np.ndarray:
        """Points of training rows that did not shape the space: what honest new data look like."""
        return self.points(TRAIN)[: self.spared]

    def points(self, name: str) -> np.ndarray:
        """`rows` in the space distances are taken in, (n, <= 64)."""
        key = ("points", name)
        if key not in self._cache:
            self._cache[key] = self.scaler(self.features(name))
        return self._cache[key]

    def derived(self, name: str, what: str, most: int) -> list[Any]:
        """What the codec works out of the first `most` rows of a set; None where it cannot."""
        key = ("derived", name, what, most)
        if key not in self._cache:
            self._cache[key] = [found.get(what) for found in self.codec.derive(self.raws(name)[:most], [what])]
        return self._cache[key]

    @cached_property
    def coder(self) -> TableCoder | None:
        """How table rows become numbers, or None when the data are no table."""
        raws = self.raws(TRAIN)
        table = isinstance(raws[0], dict) and isinstance(getattr(self.codec, "space", None), Record | None)
        return TableCoder.fit(raws) if table else None

    @cached_property
    def view(self) -> str:
        """What a classifier is shown, in words: table columns, raw numbers, or features."""
        first = self.train[0].raw
        if self.coder is not None:
            return "the table's own columns"
        small = isinstance(first, np.ndarray) and first.size <= 1024 and first.dtype.kind in "biuf"
        sets = (TRAIN, HELD, MODEL, *self.baselines)
        if small and all(np.shape(r) == first.shape for name in sets for r in self._of(name, range(self._size(name)))):
            return "raw values"
        return getattr(self.codec, "feature_name", "features") if self.features(TRAIN).shape[1] <= 1024 else self.scaler.name

    def judged(self, name: str) -> np.ndarray:
        """`rows` as a classifier is shown them (`view`)."""
        if self.coder is not None:
            return self.coder.matrix(self.raws(name))
        if self.view == "raw values":
            return np.stack([np.asarray(r, dtype=np.float32).ravel() for r in self.raws(name)])
        return self.points(name) if self.view == self.scaler.name else self.features(name)


@dataclass(frozen=True)
class Scaler:
    """Centre, scale each feature, then keep the leading principal components when there are more than 64."""

    name: str
    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray | None

    @classmethod
    def fit(cls, x: np.ndarray, name: str, seed: int = 0) -> Scaler:
        """Fit on training features (n, D).

        A pixel lit in one picture of a thousand, or a rare category's column, has a tiny deviation; dividing by it
        would let that one column rule all distances. So the scale is never below a tenth of the column's range.
        """
        spread = x.std(axis=0)
        typical = float(np.sqrt(np.mean(spread**2))) or 1.0
        scale = np.maximum(spread, np.minimum(0.1 * np.ptp(x, axis=0), typical))
        scale[scale <= 1e-12 * typical] = typical
        centre = x.mean(axis=0)
        if x.shape[1] <= DIMS:
            return cls(f"{x.shape[1]} standardised features: {name}", centre, scale, None)
        from sklearn.decomposition import PCA

        dims = min(DIMS, len(x))
        axes = np.asarray(PCA(dims, svd_solver="auto", random_state=seed).fit((x - centre) / scale).components_)
        return cls(f"PCA-{dims} of {name}", centre, scale, axes.T)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = (x - self.centre) / self.scale
        return x if self.axes is None else x @ self.axes


@dataclass(frozen=True)
class TableCoder:
    """Rows (dicts) as a matrix: numbers and dates as they are, categories by rank of frequency, missing as NaN."""

    numbers: tuple[str, ...]
    categories: dict[str, dict[str, int]]
    ignored: tuple[str, ...] = ()

    @classmethod
    def fit(cls, rows: Sequence[dict[str, Any]]) -> TableCoder:
        """Kinds of columns from training rows. Columns of nearly all different words (names, ids) are ignored."""
        numbers, categories, ignored = [], {}, []
        for column in dict.fromkeys(c for row in rows for c in row):
            values = [row.get(column) for row in rows if row.get(column) is not None]
            if values and all(not isinstance(v, bool) and isinstance(v, int | float | np.number | datetime.date) for v in values):
                numbers.append(column)
                continue
            counts: dict[str, int] = {}
            for v in values:
                counts[str(v)] = counts.get(str(v), 0) + 1
            if len(counts) > max(50, len(values) // 2):
                ignored.append(column)
            elif counts:
                ranked = sorted(counts, key=lambda v: (-counts[v], v))
                categories[column] = {v: i for i, v in enumerate(ranked)}
        return cls(tuple(numbers), categories, tuple(ignored))

    @property
    def columns(self) -> list[str]:
        """The columns of `matrix`, numbers first."""
        return [*self.numbers, *self.categories]

    def number(self, rows: Sequence[dict[str, Any]], column: str) -> np.ndarray:
        """One number column, missing and unreadable as NaN."""
        return np.array([as_number(row.get(column)) for row in rows], dtype=np.float64)

    def codes(self, rows: Sequence[dict[str, Any]], column: str) -> np.ndarray:
        """One category column: 0 = the most frequent, -1 missing, -2 never seen in training."""
        known = self.categories[column]
        return np.array([-1 if row.get(column) is None else known.get(str(row[column]), -2) for row in rows], dtype=np.int64)

    def matrix(self, rows: Sequence[dict[str, Any]], without: str = "") -> np.ndarray:
        """(n, columns) float64, optionally without one column."""
        chosen = [c for c in self.columns if c != without]
        parts = [self.number(rows, c) if c in self.numbers else self.codes(rows, c).astype(np.float64) for c in chosen]
        # classifiers work in float32: an absurd number must not become infinite there
        return np.clip(np.stack(parts, axis=1), -1e30, 1e30) if parts else np.zeros((len(rows), 0))


def featurise(codec: Any, raws: Sequence[Raw]) -> np.ndarray:
    """(N, D) finite float64 features of raw items; arrays part by part, small items at once, so that codecs can use all cores."""
    if not len(raws):
        return np.zeros((0, 1))
    step = PART if isinstance(raws[0], np.ndarray) else len(raws)
    parts = [list(raws[i : i + step]) for i in range(0, len(raws), step)]
    out = np.concatenate([np.asarray(codec.features(part), dtype=np.float64).reshape(len(part), -1) for part in parts])
    return np.nan_to_num(out, copy=False, nan=0.0, posinf=1e6, neginf=-1e6)


def as_number(value: Any) -> float:
    """A cell as a float; dates as days; what is no number as NaN."""
    if isinstance(value, datetime.datetime):
        return value.toordinal() + (value.hour * 3600 + value.minute * 60 + value.second) / 86400
    if isinstance(value, datetime.date):
        return float(value.toordinal())
    if isinstance(value, int | float | np.number):
        return float(value)
    return float("nan")
