"""The fitted prior: finds a mixture, measures and draws from the same density, listens to labels, keeps rows apart."""
from __future__ import annotations

import torch

from morphogen.families.prior import LatentPrior
from morphogen.sampling import draws
from morphogen.spaces import Tokens

LABEL = {"label": Tokens(3, 1)}


def test_normal_until_fitted() -> None:
    prior, keys = LatentPrior(3, {}), draws.seeded(0, 5)
    torch.testing.assert_close(prior.draw(keys, {}, (3,)), draws.normal(keys, "latent", 0, (3,)))
    z = torch.randn(5, 3)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(prior.log_prob(z, {}), expected)


def test_recovers_moments_per_label_and_density_integrates_to_one() -> None:
    keys = draws.seeded(1, 3000)
    label = (torch.arange(3000) % 3)[:, None]
    mean = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, -6.0]])
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.3]])
    z = mean[label[:, 0]] + draws.normal(keys, "z", 0, (2,)) @ mix.T
    prior = LatentPrior(2, LABEL)
    prior.fit(z, {"label": label})
    out = prior.draw(draws.seeded(2, 6000), {"label": torch.full((6000, 1), 1)}, (2,))
    torch.testing.assert_close(out.mean(0), mean[1], rtol=0, atol=0.15)
    torch.testing.assert_close(torch.cov(out.T), mix @ mix.T, rtol=0, atol=0.15)
    # the last mixture, for nothing said, covers all three
    free = prior.draw(draws.seeded(3, 3000), {}, (2,))
    nearest = torch.cdist(free, mean).argmin(1)
    assert torch.bincount(nearest, minlength=3).min() > 800
    axis = torch.linspace(-12, 12, 241)
    grid = torch.cartesian_prod(axis, axis)
    for cond in ({}, {"label": torch.full((len(grid), 1), 2)}):
        mass = prior.log_prob(grid, cond).exp().sum() * 0.1**2
        torch.testing.assert_close(mass, torch.tensor(1.0), rtol=0.01, atol=0)


def test_a_row_depends_on_its_key_and_label_alone() -> None:
    prior, keys = LatentPrior(2, LABEL), draws.seeded(0, 9)
    label = (torch.arange(9) % 3)[:, None]
    prior.fit(torch.randn(200, 2), {"label": (torch.arange(200) % 3)[:, None]})
    whole = prior.draw(keys, {"label": label}, (2,))
    torch.testing.assert_close(prior.draw(keys[4:6], {"label": label[4:6]}, (2,)), whole[4:6])
    other = LatentPrior(2, LABEL)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other.draw(keys, {"label": label}, (2,)), whole)


def test_few_rows_many_dimensions_and_absent_labels_stay_finite() -> None:
    prior = LatentPrior(20, LABEL)
    prior.fit(torch.randn(12, 20), {"label": torch.zeros(12, 1, dtype=torch.int64)})
    z = prior.draw(draws.seeded(0, 30), {"label": (torch.arange(30) % 3)[:, None]}, (20,))
    assert torch.isfinite(z).all() and torch.isfinite(prior.log_prob(z, {})).all()
    flat = LatentPrior(4, {})
    flat.fit(torch.zeros(50, 4), {})
    assert torch.isfinite(flat.draw(draws.seeded(0, 5), {}, (4,))).all()
