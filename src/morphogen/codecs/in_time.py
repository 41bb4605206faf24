"""As much of the data as there is time for. No torch here."""
from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np


def in_rounds(n: int, room: float | None, first: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """Positions 0 .. n-1 in rounds, as many as can be worked on in `room` seconds; all at once, in order, where it is None or infinite.

    A round is drawn uniformly from what is left. Rounds grow, since many items at once may share the cores: the time that passed
    while one was worked on shows what the next will cost.
    """
    if room in (None, math.inf) or n <= first:
        yield np.arange(n)
        return
    order, done, some, begun = np.random.default_rng(seed).permutation(n), 0, first, time.monotonic()
    while some:
        start = time.monotonic()
        yield order[done : done + some]
        done, now = done + some, time.monotonic()
        left, each = room - (now - begun), max(1e-9, now - start) / some
        some = min(4 * some, n - done, int(left / each)) if left > 0.1 * room else 0
