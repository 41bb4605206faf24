"""The bound stays above the entropy, gaps are filled by what surrounds them, what is known never changes."""
from __future__ import annotations

import pytest
import torch

from families import chains
from morphogen.config import NetConfig
from morphogen.contracts import Given, HasLogProb, Request
from morphogen.errors import UsageError
from morphogen.families.masked import Masked, MaskedConfig, MaskedSampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens

TINY = MaskedConfig(net=NetConfig(size="tiny", width=32, depth=2, heads=2))
L = 6


@pytest.fixture(scope="module")
def trained() -> Masked:
    torch.manual_seed(0)
    family = Masked(Tokens(4, L), {}, TINY)
    chains.train(family, lambda i: chains.batch(chains.chain(128, L, 100 + i), i), 150, 8e-3)
    return family


def random_family(space: Tokens, conditions: dict | None = None, config: MaskedConfig = TINY) -> Masked:
    torch.manual_seed(0)
    family = Masked(space, conditions or {}, config)
    with torch.no_grad():
        for p in family.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    return family.eval()


@torch.no_grad()
def test_the_bound_is_above_the_entropy_and_near_it(trained: Masked) -> None:
    x = chains.chain(1024, L, 7)
    scored = trained.log_prob(chains.batch(x))
    excess = (chains.truth(x) - scored.total) / L
    assert scored.kind == "bound" and isinstance(trained, HasLogProb)
    assert 0 < excess.mean() < 0.12
    loss = trained(chains.batch(x))  # one hiding a row estimates the same bound
    assert abs(float(loss.total / loss.weight) + float(scored.total.mean()) / L) < 0.06


def test_draws_one_by_one_follow_the_chain(trained: Masked) -> None:
    x = chains.last(trained, Request(draws.seeded(5, 3000), sampling=trained.Sampling())).x
    assert (torch.bincount(x[:, 0], minlength=4) / 3000 - chains.FIRST).abs().max() < 0.08
    pairs = torch.bincount((4 * x[:, :-1] + x[:, 1:]).flatten(), minlength=16).view(4, 4)
    assert (pairs / pairs.sum(1, keepdim=True) - chains.MOVE).abs().max() < 0.09


def test_a_gap_is_filled_by_both_sides(trained: Masked) -> None:
    n, x = 2000, torch.tensor([1, 2, 3, 0, 0, 1])
    known = torch.tensor([True, True, True, False, True, True])
    given = Given(x.expand(n, -1), known.expand(n, -1))
    drawn = chains.last(trained, Request(draws.seeded(5, n), given=given, sampling=trained.Sampling())).x
    want = chains.MOVE[3] * chains.MOVE[:, 0]
    assert (torch.bincount(drawn[:, 3], minlength=4) / n - want / want.sum()).abs().max() < 0.1


@torch.no_grad()
def test_the_mean_over_orders_is_what_the_bound_estimates() -> None:
    """Where every number of hidden tokens is drawn equally often, the bound is an average over orders; here all are listed."""
    family = random_family(Tokens(3, 2))
    x = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    hole = torch.full_like(x, 3)
    p = lambda seen: family.net(torch.where(torch.tensor(seen), x, hole)).log_softmax(-1).gather(2, x[..., None])[..., 0]
    want = ((p([False, False])[:, 0] + p([True, False])[:, 1]) + (p([False, False])[:, 1] + p([False, True])[:, 0])) / 2
    many = x.repeat_interleave(400, 0)
    got = family.log_prob(chains.batch(many)).total.view(9, 400).mean(1)
    torch.testing.assert_close(got.float(), want, atol=0.05, rtol=0.02)


