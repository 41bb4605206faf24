"""Conditioning by the lemmas equals conditioning by the textbook; EM finds what made the data."""
import math

import torch
from torch.distributions import MultivariateNormal

from morphogen.families import gaussian
from morphogen.sampling import draws


def model(size: int = 6, q: int = 3, j: int = 2):
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, q, generator=g, dtype=torch.float64)).Q
    means = torch.randn(j, q, generator=g, dtype=torch.float64)
    factors = torch.randn(j, q, q, generator=g, dtype=torch.float64)
    return basis, means, factors, torch.tensor(0.3, dtype=torch.float64)


def test_posterior_equals_dense_gaussian_conditioning():
    basis, means, factors, v = model()
    u = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    known = torch.tensor([[1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0] * 6, [0, 0, 0, 0, 0, 1]]).bool()
    post = gaussian.posterior(u, known, basis, means, factors, v)
    for b in range(4):
        o = known[b]
        for j in range(2):
            load = basis @ factors[j]
            cov = load @ load.mT + v * torch.eye(6, dtype=torch.float64)
            centre = basis @ means[j]
            if o.any():
                truth = MultivariateNormal(centre[o], cov[o][:, o]).log_prob(u[b, o])
                gain = load[o].mT @ torch.linalg.inv(cov[o][:, o])
            else:
                truth, gain = torch.tensor(0.0), torch.zeros(3, 0, dtype=torch.float64)
            z = gain @ (u[b, o] - centre[o])
            spread = torch.eye(3, dtype=torch.float64) - gain @ load[o]
            assert math.isclose(float(post.log_prob[b, j]), float(truth), abs_tol=1e-9)
            assert torch.allclose(post.mean[b, j], z, atol=1e-9)
            chol = post.precision[b, j]
            assert torch.allclose(torch.linalg.inv(chol @ chol.mT), spread, atol=1e-9)


def test_log_normal_is_the_multivariate_normal():
    _, means, factors, v = model()
    y = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for j in range(2):
        cov = factors[j] @ factors[j].mT + v * torch.eye(3, dtype=torch.float64)
        truth = MultivariateNormal(means[j], cov).log_prob(y)
        assert torch.allclose(gaussian.log_normal(y, means, factors, v)[:, j], truth)


def test_em_finds_three_clusters():
    keys = draws.seeded(0, 1500)
    true = torch.tensor([[-6.0, 0], [6, 0], [0, 8]], dtype=torch.float64)
    y = true[torch.arange(1500) % 3] + draws.normal(keys, "y", 0, (2,)).double() * torch.tensor([1.0, 0.5])
    parts = gaussian.em(y, keys, 3, torch.tensor(1e-4, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    found = parts.means[torch.cdist(true, parts.means).argmin(1)]
    assert torch.allclose(found, true, atol=0.15) and torch.allclose(parts.log_weight.exp(), torch.full((3,), 1 / 3).double(), atol=0.01)
    cov = parts.factors[0] @ parts.factors[0].mT
    assert torch.allclose(cov.diagonal(), torch.tensor([1.0, 0.25]).double(), rtol=0.25)


def test_shrinkage_vanishes_with_many_rows_and_takes_over_with_few():
    g = torch.Generator().manual_seed(3)
    load = torch.randn(20, 20, generator=g, dtype=torch.float64)
    true = load @ load.mT / 20 + 0.1 * torch.eye(20, dtype=torch.float64)
    rows = torch.randn(25, 20, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(true).mT
    cov = rows.mT @ rows / 25
    few = gaussian.shrunk(cov, torch.tensor(25.0).double(), true.diagonal())
    many = gaussian.shrunk(true, torch.tensor(1e6).double(), true.diagonal())
    assert (few - true).norm() < 0.9 * (cov - true).norm() and torch.allclose(many, true, atol=1e-3)
