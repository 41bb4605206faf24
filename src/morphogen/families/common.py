"""What families share: the decorator of streams, known values, standardised data, the walk from noise to data."""
from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, Given, Partial, Request
from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.sampling.solvers import Node, solve
from morphogen.spaces import Array, Space, describe

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
                    with torch.no_grad(), acting(self, request.adapter):
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


def acting(family: nn.Module, adapter: str | None) -> AbstractContextManager[None]:
    """A block in which this thread draws by one of the family's adapters; None leaves what acts. Raises UsageError."""
    if adapter is None:
        return nullcontext()
    adapters: Any = getattr(family, "adapters", None)
    if adapters is None:
        raise UsageError(f"no adapter '{adapter[:60]}': the model has none", remedy="load one first")
    return adapters.here(adapter)


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


def rows_of(a: Tensor, x: Tensor) -> Tensor:
    """(B,) shaped to multiply (B, ...)."""
    return a.view(-1, *[1] * (x.ndim - 1))


def need_array(space: Space, family: str) -> Array:
    """The space if it is an Array. Raises UsageError otherwise."""
    if not isinstance(space, Array):
        raise UsageError(f"{family} models arrays, not a {describe(space)}", remedy="put a bridge in between, such as one_hot")
    return space


def redundancy(space: Array) -> float:
    """ln(side / 8) of the mean side, within 0 .. 1.4; 0 for vectors: how much more noise it takes to hide what is shown.

    Neighbouring numbers of a finer grid say the same, so noise averages out over them (Hoogeboom et al. 2023, section 3.1).
    """
    sides = [n for n in space.shape[1:] if n]
    mean = math.prod(sides) ** (1 / len(sides)) if sides else 8.0
    return min(1.4, max(0.0, math.log(mean / 8)))


class Standard(nn.Module):
    """(x - mean) / deviation per channel (axis 1), from buffers set once by `calibrate`; the identity until then."""

    def __init__(self, space: Array) -> None:
        super().__init__()
        channels = space.shape[0] or 1
        self.shape = space.shape
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def calibrate(self, batch: Batch) -> None:
        """Mean and deviation over the counted rows and positions of a batch; a constant channel keeps deviation 1."""
        x, count = batch.x.double(), counted(dataclasses.replace(batch, given=None)).double() * rows_of(batch.weight, batch.x)
        axes = [a for a in range(x.ndim) if a != 1]
        n = count.sum(axes).clamp(min=1)
        mean = (x * count).sum(axes) / n
        square = ((x - mean.view(1, -1, *[1] * (x.ndim - 2))).square() * count).sum(axes) / n
        deviation = square.sqrt()
        deviation = torch.where(deviation > 1e-4, deviation, torch.ones_like(deviation))
        self.mean.copy_(mean)  # type: ignore[operator]
        self.deviation.copy_(deviation)  # type: ignore[operator]

    def _view(self, a: Tensor, x: Tensor) -> Tensor:
        return a.view(1, -1, *[1] * (x.ndim - 2))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self._view(self.mean, x)) / self._view(self.deviation, x)  # type: ignore[arg-type]

    def inverse(self, x: Tensor) -> Tensor:
        return x * self._view(self.deviation, x) + self._view(self.mean, x)  # type: ignore[arg-type]

    def given(self, given: Given | None) -> Given | None:
        """Known values in standardised units."""
        return None if given is None else Given(self(given.x), given.known)


def walk(standard: Standard, request: Request, nodes: list[Node],
         denoise: Callable[[Tensor, float, float, Given | None], Tensor]) -> Iterator[Partial]:
    """From noise along the schedule `nodes` to the sample, in data units; `denoise` works in standardised units.

    Known values are put into every guess of the data. As a step moves x to alpha' x0 + sigma' eps, known positions then lie
    at the current noise level by themselves, with noise drawn by the row's key (replacement, Song et al. 2021, section 4).
    """
    s, given, n = request.sampling, standard.given(request.given), len(nodes) - 1
    shape = tuple(d if d is not None else request.length or 1 for d in standard.shape)

    def noise(step: int, name: str = "churn") -> Tensor:
        return draws.normal(request.key, name, step, shape)

    def guess(x: Tensor, alpha: float, sigma: float) -> Tensor:
        return paste(denoise(x, alpha, sigma, given), given)

    alpha, sigma = nodes[0]
    x = sigma * noise(0, "noise")
    if given is not None:
        x = torch.where(given.known, alpha * given.x + x, x)
    steps = solve(getattr(s, "solver", "dpmpp"), guess, x, nodes, noise=noise, churn=getattr(s, "churn", 0.0))
    for i, x in enumerate(steps):
        yield Partial(paste(standard.inverse(x), request.given), 0, (i + 1) / n, i + 1 == n)
