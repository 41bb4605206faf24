"""What a denoiser can do with a given sample: say how odd it is, find the noise it would be drawn from, draw others near it.

All in standardised units and for any schedule x = alpha x0 + sigma eps; only the ratio sigma / alpha says how noisy a sample is.
"""
from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from morphogen.contracts import Batch, Oddity
from morphogen.families.common import Standard, counted
from morphogen.sampling import draws
from morphogen.sampling.solvers import Node, move, solve

Guess: TypeAlias = Callable[[Tensor, float, float], Tensor]
LEVELS = (0.4, 0.6, 0.85, 1.2, 1.7)  # in deviations of the data: below, strokes are mended; above, only the mean is left
PROBES = 4
STEP = 0.3  # of the level: how far a probe looks


@torch.no_grad()
def oddity(standard: Standard, batch: Batch, guess: Guess) -> Oddity:
    """How far from a row x its like among the learned data lie, at each of LEVELS; a view is the log of that.

    With D the denoiser at level r, E[|x0 - x|^2 | x = x0 + r eps] = |D(x) - x|^2 + r^2 tr D'(x): the squared distance to the
    data, averaged with weights that fall with it; a nearest-neighbour distance without neighbours. The trace is Hutchinson's
    (1990), from finite differences. `parts` are the single numbers' terms in units of r^2, averaged over the levels.
    """
    x, count = standard(batch.x), counted(batch)
    views, parts = [], torch.zeros_like(x)
    for r in LEVELS:
        mean = guess(x, 1.0, r)
        spread = torch.zeros_like(x)
        for probe in range(PROBES):
            sign = torch.where(draws.bits(batch.key, "probe", probe, tuple(x.shape[1:])) > 0, 1.0, -1.0)
            spread = spread + sign * (guess(x + STEP * r * sign, 1.0, r) - mean) / (STEP * r * PROBES)
        each = ((mean - x).square() + r * r * spread) * count
        views.append(each.flatten(1).sum(1).clamp(min=1e-6).log())
        parts = parts + each / (r * r * len(LEVELS))
    return Oddity(torch.stack(views, 1), "reconstruction", parts)


@torch.no_grad()
def climb(standard: Standard, x: Tensor, nodes: list[Node], guess: Guess) -> Tensor:
    """The noise (B, ...) of deviation 1 from which the deterministic walk along `nodes` arrives at x.

    The probability-flow equation solved towards noise by the trapezoid rule (Song et al. 2021, DDIM, section 4.3; Karras et
    al. 2022, algorithm 1). The last node but one stands for the data: its noise is too little to see.
    """
    x = standard(x)
    for now, then in pairwise([node for node in reversed(nodes) if node[1] > 0]):
        x0 = guess(x, *now)
        there = move(x, x0, now, then)
        x0_then = guess(there, *then)
        eps, eps_then = (x - now[0] * x0) / now[1], (there - then[0] * x0_then) / then[1]
        x = x + (then[0] - now[0]) * (x0 + x0_then) / 2 + (then[1] - now[1]) * (eps + eps_then) / 2
    return x / nodes[0][1]


@torch.no_grad()
def descend(standard: Standard, z: Tensor, nodes: list[Node], guess: Guess, solver: str = "heun") -> Tensor:
    """The sample at the end of the deterministic walk from the noise z; the inverse of `climb` up to the solver's error."""
    *_, x = solve(solver, guess, nodes[0][1] * z, nodes)
    return standard.inverse(x)


@torch.no_grad()
def vary(standard: Standard, batch: Batch, nodes: list[Node], guess: Guess, solver: str) -> Tensor:
    """Noise of the first node's level on each row, then the walk back (SDEdit, Meng et al. 2022); no nodes: the row itself."""
    if len(nodes) < 2:
        return batch.x
    alpha, sigma = nodes[0]
    noisy = alpha * standard(batch.x) + sigma * draws.normal(batch.key, "vary", 0, tuple(batch.x.shape[1:]))
    *_, x = solve(solver, guess, noisy, nodes)
    return standard.inverse(x)
