"""The loss of items that are not learned from."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from morphogen.sampling import draws
from morphogen.training.data import Dataset, even

CHECKED = 512  # items a check looks at, at most
PART = 64  # ... and about so many at once
Each = Callable[..., Iterable[Any]]


def compares(family: Any) -> bool:
    """Whether a lower held-out loss is a better family: there is one loss, and it is no side's of a game."""
    return len(family.phases) == 1 and not getattr(family, "game", False)


def held_out_loss(module: Any, data: Dataset, most: int = CHECKED, each: Each = map) -> float:
    """Mean loss of a family's first phase over the first items, with the same draws each time; the family is left in evaluation.

    `each(work, parts)`: the results in order, perhaps some worked out at once.
    """
    module.eval()

    @torch.no_grad()  # inside: a thread has a switch of its own
    def sums(ids: Tensor) -> tuple[float, float]:
        loss = module(data.batch(ids, draws.derive(ids, "check"), plain=True), module.phases[0].name)
        return float(loss.total), float(loss.weight)

    totals, weights = zip((0.0, 0.0), *each(sums, even(min(data.n, most), PART, data.lengths)))
    return sum(totals) / max(sum(weights), 1e-9)
