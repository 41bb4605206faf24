"""Nearest neighbours by blocks of exact distances, so that memory stays bounded."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 4_000_000  # distances held at a time: 32 MB


def blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Euclidean distances of a (n, D) to b (m, D), a block of rows of `a` at a time.

    float64 and clipped: in float32 the expanded square makes identical points differ by more than near ones do.
    """
    b_square = (b * b).sum(axis=1)
    step = max(1, BLOCK // max(1, len(b)))
    for start in range(0, len(a), step):
        part = a[start : start + step]
        square = (part * part).sum(axis=1)[:, None] + b_square - 2 * (part @ b.T)
        # rounding leaves ~1e-13 of the squared norms: equal points must come out at distance 0
        square[square < 1e-11 * (1 + b_square)] = 0.0
        yield slice(start, start + len(part)), np.sqrt(square)


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row to its k-th nearest other row, (n,)."""
    out = np.empty(len(x))
    for rows, d in blocks(x, x):
        out[rows] = np.partition(d, k, axis=1)[:, k]  # position 0 is the row itself
    return out


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `a` the distance to, and index of, its nearest row of `b`."""
    distance, index = closest(a, b, 1)
    return distance[:, 0], index[:, 0]


def closest(a: np.ndarray, b: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, k) distances to, and indices of, the nearest rows of `b`, nearest first."""
    k = min(k, len(b))
    distance, index = np.empty((len(a), k)), np.empty((len(a), k), np.int64)
    for rows, d in blocks(a, b):
        some = np.argpartition(d, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(d, some, 1).argsort(axis=1, kind="stable")
        index[rows] = np.take_along_axis(some, order, 1)
        distance[rows] = np.take_along_axis(d, index[rows], 1)
    return distance, index
