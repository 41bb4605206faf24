"""An n-gram in whole numbers: the same probabilities, the counts that were counted."""
from collections import Counter

import numpy as np
import pytest
import torch

from morphogen.contracts import Batch, Request
from morphogen.families.ngram import Ngram, NgramConfig
from morphogen.sampling import draws
from morphogen.spaces import Tokens

END = 5
TEXT = Tokens(6, 12, end=END)
ROWS = [[0, 1, 2, 3], [0, 1, 4, 4, 2], [3, 2, 1], [2, 2, 2, 2, 0, 1]]


def fitted(space: Tokens = TEXT, rows=None, **config) -> Ngram:
    rows = ROWS * 30 if rows is None else rows
    x = torch.full((len(rows), space.length), space.end or 0)
    mask = torch.zeros(len(rows), space.length, dtype=torch.bool)
    for i, row in enumerate(rows):
        x[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row) + (space.end is not None)] = True
    family = Ngram(space, {}, NgramConfig(**config))
    family.fit([Batch(x, draws.seeded(3, len(rows)), torch.ones(len(rows)), mask, {})])
    return family


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
@pytest.mark.parametrize("whole", [0, 20, 1 << 20])
def test_weights_are_the_probabilities_whatever_is_laid_out_whole(smoothing, whole, monkeypatch):
    monkeypatch.setattr("morphogen.families.ngram_steps.WHOLE", whole)
    family = fitted(order=4, smoothing=smoothing)
    steps, state = family.portable().steps(), family.start(Request(draws.seeded(0, 40)))
    ids, rng = torch.full((40,), TEXT.vocab), np.random.default_rng(0)
    steps.begin(40, False)
    for _ in range(8):
        exact, weights = family.step(state, ids).exp().double().numpy(), steps.weights()
        assert np.abs(weights / weights.sum(1, keepdims=True) - exact).max() < 1e-5 and weights.min() > 0
        chosen = rng.integers(0, 5, 40)
        steps.push(chosen)
        ids = torch.from_numpy(chosen)


def test_slots_keep_what_is_illegal_at_nothing():
    space = Tokens(5, 3, slots=((0, 2), (2, 5), (1, 3)))
    family = fitted(space, [(0, 2, 1), (1, 4, 2), (0, 3, 1)] * 20, order=2, smoothing="witten-bell")
    steps, state = family.portable().steps(), family.start(Request(draws.seeded(0, 2)))
    steps.begin(2, False)
    ids = torch.full((2,), space.vocab)
    for low, high in space.slots:
        weights, exact = steps.weights(), family.step(state, ids).exp().double().numpy()
        assert (np.flatnonzero(weights[0]) == np.arange(low, high)).all()
        assert np.abs(weights / weights.sum(1, keepdims=True) - exact).max() < 1e-5
        steps.push(np.array([low, high - 1]))
        ids = torch.tensor([low, high - 1])


def test_counts_are_those_of_the_data():
    levels = fitted(order=3, smoothing="witten-bell").portable().counts(seam=4)
    pairs = Counter(pair for row in ROWS * 30 for pair in zip([4, *row], [*row, 4], strict=True))
    found: Counter = Counter()
    for context, token, count in zip(levels[1].context, levels[1].token, levels[1].count, strict=True):
        found[int(levels[1].older[context]), int(token)] += int(count)
    assert found == pairs


def test_discounted_counts_come_out_about_right():
    rng = np.random.default_rng(0)
    rows = [tuple(map(int, rng.choice(5, rng.integers(2, 8), p=[0.6, 0.25, 0.1, 0.04, 0.01]))) for _ in range(200)]
    levels = fitted(rows=rows, order=4, smoothing="kneser-ney").portable().counts(seam=4)
    pairs = Counter(pair for row in rows for pair in zip([4, *row], [*row, 4], strict=True))
    found: Counter = Counter()
    for context, token, count in zip(levels[1].context, levels[1].token, levels[1].count, strict=True):
        found[int(levels[1].older[context]), int(token)] += int(count)
    # six tokens have tiny discounts: far from the 3/4 of a language, and still the right order of size
    assert set(found) == set(pairs) and all(0.25 < found[k] / pairs[k] < 10 for k in pairs)
