"""Drafts never change what is written; they only say it sooner."""
from __future__ import annotations

import time

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.sampling import draws
from morphogen.sampling.choice import Choice, choose_token
from morphogen.sampling.lookup import MOST, Lookup, accept

CHAIN = draws.normal(draws.seeded(0, 6), "chain", 0, (6, 6)) * 3  # logits after the last two ids


def law(ids: list[int]) -> torch.Tensor:
    return CHAIN[ids[-2], ids[-1]]


def plain(start: list[int], n: int, key: torch.Tensor, choice: Choice) -> list[int]:
    ids = list(start)
    while len(ids) < len(start) + n:
        ids.append(int(choose_token(law(ids)[None], key, len(ids), choice)))
    return ids


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from([0.0, 0.3, 1.0]))
def test_speculation_is_lossless(seed: int, temperature: float) -> None:
    key, choice, start = draws.seeded(seed, 1), Choice(temperature=temperature, top_p=0.9), [0, 1]
    ids, lookup = list(start), Lookup()
    lookup.extend(ids)
    calls = 0
    while len(ids) < 42:
        draft = lookup.propose()
        rows = torch.stack([law(ids + draft[:j]) for j in range(len(draft) + 1)])
        at = len(ids)
        new = accept(rows, torch.tensor(draft), lambda row, i, at=at: int(choose_token(row[None], key, at + i, choice)))
        lookup.accepted(len(new) - 1, len(draft))
        lookup.extend(new)
        ids, calls = ids + new, calls + 1
        assert 1 <= len(new) <= len(draft) + 1
    assert ids[:42] == plain(start, 40, key, choice)
    if temperature == 0:
        assert calls < 30, "a greedy chain loops, and loops are found"


def test_accept_stops_at_the_first_difference_and_asks_no_further() -> None:
    asked = []

    def choose(row: torch.Tensor, i: int) -> int:
        asked.append(i)
        return int(row.argmax())

    logits = torch.eye(9)[[3, 4, 5, 6]]
    assert accept(logits, [3, 4, 5], choose) == [3, 4, 5, 6] and asked == [0, 1, 2, 3]
    asked.clear()
    assert accept(logits, [3, 8, 5], choose) == [3, 4] and asked == [0, 1]
    assert accept(logits[:1], [], choose) == [3]


def test_three_tokens_say_more_than_two_and_loops_are_followed() -> None:
    lookup = Lookup()
    assert lookup.propose() == []
    lookup.extend([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3])
    assert lookup.propose(2) == [4, 9]
    lookup = Lookup()
    lookup.extend([7, 2, 3, 4, 9, 2, 3])
    assert lookup.propose(3) == [4, 9, 2]
    lookup = Lookup()
    lookup.extend([1, 2, 1, 2])
    assert lookup.propose(7) == [1, 2, 1, 2] and lookup.propose(0) == []
    lookup.extend([5])
    assert lookup.propose() == []


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60))
def test_the_length_stays_in_bounds_whatever_is_said(said: list[tuple[int, int]]) -> None:
    lookup = Lookup()
    lookup.extend([1, 1, 1, 1])
    for n, of in said:
        lookup.accepted(min(n, of), of)
        assert len(lookup.propose()) <= MOST


def test_the_length_follows_what_held() -> None:
    lookup = Lookup()
    lookup.extend([1] * 4)
    for _ in range(3):
        n = len(lookup.propose())
        lookup.accepted(n, n)
    assert len(lookup.propose()) == MOST
    rests = 0
    for _ in range(60):
        n = len(lookup.propose())
        rests += n == 0
        lookup.accepted(0, n)
    assert rests > 50, "drafts that never hold are hardly made"
    while not (draft := lookup.propose()):
        pass
    lookup.accepted(1, 1)
    assert len(draft) == 1 and len(lookup.propose()) > 1


def test_a_token_costs_the_same_however_long_the_text() -> None:
    lookup = Lookup()
    start = time.perf_counter()
    for i in range(50_000):
        lookup.extend([i * i % 997])
        lookup.propose()
    assert (time.perf_counter() - start) / 50_000 < 1e-4
