"""Which items are odd: views made comparable, thresholds that keep their promise, classical rivals, and who separates better."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from morphogen.contracts import Sample
from morphogen.evaluation.metric import Interval, auc, bootstrap
from morphogen.evaluation.neighbours import closest
from morphogen.spaces import Record, Space, Tokens

NEIGHBOURS = 5
TREES = 200
MOST_TRAIN = 20_000


@dataclass(frozen=True)
class Standard:
    """Where each view of held-out items lies and how it spreads, both as functions of the item's size where there is one.

    A sum over n tokens has mean a + b n and variance c + d n, so long texts are not odd for being long, nor short ones for
    being unlucky. `mean`, `variance`: (K, 2) for (1, n).
    """

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def fit(cls, views: np.ndarray, size: np.ndarray | None) -> Standard:
        """From the views (N, K) of held-out items."""
        n, k = views.shape
        design = np.stack([np.ones(n), np.zeros(n) if size is None else size.astype(float)], 1)
        if size is None or len(np.unique(size)) < 3:
            centre = views.mean(0)
            return cls(np.stack([centre, np.zeros(k)], 1), np.stack([views.var(0) + 1e-12, np.zeros(k)], 1))
        weight = 1 / np.sqrt(design[:, 1].clip(1))[:, None]  # variances grow about as n does
        mean = np.linalg.lstsq(design * weight, views * weight, rcond=None)[0].T
        square = (views - design @ mean.T) ** 2
        return cls(mean, np.stack([_variance(design, square[:, j]) for j in range(k)]))

    def __call__(self, views: np.ndarray, size: np.ndarray | None) -> np.ndarray:
        """(N,) scores: deviations above the held-out mean, softly the largest of the views.

        log mean exp lies between the mean and the largest: an item is odd when one view of it is, more so when all are.
        """
        design = np.stack([np.ones(len(views)), np.zeros(len(views)) if size is None else size.astype(float)], 1)
        z = (views - design @ self.mean.T) / np.sqrt(np.maximum(design @ self.variance.T, 1e-12))
        top = z.max(1)
        return top + np.log(np.exp(z - top[:, None]).mean(1))


def _variance(design: np.ndarray, square: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    weight = 1 / design[:, 1].clip(1)  # squares spread as the variance itself
    found = nnls(design * weight[:, None], square * weight)[0]
    return found if found.sum() > 0 else np.array([square.mean() + 1e-12, 0.0])


# ---------------------------------------------------------------- thresholds
def p_values(scores: np.ndarray, held: np.ndarray) -> np.ndarray:
    """(N,) conformal p-values (Vovk et al. 2005): how often an honest new item would be at least as odd.

    p = (1 + #{held-out >= score}) / (n + 1); for an item like the held-out ones P(p <= a) <= a, whatever the scores are.
    """
    held = np.sort(held)
    return (1 + len(held) - np.searchsorted(held, scores, "left")) / (len(held) + 1)


def threshold(held: np.ndarray, rate: float) -> float:
    """The least score whose p-value is at most `rate`; infinite when there are too few held-out items to ever say so."""
    allowed = int(np.floor(rate * (len(held) + 1) + 1e-9)) - 1  # held-out items that may be as odd
    if allowed < 0:
        return float("inf")
    ordered = np.sort(held)[::-1]
    return float(np.nextafter(ordered[allowed], np.inf)) if allowed < len(ordered) else float("-inf")


# ---------------------------------------------------------------- rivals
class Neighbours:
    """Mean distance to the five nearest training items."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points[:MOST_TRAIN]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(N,) higher = odder."""
        return closest(points, self.points, NEIGHBOURS)[0].mean(1)


class Forest:
    """Isolation forest (Liu, Ting, Zhou 2008)."""

    def __init__(self, points: np.ndarray, seed: int = 0) -> None:
        from sklearn.ensemble import IsolationForest

        self.forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(points[:MOST_TRAIN])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(N,) higher = odder."""
        return -self.forest.score_samples(points)


def separation(odd: dict[str, np.ndarray], normal: dict[str, np.ndarray], first: str, seed: int = 0) -> dict[str, dict[str, Any]]:
    """name -> {"auroc", "low", "high", "better"}: DeLong's interval; `better` +1 when it beats `first` beyond chance, -1 when it loses.

    The comparison is paired: all methods meet the same items, so their difference is surer than either figure.
    """
    label = np.concatenate([np.ones(len(odd[first])), np.zeros(len(normal[first]))])
    own = np.concatenate([odd[first], normal[first]])
    out: dict[str, dict[str, Any]] = {}
    for name in odd:
        value = auc(odd[name], normal[name])
        other = np.concatenate([odd[name], normal[name]])
        gap = bootstrap(_gap, label, own, other, seed=seed) if name != first else Interval(0.0, 0.0, 0.0)
        better = 1 if gap.low > 0 else -1 if gap.high < 0 else 0
        out[name] = {"auroc": value.value, "low": value.low, "high": value.high, "better": better}
    return out


def _gap(label: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    odd = label > 0
    if odd.all() or not odd.any():
        return float("nan")
    return auc(other[odd], other[~odd]).value - auc(own[odd], own[~odd]).value


# ---------------------------------------------------------------- anomalies made from honest items
def mixed(samples: Sequence[Sample], space: Space, rng: np.random.Generator) -> list[Sample]:
    """Each sample with a connected half of its places taken from another: parts that are real and do not belong together."""
    turn = rng.permutation(len(samples))
    other = np.empty(len(samples), np.int64)
    other[turn] = np.roll(turn, 1)
    return [_mix(a, samples[j], space, rng) for a, j in zip(samples, other.tolist(), strict=True)]


def jumbled(samples: Sequence[Sample], space: Space, rng: np.random.Generator) -> list[Sample]:
    """Each sample with a third of its places changed among themselves (of a row: taken from three other rows)."""
    return [_jumble(a, [samples[int(i)] for i in rng.integers(len(samples), size=3)], space, rng) for a in samples]


def _mix(a: Any, b: Any, space: Space, rng: np.random.Generator) -> Any:
    if isinstance(space, Record):
        names = [name for name, _ in space.fields]
        chosen = set(rng.permutation(names)[: max(1, len(names) // 2)])
        return {name: b[name] if name in chosen else a[name] for name in names}
    axis, n = (0, min(len(a), len(b))) if isinstance(space, Tokens) else (a.ndim - 1, a.shape[-1])
    if isinstance(space, Tokens) and space.end is not None:
        n -= 1  # the end stays where it is
    out, half = np.array(a), min(n, max(1, n // 2))
    start = int(rng.integers(0, max(0, n - half) + 1))
    where = (slice(None),) * axis + (slice(start, start + half),)
    out[where] = b[where]
    return out


def _jumble(a: Any, others: list[Any], space: Space, rng: np.random.Generator) -> Any:
    if isinstance(space, Record):
        names = [name for name, _ in space.fields]
        chosen = rng.permutation(names)[: max(1, len(names) // 3)]
        return {**a, **{name: others[i % 3][name] for i, name in enumerate(chosen)}}
    if isinstance(space, Tokens):
        n = len(a) - (space.end is not None and len(a) > 0 and a[-1] == space.end)
        out, chosen = np.array(a), rng.permutation(n)[: max(2, n // 3)]
        if space.slots:  # ids mean different things at different places: take others' there
            for i, place in enumerate(chosen):
                out[place] = others[i % 3][place]
        else:
            out[chosen] = out[rng.permutation(chosen)]
        return out
    flat = np.array(a).reshape(a.shape[0], -1) if a.ndim > 1 else np.array(a)[None]
    if a.ndim == 1:  # a coordinate means something else elsewhere
        chosen = rng.permutation(flat.shape[1])[: max(1, flat.shape[1] // 3)]
        for i, place in enumerate(chosen):
            flat[0, place] = others[i % 3][place]
        return flat[0]
    chosen = rng.permutation(flat.shape[1])[: max(2, flat.shape[1] // 3)]
    flat[:, chosen] = flat[:, rng.permutation(chosen)]
    return flat.reshape(a.shape)
