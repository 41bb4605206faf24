"""Drop-out whose draws have a name. torch's own come from one state of the whole process, which threads share in no order."""
from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Draw = Callable[[int, torch.Size], Tensor]
_here = threading.local()


@contextlib.contextmanager
def drawn(draw: Draw) -> Iterator[None]:
    """Inside, and in this thread alone, the n-th `drop` takes its draws, uniform in 0 .. 1, from `draw(n, shape)`."""
    before = getattr(_here, "draw", None), getattr(_here, "count", 0)
    _here.draw, _here.count = draw, 0
    try:
        yield
    finally:
        _here.draw, _here.count = before


def named() -> bool:
    """Whether draws have a name here, and torch's own random state plays no part."""
    return getattr(_here, "draw", None) is not None


class Again:
    """Draws once more what `drop` drew from the moment on at which this was made; any thread, any number of times."""

    def __init__(self) -> None:
        self.then = getattr(_here, "draw", None), getattr(_here, "count", 0)
        self.before: list[tuple[Draw | None, int]] = []

    def __enter__(self) -> None:
        self.before.append((getattr(_here, "draw", None), getattr(_here, "count", 0)))
        _here.draw, _here.count = self.then

    def __exit__(self, *error: object) -> None:
        _here.draw, _here.count = self.before.pop()


def again() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """What is worked out twice does so in these: the second time draws what the first one did."""
    return contextlib.nullcontext(), Again()


def drop(x: Tensor, share: float, training: bool) -> Tensor:
    """x with a `share` of its elements set to 0 and the others divided by 1 - share (Srivastava et al. 2014); x itself out of training."""
    if not share or not training:
        return x
    draw: Draw | None = None if torch.compiler.is_compiling() else getattr(_here, "draw", None)
    if draw is None:
        return F.dropout(x, share, True)
    _here.count += 1
    return torch.where(draw(_here.count, x.shape) < share, 0, x / (1 - share))
