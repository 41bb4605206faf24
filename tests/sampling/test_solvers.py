"""Solvers against a Gaussian, whose exact denoiser is known: E[x0 | x] = m + alpha v (x - alpha m) / (alpha^2 v + sigma^2)."""
import math

import pytest
import torch

from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.sampling.solvers import SOLVERS, karras, solve, straight

MEAN, DEVIATION = 0.7, 0.6


def exact(x, alpha, sigma):
    v = DEVIATION**2
    return MEAN + alpha * v * (x - alpha * MEAN) / (alpha**2 * v + sigma**2)


def transported(x, nodes):
    """Where the exact flow takes x: the value at the same quantile."""
    alpha, sigma = nodes[0]
    return MEAN + DEVIATION * (x - alpha * MEAN) / math.sqrt(alpha**2 * DEVIATION**2 + sigma**2)


SCHEDULES = {"karras": lambda n: karras(n, 0.002, 20.0, 7.0), "straight": lambda n: straight(n)}


def error(name, schedule, steps):
    nodes = SCHEDULES[schedule](steps)
    x = nodes[0][1] * torch.linspace(-2, 2, 41, dtype=torch.float64)
    *_, end = solve(name, exact, x, nodes)
    return float((end - transported(x, nodes)).abs().max())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp", 2)])
def test_order_of_convergence(name, order, schedule):
    a, b = error(name, schedule, 40), error(name, schedule, 160)
    assert math.log(a / b) / math.log(4) > order - 0.35, (a, b)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SOLVERS)
def test_mean_and_deviation_come_out(name, schedule):
    nodes = SCHEDULES[schedule](60)
    x = nodes[0][1] * draws.normal(draws.seeded(3, 20_000), "x")
    *_, end = solve(name, exact, x, nodes)
    assert abs(float(end.mean()) - MEAN) < 0.03
    assert abs(float(end.std()) - DEVIATION) < 0.03


def test_churn_keeps_the_distribution():
    nodes, keys = karras(40, 0.002, 20.0), draws.seeded(3, 20_000)
    *_, end = solve("heun", exact, 20.0 * draws.normal(keys, "x"), nodes, noise=lambda i: draws.normal(keys, "churn", i), churn=20.0)
    assert abs(float(end.mean()) - MEAN) < 0.03
    assert abs(float(end.std()) - DEVIATION) < 0.03
    *_, still = solve("heun", exact, 20.0 * draws.normal(keys, "x"), nodes)
    assert not torch.allclose(end, still)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_certain_denoiser_is_reached_exactly_in_any_number_of_steps(name, schedule):
    for steps in (1, 2, 5):
        nodes = SCHEDULES[schedule](steps)
        out = list(solve(name, lambda x, a, s: torch.full_like(x, 1.25), torch.randn(4) * nodes[0][1], nodes))
        assert len(out) == steps
        assert torch.equal(out[-1], torch.full((4,), 1.25))


def test_schedules_end_clean_and_fall():
    for nodes in (karras(10, 0.01, 50.0), straight(10), straight(10, shift=3.0)):
        assert len(nodes) == 11 and nodes[-1] == (1.0, 0.0)
        sigmas = [s for _, s in nodes]
        assert sigmas == sorted(sigmas, reverse=True)
    assert karras(10, 0.01, 50.0)[0][1] == pytest.approx(50.0) and karras(10, 0.01, 50.0)[9][1] == pytest.approx(0.01)
    assert straight(10, shift=3.0)[5][1] > 0.5


def test_unknown_solver_is_named():
    with pytest.raises(UsageError, match=r"heuns.*did you mean 'heun'"):
        solve("heuns", exact, torch.zeros(1), straight(2))
