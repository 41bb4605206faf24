"""Whether a run learns its items by heart: seen at the checks of the held-out loss, and said in plain words."""
from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

PATIENCE = 3  # checks in a row that must be worse than the best before them
RISE = 0.05  # share of what was gained from the first check to the best that must be lost again


class Check(NamedTuple):
    """What was measured after `step` steps: the mean loss of held-out items, median and scatter (MAD) of the last batches'."""

    step: int
    held_out: float
    training: float
    noise: float


def check(step: int, held_out: float, losses: Sequence[float]) -> Check:
    """A check from the held-out loss and the losses of the last batches."""
    middle = median(losses)
    return Check(step, held_out, middle, median(abs(loss - middle) for loss in losses))


def by_heart(checks: Sequence[Check]) -> Check | None:
    """The best check, when later ones only lose what was gained although the training loss still falls; None when all is well.

    A rate that is too high raises both losses, few held-out items move theirs a little, and where there is nothing to learn losses
    wander: none of these counts.
    """
    best = min(checks, key=lambda c: c.held_out, default=None)
    if best is None or checks.index(best) + PATIENCE >= len(checks):
        return None
    line = best.held_out + RISE * (checks[0].held_out - best.held_out)
    late = checks[-PATIENCE:]
    falls = best.training - late[-1].training > late[-1].noise
    return best if falls and all(c.held_out > line for c in late) else None


def words(checks: Sequence[Check], n: int, keep: str) -> str:
    """What is wrong, what is done about it and what else would help; nothing when nothing is wrong."""
    best = by_heart(checks)
    if best is None:
        return ""
    what = (f"the model learns its {n:,} items by heart: the held-out loss was lowest at step {best.step:,} ({best.held_out:.4g}) "
            f"and is {checks[-1].held_out:.4g} now, while the training loss falls on")
    if keep == "best":
        return f"{what}; training ends here and keeps step {best.step:,}. More items, --set net.dropout=0.1 or a smaller --size would help"
    return f"{what}; --set training.keep=best would end there, more items or a codec's symmetries would help"
