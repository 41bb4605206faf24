"""Sequential trees: analytic conditionals, exact known values, keys, rare words, and a state of plain tensors."""
import sys

import pytest
import torch
from safetensors.torch import load, save

from morphogen.contracts import Batch, Given, Request
from morphogen.families.cart import Cart, Config, Sampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Tokens

SPACE = Record((("a", Array((1,))), ("w", Tokens(3, 1)), ("b", Array((1,)))))
N = 4000


def rows(n=N, seed=0):
    """a ~ normal, w = which third a lies in (10 % at random), b = 10 w + normal."""
    keys = draws.seeded(seed, n)
    a = draws.normal(keys, "a")
    w = torch.where(draws.uniform(keys, "r") < 0.1, (draws.uniform(keys, "w") * 3).long(), torch.bucketize(a, torch.tensor([-0.43, 0.43])))
    return {"a": a[:, None], "w": w[:, None], "b": (10.0 * w + draws.normal(keys, "b"))[:, None]}


def batch(x, cond=None):
    n = len(next(iter(x.values())))
    return Batch(x, torch.arange(n), torch.ones(n), cond=cond or {})


def fitted(space=SPACE, x=None, **config):
    family = Cart(space, {}, Config(**config))
    family.fit([batch(x or rows())])
    return family


def draw(family, n, seed=1, **request):
    parts = list(family.stream(Request(draws.seeded(seed, n), **request)))
    assert len(parts) == 1 and parts[0].done
    return parts[0].x


def given(n, **known):
    """A Given of SPACE: named fields known to be this value."""
    x = {"a": torch.zeros(n, 1), "w": torch.zeros(n, 1, dtype=torch.long), "b": torch.zeros(n, 1)}
    seen = {k: torch.zeros(n, 1, dtype=torch.bool) for k in x}
    for name, value in known.items():
        x[name] = torch.full_like(x[name], value)
        seen[name] = ~seen[name]
    return Given(x, seen)


def test_draws_have_the_joint_distribution():
    x, y = rows(), draw(fitted(), 20000)
    assert torch.allclose(y["a"].quantile(torch.linspace(0.05, 0.95, 10)), x["a"].quantile(torch.linspace(0.05, 0.95, 10)), atol=0.06)
    for w in range(3):
        assert abs(float((y["w"] == w).float().mean() - (x["w"] == w).float().mean())) < 0.015
        assert abs(float(y["b"][y["w"] == w].mean()) - 10 * w) < 0.15 and abs(float(y["b"][y["w"] == w].std()) - 1) < 0.08
    assert float((torch.bucketize(y["a"], torch.tensor([-0.43, 0.43])) == y["w"]).float().mean()) == pytest.approx(0.933, abs=0.02)
    assert y["w"].dtype == torch.int64 and y["a"].dtype == torch.float32


def test_smoothing_moves_numbers_off_the_training_values_but_not_mass_points():
    x = rows()
    spiky = x | {"b": torch.where(x["w"] == 0, 7.5, x["b"])}
    y = draw(fitted(x=spiky), 2000)
    assert torch.isin(y["a"], x["a"]).float().mean() < 0.05
    assert (y["b"][y["w"] == 0] == 7.5).all()
    assert torch.isin(draw(fitted(smoothing=0.0), 500)["a"], x["a"]).all()


@pytest.mark.filterwarnings("error")
def test_known_fields_are_exact_and_later_ones_pull_earlier_ones():
    family = fitted()
    y = draw(family, 3000, given=given(3000, w=2))
    assert (y["w"] == 2).all() and abs(float(y["b"].mean()) - 20) < 0.2
    truth = rows(40000, 7)
    assert abs(float(y["a"].mean() - truth["a"][truth["w"] == 2].mean())) < 0.1
    y = draw(family, 1000, given=given(1000, b=0.2))  # only w = 0 explains b = 0.2
    assert (y["b"] == torch.tensor(0.2)).all() and (y["w"] == 0).float().mean() > 0.98
    y = draw(family, 1000, given=given(1000, b=10.0))  # w = 1, so a lies in the middle third nine times in ten
    assert (y["w"] == 1).float().mean() > 0.97 and (y["a"].abs() < 0.43).float().mean() > 0.85
    assert family.infill == "any"


