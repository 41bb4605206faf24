"""Narrowing has the law of `transformers`, and the few tokens looked at give what sorting all of a vocabulary gives, bit for bit."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.sampling.choice import Choice, choose_token, logprobs, narrow, shaped
from morphogen.sampling.shaping import discourage, most_likely, shortlist


def peers(choice: Choice):
    from transformers.generation import logits_process as lp

    made = []
    if choice.logit_bias:
        made.append(lp.SequenceBiasLogitsProcessor({(i,): v for i, v in choice.logit_bias.items()}))
    if choice.repetition != 1:
        made.append(lp.RepetitionPenaltyLogitsProcessor(choice.repetition))
    if choice.temperature != 1:
        made.append(lp.TemperatureLogitsWarper(choice.temperature))
    if choice.top_k:
        made.append(lp.TopKLogitsWarper(choice.top_k))
    if choice.top_p < 1:
        made.append(lp.TopPLogitsWarper(choice.top_p))
    if choice.min_p:
        made.append(lp.MinPLogitsWarper(choice.min_p))
    if choice.typical < 1:
        made.append(lp.TypicalLogitsWarper(choice.typical))
    return made


@pytest.mark.parametrize("choice", [
    Choice(temperature=0.7), Choice(top_k=7), Choice(top_p=0.8), Choice(min_p=0.05), Choice(typical=0.6), Choice(typical=0.95),
    Choice(repetition=1.3), Choice(repetition=0.8, temperature=2.0, top_k=50), Choice(temperature=0.7, top_p=0.95, top_k=50),
    Choice(logit_bias={3: 5.0, 7: -2.5, 299: 9.0}, repetition=1.2, temperature=1.5, top_k=100, top_p=0.9, min_p=0.02, typical=0.7),
    Choice(top_k=40, typical=0.5), Choice(min_p=0.1, typical=0.3, temperature=0.5),
], ids=str)
def test_the_law_is_that_of_transformers(choice: Choice) -> None:
    keys = draws.seeded(1, 200)
    logits = draws.normal(keys, "logits", 0, (300,)) * (1 + 4 * draws.uniform(keys, "scale")[:, None])
    seen = (draws.uniform(keys, "seen", 0, (20,)) * 300).long()
    want = logits.clone()
    for peer in peers(choice):
        want = peer(seen, want)
    got = narrow(shaped(logits, choice, seen), choice)
    assert torch.equal(got > -torch.inf, want > -torch.inf)
    torch.testing.assert_close(got.softmax(-1), want.softmax(-1), atol=2e-6, rtol=1e-4)


choices = st.builds(
    Choice, temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.7]), top_k=st.sampled_from([0, 1, 5, 50, 400, 3000]),
    top_p=st.sampled_from([0.01, 0.5, 0.95, 1.0]), min_p=st.sampled_from([0.0, 0.05, 0.9]), typical=st.sampled_from([0.5, 1.0]))


@settings(max_examples=60, deadline=None)
@given(choices, st.integers(0, 2**40), st.sampled_from([2048, 2500, 4999, 8192]), st.sampled_from([0.3, 3.0, 9.0]),
       st.sampled_from(["plain", "ties", "banned", "few"]))
def test_a_short_list_gives_the_token_of_the_full_sort(choice: Choice, seed: int, vocab: int, scale: float, kind: str) -> None:
    keys = draws.seeded(seed, 3)
    logits = draws.normal(keys, "logits", 0, (vocab,)) * scale
    if kind == "ties":
        logits = logits.round()
    if kind == "banned":
        logits = logits.masked_fill(draws.uniform(keys, "ban", 0, (vocab,)) < 0.9, -torch.inf)
    if kind == "few":
        logits = logits.masked_fill(torch.arange(vocab) % 900 != 17, -torch.inf)
    full = logits.argmax(-1) if choice.temperature == 0 else draws.choose(narrow(logits, choice), keys, "token", 5)
    assert torch.equal(choose_token(logits, keys, 5, choice), full)
    for row, want in zip(logits, narrow(logits, choice), strict=True):
        short = shortlist(row, choice)
        if short is not None:
            values, ids, rest = short
            few = torch.full_like(row, -torch.inf).index_copy(0, ids, narrow(values, choice, rest))
            assert torch.equal(few > -torch.inf, want > -torch.inf) and (ids.diff() > 0).all() and ids.max() < vocab


def test_a_large_vocabulary_is_not_sorted() -> None:
    row = draws.normal(draws.seeded(0, 1), "logits", 0, (50_000,))[0] * 6
    for choice in (Choice(top_k=50), Choice(top_p=0.9), Choice(min_p=0.05), Choice(temperature=0.7, top_k=50, top_p=0.95)):
        short = shortlist(row, choice)
        assert short is not None and len(short[0]) < 1500


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 2**40))
def test_one_row_is_drawn_as_among_many(seed: int, step: int) -> None:
    keys = draws.seeded(seed, 5)
    logits = draws.normal(keys, "logits", 0, (400,)) * 3
    many = draws.choose(logits, keys, "token", step)
    assert torch.equal(many, torch.cat([draws.choose(logits[i:i + 1], keys[i:i + 1], "token", step) for i in range(5)]))
    wide = torch.full((5, 1200), -torch.inf)
    wide[:, 2::3] = logits
    assert torch.equal(draws.choose(wide, keys, "token", step), many * 3 + 2), "what has no chance changes nothing"


def test_the_draw_has_the_law_it_names() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 1e-3, 0.199])
    keys = draws.seeded(4, 100_000)
    got = draws.choose(p.log().expand(len(keys), -1), keys, "token").bincount(minlength=5) / len(keys)
    assert got[1] == 0 and ((got - p).abs() <= 4.5 * (p * (1 - p) / len(keys)).sqrt()).all()


def test_presence_and_frequency_count_what_was_written() -> None:
    logits = torch.zeros(2, 4)
    got = discourage(logits, torch.tensor([[1, 1, 3, -1], [-1, -1, 0, -1]]), 0.5, 0.25)
    assert got.tolist() == [[0, -1.0, 0, -0.75], [-0.75, 0, 0, 0]]
    assert Choice(presence=0.1).looks_back and Choice(repetition=2).looks_back and not Choice(top_k=3).looks_back
    seen, written = torch.tensor([[0, 1]]), torch.tensor([[-1, 1]])
    both = shaped(torch.ones(1, 3), Choice(repetition=2, presence=1), seen, written)
    assert both.tolist() == [[0.5, -0.5, 1.0]], "the prompt counts for repetition alone"


def test_bias_bans_and_lifts() -> None:
    keys, logits = draws.seeded(0, 500), torch.zeros(500, 6)
    ids = choose_token(logits, keys, 0, Choice(logit_bias={0: -100, 2: -100, 5: 20}))
    assert not set(ids.tolist()) & {0, 2} and (ids == 5).float().mean() > 0.99
    with pytest.raises(UsageError, match="logit_bias"):
        choose_token(logits, keys, 0, Choice(logit_bias={6: 1}))
    with pytest.raises(UsageError, match="ruled out"):
        choose_token(logits, keys, 0, Choice(logit_bias=dict.fromkeys(range(6), -100.0)))


@pytest.mark.parametrize("bad", [
    {"typical": 0}, {"typical": 1.1}, {"presence": float("nan")}, {"frequency": float("inf")}, {"logit_bias": {-1: 0}},
    {"logit_bias": {1: 101}}, {"logit_bias": {1: float("nan")}}, {"logit_bias": {"1": 1}}])
def test_nonsense_is_refused_by_name(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Choice(**bad)


def test_very_low_temperatures_do_not_overflow() -> None:
    logits = draws.normal(draws.seeded(2, 8), "logits", 0, (3000,)) * 50
    for choice in (Choice(temperature=1e-38), Choice(temperature=1e-38, top_p=0.9), Choice(temperature=1e-30, top_k=5)):
        assert torch.equal(choose_token(logits, draws.seeded(0, 8), 0, choice), logits.argmax(-1))


@pytest.mark.parametrize("vocab", [300, 3000])
def test_no_temperature_is_too_extreme(vocab: int) -> None:
    keys = draws.seeded(2, 40)
    logits = draws.normal(keys, "logits", 0, (vocab,))
    for more in ({}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.5}):
        assert torch.equal(choose_token(logits, keys, 0, Choice(temperature=1e-300, **more)), logits.argmax(-1)), "colder than floats"
    banned = logits.masked_fill(torch.arange(vocab) % 2 == 1, -torch.inf)
    for more in ({}, {"top_p": 0.9}, {"min_p": 0.5}):
        ids = choose_token(banned, keys, 0, Choice(temperature=1e300, **more))
        assert (ids % 2 == 0).all() and len(ids.unique()) > 20, "all that is allowed is equally likely"


@pytest.mark.parametrize(("temperature", "min_p"), [(124.9, 0.0023933), (247.8, 3.2e-06), (380.0, 0.0003007)])
def test_a_short_list_for_min_p_holds_what_rounding_keeps(temperature: float, min_p: float) -> None:
    choice, edge = Choice(temperature=temperature, min_p=min_p), torch.tensor(temperature * math.log(min_p))
    near = edge + torch.arange(-4, 5) * torch.finfo().eps * 2.0 ** math.floor(math.log2(-edge))  # neighbours in single precision
    row = torch.full((2048,), -99999.0).index_copy(0, torch.arange(9) * 100 + 1, near).index_fill(0, torch.tensor([0]), 0.0)
    want = (narrow(row[None], choice)[0] > -torch.inf).nonzero()[:, 0]
    short = shortlist(row, choice)
    assert short is not None
    values, ids, rest = short
    assert torch.equal(ids[narrow(values[None], choice, rest)[0] > -torch.inf], want)


def test_the_most_likely_is_the_first_of_equals() -> None:
    logits = draws.normal(draws.seeded(3, 16), "logits", 0, (640,)).round()
    assert torch.equal(most_likely(logits), (logits == logits.amax(-1, keepdim=True)).float().argmax(-1))


def test_logprobs() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, -torch.inf, 2.0]])
    chosen, ids, best = logprobs(logits, torch.tensor([3, 0]), 3)
    whole = logits.log_softmax(-1)
    assert ids.tolist() == [[1, 2, 0], [3, 0, 1]]
    torch.testing.assert_close(chosen, whole[[0, 1], [3, 0]])
    torch.testing.assert_close(best, whole.gather(1, ids))
    assert logprobs(logits, torch.tensor([3, 0]), 9)[1].shape == (2, 4)
