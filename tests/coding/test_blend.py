"""Mixing: both directions agree on any tokens, repetition is found, tables are what their formulas say."""
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.coding.blend import chunks_of
from morphogen.coding.blocks import Running, encodable
from morphogen.coding.logistic import COUNTS, LIMIT, NEW_STATE, ONE, counted_states, next_states, squash_table, stretch
from morphogen.errors import FormatError
from morphogen.spaces import Tokens

BYTES = Tokens(257, 64, end=256)


def back_and_forth(tokens: np.ndarray, rows: int, space: Tokens = BYTES) -> bytes:
    seam = min(10, space.vocab - 1)
    data = Running(space, seam).encode(tokens, rows)
    assert (Running(space, seam).decode(data, len(tokens), rows) == tokens).all()
    return data


def test_the_logistic_tables_are_their_formula():
    exact = [ONE / (1 + math.exp(-x / 256)) for x in range(-LIMIT, LIMIT + 1)]
    assert np.abs(squash_table() - np.clip(exact, 1, ONE - 1)).max() <= 0.51
    p = np.arange(64, ONE - 64)
    assert np.abs(stretch(p) / 256 - np.log(p / (ONE - p))).max() < 0.15
    assert (np.diff(stretch(np.arange(ONE))) >= 0).all()


def test_states_move_towards_what_was_seen_and_settle():
    state = np.array([NEW_STATE])
    seen = [int(state[0]) // COUNTS]
    for _ in range(40):
        state = next_states()[(1 << 16) + state.astype(np.int64)]
        seen.append(int(state[0]) // COUNTS)
    assert all(a < b or b == 4095 for a, b in pairwise(seen)) and int(state[0]) % COUNTS == COUNTS - 1
    # counted at once or seen one by one: the same chance, nearly
    one_by_one = NEW_STATE
    for _ in range(6):
        one_by_one = int(next_states()[(1 << 16) + one_by_one])
    assert abs(one_by_one // COUNTS - int(counted_states(np.array([6]), np.array([6]))[0]) // COUNTS) <= 8


@pytest.mark.parametrize("depth", range(1, 16))
def test_digits_are_grouped_by_at_most_four(depth):
    assert sum(chunks_of(depth)) == depth and min(chunks_of(depth)) >= 1 and max(chunks_of(depth)) <= 4


@settings(max_examples=15, deadline=None)
@given(tokens=st.lists(st.integers(0, 255), min_size=1, max_size=80), rows=st.integers(1, 9))
def test_any_tokens_come_back_in_any_number_of_rows(tokens, rows):
    back_and_forth(np.array(tokens), min(rows, len(tokens)))


@pytest.mark.parametrize("vocab", [2, 3, 17, 300, 5000])
def test_any_vocabulary(vocab):
    tokens = np.random.default_rng(0).integers(0, vocab, 50)
    back_and_forth(tokens, 3, Tokens(vocab, 8))


def test_what_repeats_costs_little_and_noise_little_more_than_itself():
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, 300)
    alone = len(back_and_forth(noise, 6))
    assert alone < 1.06 * 300 + 24
    assert len(back_and_forth(np.concatenate([noise, noise]), 1)) < 1.3 * alone


def test_blocks_go_on_from_each_other():
    tokens = np.tile(np.random.default_rng(1).integers(97, 123, 300), 2)
    first, second = Running(BYTES, 10), Running(BYTES, 10)
    parts = [first.encode(tokens[:300], 2), first.encode(tokens[300:], 2)]
    assert len(parts[1]) < 0.9 * len(parts[0])
    assert (np.concatenate([second.decode(part, 300, 2) for part in parts]) == tokens).all()
    with pytest.raises(FormatError):
        assert (Running(BYTES, 10).decode(parts[1], 300, 2) == tokens[300:]).all() or pytest.fail("decoded without what went before")


def test_items_that_decoding_could_not_end_are_not_coded():
    space = Tokens(5, 4, end=4)
    good = [[0, 1, 4], [4], [0, 1, 2, 3], [0, 0, 0, 4]]
    bad = [[], [0, 1], [4, 0], [0, 4, 4], [0, 1, 2, 3, 4], [0, 7, 4], [-1, 4]]
    assert all(encodable(space, np.array(item, np.int64)) for item in good)
    assert not any(encodable(space, np.array(item, np.int64)) for item in bad)
    assert not encodable(Tokens(5, 2, slots=((0, 2), (2, 5))), np.array([2, 2]))
