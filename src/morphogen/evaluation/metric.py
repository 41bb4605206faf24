"""One measured number with its interval, and the cheap ways to get an interval."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A value with the 95 % interval it lies in."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number about the generated data, with what is needed to judge it.

    `floor` is the same measure of real against real: nobody can do better than that on average. `baseline` is the best
    classical family's value. `others` and `real` hold all baselines and the floor with their intervals; they are for verdicts
    and not written.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    "Rows of each side."
    split: str = "generated vs held-out"
    feature: str = ""
    "The space it was measured in."
    floor: float | None = None
    baseline: dict[str, Any] | None = None
    better: Literal["higher", "lower", "near"] = "higher"
    target: float = 0.0
    "What `near` is near to."
    line: str = ""
    "What the number says, in plain words."
    others: dict[str, Interval] = field(default_factory=dict, compare=False, repr=False)
    real: Interval | None = field(default=None, compare=False, repr=False)
    "The floor with its interval."

    @property
    def interval(self) -> Interval:
        """Value, low and high together."""
        return Interval(self.value, self.low, self.high)

    def distance(self, value: float) -> float:
        """How far `value` is from what is wanted: smaller is better, whatever `better` says."""
        return {"higher": -value, "lower": value, "near": abs(value - self.target)}[self.better]

    def compare(self, other: Interval) -> int:
        """+1 when this metric is better than `other` beyond chance, -1 when worse, 0 when nobody can say.

        Two intervals differ at 95 % when the gap exceeds the root sum of squares of their half widths.
        """
        gap = self.distance(other.value) - self.distance(self.value)
        # what is infinitely bad loses, whatever its interval; where an interval is missing nobody can say
        if math.isinf(gap) or abs(gap) > math.hypot(_half(self.interval), _half(other)):
            return 1 if gap > 0 else -1
        return 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a finite number becomes null."""
        best = self.baseline or {"name": None, "value": None}
        baseline = {"name": best["name"], "value": _plain(best["value"])}
        out = {"name": self.name, "value": _plain(self.value), "low": _plain(self.low), "high": _plain(self.high), "n": int(self.n),
               "split": self.split, "feature": self.feature, "floor": _plain(self.floor), "baseline": baseline, "better": self.better}
        return {**out, "line": self.line} if self.line else out


def _half(x: Interval) -> float:
    return (x.high - x.low) / 2


def _plain(x: float | None) -> float | None:
    return float(x) if x is not None and math.isfinite(x) else None


def measured(name: str, own: Interval, *, floor: Interval | None = None, others: dict[str, Interval] | None = None, **rest: Any) -> Metric:
    """A Metric that names the best of `others` as its baseline."""
    others = {k: v for k, v in (others or {}).items() if math.isfinite(v.value)}
    real = floor.value if floor and math.isfinite(floor.value) else None
    metric = Metric(name=name, value=own.value, low=own.low, high=own.high, floor=real, others=others, real=floor, **rest)
    if not others:
        return metric
    best = min(others, key=lambda k: metric.distance(others[k].value))
    return Metric(**{**metric.__dict__, "baseline": {"name": best, "value": others[best].value}})


# ------------------------------------------------------------------ intervals
def bootstrap(
    fn: Callable[..., float], *arrays: np.ndarray, times: int = 200, seed: int = 0, paired: bool = True, centred: bool = False
) -> Interval:
    """The 95 % percentile interval of `fn(*arrays)` by resampling rows (Efron 1979).

    `paired`: the arrays are columns of the same rows and are resampled together; otherwise each for itself.
    `centred`: as wide, but around the value: for likenesses, which the noise that resampling adds lowers.
    """
    rng = np.random.default_rng([seed, 7])
    value = float(fn(*arrays))
    if min(len(a) for a in arrays) < 2:
        return Interval(value)
    draws = []
    for _ in range(times):
        same = rng.integers(len(arrays[0]), size=len(arrays[0])) if paired else None
        draws.append(float(fn(*[a[same if same is not None else rng.integers(len(a), size=len(a))] for a in arrays])))
    finite = [d for d in draws if math.isfinite(d)]
    if len(finite) < times // 2:
        return Interval(value)
    low, high = np.percentile(finite, [2.5, 97.5])
    if centred:
        return Interval(value, value - float(high - low) / 2, value + float(high - low) / 2)
    return Interval(value, float(min(low, value)), float(max(high, value)))


def share(hits: np.ndarray) -> Interval:
    """The share of True with its Wilson (1927) interval, which stays honest when all rows or none are hits."""
    n = len(hits)
    if n == 0:
        return Interval(math.nan)
    p, z = float(np.mean(hits)), Z95
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)))  # rounding must not leave p outside


def mean(x: np.ndarray) -> Interval:
    """The mean with its normal 95 % interval."""
    if len(x) < 2:
        return Interval(float(np.mean(x)) if len(x) else math.nan)
    value, half = float(np.mean(x)), Z95 * float(np.std(x, ddof=1)) / math.sqrt(len(x))
    return Interval(value, value - half, value + half)


def auc(positive: np.ndarray, negative: np.ndarray) -> Interval:
    """Area under the ROC curve of two sets of scores, with the interval of DeLong, DeLong and Clarke-Pearson (1988).

    Where the sets are wholly apart, which leaves nothing to take a spread of, Wilson's for the smaller set.
    """
    def placements(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        b = np.sort(b)
        return (np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")) / (2 * len(b))

    p, q = placements(positive, negative), 1 - placements(negative, positive)
    value = float(p.mean())
    if min(len(p), len(q)) < 2:
        return Interval(value)
    if value in (0.0, 1.0):  # nothing varies, and the interval would be a point: Wilson's, as of the smaller set's rows
        return share(np.full(min(len(p), len(q)), value > 0.5))
    half = Z95 * math.sqrt(p.var(ddof=1) / len(p) + q.var(ddof=1) / len(q))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))
