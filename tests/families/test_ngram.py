"""N-grams: exact probabilities, known entropies, textbook formulas."""
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.contracts import Batch, Given, HasLogProb, HasSteps, Request
from morphogen.errors import DataError, UsageError
from morphogen.families.ngram import Ngram, NgramConfig, NgramSampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens

END = 5
TEXT = Tokens(6, 12, end=END)


def batch(rows: list[list[int]], space: Tokens = TEXT, cond=None, first: int = 0) -> Batch:
    x = torch.full((len(rows), space.length), space.end or 0)
    mask = torch.zeros(len(rows), space.length, dtype=torch.bool)
    for i, row in enumerate(rows):
        x[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row) + (space.end is not None)] = True
    return Batch(x, draws.seeded(3, len(rows), first=first), torch.ones(len(rows)), mask, cond or {})


def words(n: int = 400, seed: int = 0) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    base = [[0, 1, 2, 3], [0, 1, 4, 4, 2], [3, 2, 1], [2, 2, 2, 2, 0, 1]]
    return [base[int(torch.randint(4, (1,), generator=g))] for _ in range(n)]


def fitted(**config) -> Ngram:
    family = Ngram(TEXT, {}, NgramConfig(**config))
    family.fit([batch(words())])
    return family


def all_next(family: Ngram, context: list[int], cond=None) -> torch.Tensor:
    state = family.start(Request(draws.seeded(0, 1), cond or {}))
    logits = family.step(state, torch.tensor([family.space.vocab]))
    for token in context:
        logits = family.step(state, torch.tensor([token]))
    return logits[0].exp()


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
@settings(max_examples=30, deadline=None)
@given(context=st.lists(st.integers(0, 4), max_size=8))
def test_probabilities_of_any_context_sum_to_one_and_none_is_zero(smoothing, context):
    p = all_next(CACHED[smoothing], context)
    assert abs(float(p.sum()) - 1) < 1e-5 and float(p.min()) > 0


CACHED = {name: fitted(order=4, smoothing=name) for name in ("kneser-ney", "witten-bell")}


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
def test_steps_and_log_prob_agree(smoothing):
    family = CACHED[smoothing]
    row = [0, 1, 4, 2, 2, 3]
    parts = family.log_prob(batch([row])).parts[0]
    for i, token in enumerate([*row, END]):
        assert math.isclose(float(all_next(family, row[:i])[token].log()), float(parts[i]), abs_tol=1e-5)
    assert (parts[len(row) + 1:] == 0).all()
    assert isinstance(family, HasLogProb) and isinstance(family, HasSteps)


def test_witten_bell_bigrams_match_the_formula_by_hand():
    rows = [[0, 1], [0, 2], [0, 1, 1]]
    family = Ngram(TEXT, {}, NgramConfig(order=2, smoothing="witten-bell"))
    family.fit([batch(rows)])
    seen = [(None, 0), (0, 1), (1, END), (None, 0), (0, 2), (2, END), (None, 0), (0, 1), (1, 1), (1, END)]
    unigrams, total = Counter(w for _, w in seen), len(seen)

    def low(w):
        return (unigrams[w] + len(unigrams) / 6) / (total + len(unigrams))

    def p(h, w):
        after = Counter(b for a, b in seen if a == h)
        return (after[w] + len(after) * low(w)) / (after.total() + len(after)) if after else low(w)

    for h in (0, 1, 2, 4):
        got = all_next(family, [h])
        assert [round(float(v), 5) for v in got] == [round(p(h, w), 5) for w in range(6)]


def test_kneser_ney_counts_continuations_below_the_top():
    # 4 is frequent but always follows 3; 1 follows many. After an unseen context the second is likelier.
    rows = [[3, 4]] * 30 + [[0, 1], [1, 1], [2, 1], [4, 1]] * 3
    family = Ngram(TEXT, {}, NgramConfig(order=2, smoothing="kneser-ney"))
    family.fit([batch(rows)])
    tables = family._levels()
    share = dict(zip(tables[0].ngrams.tolist(), tables[0].share.tolist()))
    assert share[1] > share[4]


