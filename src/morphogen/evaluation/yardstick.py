"""How far honest new items lie from the training items: what any distance is measured by."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from morphogen.contracts import Raw
from morphogen.errors import DataError
from morphogen.evaluation.evidence import Scaler, featurise
from morphogen.evaluation.neighbours import closest

MOST = 50_000  # training items that are searched
FITTED = 5_000  # of them shape the space
ENOUGH = 20  # held-out items below which percentiles mean nothing


class Yardstick:
    """Training items in the space of the codec's features, and the distances of held-out items to their nearest ones.

    `unit`: the median of those distances. Raises DataError without training items.
    """

    def __init__(self, codec: Any, train: Sequence[Raw], held: Sequence[Raw], seed: int = 0) -> None:
        if not len(train):
            raise DataError("there are no training items to compare with", remedy="put the data of the run back")
        order = np.random.default_rng([seed, 11]).permutation(len(train))[:MOST]
        self.codec, self.order, self.held = codec, np.sort(order), list(held)
        features = featurise(codec, [train[i] for i in self.order])
        fitted = features if len(order) <= FITTED else features[np.argsort(order)[:FITTED]]
        self.scaler = Scaler.fit(fitted, getattr(codec, "feature_name", "features"), seed)
        self.searched = self.scaler(features)
        points = self.scaler(featurise(codec, held)) if len(held) else np.zeros((0, 1))
        self.distances = np.sort(closest(points, self.searched, 1)[0][:, 0]) if len(held) else np.zeros(0)
        own = self.distances if len(held) >= ENOUGH else self._among_themselves()
        self.unit = float(np.median(own)) or float(np.mean(own)) or 1.0

    def _among_themselves(self) -> np.ndarray:
        """With few held-out items the unit is the distance of training items to each other."""
        some = self.searched[: min(1000, len(self.searched))]
        return closest(some, self.searched, 2)[0][:, -1] if len(self.searched) > 1 else np.ones(1)

    @property
    def name(self) -> str:
        """What distances are taken in."""
        return self.scaler.name

    def points(self, raws: Sequence[Raw]) -> np.ndarray:
        """Raw items in the space distances are taken in."""
        return self.scaler(featurise(self.codec, raws))

    def nearest(self, raws: Sequence[Raw], k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(N, k) distances in units and positions in the training list."""
        distance, index = closest(self.points(raws), self.searched, k)
        return distance / self.unit, self.order[index]

    def between(self, a: Sequence[Raw], b: Sequence[Raw]) -> np.ndarray:
        """(N,) distances in units of rows of one list to the same rows of another."""
        return np.linalg.norm(self.points(a) - self.points(b), axis=1) / self.unit

    def closer_than(self, distance: np.ndarray) -> np.ndarray:
        """The share of real new items that lie further from their nearest training item; NaN with too few held out."""
        if len(self.distances) < ENOUGH:
            return np.full(np.shape(distance), np.nan)
        return 1 - np.searchsorted(self.distances, np.asarray(distance) * self.unit, "right") / len(self.distances)
