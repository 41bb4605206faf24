"""Latent classes: sums to one, exact conditioning, planted classes, known smoothing, digits."""
from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn.datasets import load_digits

from morphogen.contracts import Batch, Given, Request
from morphogen.errors import DataError, UsageError
from morphogen.families.latent_class import LatentClass, LatentClassConfig, LatentClassSampling
from morphogen.model import real_positions
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens


def batch(x, cond=None, end=None) -> Batch:
    return Batch(x, draws.seeded(1, len(x)), torch.ones(len(x)), None if end is None else real_positions(x, end), cond or {})


def fitted(x, space, conditions=None, cond=None, **config) -> LatentClass:
    family = LatentClass(space, conditions or {}, LatentClassConfig(**config))
    family.fit([batch(x, cond, space.end)])
    return family


def sample(family, n, cond=None, given=None, **sampling):
    *_, part = family.stream(Request(draws.seeded(9, n), cond or {}, given, sampling=LatentClassSampling(**sampling)))
    return part.x


def two_kinds(n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of four tokens that are all low or all high, and which."""
    keys = draws.seeded(0, n)
    kind = (draws.uniform(keys, "kind") < 0.25).long()
    return 2 * kind[:, None] + (draws.uniform(keys, "x", 0, (4,)) < 0.3).long(), kind


SPACES = {
    "plain": Tokens(4, 4), "slots": Tokens(4, 4, slots=((0, 2), (0, 3), (0, 4), (0, 4))), "ragged": Tokens(4, 4, end=3),
}


@pytest.mark.parametrize("name", SPACES)
def test_all_items_together_have_probability_one(name):
    space = SPACES[name]
    x = two_kinds()[0]
    if space.slots:
        x = torch.minimum(x, torch.tensor(space.slots)[:, 1] - 1)
    if space.end is not None:
        x = torch.where(real_positions(x, space.end), x, space.end)
    family = fitted(x, space, classes=3, strength=5.0)
    every = torch.tensor(list(itertools.product(range(4), repeat=4)))
    if space.end is not None:
        every = torch.where(real_positions(every, space.end), every, space.end).unique(dim=0)
    found = family.log_prob(batch(every, end=space.end))
    assert math.isclose(float(found.total.double().exp().sum()), 1.0, abs_tol=1e-5)
    assert torch.allclose(found.parts.sum(1), found.total, atol=1e-5)


def test_steps_say_what_the_likelihood_says():
    x = two_kinds()[0]
    family = fitted(x, SPACES["plain"], classes=2)
    state = family.start(Request(draws.seeded(1, 50)))
    parts = family.log_prob(batch(x[:50])).parts
    for i in range(4):
        log = family.step(state, x[:50, i - 1 : i] if i else x[:50, :0])
        assert torch.allclose(log.exp().sum(1), torch.ones(50).double())
        assert torch.allclose(log.gather(1, x[:50, i : i + 1])[:, 0].float(), parts[:, i], atol=1e-5)


def test_planted_classes_are_found_and_known_tokens_decide_them():
    x, kind = two_kinds()
    assert 2 <= fitted(x, SPACES["plain"]).config.classes <= 4
    family = fitted(x, SPACES["plain"], classes=2)
    assert torch.allclose(family.weight.exp().sort().values, torch.tensor([0.25, 0.75]), atol=0.05)
    p = torch.where(kind == 1, 0.25, 0.75).log() + ((x % 2) * math.log(0.3) + (1 - x % 2) * math.log(0.7)).sum(1)
    assert abs(float((family.log_prob(batch(x)).total - p).mean())) < 0.03
    known = torch.tensor([False, False, True, False]).expand(400, 4)
    out = sample(family, 400, given=Given(torch.full((400, 4), 3), known))
    assert (out[:, 2] == 3).all() and (out >= 2).float().mean() > 0.98
    assert abs(float((out[:, 0] == 3).float().mean()) - 0.3) < 0.08
    given = batch(x[:40])
    given.given = Given(x[:40], known[:40])
    alone = batch(x[:40])
    alone.given = Given(x[:40], ~known[:40])
    # log p(x) = log p(known) + log p(rest | known), the first read off the state after no token but that one
    whole, rest = family.log_prob(batch(x[:40])).total, family.log_prob(given).total
    first = (family.weight.exp() @ family.token[2].exp().mT).log()[x[:40, 2]]
    assert torch.allclose(whole - rest, first, atol=1e-4)
    assert (family.log_prob(alone).parts[:, [0, 1, 3]] == 0).all()


def test_labels_choose_classes_and_nothing_said_is_all_of_them():
    x, kind = two_kinds()
    family = fitted(x, SPACES["plain"], {"kind": Tokens(3, 1)}, {"kind": kind[:, None]}, classes=2)
    for k in range(2):
        out = sample(family, 300, {"kind": torch.full((300, 1), k)})
        assert (out // 2 == k).float().mean() > 0.98
    assert 0.15 < float((sample(family, 600)[:, 0] >= 2).float().mean()) < 0.35
    own = family.log_prob(batch(x[:60], {"kind": kind[:60, None]})).total
    share = torch.where(kind[:60] == 1, kind.float().mean(), 1 - kind.float().mean()).log()
    assert torch.allclose(own + share, family.log_prob(batch(x[:60])).total, atol=0.1)


def test_tokens_that_are_alike_stand_in_for_each_other():
    """Places share what they teach: 0 goes with 1 and 2 with 3 everywhere, so a place that never saw 1 beside 0 expects it."""
    keys = draws.seeded(4, 400)
    kind = (draws.uniform(keys, "kind") < 0.5).long()
    x = 2 * kind[:, None] + (draws.uniform(keys, "x", 0, (12,)) < 0.5).long()
    x[:, 0] = 2 * kind
    family = fitted(x, Tokens(4, 12), classes=2, strength=20.0)
    token = family.token[0].exp()  # (V, M)
    low = int(token[0].argmax())
    assert token[1, low] > 5 * token[3, low]


def test_small_grey_pictures_cost_less_than_independent_pixels():
    x = torch.from_numpy(load_digits().data.astype(int))
    x = x[draws.uniform(draws.seeded(0, len(x)), "order").argsort()]
    family = fitted(x[400:1200], Tokens(17, 64, grid=(8, 8)), classes=64, strength=36.0)
    bits = -float(family.log_prob(batch(x[:400])).total.mean()) / 64 / math.log(2)
    one = -float(fitted(x[400:1200], Tokens(17, 64, grid=(8, 8)), classes=1).log_prob(batch(x[:400])).total.mean()) / 64 / math.log(2)
    assert bits < 2.2 and one > bits + 0.25


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="one stream"):
        LatentClass(Array((3,)), {}, LatentClassConfig())
    with pytest.raises(UsageError, match="not negative"):
        LatentClass(Tokens(3, 3), {}, LatentClassConfig(classes=-1))
    with pytest.raises(DataError, match="no rows"):
        LatentClass(Tokens(3, 3), {}, LatentClassConfig()).fit([])
    with pytest.raises(UsageError, match="train"):
        sample(LatentClass(Tokens(3, 3), {}, LatentClassConfig()), 2)
