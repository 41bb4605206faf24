"""A chain's entropy is reached, known prefixes stand, draws belong to their key."""
from __future__ import annotations

import pytest
import torch

from families import chains
from morphogen.config import NetConfig
from morphogen.contracts import Given, HasLogProb, HasSteps, Request
from morphogen.errors import UsageError
from morphogen.families.autoregressive import Autoregressive, AutoregressiveConfig, AutoregressiveSampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens

TINY = AutoregressiveConfig(net=NetConfig(size="tiny", width=32, depth=1, heads=2))
L = 12


@pytest.fixture(scope="module")
def trained() -> Autoregressive:
    torch.manual_seed(0)
    family = Autoregressive(Tokens(4, L), {}, TINY)
    chains.train(family, lambda i: chains.batch(chains.chain(64, L, 100 + i), i), 120)
    return family


def random_family(space: Tokens, conditions: dict | None = None, seed: int = 0) -> Autoregressive:
    torch.manual_seed(seed)
    family = Autoregressive(space, conditions or {}, TINY)
    with torch.no_grad():
        for p in family.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    return family.eval()


def test_the_entropy_of_a_chain_is_reached_and_never_beaten(trained: Autoregressive) -> None:
    x = chains.chain(2048, L, 7)
    scored = trained.log_prob(chains.batch(x))
    excess = (chains.truth(x) - scored.total.detach()) / L  # its mean is a KL divergence per token
    assert scored.kind == "exact" and isinstance(trained, HasLogProb) and isinstance(trained, HasSteps)
    assert -0.002 < excess.mean() < 0.02
    torch.testing.assert_close(scored.parts.double().sum(1), scored.total)


def test_draws_follow_the_chain(trained: Autoregressive) -> None:
    x = chains.last(trained, Request(draws.seeded(5, 3000), sampling=trained.Sampling())).x
    assert (torch.bincount(x[:, 0], minlength=4) / 3000 - chains.FIRST).abs().max() < 0.05
    pairs = torch.bincount((4 * x[:, :-1] + x[:, 1:]).flatten(), minlength=16).view(4, 4)
    assert (pairs / pairs.sum(1, keepdim=True) - chains.MOVE).abs().max() < 0.04


def test_probabilities_of_all_short_samples_add_up_to_one() -> None:
    family = random_family(Tokens(3, 4, end=0))
    grid = torch.cartesian_prod(*[torch.arange(3)] * 4)
    ended = (grid == 0).long().cumsum(1)
    x = grid[(ended * (grid != 0)).sum(1) == 0]  # after the end only ends
    assert len(x) == 1 + 2 + 4 + 8 + 16
    total = family.log_prob(chains.batch(x)).total.exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_streaming_equals_scoring_token_by_token() -> None:
    family = random_family(Tokens(9, 10, end=0), {"label": Tokens(3, 1)})
    cond = {"label": torch.tensor([[0], [1], [2]])}
    parts = list(family.stream(Request(draws.seeded(1, 3), cond, sampling=AutoregressiveSampling(temperature=0))))
    x = parts[-1].x
    assert parts[-1].done and x.shape == (3, 10) and all(not p.done and p.x.shape[1] == p.settled for p in parts[:-1])
    assert all(torch.equal(p.x, x[:, : p.settled]) for p in parts[:-1])
    logits = family.net(torch.nn.functional.pad(x, (1, 0), value=9)[:, :-1], cond=family.conditioner(cond, 3))
    after = ((x == 0).long().cumsum(1) - (x == 0).long()) > 0
    assert torch.equal(torch.where(after, 0, logits.argmax(-1)), x)


def test_a_row_does_not_know_its_neighbours() -> None:
    family, keys = random_family(Tokens(9, 10, end=0)), draws.seeded(2, 6)
    x = torch.randint(1, 9, (6, 10), generator=torch.Generator().manual_seed(0))
    known = torch.arange(10) < torch.tensor([0, 1, 2, 3, 9, 10])[:, None]
    whole = chains.last(family, Request(keys, given=Given(x, known), sampling=family.Sampling())).x
    for i in range(6):
        alone = chains.last(family, Request(keys[i:i + 1], given=Given(x[i:i + 1], known[i:i + 1]), sampling=family.Sampling())).x
        assert torch.equal(alone[0], whole[i])
        assert torch.equal(whole[i, : known[i].sum()], x[i, : known[i].sum()])
    again = chains.last(family, Request(keys, given=Given(x, known), sampling=family.Sampling())).x
    assert torch.equal(again, whole)
    assert not torch.equal(chains.last(family, Request(draws.seeded(3, 6), sampling=family.Sampling())).x, whole)