def test_rows_depend_on_their_key_alone():
    family, g = fitted(), given(300, w=1)
    g.known["w"][::2] = False
    every = draw(family, 300, given=g)
    for pick in (torch.arange(7), torch.arange(299, -1, -1), torch.tensor([5])):
        part = next(iter(family.stream(Request(draws.seeded(1, 300)[pick], given=Given(
            {k: v[pick] for k, v in g.x.items()}, {k: v[pick] for k, v in g.known.items()})))))
        assert all(torch.equal(part.x[k], every[k][pick]) for k in every)


def test_rare_words_come_back_at_their_rate():
    n = 20000
    keys = draws.seeded(3, n)
    u = draws.uniform(keys, "rare")
    rare = torch.bucketize(u, torch.tensor([0.002, 0.007, 0.017])) # 0.2 %, 0.5 %, 1 %, the rest
    x = {"n": (draws.normal(keys, "n") + (rare == 1))[:, None], "r": rare[:, None]}
    y = draw(fitted(Record((("n", Array((1,))), ("r", Tokens(4, 1)))), x), 50000)
    for i in range(3):
        want, got = float((rare == i).float().mean()), float((y["r"] == i).float().mean())
        assert 0.7 < got / want < 1.3


def test_conditions_lead_and_may_be_missing():
    x = rows()
    kind, level = (x["a"] > 0).long(), torch.cat([x["b"] * 2, x["a"]], 1)
    family = Cart(SPACE, {"kind": Tokens(2, 1), "level": Array((2,))}, Config())
    family.fit([batch(x, {"kind": kind, "level": level})])
    asked = torch.arange(2000)[:, None] % 2
    y = draw(family, 2000, cond={"kind": asked})
    assert ((y["a"] > 0).long() == asked).float().mean() > 0.98
    assert abs(float(draw(family, 4000)["a"].mean())) < 0.06  # nothing said
    with pytest.raises(ValueError, match="kind"):
        family.fit([batch(x, {"level": level})])


def test_log_prob_estimates_the_density():
    lp = fitted().log_prob(batch(rows(4000, 9)))
    assert lp.kind == "estimate" and lp.parts is not None and lp.parts.shape == (4000, 3)
    # entropies: a 1.419, w given a about 0.3, b given w 1.419
    assert abs(float(lp.parts[:, 0].mean()) + 1.42) < 0.1 and abs(float(lp.parts[:, 2].mean()) + 1.42) < 0.9
    shifted = rows(4000, 9)
    shifted["b"] = shifted["b"] + 5
    assert fitted().log_prob(batch(shifted)).total.mean() < lp.total.mean() - 1


def test_the_state_is_plain_tensors_and_needs_no_sklearn(monkeypatch):
    family = fitted()
    blob = save({k: v.contiguous() for k, v in family.state_dict().items()})
    monkeypatch.setitem(sys.modules, "sklearn", None)
    again = Cart(SPACE, {}, Config())
    again.load_state_dict(load(blob))
    assert all(torch.equal(a, b) for a, b in zip(draw(family, 100).values(), draw(again, 100).values()))
    assert not list(family.parameters()) and family.phases == ()


def test_padding_rows_and_tiny_tables():
    x = rows(20)
    b = Batch(x, torch.arange(20), (torch.arange(20) < 3).float())
    family = Cart(SPACE, {}, Config(smoothing=0.0))
    family.fit([b])
    assert torch.isin(draw(family, 50)["a"], x["a"][:3]).all()
    with pytest.raises(ValueError, match="no rows"):
        family.fit([Batch(x, torch.arange(20), torch.zeros(20))])
    assert draw(Cart(SPACE, {}, Config()), 2)["a"].tolist() == [[0.0], [0.0]]  # unfitted: one leaf with a zero


def test_other_spaces_are_refused():
    for space in (Array((3,)), Record((("picture", Array((1, 8, 8))),)), Record((("text", Tokens(5, 9)),))):
        with pytest.raises(TypeError):
            Cart(space, {}, Config())
    with pytest.raises(TypeError, match="caption"):
        Cart(SPACE, {"caption": Tokens(5, 9)}, Config())


def test_many_words_grow_bounded_trees():
    keys = draws.seeded(5, 3000)
    x = {"v": (draws.uniform(keys, "v") * 900).long()[:, None], "w": (draws.uniform(keys, "w") ** 3 * 700).long()[:, None]}
    y = draw(fitted(Record((("v", Tokens(900, 1)), ("w", Tokens(700, 1)))), x), 3000, sampling=Sampling(candidates=8))
    assert int(y["v"].max()) < 900 and abs(float((y["w"] == 0).float().mean() - (x["w"] == 0).float().mean())) < 0.03
