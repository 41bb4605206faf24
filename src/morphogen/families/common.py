"""What all families share: the decorator of streams, and the handling of known values."""
from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, Given, Partial, Request
from morphogen.sampling import draws

M = TypeVar("M", bound=nn.Module)


def stepwise(stream: Callable[[M, Request], Iterator[Partial]]) -> Callable[[M, Request], Generator[Partial, None, None]]:
    """Run each step of a family's stream without gradients and in evaluation mode; nothing leaks to the consumer.

    A context that spanned a `yield` would stay switched on in the consumer's code, so it is opened anew per step.
    Modules that were training are training again between steps. Closing early closes the stream's own generator.
    """

    @functools.wraps(stream)
    def wrapped(self: M, request: Request) -> Generator[Partial, None, None]:
        steps, end = stream(self, request), object()
        try:
            while True:
                training = [m for m in self.modules() if m.training]
                try:
                    for module in training:
                        module.training = False
                    with torch.no_grad():
                        part = next(steps, end)
                finally:
                    for module in training:
                        module.training = True
                if part is end:
                    return
                yield part  # type: ignore[misc]
        finally:
            if isinstance(steps, Generator):
                steps.close()

    return wrapped


def drop_of(batch: Batch) -> Tensor:
    """(B,) uniforms that decide which rows' conditions are dropped in training, named by the rows' keys."""
    return draws.uniform(batch.key, "drop")


def counted(batch: Batch) -> Tensor:
    """Float, shape of `batch.x`: 1 where an element counts, 0 where it is known (`given`) or padding (`mask`, last axis)."""
    out = torch.ones_like(batch.x)
    if batch.mask is not None:
        out = out * batch.mask.view(len(out), *[1] * (out.ndim - 2), -1).to(out.dtype)
    if batch.given is not None:
        out = out * (~batch.given.known).to(out.dtype)
    return out


def paste(x: Tensor, given: Given | None) -> Tensor:
    """`x` with the known values put in exactly."""
    return x if given is None else torch.where(given.known, given.x.to(x.dtype), x)