SAMPLINGS = [MaskedSampling(), MaskedSampling(steps=3), MaskedSampling(steps=3, order="random"), MaskedSampling(order="confident"),
             MaskedSampling(steps=1, temperature=0), MaskedSampling(guidance=2.0), MaskedSampling(steps=3, guidance=2.0, top_k=3)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_known_values_stay_ends_close_and_rows_do_not_know_each_other(sampling: MaskedSampling) -> None:
    family, keys = random_family(Tokens(9, 8, end=0), {"label": Tokens(3, 1)}), draws.seeded(2, 6)
    g = torch.Generator().manual_seed(1)
    x, known = torch.randint(1, 9, (6, 8), generator=g), torch.rand(6, 8, generator=g) < 0.4
    known[0], known[1] = False, True
    cond = {"label": torch.arange(6)[:, None] % 3}
    parts = list(family.stream(Request(keys, cond, Given(x, known), sampling=sampling)))
    whole = parts[-1].x
    assert torch.equal(whole[known], x[known]) and whole.max() < 9 and parts[-1].done and not any(p.done for p in parts[:-1])
    assert all(torch.equal(p.x[known], x[known]) for p in parts)
    ended = (whole == 0).long().cumsum(1) > 0
    assert (ended <= (whole == 0)).all()
    for i in range(6):
        alone = Request(keys[i:i + 1], {"label": cond["label"][i:i + 1]}, Given(x[i:i + 1], known[i:i + 1]), sampling=sampling)
        assert torch.equal(chains.last(family, alone).x[0], whole[i])


def test_rounds_are_as_many_as_asked_and_early_ones_keep_few() -> None:
    family = random_family(Tokens(5, 40))
    for order in ("confident", "random"):
        parts = list(family.stream(Request(draws.seeded(0, 3), sampling=MaskedSampling(steps=8, order=order))))
        left = [int((p.x == 5).sum(1)[0]) for p in parts]
        assert len(parts) == 8 and left[-1] == 0 and left == sorted(left, reverse=True) and left[0] >= 38
    assert len(list(family.stream(Request(draws.seeded(0, 3), sampling=MaskedSampling())))) == 40
    assert len(list(random_family(Tokens(5, 70)).stream(Request(draws.seeded(0, 3), sampling=MaskedSampling())))) == 24


def test_lengths() -> None:
    family = random_family(Tokens(4, 10, end=0))
    x = chains.last(family, Request(draws.seeded(0, 20), length=4, sampling=family.Sampling())).x
    assert x.shape == (20, 10) and (x[:, 4:] == 0).all()
    fixed = random_family(Tokens(4, 10))
    assert chains.last(fixed, Request(draws.seeded(0, 2), length=4, sampling=fixed.Sampling())).x.shape == (2, 4)
    with pytest.raises(UsageError, match="length 0"):
        list(family.stream(Request(draws.seeded(0, 1), length=0, sampling=family.Sampling())))


def test_lengths_are_learned() -> None:
    torch.manual_seed(0)
    family = Masked(Tokens(3, 6, end=0), {}, TINY)

    def make(i: int):
        keys = draws.seeded(500 + i, 128)
        n = 1 + (draws.uniform(keys, "n") < 0.5).long() * 3  # one or four letters
        return chains.batch(torch.where(torch.arange(6) < n[:, None], 1 + (draws.uniform(keys, "x", 0, (6,)) < 0.5).long(), 0), i)

    chains.train(family, make, 150, 6e-3)
    for sampling, tolerance in ((MaskedSampling(), 0.12), (MaskedSampling(steps=5, order="random"), 0.25)):
        x = chains.last(family, Request(draws.seeded(9, 600), sampling=sampling)).x
        n = (x != 0).sum(1)
        assert abs(float((n == 4).float().mean()) - 0.5) < tolerance and float(((n == 1) | (n == 4)).float().mean()) > 0.85


def test_slots_hold_and_only_what_counts_is_counted() -> None:
    space = Tokens(9, 3, slots=((0, 3), (3, 5), (5, 9)))
    family = random_family(space)
    for sampling in (MaskedSampling(), MaskedSampling(steps=2, order="confident")):
        x = chains.last(family, Request(draws.seeded(0, 100), sampling=sampling)).x
        assert all(((x[:, i] >= a) & (x[:, i] < b)).all() for i, (a, b) in enumerate(space.slots))
    of = chains.batch(x[:4], given=Given(x[:4], torch.tensor([True, False, False]).expand(4, -1)))
    assert int(family(of).weight) == 4 * 2
    before = family(of).total.detach()
    of.weight[3:], of.x = 0, of.x.clone()
    of.x[3] = 0  # illegal, but of weight 0
    loss = family(of)
    loss.total.backward()
    assert int(loss.weight) == 3 * 2 and loss.total < before and all(p.grad.isfinite().all() for p in family.parameters())
    even = random_family(space, config=MaskedConfig(net=TINY.net, weighting="even"))
    assert 4 <= int(even(chains.batch(x[:4])).weight) <= 12


def test_short_batches_are_padded_with_the_end() -> None:
    family, x = random_family(Tokens(9, 10, end=0)), torch.tensor([[3, 4, 0, 0], [1, 2, 3, 0]])
    longer = torch.nn.functional.pad(x, (0, 6))
    torch.testing.assert_close(family.log_prob(chains.batch(x)).total, family.log_prob(chains.batch(longer)).total)


def test_every_parameter_is_reached() -> None:
    spaces = {"label": Tokens(3, 1), "size": Array((2,)), "text": Tokens(5, 4, end=0)}
    torch.manual_seed(0)
    family = Masked(Tokens(9, 10), spaces, TINY)
    cond = {"label": torch.randint(0, 3, (64, 1)), "size": torch.randn(64, 2), "text": torch.randint(1, 5, (64, 4))}
    of = chains.batch(torch.randint(0, 9, (64, 10)), cond=cond)
    assert chains.unreached(family, of) == [] and family.embed(of).shape == (64, 32)


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="weighting"):
        Masked(Tokens(3, 3), {}, MaskedConfig(weighting="odd"))
    with pytest.raises(UsageError, match="order"):
        list(random_family(Tokens(3, 3)).stream(Request(draws.seeded(0, 1), sampling=MaskedSampling(order="odd"))))
