"""Mixtures: exact densities, exact conditioning, digits."""
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch.distributions import MultivariateNormal

from morphogen.contracts import Batch, Given, Request
from morphogen.errors import DataError, UsageError
from morphogen.families.mixture import Mixture, MixtureConfig, MixtureSampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens


def batch(x, cond=None) -> Batch:
    return Batch(x, draws.seeded(1, len(x)), torch.ones(len(x)), cond=cond or {})


def sample(family, n, cond=None, given=None, seed=5, **sampling):
    *_, part = family.stream(Request(draws.seeded(seed, n), cond or {}, given, sampling=MixtureSampling(**sampling)))
    return part.x


def correlated(n: int = 4000) -> torch.Tensor:
    z = draws.normal(draws.seeded(0, n), "z", 0, (3,))
    return torch.stack([2 + z[:, 0], 5 * (0.8 * z[:, 0] + 0.6 * z[:, 1]), z[:, 2] * 0.1], 1)


def test_one_gaussian_has_the_exact_density_and_conditional():
    x = correlated()
    family = Mixture(Array((3,)), {}, MixtureConfig(components=1))
    family.fit([batch(x)])
    truth = MultivariateNormal(x.mean(0).double(), x.double().T.cov())
    got = family.log_prob(batch(x[:200])).total
    assert torch.allclose(got, truth.log_prob(x[:200].double()).float(), atol=0.05)
    known = torch.tensor([True, False, False])
    given = Given(torch.tensor([4.0, 0, 0]).expand(4000, 3), known.expand(4000, 3))
    out = sample(family, 4000, given=given)
    assert (out[:, 0] == 4).all()
    assert math.isclose(float(out[:, 1].mean()), 8.0, abs_tol=0.3) and math.isclose(float(out[:, 1].std()), 3.0, rel_tol=0.06)
    # log p(x) = log p(known) + log p(rest | known)
    scored = batch(x[:50])
    scored.given = Given(scored.x, known.expand(50, 3))
    alone = MultivariateNormal(x.mean(0)[:1].double(), x.double().T.cov()[:1, :1]).log_prob(x[:50, :1].double())
    assert torch.allclose(family.log_prob(scored).total, (got[:50] - alone).float(), atol=0.05)


def test_the_density_integrates_to_one():
    g = draws.normal(draws.seeded(2, 600), "x", 0, (1,)) + 4 * (torch.arange(600) % 2)[:, None]
    family = Mixture(Array((1,)), {}, MixtureConfig())
    family.fit([batch(g)])
    grid = torch.linspace(-8, 12, 4001)[:, None]
    assert math.isclose(float(family.log_prob(batch(grid)).total.exp().sum() * (20 / 4000)), 1, abs_tol=1e-3)
    assert family.config.components >= 2


def test_the_number_of_components_is_found():
    keys = draws.seeded(3, 1200)
    x = torch.tensor([[0.0, 0], [9, 0], [0, 9], [9, 9]])[torch.arange(1200) % 4] + draws.normal(keys, "x", 0, (2,))
    family = Mixture(Array((2,)), {}, MixtureConfig())
    family.fit([batch(x)])
    assert family.config.components == 4


def test_labels_own_components_and_nothing_said_is_all_of_them():
    x = correlated(900) + 50 * (torch.arange(900) % 3)[:, None]
    label = (torch.arange(900) % 3)[:, None]
    family = Mixture(Array((3,)), {"kind": Tokens(4, 1)}, MixtureConfig())
    family.fit([batch(x, {"kind": label})])
    ask = lambda k, n: {"kind": torch.full((n, 1), k)}
    for k in range(3):
        assert abs(float(sample(family, 300, ask(k, 300))[:, 0].mean()) - 2 - 50 * k) < 0.5
    free = sample(family, 900)[:, 0]
    assert all(0.25 < float((((free - 2) / 50).round() == k).float().mean()) < 0.42 for k in range(3))
    assert torch.equal(sample(family, 20, ask(3, 20)), sample(family, 20))
    own = family.log_prob(batch(x[:3], {"kind": label[:3]})).total
    assert torch.allclose(own, family.log_prob(batch(x[:3])).total + math.log(3), atol=0.01)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)[:, None]