def markov(n: int, length: int, seed: int):
    """Rows of an order-2 chain over 4 symbols, its conditional table and its entropy rate in nats."""
    table = draws.normal(torch.arange(16) + 100 * seed, "table", 0, (4,)).mul(1.5).softmax(-1).view(4, 4, 4)
    keys, x = draws.seeded(seed + 1, n), torch.zeros(n, length, dtype=torch.int64)
    for i in range(length):
        logits = table[x[:, i - 2], x[:, i - 1]].log() if i > 1 else torch.zeros(n, 4)
        x[:, i] = draws.choose(logits, keys, "chain", i)
    return table, x


def test_cross_entropy_approaches_the_entropy_of_a_markov_chain():
    table, x = markov(600, 102, 0)
    space = Tokens(4, 102)
    family = Ngram(space, {}, NgramConfig())
    family.fit([Batch(x[:500], draws.seeded(0, 500), torch.ones(500))])
    assert family.order == 3  # chosen: a longer context only costs
    held = x[500:]
    truth = -table[held[:, :-2], held[:, 1:-1]].gather(2, held[:, 2:, None]).log().mean()
    parts = family.log_prob(Batch(held, draws.seeded(1, 100), torch.ones(100))).parts
    assert 0 <= float(-parts[:, 2:].mean() - truth) < 0.01


def test_samples_of_a_markov_chain_have_its_transitions():
    _, x = markov(500, 60, 2)
    family = Ngram(Tokens(4, 60), {}, NgramConfig(order=3, smoothing="witten-bell"))
    family.fit([Batch(x, draws.seeded(0, 500), torch.ones(500))])
    *_, part = family.stream(Request(draws.seeded(5, 500)))
    pairs = lambda v: torch.bincount((v[:, :-1] * 4 + v[:, 1:]).flatten(), minlength=16).float() / v[:, 1:].numel()
    assert (pairs(part.x) - pairs(x)).abs().max() < 0.01


def test_labels_change_what_is_drawn_and_nothing_said_is_the_whole():
    rows = [[0, 1, 0, 1, 0]] * 60 + [[2, 3, 2, 3, 2]] * 60
    label = torch.tensor([0] * 60 + [1] * 60)[:, None]
    family = Ngram(TEXT, {"kind": Tokens(3, 1)}, NgramConfig())
    family.fit([batch(rows, cond={"kind": label})])
    draw = lambda cond: list(family.stream(Request(draws.seeded(1, 200), cond)))[-1].x[:, 0]
    ask = lambda k: {"kind": torch.full((200, 1), k)}
    assert float((draw(ask(0)) == 0).float().mean()) > 0.9 and float((draw(ask(1)) == 2).float().mean()) > 0.9
    assert 0.3 < float((draw({}) == 0).float().mean()) < 0.7
    assert torch.equal(draw(ask(2)), draw({}))  # a label never seen says nothing
    for cond in ({}, {"kind": torch.tensor([[1]])}):
        assert abs(float(all_next(family, [0, 1], cond).sum()) - 1) < 1e-5


def test_other_conditions_are_named_as_ignored():
    family = Ngram(TEXT, {"age": Array((1,)), "kind": Tokens(3, 1)}, NgramConfig())
    assert family.labels == ("kind",) and family.ignored == ("age",)


def test_slots_are_respected_exactly():
    space = Tokens(7, 3, slots=((0, 3), (3, 7), (0, 3)))
    g = torch.Generator().manual_seed(1)
    x = torch.stack([torch.randint(a, b, (300,), generator=g) for a, b in ((0, 3), (3, 6), (0, 2))], 1)
    family = Ngram(space, {}, NgramConfig())
    family.fit([Batch(x, draws.seeded(0, 300), torch.ones(300))])
    out = list(family.stream(Request(draws.seeded(2, 2000))))[-1].x
    assert ((out[:, 1] >= 3) & (out[:, [0, 2]] < 3).all(1)).all()
    p = all_next(family, [1])
    assert abs(float(p.sum()) - 1) < 1e-5 and float(p[:3].sum()) == 0 and float(p[6]) > 0  # 6 is legal, never seen
    illegal = Batch(torch.tensor([[5, 5, 1]]), draws.seeded(0, 1), torch.ones(1))
    assert family.log_prob(illegal).parts[0, 0] == -torch.inf


