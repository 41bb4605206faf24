"""What levels look like, as numbers that do not change when a level is turned or mirrored. No torch here."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from morphogen.codecs.level.grids import Level, array, even

FOLDED = 128


def pattern_features(raws: Sequence[Level], tiles: Sequence[str], outside: str) -> np.ndarray:
    """(N, tiles + 128 + 2) float32: roots of the shares of tiles and of 2×2 patterns (up to symmetry, hashed), both sides / 20."""
    number = {tile: i for i, tile in enumerate(tiles)}
    out = np.zeros((len(raws), len(tiles) + FOLDED + 2), np.float32)
    for row, raw in zip(out, raws):
        grid = array(even(raw, outside))
        ids = np.vectorize(lambda t: number.get(t, len(tiles) - 1), otypes=[np.int64])(grid)
        inside = ids[grid != outside]
        row[: len(tiles)] = np.sqrt(np.bincount(inside, minlength=len(tiles)) / max(1, len(inside)))
        ids = np.pad(ids, 1, constant_values=number[outside])
        a, b, c, d = ids[:-1, :-1], ids[:-1, 1:], ids[1:, 1:], ids[1:, :-1]  # clockwise
        ring, base = np.stack([a, b, c, d], -1).reshape(-1, 4), len(tiles)
        turns = [np.roll(ring, k, 1) for k in range(4)]
        codes = [((t[:, 0] * base + t[:, 1]) * base + t[:, 2]) * base + t[:, 3] for t in [*turns, *(t[:, ::-1] for t in turns)]]
        code = np.min(codes, axis=0).astype(np.uint64)
        code = code[code != np.uint64(((base + 1) * base + 1) * base * number[outside] + number[outside])]
        folded = (code * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(57)).astype(np.int64)
        row[len(tiles) : -2] = np.sqrt(np.bincount(folded, minlength=FOLDED) / max(1, len(folded)))
        row[-2:] = sorted((len(grid) / 20, grid.shape[1] / 20))
    return out
