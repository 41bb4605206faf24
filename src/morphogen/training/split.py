"""An honest split: groups stay whole, and the side of a group is a function of its name and the seed."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

from morphogen.contracts import Item


def split(items: Sequence[Item], seed: int = 0, share: float = 0.1, most: int = 5000) -> tuple[list[int], list[int]]:
    """(train, held-out) positions. About `share` of the items (at most `most`) are held out, whole groups at a time.

    Of few items up to a fifth is held out, towards a hundred: with fewer, no figure would mean anything.

    A single group (or none named) falls back to single items. Below 10 items nothing is held out.
    """
    n = len(items)
    if n < 10:
        return list(range(n)), []
    names = [item.group or str(i) for i, item in enumerate(items)]
    if len(set(names)) == 1:
        names = [str(i) for i in range(n)]
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    want, held = min(most, max(1, round(n * share), min(100, n // 5))), []
    for name in sorted(members, key=lambda g: hashlib.sha256(f"{seed}:{g}".encode()).digest()):
        # a group far larger than what is still wanted would swallow the training set
        if len(held) < want and len(held) + len(members[name]) <= max(2 * want, n // 4):
            held += members[name]
    chosen = set(held)
    return [i for i in range(n) if i not in chosen], sorted(held)