def test_a_gap_before_known_values_is_refused() -> None:
    known = torch.tensor([[True, True, False, False, True, True, True, False]])
    with pytest.raises(UsageError, match=r"cannot fill the middle: known positions 4-6 follow a gap at 2.*masked"):
        list(random_family(Tokens(5, 8)).stream(Request(draws.seeded(0, 1), given=Given(torch.zeros(1, 8).long(), known),
                                                        sampling=AutoregressiveSampling())))


def test_lengths_and_ends() -> None:
    family = random_family(Tokens(4, 30, end=0))
    parts = list(family.stream(Request(draws.seeded(0, 4), length=5, sampling=family.Sampling())))
    assert parts[-1].x.shape == (4, 30) and (parts[-1].x[:, 5:] == 0).all() and len(parts) <= 5
    x = chains.last(family, Request(draws.seeded(0, 50), sampling=family.Sampling())).x
    ended = (x == 0).long().cumsum(1)
    assert ((ended > 1) <= (x == 0)).all()
    fixed = random_family(Tokens(4, 30))
    assert chains.last(fixed, Request(draws.seeded(0, 4), length=5, sampling=fixed.Sampling())).x.shape == (4, 5)
    with pytest.raises(UsageError, match="length 0"):
        list(family.stream(Request(draws.seeded(0, 1), length=0, sampling=family.Sampling())))


def test_early_stop_saves_steps() -> None:
    family = random_family(Tokens(2, 200, end=0))
    assert len(list(family.stream(Request(draws.seeded(0, 4), sampling=family.Sampling())))) < 60


def test_slots_hold_in_draws_and_in_probabilities() -> None:
    space = Tokens(9, 3, slots=((0, 3), (3, 5), (5, 9)))
    family = random_family(space)
    x = chains.last(family, Request(draws.seeded(0, 200), sampling=family.Sampling())).x
    assert all(((x[:, i] >= a) & (x[:, i] < b)).all() for i, (a, b) in enumerate(space.slots))
    every = torch.cartesian_prod(*[torch.arange(a, b) for a, b in space.slots])
    assert abs(float(family.log_prob(chains.batch(every)).total.detach().exp().sum()) - 1) < 1e-5


def test_only_what_counts_is_counted() -> None:
    family, x = random_family(Tokens(9, 10, end=0)), torch.randint(1, 9, (4, 10))
    x[:, 6:] = 0
    of = chains.batch(x)
    loss = family(of)
    assert int(loss.weight) == 4 * 7
    of.weight[2:] = 0
    of.x = x.clone()
    of.x[3] = 8
    assert int(family(of).weight) == 2 * 7
    of = chains.batch(x, given=Given(x, torch.arange(10).expand(4, -1) < 3))
    assert int(family(of).weight) == 4 * 4
    parts = family.log_prob(chains.batch(x)).parts
    torch.testing.assert_close(-family.log_prob(of).total, -parts[:, 3:].double().sum(1), rtol=1e-5, atol=1e-5)
    illegal = random_family(Tokens(9, 2, slots=((0, 3), (3, 9))))
    padded = chains.batch(torch.tensor([[1, 4], [8, 0]]))
    padded.weight[1] = 0
    illegal(padded).total.backward()
    assert all(p.grad.isfinite().all() for p in illegal.parameters())


def test_every_parameter_is_reached() -> None:
    spaces = {"label": Tokens(3, 1), "size": Array((2,)), "text": Tokens(5, 4, end=0)}
    torch.manual_seed(0)
    family = Autoregressive(Tokens(9, 10), spaces, TINY)
    cond = {"label": torch.randint(0, 3, (64, 1)), "size": torch.randn(64, 2), "text": torch.randint(1, 5, (64, 4))}
    assert chains.unreached(family, chains.batch(torch.randint(0, 9, (64, 10)), cond=cond)) == []
    assert family.embed(chains.batch(torch.randint(0, 9, (2, 10)))).shape == (2, 32)


def test_guidance_follows_the_condition_further() -> None:
    torch.manual_seed(0)
    family = Autoregressive(Tokens(4, 3), {"label": Tokens(4, 1)}, TINY)

    def make(i: int):
        keys = draws.seeded(1000 + i, 128)
        label = (draws.uniform(keys, "label") * 4).long()
        noisy = torch.where(draws.uniform(keys, "flip", 0, (3,)) < 0.5, (draws.uniform(keys, "x", 0, (3,)) * 4).long(), label[:, None])
        return chains.batch(noisy, i, cond={"label": label[:, None]})

    chains.train(family, make, 80)
    label = torch.arange(4).repeat(100)[:, None]
    hits = [float((chains.last(family, Request(draws.seeded(0, 400), {"label": label}, sampling=AutoregressiveSampling(guidance=g))).x
                   == label).float().mean()) for g in (1.0, 3.0)]
    assert abs(hits[0] - 0.625) < 0.06 and hits[1] > 0.85


def test_other_spaces_are_refused() -> None:
    with pytest.raises(UsageError, match="one stream of tokens"):
        Autoregressive(Array((3,)), {}, TINY)
