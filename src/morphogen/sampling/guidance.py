"""Classifier-free guidance as a wrapper: net -> net on a doubled batch, so every solver and cache works unchanged."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.contracts import Cond, Given, Request


class Guided(nn.Module):
    """net(x, null) + weight (net(x, cond) - net(x, null)), with one call on twice the rows (Ho and Salimans 2022).

    `null`: the Cond of "nothing said". `interval`: guidance acts only where low <= time <= high, elsewhere the weight
    is 1 and nothing is doubled (Kynkäänniemi et al. 2024): the high noise levels decide diversity, so they stay alone.
    """

    def __init__(self, net: nn.Module, null: Cond, weight: float, interval: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.net, self.null, self.weight, self.interval = net, null, weight, interval

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: Given | None = None,
                mask: Tensor | None = None, cache: Any = None) -> Tensor:
        if self.interval is not None and time is not None:
            low, high = self.interval
            if not bool(((time >= low) & (time <= high)).any()):
                return self.net(x, time=time, cond=cond, given=given, mask=mask, cache=cache)
        two = None if given is None else Given(torch.cat([given.x, given.x]), torch.cat([given.known, given.known]))
        out = self.net(_two(x), time=_two(time), cond=both(cond, self.null), given=two, mask=_two(mask), cache=cache)
        yes, no = out.chunk(2)
        return torch.lerp(no, yes, self.weight)


def guided(net: nn.Module, conditioner: Callable[..., Cond | None], request: Request,
           interval: tuple[float, float] | None = None) -> tuple[nn.Module, Cond | None]:
    """(net, cond) for a request: guided where its sampling says so; weight 1, or nothing to say, leaves the net as it is."""
    n, weight = len(request.key), float(getattr(request.sampling, "guidance", 1.0))
    cond = conditioner(request.cond, n)
    if cond is None or weight == 1:
        return net, cond
    null = conditioner({}, n)
    assert null is not None
    return Guided(net, null, weight, interval), cond


def _two(a: Tensor | None) -> Tensor | None:
    return None if a is None else torch.cat([a, a])


def both(a: Cond | None, b: Cond) -> Cond:
    """Two conditions one after the other along the rows; the shorter sequence is padded, a missing one is all padding."""
    if a is None:
        a = b
    vector = torch.cat([a.vector, b.vector]) if a.vector is not None and b.vector is not None else None
    aligned = torch.cat([a.aligned, torch.zeros_like(a.aligned) if b.aligned is None else b.aligned]) if a.aligned is not None else None
    if a.sequence is None and b.sequence is None:
        return Cond(vector, aligned=aligned)
    length = max(s.shape[1] for s in (a.sequence, b.sequence) if s is not None)
    shape = next(s.shape for s in (a.sequence, b.sequence) if s is not None)
    parts = [_sequence(c, length, shape) for c in (a, b)]
    return Cond(vector, torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), aligned)


def _sequence(cond: Cond, length: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
    if cond.sequence is None:
        device = cond.vector.device if cond.vector is not None else "cpu"
        return torch.zeros(shape[0], length, shape[2], device=device), torch.zeros(shape[0], length, dtype=torch.bool, device=device)
    mask = cond.mask if cond.mask is not None else torch.ones(cond.sequence.shape[:2], dtype=torch.bool, device=cond.sequence.device)
    more = length - cond.sequence.shape[1]
    return F.pad(cond.sequence, (0, 0, 0, more)), F.pad(mask, (0, more), value=False)
