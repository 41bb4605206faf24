"""Bits from a known likelihood."""
from __future__ import annotations

import math

import numpy as np
import pytest
from evaluate_fakes import blobs, texts, vectors

from morphogen.evaluation import likelihood


def test_uniform_bytes_cost_eight_bits() -> None:
    evidence = texts(["abc"] * 10)
    nats = np.array([-len(item.raw.encode()) * math.log(256) for item in evidence.heldout])
    metric = likelihood.bits(texts(["abc"] * 10, log_prob={"model": nats}))[0]
    assert metric.name == "bits per byte" and metric.value == pytest.approx(8) and metric.low == pytest.approx(8)


def test_normal_density_gives_its_entropy() -> None:
    held = np.stack([i.raw for i in vectors(blobs(5, 0)).heldout])
    own = -0.5 * (held**2).sum(1) - 4 * math.log(2 * math.pi)
    wide = -0.5 * (held**2 / 4).sum(1) - 4 * math.log(2 * math.pi) - 8 * math.log(2)
    metric = likelihood.bits(vectors(blobs(5, 0), log_prob={"model": own, "wide": wide}, kinds={"wide": "bound"}))[0]
    entropy = 0.5 * math.log2(2 * math.pi * math.e)
    assert metric.low <= entropy <= metric.high
    assert metric.baseline is not None and metric.baseline["name"] == "wide" and metric.compare(metric.others["wide"]) == 1
    assert "upper bound" in metric.line


def test_an_impossible_item_is_not_left_out() -> None:
    nats = np.full(300, -10.0)
    nats[3] = -np.inf
    metric = likelihood.bits(vectors(blobs(5, 0), log_prob={"model": nats}))[0]
    assert metric.value == math.inf and metric.to_json()["value"] is None and "1 of 300" in metric.line


def test_no_likelihood_no_metric() -> None:
    assert likelihood.bits(vectors(blobs(5, 0))) == []