def test_digits_train_a_classifier_as_well_as_the_literature_says(digits):
    from sklearn.svm import SVC

    x, y = digits
    family = Mixture(Array((1, 8, 8)), {"digit": Tokens(10, 1)}, MixtureConfig(components=4))
    family.fit([batch(x[:1200], {"digit": y[:1200]})])
    ask = (torch.arange(1200) % 10)[:, None]
    out = sample(family, 1200, {"digit": ask})
    judge = SVC(gamma="scale").fit(out.flatten(1).numpy(), ask[:, 0].numpy())
    real = SVC(gamma="scale").fit(x[:1200].flatten(1).numpy(), y[:1200, 0].numpy())
    test = x[1200:].flatten(1).numpy(), y[1200:, 0].numpy()
    assert judge.score(*test) > real.score(*test) - 0.03


def test_many_dimensions_are_projected_and_density_and_conditioning_agree(digits):
    x = torch.nn.functional.interpolate(digits[0][:500], size=(20, 20), mode="bilinear")
    family = Mixture(Array((1, 20, 20)), {}, MixtureConfig(components=2, rank=20))
    family.fit([batch(x)])
    assert family.basis.shape == (400, 20) and family.factors.numel() <= 2 * 20 * 20
    b = batch(x[:4])
    whole = family.log_prob(b).total
    b.given = Given(x[:4], torch.ones(4, 1, 20, 20, dtype=torch.bool))
    assert family.log_prob(b).total.abs().max() < 1e-2  # nothing left to say
    known = torch.zeros(4, 1, 20, 20, dtype=torch.bool)
    known[..., :10, :] = True
    assert torch.isfinite(whole).all()
    out = sample(family, 4, given=Given(x[:4], known))
    assert torch.equal(out[known], x[:4][known])
    assert (out - x[:4])[~known].square().mean() < 0.6 * (x[:4][~known] - x.mean()).square().mean()


def test_constant_and_single_rows_do_not_break_it():
    for x in (torch.ones(20, 3), torch.randn(1, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 300)):
        family = Mixture(Array(tuple(x.shape[1:])), {}, MixtureConfig())
        family.fit([batch(x)])
        assert torch.isfinite(sample(family, 4)).all() and torch.isfinite(family.log_prob(batch(x)).total).all()
    assert (sample(family, 4).abs() < 0.1).all()


def test_rows_do_not_depend_on_their_neighbours_and_saving_changes_nothing():
    family = Mixture(Array((3,)), {}, MixtureConfig(components=2))
    family.fit([batch(correlated(300))])
    whole = sample(family, 6)
    *_, one = family.stream(Request(draws.seeded(5, 6)[4:5]))
    assert torch.allclose(one.x[0], whole[4], atol=1e-5)
    fresh = Mixture(Array((3,)), {}, MixtureConfig())
    fresh.load_state_dict(family.state_dict())
    assert torch.equal(sample(fresh, 6), whole)
    again = Mixture(Array((3,)), {}, MixtureConfig(components=2))
    again.fit([batch(correlated(300))])
    assert torch.equal(again.means, family.means)
    assert sample(family, 200, temperature=0.1).std(0)[1] < 0.7 * sample(family, 200).std(0)[1]


def test_refusals():
    with pytest.raises(UsageError, match="fixed shape"):
        Mixture(Array((2, None)), {}, MixtureConfig())
    with pytest.raises(UsageError, match="covariance"):
        Mixture(Array((2,)), {}, MixtureConfig(covariance="round"))
    with pytest.raises(DataError, match="no rows"):
        Mixture(Array((2,)), {}, MixtureConfig()).fit([])
    with pytest.raises(DataError, match="NaN"):
        Mixture(Array((2,)), {}, MixtureConfig()).fit([batch(torch.full((3, 2), torch.nan))])
    with pytest.raises(UsageError, match="not been fitted"):
        sample(Mixture(Array((2,)), {}, MixtureConfig()), 1)