def test_known_tokens_are_kept_and_not_counted():
    family = fitted(order=4)
    x = torch.full((3, 12), END)
    x[:, :2] = torch.tensor([2, 2])
    known = torch.zeros(3, 12, dtype=torch.bool)
    known[:, :2] = True
    *_, part = family.stream(Request(draws.seeded(0, 3), given=Given(x, known)))
    assert (part.x[:, :2] == 2).all() and part.done and part.x.shape == (3, 12)
    scored = batch([[2, 2, 1]])
    full = family.log_prob(scored).parts
    scored.given = Given(scored.x, known[:1])
    assert torch.equal(family.log_prob(scored).parts[:, 2:], full[:, 2:]) and (family.log_prob(scored).parts[:, :2] == 0).all()


def test_rows_do_not_depend_on_their_neighbours_and_stream_settles():
    family, keys = fitted(), draws.seeded(9, 7)
    whole = list(family.stream(Request(keys)))[-1].x
    for i in range(7):
        assert torch.equal(list(family.stream(Request(keys[i: i + 1])))[-1].x[0], whole[i])
    parts = list(family.stream(Request(keys)))
    assert all(torch.equal(p.x[:, : p.settled], whole[:, : p.settled]) for p in parts) and parts[-1].done
    after = (whole == END).cumsum(1) > 0
    assert (whole[after] == END).all()


def test_request_length_and_temperature():
    family, keys = fitted(), draws.seeded(1, 50)
    assert max(p.settled for p in family.stream(Request(keys, length=2))) == 2
    cold = list(family.stream(Request(keys, sampling=NgramSampling(temperature=0.0))))[-1].x
    assert (cold == cold[0]).all()


def test_save_and_load_give_the_same_model():
    family, fresh = fitted(), Ngram(TEXT, {}, NgramConfig())
    fresh.load_state_dict(family.state_dict())
    assert fresh.order == family.order == family.config.order
    keys = draws.seeded(4, 5)
    assert torch.equal(list(fresh.stream(Request(keys)))[-1].x, list(family.stream(Request(keys)))[-1].x)
    assert torch.equal(fresh.log_prob(batch([[0, 1]])).total, family.log_prob(batch([[0, 1]])).total)


def test_rows_of_weight_zero_and_batch_cuts_change_nothing():
    rows = words(90)
    a, b = Ngram(TEXT, {}, NgramConfig()), Ngram(TEXT, {}, NgramConfig())
    a.fit([batch(rows)])
    padded = batch([*rows[50:], [4, 4, 4]], first=50)
    padded.weight[-1] = 0
    b.fit([batch(rows[:50]), padded])
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_forward_is_the_mean_negative_log_probability():
    family, b = fitted(), batch(words(20, 1))
    b.weight[3] = 0
    loss = family(b)
    keep = b.weight > 0
    assert float(loss.weight) == float(b.mask[keep].sum())
    assert math.isclose(float(loss.total), -float(family.log_prob(b).total[keep].sum()), rel_tol=1e-4)


def test_refusals():
    with pytest.raises(DataError, match="no tokens"):
        Ngram(TEXT, {}, NgramConfig()).fit([])
    with pytest.raises(UsageError, match="smoothing"):
        Ngram(TEXT, {}, NgramConfig(smoothing="laplace"))
    with pytest.raises(UsageError, match="not been fitted"):
        next(Ngram(TEXT, {}, NgramConfig()).stream(Request(draws.seeded(0, 1))))


def test_a_single_short_row_is_enough():
    family = Ngram(TEXT, {}, NgramConfig())
    family.fit([batch([[1]])])
    assert abs(float(all_next(family, [1]).sum()) - 1) < 1e-5
