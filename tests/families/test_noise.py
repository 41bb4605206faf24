"""What denoisers do with given samples, against a denoiser whose answers are known: data that are normal, or a few points."""

from __future__ import annotations

import math

import torch

from morphogen.contracts import Batch
from morphogen.families import noise
from morphogen.families.common import Standard
from morphogen.families.flow import INVERSION
from morphogen.sampling import draws, solvers
from morphogen.spaces import Array

POINTS = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 1.0, 0.0], [0.0, -1.0, 2.0]])


def normal(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """E[x0 | x] for x0 ~ N(0, 1), x = alpha x0 + sigma eps."""
    return x * alpha / (alpha**2 + sigma**2)


def points(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """E[x0 | x] for x0 one of POINTS."""
    square = (x[:, None] / alpha - POINTS).square().sum(2)
    return (-square / (2 * (sigma / alpha) ** 2)).softmax(1) @ POINTS


def batch(x: torch.Tensor) -> Batch:
    return Batch(x, draws.seeded(0, 1).expand(len(x)), torch.ones(len(x)))


def test_oddity_is_the_expected_squared_distance_to_the_data() -> None:
    x = torch.tensor([[2.0, 0.0, 0.0], [5.0, 5.0, 5.0], [0.5, -0.5, 1.0]])
    found = noise.oddity(Standard(Array((3,))), batch(x), points)
    assert found.kind == "reconstruction" and found.parts is not None
    for k, r in enumerate(noise.LEVELS):
        square = (x[:, None] - POINTS).square().sum(2)
        exact = ((-square / (2 * r * r)).softmax(1) * square).sum(1)
        close = found.views[:, k].exp()
        assert ((close - exact).abs() < 0.35 * exact + 0.1).all(), (r, close, exact)  # four probes, finite differences
    assert found.views[1].min() > found.views[0].max()  # far from all points is odd, a point itself is not


def test_oddity_of_normal_data_is_exact() -> None:
    """D = x / (1 + r^2), so E|x0 - x|^2 = |x|^2 r^4 / (1 + r^2)^2 + d r^2 / (1 + r^2), whatever the probes."""
    x = draws.normal(draws.seeded(3, 6), "x", 0, (2, 4, 4))
    found = noise.oddity(Standard(Array((2, 4, 4))), batch(x), normal)
    for k, r in enumerate(noise.LEVELS):
        exact = x.square().flatten(1).sum(1) * r**4 / (1 + r * r) ** 2 + 32 * r * r / (1 + r * r)
        assert torch.allclose(found.views[:, k].exp(), exact, rtol=1e-3)
    assert found.parts is not None and found.parts.shape == x.shape


def test_climbing_and_descending_are_inverse() -> None:
    standard, x = Standard(Array((3,))), draws.normal(draws.seeded(1, 5), "x", 0, (3,))
    standard.mean += 1.0  # type: ignore[operator]
    for nodes in (solvers.karras(40, 0.005, 80.0), INVERSION):
        z = noise.climb(standard, x, nodes, normal)
        assert torch.allclose(noise.descend(standard, z, nodes, normal), x, atol=0.03)
        # N(0, 1) data along any schedule: the walk only scales, to noise of the same deviation
        scale = math.sqrt(1 + 0.005**2) if nodes[0][0] == 1 else 1.0
        assert torch.allclose(z * scale, standard(x) / standard(x).norm(dim=1, keepdim=True) * z.norm(dim=1, keepdim=True), atol=0.02)
        assert torch.allclose(z.norm(dim=1), standard(x).norm(dim=1), rtol=0.03)


def test_variations_stay_near_at_low_noise() -> None:
    standard, x = Standard(Array((3,))), POINTS.repeat(4, 1)
    rows = Batch(x, draws.seeded(2, len(x)), torch.ones(len(x)))
    assert noise.vary(standard, rows, [], points, "dpmpp") is x
    near = noise.vary(standard, rows, solvers.karras(10, 0.005, 0.3), points, "dpmpp")
    assert torch.allclose(near, x, atol=0.02)
    far = noise.vary(standard, rows, solvers.karras(20, 0.005, 20.0), points, "heun")
    landed = (far[:, None] - POINTS).norm(dim=2)
    assert (landed.min(1).values < 0.1).all() and len(landed.argmin(1).unique()) > 1
    assert not torch.equal(landed.argmin(1), torch.arange(3).repeat(4))
