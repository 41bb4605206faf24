"""An honest split: groups stay whole, and the side of a group is a function of its name and the seed."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from morphogen.codecs.held import groups_of
from morphogen.contracts import Item


def split(items: Sequence[Item], seed: int = 0, share: float = 0.1, most: int = 5000) -> tuple[list[int], list[int]]:
    """(train, held-out) positions. About `share` of the items (at most `most`) are held out, whole groups at a time.

    Of few items up to a fifth is held out, towards a hundred: with fewer, no figure would mean anything.

    A single group (or none named) falls back to single items. Below 10 items nothing is held out.
    """
    n = len(items)
    if n < 10:
        return list(range(n)), []
    names, of = groups_of(items)
    if len(names) == 1:
        names, of = [str(i) for i in range(n)], np.arange(n)
    sizes, taken = np.bincount(of), np.zeros(len(names), bool)
    place = np.fromiter((int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") for name in names), np.uint64)
    want, held = min(most, max(1, round(n * share), min(100, n // 5))), 0
    for group in np.argsort(place, kind="stable"):
        if held >= want:
            break
        # a group far larger than what is still wanted would swallow the training set
        if held + sizes[group] <= max(2 * want, n // 4):
            taken[group] = True
            held += int(sizes[group])
    side = taken[of]
    return np.flatnonzero(~side).tolist(), np.flatnonzero(side).tolist()
