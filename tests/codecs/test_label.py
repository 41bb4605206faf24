"""Names and numbers: frequencies and distributions come back, unknown and impossible values are refused."""
from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphogen import config
from morphogen.codecs.label import LabelCodec, LabelConfig, NumberCodec, NumberConfig
from morphogen.errors import DataError, UsageError
from morphogen.spaces import Array, Tokens


def fitted(codec, values):
    codec.fit(values)
    return codec


EVEN = (np.arange(10_000) + 0.5) / 10_000


def test_names_are_sorted_as_people_do():
    codec = fitted(LabelCodec(), ["b", 10, 2, "a", None, 2])
    assert codec.values == [2, 10, "a", "b"] and codec.space == Tokens(4, 1)
    assert codec.counts == [2, 1, 1, 1]


@given(st.lists(st.integers() | st.text() | st.booleans() | st.floats(allow_nan=False), min_size=1))
def test_label_round_trip(values):
    codec = fitted(LabelCodec(), values)
    other = LabelCodec()
    other.load(json.loads(json.dumps(codec.state())))
    for value in values:
        x = other.encode(value)
        assert x.dtype == np.int64 and x.shape == (1,) and 0 <= x[0] < other.space.vocab
        assert str(other.decode(x)) == str(value) and codec.knows(value)


def test_numpy_values_and_text_of_numbers_are_the_same_name():
    codec = fitted(LabelCodec(), [np.int64(3), 3, "3", np.str_("x")])
    assert codec.state() == {"values": [3, "x"], "counts": [3, 1]}
    assert codec.encode("3")[0] == 0


def test_unknown_labels_suggest():
    codec = fitted(LabelCodec(), ["apple", "banana"])
    with pytest.raises(UsageError, match="did you mean 'apple'"):
        codec.encode("aple")
    with pytest.raises(UsageError, match="choose one of"):
        codec.encode(None)
    assert not codec.knows("aple")


def test_rare_labels_are_left_out():
    codec = fitted(LabelCodec(LabelConfig(least=2)), ["a", "a", "b"])
    assert codec.values == ["a"] and len(codec.notes) == 2
    for codec, values in ((LabelCodec(LabelConfig(least=2)), ["a"]), (LabelCodec(), [None]), (LabelCodec(), [])):
        with pytest.raises(DataError, match="no labels"):
            codec.fit(values)


def test_labels_are_drawn_as_often_as_seen():
    codec = fitted(LabelCodec(), ["a"] * 70 + ["b"] * 25 + ["c"] * 5)
    drawn = codec.draw(EVEN)
    assert [drawn.count(name) for name in "abc"] == [7000, 2500, 500]
    assert codec.draw(np.array([0.0, 1 - 1e-17, 1.0])) == ["a", "c", "c"]
    assert codec.draw(np.array([])) == []


@given(st.lists(st.floats(-1e300, 1e300, allow_nan=False), min_size=2))
def test_number_round_trip(values):
    codec = NumberCodec()
    codec.fit(values)
    other = NumberCodec()
    other.load(json.loads(json.dumps(codec.state())))
    size = max(map(abs, values)) + 1
    for value in values:
        x = other.encode(value)
        assert x.shape == (1,) and x.dtype == np.float32 and np.isfinite(x).all()
        assert abs(other.decode(x) - value) <= 1e-5 * size


def test_numbers_are_standardised():
    values = np.random.default_rng(0).normal(50, 7, 4000)
    codec = fitted(NumberCodec(), values)
    x = np.concatenate([codec.encode(v) for v in values])
    assert codec.space == Array((1,)) and abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-4
    assert codec.encode("50.5")[0] == codec.encode(50.5)[0]


def test_numbers_are_drawn_as_distributed():
    values = np.random.default_rng(0).exponential(3, 5000)
    drawn = fitted(NumberCodec(), values).draw(EVEN)
    both = np.sort(np.concatenate([values, drawn]))
    gap = np.abs(np.searchsorted(np.sort(values), both, "right") / 5000 - np.searchsorted(np.sort(drawn), both, "right") / 10_000)
    assert gap.max() < 0.01  # Kolmogorov-Smirnov distance


def test_few_numbers_are_drawn_as_seen():
    codec = fitted(NumberCodec(), [1, 1, 1, 5])
    drawn = codec.draw(EVEN)
    assert set(drawn) == {1, 5} and abs(drawn.count(5) / 10_000 - 0.25) < 0.005
    assert all(isinstance(v, int) for v in drawn) and isinstance(codec.decode(codec.encode(5)), int)


@pytest.mark.parametrize("bad", ["x", float("nan"), float("inf"), "", 10**400, [1]])
def test_no_numbers(bad):
    with pytest.raises(DataError):
        fitted(NumberCodec(), [1, bad])
    with pytest.raises(UsageError):
        fitted(NumberCodec(), [1, 2]).encode(bad)


def test_constant_and_missing_numbers():
    codec = fitted(NumberCodec(), [3, None, 3])
    assert codec.notes and codec.encode(3)[0] == 0 and codec.draw(EVEN[:2]) == [3, 3]
    with pytest.raises(DataError, match="no numbers"):
        fitted(NumberCodec(), [None])


def test_bad_options_and_help():
    for build in (lambda: LabelCodec(LabelConfig(least=0)), lambda: NumberCodec(NumberConfig(quantiles=1))):
        with pytest.raises(UsageError):
            build()
    assert all(config.help_of("morphogen.codecs.label", c.Config.__name__) for c in (LabelCodec, NumberCodec))
