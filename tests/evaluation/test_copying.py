"""Planted copies are found; honest new items are not accused."""
from __future__ import annotations

import numpy as np
from evaluate_fakes import blobs, sentences, texts, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.evaluation import copying
from morphogen.evaluation.copying import longest_runs


def measures(evidence):
    return {m.name: m for m in copying.copying(evidence)}


def test_honest_items_are_not_accused() -> None:
    got = measures(vectors(blobs(300, 9)))
    assert got["nearest distance"].low <= 1.02 and got["nearest distance"].high >= 0.98
    assert got["too close"].low <= 0.03 and got["exact copies"].value == 0


def test_planted_copies_are_counted_and_paired() -> None:
    train = blobs(300, 1)
    generated = blobs(290, 9)
    planted = [5, 50, 77, 120, 121, 122, 200, 210, 250, 299]
    made = [*generated, *[train[i].copy() for i in planted]]
    evidence = vectors(made)
    got = measures(evidence)
    assert got["exact copies"].value == 10 / 300
    near, order = copying.nearness(evidence)
    found = copying.pairs(evidence, near, order, k=10)
    assert {(p.generated, p.train) for p in found} == {(290 + i, t) for i, t in enumerate(planted)}
    assert all(p.distance == 0 for p in found)


def test_noisy_copies_are_near_copies() -> None:
    rng = np.random.default_rng(0)
    got = measures(vectors([x + 0.05 * rng.normal(size=8) for x in blobs(300, 1)]))
    assert got["exact copies"].value == 0
    assert got["nearest distance"].high < 0.3 and got["too close"].value > 0.9


def test_equal_rows_have_equal_fingerprints() -> None:
    assert copying.fingerprint({"a": 1, "b": None}) == copying.fingerprint({"b": None, "a": 1})
    assert copying.fingerprint(np.zeros((2, 3), np.uint8)) != copying.fingerprint(np.zeros((3, 2), np.uint8))
    assert copying.fingerprint(" text\n") == copying.fingerprint("text")


def test_long_arrays_and_numpy_numbers_are_told_apart_by_value() -> None:
    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1
    assert copying.fingerprint((one, "x")) != copying.fingerprint((other, "x"))
    assert copying.fingerprint({"n": np.int64(5)}) == copying.fingerprint({"n": 5})


def test_recited_text_is_found() -> None:
    source = sentences(120, 1)
    honest, recited = measures(texts(sentences(60, 3))), measures(texts([s[20:140] for s in source[:60]]))
    assert recited["copied run"].low > 2 * recited["copied run"].floor
    assert honest["copied run"].value < 1.5 * honest["copied run"].floor


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="ab", min_size=30, max_size=80), st.text(alphabet="ab", min_size=1, max_size=60))
def test_longest_run_agrees_with_brute_force_up_to_its_steps(source: str, text: str) -> None:
    best = max((j - i for i in range(len(text)) for j in range(i + 1, len(text) + 1) if text[i:j] in source), default=0)
    got = int(longest_runs({"t": [text]}, [source])["t"][0])
    assert got <= best and (best < 4 or got >= best / 1.3)


def test_runs_do_not_cross_texts() -> None:
    assert longest_runs({"t": ["abcdefgh", ""]}, ["abcd", "efgh"])["t"].tolist() == [4, 0]
