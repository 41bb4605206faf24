"""Intervals cover what they should; JSON is exact."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.evaluation.metric import Interval, Metric, auc, bootstrap, mean, measured, share


def coverage(make, truth: float, times: int = 200) -> float:
    hits = 0
    for seed in range(times):
        got = make(np.random.default_rng(seed))
        hits += got.low <= truth <= got.high
    return hits / times


def test_bootstrap_interval_covers_the_mean() -> None:
    assert coverage(lambda r: bootstrap(lambda x: float(x.mean()), r.exponential(1, 60), times=100, seed=1), 1.0) >= 0.86


def test_share_interval_covers_and_is_honest_at_the_edge() -> None:
    assert coverage(lambda r: share(r.random(50) < 0.97), 0.97, 400) >= 0.9
    full = share(np.ones(20, bool))
    assert full.value == 1 and full.high == 1 and 0.8 < full.low < 0.9


def test_mean_interval_covers() -> None:
    assert coverage(lambda r: mean(r.normal(3, 2, 80)), 3.0) >= 0.9


def test_auc_of_known_normals_and_its_interval() -> None:
    # P(N(1,1) > N(0,1)) = Φ(1/√2)
    truth = 0.5 * (1 + math.erf(0.5))
    assert coverage(lambda r: auc(r.normal(1, 1, 80), r.normal(0, 1, 80)), truth) >= 0.9
    assert auc(np.ones(10), np.ones(10)).value == 0.5
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])).value == 1.0


def test_paired_rows_stay_together() -> None:
    x = np.arange(50.0)
    assert bootstrap(lambda a, b: float(np.abs(a - b).max()), x, x) == Interval(0.0, 0.0, 0.0)
    assert bootstrap(lambda a, b: float(np.abs(a - b).max()), x, x, paired=False).high > 0


def test_to_json_has_exactly_the_promised_keys_and_no_nan() -> None:
    others = {"cart": Interval(0.6, 0.5, 0.7), "kde": Interval(0.9)}
    metric = measured("c2st", Interval(math.nan, math.inf, 0.5), others=others, better="near", target=0.5)
    out = metric.to_json()
    assert set(out) == {"name", "value", "low", "high", "n", "split", "feature", "floor", "baseline", "better"}
    assert out["value"] is None and out["low"] is None and out["floor"] is None and out["baseline"] == {"name": "cart", "value": 0.6}
    json.dumps(out, allow_nan=False)
    assert Metric(name="x", value=1.0).to_json()["baseline"] == {"name": None, "value": None}


@pytest.mark.parametrize(("better", "target", "ours", "theirs", "outcome"), [
    ("higher", 0, 0.9, 0.5, 1), ("higher", 0, 0.5, 0.9, -1), ("lower", 0, 0.5, 0.9, 1), ("near", 0.5, 0.45, 0.9, 1),
    ("near", 1, 1.4, 0.98, -1), ("higher", 0, 0.51, 0.5, 0)])
def test_compare_knows_which_way_is_better(better: str, target: float, ours: float, theirs: float, outcome: int) -> None:
    metric = Metric(name="m", value=ours, low=ours - 0.02, high=ours + 0.02, better=better, target=target)  # type: ignore[arg-type]
    assert metric.compare(Interval(theirs, theirs - 0.02, theirs + 0.02)) == outcome


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_share_is_inside_its_interval(hits: list[bool]) -> None:
    got = share(np.array(hits))
    assert 0 <= got.low <= got.value <= got.high <= 1


def test_nobody_can_say_without_an_interval_and_infinity_loses() -> None:
    bare = Metric(name="m", value=0.6)
    assert bare.compare(Interval(0.59)) == 0 and bare.compare(Interval(0.59, 0.58, 0.6)) == 0
    bits = Metric(name="bits per byte", value=math.inf, better="lower")
    assert bits.compare(Interval(2.0, 1.9, 2.1)) == -1 and bits.compare(Interval(math.inf)) == 0
    assert Metric(name="m", value=math.nan).compare(Interval(1.0, 0.9, 1.1)) == 0


def test_sets_wholly_apart_still_have_an_interval() -> None:
    few, many = auc(np.arange(5.0) + 9, np.arange(9.0)), auc(np.arange(500.0), np.arange(500.0) - 999)
    assert few.value == many.value == few.high == many.high == 1 and few.low == pytest.approx(0.566, abs=0.001) and many.low > 0.99
    assert auc(np.arange(9.0), np.arange(5.0) + 9)[:2] == (0, 0) and auc(np.arange(9.0), np.arange(5.0) + 9).high > 0.4


def test_a_centred_bootstrap_leaves_out_the_noise_it_adds() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 40)), rng.normal(size=(200, 40))
    gap = lambda x, y: float(np.abs(x.mean(0) - y.mean(0)).mean())
    plain, centred = bootstrap(gap, a, b, paired=False), bootstrap(gap, a, b, paired=False, centred=True)
    assert centred.high - centred.value == pytest.approx(centred.value - centred.low)
    assert centred.high - centred.low < 0.8 * (plain.high - plain.low)
