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
        inside: Tensor | None = None
        if self.interval is not None and time is not None:
            low, high = self.interval
            inside = (time >= low) & (time <= high)
            if not bool(inside.any()):
                return self.net(x, time=time, cond=cond, given=given, mask=mask, cache=cache)
        two = None if given is None else Given(torch.cat([given.x, given.x]), torch.cat([given.known, given.known]))
        out = self.net(_two(x), time=_two(time), cond=both(cond, self.null), given=two, mask=_two(mask), cache=cache)
        yes, no = out.chunk(2)
        far = torch.lerp(no, yes, self.weight)
        return far if inside is None else torch.where(inside.view(-1, *[1] * (far.ndim - 1)), far, yes)


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
    """Two conditions one after the other along the rows. The shorter sequence is padded; what only one has is zeros and padding."""
    a = b if a is None else a
    vector, aligned = _joined(a.vector, b.vector), _joined(a.aligned, b.aligned)
    sequences = [s for s in (a.sequence, b.sequence) if s is not None]
    if not sequences:
        return Cond(vector, aligned=aligned)
    longest = max(sequences, key=lambda s: s.shape[1])
    (first, seen), (second, also) = _sequence(a, longest), _sequence(b, longest)
    return Cond(vector, torch.cat([first, second]), torch.cat([seen, also]), aligned)


def _joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """One after the other along the rows, zeros for a missing one; None when both are missing."""
    one = b if a is None else a
    return None if one is None else torch.cat([torch.zeros_like(one) if t is None else t for t in (a, b)])


def _sequence(cond: Cond, longest: Tensor) -> tuple[Tensor, Tensor]:
    """A sequence padded to the length of `longest` (B, n, D), and its mask (B, n)."""
    if cond.sequence is None:
        return torch.zeros_like(longest), longest.new_zeros(longest.shape[:2], dtype=torch.bool)
    mask = cond.mask if cond.mask is not None else torch.ones(cond.sequence.shape[:2], dtype=torch.bool, device=cond.sequence.device)
    more = longest.shape[1] - cond.sequence.shape[1]
    return F.pad(cond.sequence, (0, 0, 0, more)), F.pad(mask, (0, more), value=False)
