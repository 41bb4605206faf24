"""Exact frequencies, exact supports."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.sampling.choice import Choice, choice_of, choose_token, legal, narrow, penalise, until_end
from morphogen.spaces import Tokens

P = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
N = 40_000


def frequencies(choice: Choice) -> torch.Tensor:
    ids = choose_token(P.log().expand(N, -1), draws.seeded(3, N), 0, choice)
    return ids.bincount(minlength=len(P)) / N


@pytest.mark.parametrize(
    ("choice", "want"),
    [
        (Choice(), P),
        (Choice(temperature=0.5), P**2),
        (Choice(temperature=2), P**0.5),
        (Choice(temperature=0), torch.tensor([1.0, 0, 0, 0, 0])),
        (Choice(top_k=2), P * torch.tensor([1, 1, 0, 0, 0])),
        (Choice(top_p=0.7), P * torch.tensor([1, 1, 0, 0, 0])),
        (Choice(top_p=0.71), P * torch.tensor([1, 1, 1, 0, 0])),
        (Choice(top_p=0.01), torch.tensor([1.0, 0, 0, 0, 0])),
        (Choice(min_p=0.3), P * torch.tensor([1, 1, 1, 0, 0])),
        (Choice(min_p=0.2, temperature=2), (P * torch.tensor([1, 1, 1, 1, 1])) ** 0.5),
        (Choice(top_k=3, top_p=0.8), P * torch.tensor([1, 1, 0, 0, 0])),
    ],
)
def test_frequencies_are_those_of_the_narrowed_law(choice: Choice, want: torch.Tensor) -> None:
    want, got = want / want.sum(), frequencies(choice)
    assert ((got > 0) <= (want > 0)).all()
    deviation = (want * (1 - want) / N).sqrt()
    assert ((got - want).abs() <= 4.5 * deviation + 1e-6).all(), (got, want)


def test_the_token_of_a_position_depends_on_key_and_position_alone() -> None:
    keys = draws.seeded(0, 64)
    logits = torch.randn(64, 50)
    whole = choose_token(logits, keys, 7, Choice())
    assert torch.equal(whole[10:20], choose_token(logits[10:20], keys[10:20], torch.full((10,), 7), Choice()))
    assert not torch.equal(whole, choose_token(logits, keys, 8, Choice()))


def test_repetition_and_seen() -> None:
    logits = torch.tensor([[2.0, -1.0, 1.0], [2.0, -1.0, 1.0]])
    got = penalise(logits, torch.tensor([[0, 1, 0], [-1, 2, 2]]), 2.0)
    assert got.tolist() == [[1.0, -2.0, 1.0], [2.0, -1.0, 0.5]]
    assert choose_token(logits, draws.seeded(0, 2), 3, Choice(temperature=0, repetition=4.0), torch.tensor([[0], [2]])).tolist() == [2, 0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), min_size=1, max_size=6), st.integers(0, 2**32))
def test_only_legal_ids_are_drawn(slots: list[tuple[int, int]], seed: int) -> None:
    space = Tokens(12, len(slots), slots=tuple((a, a + n) for a, n in slots))
    keys = draws.seeded(seed, 8)
    logits = draws.normal(keys, "logits", 0, (len(slots), 12)) * 5
    whole = legal(logits, space, torch.arange(len(slots)))
    for i, (low, high) in enumerate(space.slots):
        ids = choose_token(legal(logits[:, i], space, i), keys, i, Choice())
        assert ((ids >= low) & (ids < high)).all()
        assert torch.equal(whole[:, i], legal(logits[:, i], space, torch.full((8,), i)))
        assert ((whole[:, i] > -torch.inf).sum(-1) == high - low).all()


def test_the_best_token_always_stays() -> None:
    logits = torch.randn(100, 20)
    kept = narrow(logits, Choice(temperature=0.3, top_k=1, top_p=0.01, min_p=0.99))
    assert torch.equal(kept.argmax(-1), logits.argmax(-1)) and ((kept > -torch.inf).sum(-1) == 1).all()


BAD = [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 1}, {"repetition": 0}]


@pytest.mark.parametrize("bad", BAD)
def test_nonsense_is_refused_by_name(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Choice(**bad)


def test_choice_of_takes_the_fields_it_knows() -> None:
    class Sampling:
        temperature, steps, top_k = 0.5, 9, 4

    assert choice_of(Sampling()) == Choice(temperature=0.5, top_k=4)


def test_until_end() -> None:
    x = torch.tensor([[3, 0, 0, 0], [0, 1, 0, 2], [1, 2, 3, 4]])
    assert until_end(x, 0).long().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert until_end(x, None).all()
