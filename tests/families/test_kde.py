"""Kernel density: scikit-learn's numbers, exact conditioning, rows by label."""
import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity

from morphogen.contracts import Batch, Given, Request
from morphogen.errors import DataError, UsageError
from morphogen.families.kde import KDE, KDEConfig, KDESampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens


def batch(x, cond=None) -> Batch:
    return Batch(x, draws.seeded(1, len(x)), torch.ones(len(x)), cond=cond or {})


def rows(n: int, size: int = 2, seed: int = 0) -> torch.Tensor:
    return draws.normal(draws.seeded(seed, n), "rows", 0, (size,))


def fitted(x, conditions=None, cond=None, **config) -> KDE:
    family = KDE(Array(tuple(x.shape[1:])), conditions or {}, KDEConfig(**config))
    family.fit([batch(x, cond)])
    return family


def sample(family, n, cond=None, given=None, **sampling):
    *_, part = family.stream(Request(draws.seeded(9, n), cond or {}, given, sampling=KDESampling(**sampling)))
    return part.x


def test_densities_are_those_of_scikit_learn():
    x, test = rows(300, 3), rows(40, 3, seed=1)
    for width in (0.2, 1.0):
        truth = KernelDensity(bandwidth=width).fit(x.double().numpy()).score_samples(test.double().numpy())
        assert np.allclose(fitted(x, bandwidth=width).log_prob(batch(test)).total.numpy(), truth, atol=1e-4)


def test_the_bandwidth_is_close_to_the_best_on_new_rows():
    x, test = rows(500), rows(2000, seed=1)
    found = fitted(x)
    score = lambda width: float(fitted(x, bandwidth=width).log_prob(batch(test)).total.mean())
    best = max(score(w) for w in (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6))
    assert float(found.log_prob(batch(test)).total.mean()) > best - 0.01 and found.config.bandwidth > 0


def test_exact_copies_do_not_drive_the_width_to_zero():
    x = rows(200)
    assert fitted(torch.cat([x, x])).config.bandwidth > 0.1
    assert fitted(torch.ones(30, 2)).config.bandwidth > 0


def test_known_values_weigh_the_rows():
    x = torch.tensor([[0.0, 10], [0, 10.2], [5, -10]]).repeat(50, 1)
    family = fitted(x, bandwidth=0.1)
    given = Given(torch.tensor([[5.0, 0]]).expand(40, 2), torch.tensor([[True, False]]).expand(40, 2))
    out = sample(family, 40, given=given)
    assert (out[:, 0] == 5).all() and (out[:, 1] < -9).all()
    b = batch(x[:5])
    b.given = Given(b.x, torch.tensor([[True, False]]).expand(5, 2))
    one = fitted(x[:, :1].contiguous(), bandwidth=0.1).log_prob(batch(x[:5, :1])).total
    assert torch.allclose(family.log_prob(b).total, family.log_prob(batch(x[:5])).total - one, atol=1e-4)


def test_labels_restrict_the_rows():
    x = rows(400) + 20 * (torch.arange(400) % 2)[:, None]
    label = {"kind": (torch.arange(400) % 2)[:, None]}
    family = fitted(x, {"kind": Tokens(2, 1)}, label)
    assert (sample(family, 100, {"kind": torch.ones(100, 1, dtype=torch.int64)}) > 10).all()
    free = sample(family, 400)[:, 0] > 10
    assert 0.4 < float(free.float().mean()) < 0.6
    same = batch(x[:6], {"kind": label["kind"][:6]})
    assert torch.allclose(family.log_prob(same).total, family.log_prob(batch(x[:6])).total + math.log(2), atol=1e-3)


def test_rows_do_not_depend_on_their_neighbours_and_saving_changes_nothing():
    family = fitted(rows(50, 4).view(50, 1, 2, 2))
    whole = sample(family, 6)
    *_, one = family.stream(Request(draws.seeded(9, 6)[3:4]))
    assert torch.equal(one.x[0], whole[3]) and whole.shape == (6, 1, 2, 2)
    fresh = KDE(Array((1, 2, 2)), {}, KDEConfig())
    fresh.load_state_dict(family.state_dict())
    assert torch.equal(sample(fresh, 6), whole)
    cold = sample(family, 6, temperature=0.0)
    assert family.keeps_rows and all((family.rows == row).flatten(1).all(1).any() for row in cold)


def test_refusals():
    with pytest.raises(DataError, match="no rows"):
        KDE(Array((2,)), {}, KDEConfig()).fit([])
    with pytest.raises(UsageError, match="bandwidth"):
        KDE(Array((2,)), {}, KDEConfig(bandwidth=-1))
    with pytest.raises(UsageError, match="not been fitted"):
        sample(KDE(Array((2,)), {}, KDEConfig()), 1)
