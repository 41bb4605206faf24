"""From noise to data along x = alpha x0 + sigma eps: one algebra, so every solver serves every schedule.

A schedule is a list of nodes (alpha, sigma) from noise to (1, 0). A denoiser guesses the data: denoise(x, alpha, sigma) -> x0.
With eps = (x - alpha x0) / sigma the probability-flow ODE is dx = x0 d(alpha) + eps d(sigma); variance-exploding diffusion
(alpha = 1) and rectified flow (alpha = 1 - t, sigma = t) are two schedules of it. The last step lands on x0 itself, free of noise.
Every solver is a generator: after each step the best guess of the data so far, after the last step the sample.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

from torch import Tensor

from morphogen.errors import UsageError, suggest

Node: TypeAlias = tuple[float, float]
Denoise: TypeAlias = Callable[[Tensor, float, float], Tensor]


def karras(steps: int, low: float, high: float, rho: float = 7.0) -> list[Node]:
    """sigma_i = (high^(1/rho) + i/(n-1) (low^(1/rho) - high^(1/rho)))^rho, then 0; alpha = 1 (Karras et al. 2022, eq. 5)."""
    _check(steps)
    a, b = high ** (1 / rho), low ** (1 / rho)
    return [(1.0, (a + i / max(steps - 1, 1) * (b - a)) ** rho) for i in range(steps)] + [(1.0, 0.0)]


def straight(steps: int, shift: float = 1.0) -> list[Node]:
    """alpha = 1 - t, sigma = t for t from 1 to 0; shift > 1 spends more steps on noise (Esser et al. 2024, eq. 23)."""
    _check(steps)
    times = [1 - i / steps for i in range(steps + 1)]
    times = [shift * t / (1 + (shift - 1) * t) for t in times]
    return [(1 - t, t) for t in times]


def _check(steps: int) -> None:
    if steps < 1:
        raise UsageError(f"steps = {steps} is too few", remedy="give at least 1")


def move(x: Tensor, x0: Tensor, now: Node, then: Node) -> Tensor:
    """The exact solution from one node to the next if x0 stayed what it is: sigma'/sigma x + (alpha' - alpha sigma'/sigma) x0."""
    (alpha, sigma), (alpha2, sigma2) = now, then
    return x * (sigma2 / sigma) + x0 * (alpha2 - alpha * sigma2 / sigma)


def euler(denoise: Denoise, x: Tensor, nodes: list[Node]) -> Iterator[Tensor]:
    """First order: DDIM (Song et al. 2021), Euler's rule for the flow. One evaluation a step."""
    for now, then in pairwise(nodes):
        x0 = denoise(x, *now)
        x = move(x, x0, now, then)
        yield x if then[1] == 0 else x0


def heun(denoise: Denoise, x: Tensor, nodes: list[Node]) -> Iterator[Tensor]:
    """Second order: the trapezoid rule (Karras et al. 2022, algorithm 1). Two evaluations a step, one for the last."""
    for now, then in pairwise(nodes):
        x0 = denoise(x, *now)
        guess = move(x, x0, now, then)
        if then[1] == 0:
            yield guess
            return
        x0_then = denoise(guess, *then)
        eps, eps_then = (x - now[0] * x0) / now[1], (guess - then[0] * x0_then) / then[1]
        x = x + (then[0] - now[0]) * (x0 + x0_then) / 2 + (then[1] - now[1]) * (eps + eps_then) / 2
        yield x0_then


def dpmpp(denoise: Denoise, x: Tensor, nodes: list[Node]) -> Iterator[Tensor]:
    """Second order from one evaluation a step: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).

    x0 is extrapolated linearly in lambda = log(alpha / sigma) to the middle of the step. The first and the last step are first
    order, for want of a past and because lambda is infinite at the end; so is the second where it was infinite at the start.
    """
    past: Tensor | None = None
    h_past = 0.0
    for now, then in pairwise(nodes):
        x0 = denoise(x, *now)
        h = _lambda(then) - _lambda(now)
        best = x0
        if past is not None and math.isfinite(h) and math.isfinite(h_past):
            best = x0 + (x0 - past) * (h / (2 * h_past))
        x = move(x, best, now, then)
        past, h_past = x0, h
        yield x if then[1] == 0 else x0


def churned(denoise: Denoise, x: Tensor, nodes: list[Node], *, noise: Callable[[int], Tensor], churn: float) -> Iterator[Tensor]:
    """Heun with fresh noise before each step (Karras et al. 2022, algorithm 2): sigma grows by the factor 1 + gamma first.

    gamma = min(churn / steps, sqrt 2 - 1); `noise(i)` draws the standard normal of step i. Noise corrects earlier errors.
    """
    gamma = min(churn / (len(nodes) - 1), math.sqrt(2) - 1)
    for i, (now, then) in enumerate(pairwise(nodes)):
        more = (now[0], now[1] * (1 + gamma)) if now[0] > 0 else now
        x = x + noise(i) * math.sqrt(more[1] ** 2 - now[1] ** 2)
        x0 = denoise(x, *more)
        guess = move(x, x0, more, then)
        if then[1] == 0:
            yield guess
            return
        x0_then = denoise(guess, *then)
        eps, eps_then = (x - more[0] * x0) / more[1], (guess - then[0] * x0_then) / then[1]
        x = x + (then[0] - more[0]) * (x0 + x0_then) / 2 + (then[1] - more[1]) * (eps + eps_then) / 2
        yield x0_then


def _lambda(node: Node) -> float:
    """log(alpha / sigma), half the log signal-to-noise ratio; -inf for pure noise, inf for clean data."""
    alpha, sigma = node
    return -math.inf if alpha == 0 else math.inf if sigma == 0 else math.log(alpha / sigma)


SOLVERS: dict[str, Callable[[Denoise, Tensor, list[Node]], Iterator[Tensor]]] = {
    "euler": euler, "ddim": euler, "heun": heun, "dpmpp": dpmpp}


def solve(name: str, denoise: Denoise, x: Tensor, nodes: list[Node], *, noise: Callable[[int], Tensor] | None = None,
          churn: float = 0.0) -> Iterator[Tensor]:
    """Run the named solver; `churn` > 0 takes the stochastic Heun instead. Raises UsageError for an unknown name."""
    if name not in SOLVERS:
        raise UsageError(f"unknown solver '{name}'", remedy=suggest(name, SOLVERS))
    if churn > 0 and noise is not None:
        return churned(denoise, x, nodes, noise=noise, churn=churn)
    return SOLVERS[name](denoise, x, nodes)
