"""Calibration that keeps its promise, rivals, made anomalies, the yardstick of distances."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.errors import DataError
from morphogen.evaluation import anomaly
from morphogen.evaluation.yardstick import Yardstick, closest
from morphogen.spaces import Array, Record, Tokens


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 200), st.floats(0.005, 0.9), st.integers(0, 10**6))
def test_the_threshold_says_what_the_p_value_says(n: int, rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    held = np.round(rng.normal(size=n), 1)  # with ties
    scores = np.concatenate([held, np.round(rng.normal(size=50), 1), [1e9, -1e9]])
    p, level = anomaly.p_values(scores, held), anomaly.threshold(held, rate)
    assert ((scores >= level) == (p <= rate + 1e-12)).all()
    assert p.min() == pytest.approx(1 / (n + 1)) and p.max() == 1


def test_honest_items_are_alarmed_at_most_at_the_rate() -> None:
    """Over many draws of held-out and new items from one law P(p <= a) <= a, and close to it."""
    rng = np.random.default_rng(0)
    for rate in (0.05, 0.2):
        hits = [np.mean(anomaly.p_values(rng.gamma(2, size=100), rng.gamma(2, size=60)) <= rate) for _ in range(400)]
        assert rate - 0.025 < np.mean(hits) <= rate + 0.01


def test_views_of_one_size_are_standardised() -> None:
    rng = np.random.default_rng(1)
    held = rng.normal([5, -3], [2, 0.1], (4000, 2))
    standard = anomaly.Standard.fit(held, None)
    at = lambda *z: standard(np.array([[5 + 2 * z[0], -3 + 0.1 * z[1]]]), None)[0]
    assert abs(at(0, 0)) < 0.1 and abs(at(3, 3) - 3) < 0.15
    assert 1.5 < at(4, 0) < 4, "between the mean and the largest"
    assert at(4, 0) > at(2, 2) - 0.1


def test_long_texts_are_not_odd_for_being_long() -> None:
    rng = np.random.default_rng(2)
    size = rng.integers(5, 400, 3000)
    nats = np.array([2.0 * n + 7 + rng.normal() * np.sqrt(3 + 0.5 * n) for n in size])
    scores = anomaly.Standard.fit(nats[:, None], size)(nats[:, None], size)
    short, long = scores[size < 60], scores[size > 300]
    assert abs(short.mean() - long.mean()) < 0.15 and 0.8 < short.std() / long.std() < 1.25
    # twice the nats a token: odder the longer the text
    twice = anomaly.Standard.fit(nats[:, None], size)(np.array([[40.0], [800.0]]), np.array([10, 200]))
    assert twice[1] > twice[0] > 1


def test_neighbours_and_the_forest_tell_far_from_near() -> None:
    rng = np.random.default_rng(3)
    train, near, far = rng.normal(size=(500, 3)), rng.normal(size=(80, 3)), rng.normal(size=(80, 3)) + 6
    for judge in (anomaly.Neighbours(train), anomaly.Forest(train)):
        found = anomaly.separation({"a": judge(far)}, {"a": judge(near)}, "a")["a"]
        assert found["auroc"] > 0.99 and found["low"] <= found["auroc"] <= found["high"]


def test_who_separates_better_is_a_paired_question() -> None:
    rng = np.random.default_rng(4)
    label = np.repeat([1.0, 0.0], 200)
    good, bad = label * 3 + rng.normal(size=400), label * 0.3 + rng.normal(size=400)
    odd, rest = ({"model": bad[s], "other": good[s], "same": bad[s]} for s in (slice(0, 200), slice(200, 400)))
    found = anomaly.separation(odd, rest, "model")
    assert found["other"]["better"] == 1 and found["same"]["better"] == 0 and found["model"]["better"] == 0
    assert anomaly.separation(odd, rest, "other")["model"]["better"] == -1


SPACES = [
    Array((1, 6, 6)), Array((5,)), Tokens(9, 12, end=8), Tokens(6, 3, slots=((0, 2), (2, 4), (4, 6))), Tokens(5, 16, grid=(4, 4)),
    Record((("a", Tokens(3, 1)), ("b", Array((1,))), ("c", Array((1,))))),
]  # fmt: skip


def samples(space: Any, rng: np.random.Generator, n: int = 8) -> list[Any]:
    if isinstance(space, Record):
        return [{k: samples(f, rng, 1)[0] for k, f in space.fields} for _ in range(n)]
    if isinstance(space, Array):
        return [rng.normal(size=[n or 1 for n in space.shape]).astype(np.float32) for _ in range(n)]
    if space.slots:
        return [np.array([rng.integers(a, b) for a, b in space.slots]) for _ in range(n)]
    if space.end is not None:
        return [np.array([*rng.integers(0, space.end, rng.integers(3, 11)), space.end]) for _ in range(n)]
    return [rng.integers(0, space.vocab, space.length) for _ in range(n)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_made_anomalies_are_legal_samples_that_differ(space: Any) -> None:
    real = samples(space, np.random.default_rng(5))
    for make in (anomaly.mixed, anomaly.jumbled):
        made: list[Any] = make(real, space, np.random.default_rng(6))
        assert len(made) == len(real)
        changed = 0
        for a, b in zip(real, made, strict=True):
            if isinstance(space, Record):
                assert set(a) == set(b)
                changed += str(a) != str(b)
                continue
            assert a.shape == b.shape and a.dtype == b.dtype
            changed += not np.array_equal(a, b)
            if isinstance(space, Tokens):
                assert space.end is None or (b[-1] == space.end and (b[:-1] != space.end).all())
                assert all(low <= v < high for v, (low, high) in zip(b, space.slots)) if space.slots else b.max() < space.vocab
        assert changed >= len(real) / 2
        again: list[Any] = make(real, space, np.random.default_rng(6))
        assert all(np.array_equal(a, b) if not isinstance(a, dict) else str(a) == str(b) for a, b in zip(made, again, strict=True))


def test_the_shortest_items_can_be_mixed() -> None:
    space = Tokens(10, 20, end=9)
    rng = np.random.default_rng(0)
    real: list[Any] = [np.array([*rng.integers(0, 9, n), 9]) for n in rng.integers(0, 3, 60)]
    for a, b in zip(real, anomaly.mixed(real, space, rng), strict=True):
        assert a.shape == b.shape and b[-1] == 9 and (b[:-1] != 9).all()


# ---------------------------------------------------------------- the yardstick
class Plain:
    feature_name: ClassVar[str] = "numbers"

    def features(self, raws: Any) -> np.ndarray:
        return np.asarray(raws, np.float64)


def test_closest_agrees_with_sorting() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(20, 4)), rng.normal(size=(30, 4))
    distance, index = closest(a, b, 5)
    every = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert np.allclose(distance, np.sort(every, 1)[:, :5]) and (index == np.argsort(every, 1)[:, :5]).all()
    assert closest(a, b, 99)[0].shape == (20, 30)


def test_one_is_how_far_new_items_lie() -> None:
    rng = np.random.default_rng(8)
    train, held, fresh = (list(rng.normal(size=(n, 3))) for n in (400, 300, 300))
    yard = Yardstick(Plain(), train, held)
    distance, index = yard.nearest(fresh)
    assert 0.85 < np.median(distance) < 1.15 and 0.4 < np.mean(yard.closer_than(distance[:, 0])) < 0.6
    copies, which = yard.nearest(train[:5])
    assert (copies[:, 0] == 0).all() and (which[:, 0] == np.arange(5)).all() and (yard.closer_than(copies[:, 0]) == 1).all()
    assert (yard.between(train[:5], train[:5]) == 0).all() and len(index) == 300


def test_too_few_held_out_items_give_no_percentile() -> None:
    rng = np.random.default_rng(9)
    yard = Yardstick(Plain(), list(rng.normal(size=(50, 2))), list(rng.normal(size=(5, 2))))
    assert np.isnan(yard.closer_than(np.array([0.5]))).all() and yard.unit > 0
    with pytest.raises(DataError, match="no training items"):
        Yardstick(Plain(), [], [])
