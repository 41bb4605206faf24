"""Numbers <-> standard normal scores by a fitted monotone piecewise-linear map."""
from __future__ import annotations

import torch
from torch import Tensor

from morphogen.bridges.buffers import atoms

KNOTS = 513
STEEP = 1e6  # a slope above this would leave float32


def fit_normal(values: Tensor) -> Tensor:
    """(3, K) knots (value, lower score, upper score) that send (N,) numbers to a standard normal by rank.

    Between knots the map is linear; a mass point (see `atoms`) owns an interval of scores, lower < upper, as wide as its
    ranks, so heavy tails, spikes and discrete columns all become well spread (rank-based inverse normal transform, Blom 1958).
    """
    values = values.double()
    n = len(values)
    distinct, counts, mass, discrete = atoms(values.float())
    distinct = distinct.double()
    upper = counts.cumsum(0)
    lower = upper - counts
    keep = mass.clone()
    if not discrete:  # knots evenly spaced in score, at most one per three rows: closer ones would trace single rows
        levels = torch.linspace(-1, 1, max(8, min(KNOTS, n // 3)), dtype=torch.float64) * _score(torch.tensor([n - 0.5]), n)
        ranks = (torch.special.ndtr(levels) * n).clamp(0, n - 1).long()
        keep[torch.searchsorted(upper, ranks, right=True).clamp(max=len(distinct) - 1)] = True
        keep[[0, -1]] = True
    middle = (lower + upper) / 2
    low = torch.where(mass, lower.double(), middle)[keep]
    high = torch.where(mass, upper.double(), middle)[keep]
    return torch.stack([distinct[keep], _score(low, n), _score(high, n)]).float()


def _score(rank: Tensor, n: int) -> Tensor:
    return torch.special.ndtri((rank.double() / n).clamp(0.5 / n, 1 - 0.5 / n))


def _ends(knots: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (score per value) of the straight lines beyond the first and the last knot: those of the outer tenth."""
    v, low, high = knots.double()
    k = max(1, len(v) // 10)
    rise = torch.stack([low[min(k, len(v) - 1)] - high[0], low[-1] - high[max(0, len(v) - 1 - k)]])
    run = torch.stack([v[min(k, len(v) - 1)] - v[0], v[-1] - v[max(0, len(v) - 1 - k)]])
    slope = torch.where((run > 0) & (rise > 0), rise / run.clamp(min=1e-300), 1.0).clamp(1 / STEEP, STEEP)
    return slope[0], slope[1]


def to_normal(x: Tensor, knots: Tensor) -> Tensor:
    """(B,) numbers -> scores; a mass point goes to the middle of its interval, numbers beyond the data go on straight."""
    v, low, high = knots.double()
    x = x.double().contiguous()
    at = torch.searchsorted(v, x).clamp(max=len(v) - 1)  # the first knot >= x
    before = (at - 1).clamp(min=0)
    share = ((x - v[before]) / (v[at] - v[before]).clamp(min=1e-300)).clamp(0, 1)
    z = torch.where(x == v[at], (low[at] + high[at]) / 2, high[before] + share * (low[at] - high[before]))
    first, last = _ends(knots)
    z = torch.where(x < v[0], low[0] + (x - v[0]) * first, z)
    return torch.where(x > v[-1], high[-1] + (x - v[-1]) * last, z).clamp(-30, 30).float()


def from_normal(z: Tensor, knots: Tensor) -> Tensor:
    """(B,) scores -> numbers; any score inside a mass point's interval gives exactly that number."""
    v, low, high = knots.double()
    z = z.double().contiguous()
    at = torch.searchsorted(high, z).clamp(max=len(v) - 1)  # the first knot whose interval ends at or after z
    before = (at - 1).clamp(min=0)
    share = ((z - high[before]) / (low[at] - high[before]).clamp(min=1e-12)).clamp(0, 1)
    x = torch.where(z >= low[at], v[at], v[before] + share * (v[at] - v[before]))
    first, last = _ends(knots)
    point = torch.stack([high[0] > low[0], high[-1] > low[-1]])  # beyond an outer mass point there is nothing
    x = torch.where((z < low[0]) & ~point[0], v[0] + (z - low[0]) / first, torch.where(z < low[0], v[0], x))
    x = torch.where((z > high[-1]) & ~point[1], v[-1] + (z - high[-1]) / last, torch.where(z > high[-1], v[-1], x))
    return x.clamp(-3e38, 3e38).float()
