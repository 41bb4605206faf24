"""Reverses what it reads, fills gaps with both sides in view, keeps what is known."""
from __future__ import annotations

import pytest
import torch

from families import chains
from morphogen.config import NetConfig
from morphogen.contracts import Batch, Given, Request
from morphogen.errors import UsageError
from morphogen.families.autoregressive import AutoregressiveSampling
from morphogen.families.seq2seq import Seq2Seq, Seq2SeqConfig
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens

NET = NetConfig(size="tiny", width=48, depth=1, heads=2)
GREEDY = AutoregressiveSampling(temperature=0.0)
TEXT = Tokens(8, 6, end=0)


def reversal(seed: int, n: int = 64) -> Batch:
    """Digits 1..7, two to five of them, and the same backwards."""
    keys = draws.derive(draws.seeded(0, n), "reversal", seed)
    length = 2 + (4 * draws.uniform(keys, "n")).long()[:, None]
    where = torch.arange(6)
    digits = 1 + (7 * draws.uniform(keys, "x", 0, (6,))).long()
    said = torch.where(where < length, digits, 0)
    answer = torch.where(where < length, said.gather(1, (length - 1 - where).clamp(min=0)), 0)
    return Batch(answer, keys, torch.ones(n), None, {"source": said})


def test_learns_to_reverse() -> None:
    torch.manual_seed(0)
    family = Seq2Seq(TEXT, {"source": TEXT}, Seq2SeqConfig(net=NET, spans=0.0, drop=0.0))
    chains.train(family, lambda i: reversal(i, 64), 170, 8e-3)
    of = reversal(10**6, 200)
    got = chains.last(family, Request(of.key, of.cond, sampling=GREEDY)).x
    assert (got == of.x).all(1).float().mean() > 0.9
    assert family.infill == "none"
    with pytest.raises(UsageError, match="not trained to fill gaps"):
        list(family.stream(Request(of.key, of.cond, Given(of.x, of.x > 3), sampling=GREEDY)))


def test_learns_to_fill_gaps_from_what_follows() -> None:
    """Samples repeat one letter: what is known anywhere tells the rest, also to the left of it."""
    torch.manual_seed(0)
    family = Seq2Seq(Tokens(6, 5), {}, Seq2SeqConfig(net=NET, spans=0.8))
    chains.train(family, lambda i: chains.batch((6 * draws.uniform(draws.seeded(i, 64), "x")).long()[:, None].expand(-1, 5), i), 120, 8e-3)
    x = torch.arange(6)[:, None].expand(-1, 5)
    known = torch.arange(5).expand(6, -1) == 3
    got = chains.last(family, Request(draws.seeded(0, 6), given=Given(torch.where(known, x, 0), known), sampling=GREEDY)).x
    assert torch.equal(got, x) and family.infill == "any"


def random_family() -> Seq2Seq:
    torch.manual_seed(0)
    family = Seq2Seq(TEXT, {"source": TEXT, "label": Tokens(3, 1)}, Seq2SeqConfig(net=NET))
    with torch.no_grad():
        for p in family.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    return family.eval()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_known_values_stay_and_rows_do_not_know_each_other(guidance: float) -> None:
    family, of = random_family(), reversal(1, 6)
    of.cond["label"] = torch.arange(6)[:, None] % 3
    g = torch.Generator().manual_seed(0)
    x, known = torch.randint(1, 8, (6, 6), generator=g), torch.rand(6, 6, generator=g) < 0.4
    known[0], known[1] = False, True
    sampling = AutoregressiveSampling(guidance=guidance)
    whole = chains.last(family, Request(of.key, of.cond, Given(x, known), sampling=sampling)).x
    assert torch.equal(whole[known], x[known]) and whole.shape == (6, 6)
    for i in range(6):
        row = slice(i, i + 1)
        request = Request(of.key[row], {k: v[row] for k, v in of.cond.items()}, Given(x[row], known[row]), sampling=sampling)
        assert torch.equal(chains.last(family, request).x[0], whole[i])


def test_probabilities_add_up_with_and_without_known_values() -> None:
    torch.manual_seed(0)
    family = Seq2Seq(Tokens(3, 3), {}, Seq2SeqConfig(net=NET)).eval()
    with torch.no_grad():
        for p in family.parameters():
            p.add_(torch.randn_like(p) * 0.15)
        x = torch.cartesian_prod(*[torch.arange(3)] * 3)
        assert abs(float(family.log_prob(chains.batch(x)).total.exp().sum()) - 1) < 1e-5
        x, known = x[x[:, 2] == 1], torch.tensor([False, False, True]).expand(9, -1)
        assert abs(float(family.log_prob(chains.batch(x, given=Given(x, known))).total.exp().sum()) - 1) < 1e-5


def test_every_parameter_is_reached_and_training_counts_what_it_asks_for() -> None:
    torch.manual_seed(0)
    family, of = Seq2Seq(TEXT, {"source": TEXT, "size": Array((2,))}, Seq2SeqConfig(net=NET)), reversal(3, 96)
    of.cond["size"] = torch.randn(96, 2)
    assert chains.unreached(family, of) == []
    whole = int((of.x != 0).sum() + (of.x == 0).any(1).sum())
    assert whole * 0.5 < int(family(of).weight) < whole
    with pytest.raises(UsageError, match="nothing to read"):
        Seq2Seq(TEXT, {}, Seq2SeqConfig(spans=0.0))
