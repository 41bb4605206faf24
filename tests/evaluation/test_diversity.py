"""Rare categories, column shapes, texts."""
from __future__ import annotations

import numpy as np
import pytest
from evaluate_fakes import as_items, sentences, table, table_rows, texts

from morphogen.evaluation import diversity


def test_lost_rare_category_is_found() -> None:
    lost = {m.name: m for m in diversity.rare(table(table_rows(600, 5, rare=0.0)))}
    assert lost["rare categories back"].value == 0 and lost["rare frequency"].value == 0
    kept = {m.name: m for m in diversity.rare(table(table_rows(600, 5)))}
    assert kept["rare categories back"].value == 1
    assert kept["rare frequency"].low <= 1 <= kept["rare frequency"].high


def test_column_shapes_of_known_distributions() -> None:
    real = np.stack([np.arange(100.0), np.repeat([0.0, 1.0], 50)], axis=1)
    fake = np.stack([np.arange(100.0) + 25, np.repeat([0.0, 1.0], [80, 20])], axis=1)
    assert diversity.column_shapes(real, real, 1) == pytest.approx([1, 1])
    assert diversity.column_shapes(real, fake, 1) == pytest.approx([0.75, 0.7])  # KS = 0.25, TV = 0.3
    gone = real.copy()
    gone[:, 0] = np.nan
    assert diversity.column_shapes(real, gone, 1)[0] == 0


def test_correlations_of_independent_columns_are_half_lost() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    together, apart = np.stack([x, x], 1), rng.normal(size=(500, 2))
    assert diversity.correlations(together, together, 2) == pytest.approx(1)
    assert diversity.correlations(together, apart, 2) == pytest.approx(0.5, abs=0.05)
    assert diversity.correlations(together, together * [1, -1], 2) == pytest.approx(0, abs=1e-9)


def test_columns_metric_has_a_floor_and_names_the_worst() -> None:
    rows = [{**r, "x": r["x"] + 5} for r in table_rows(400, 5)]
    got = {m.name: m for m in diversity.columns(table(rows))}
    assert got["columns"].floor is not None and got["columns"].high < got["columns"].floor and "Least alike: x" in got["columns"].line
    assert got["columns"].low <= got["columns"].value <= got["columns"].high


def test_columns_that_do_not_vary_have_no_relations() -> None:
    rows = [{"x": 1.0, "y": 2.0, "word": "a"}] * 60
    got = {m.name: m for m in diversity.columns(table(rows, train=as_items(rows), heldout=as_items(rows)))}
    assert set(got) == {"columns"} and got["columns"].value == 1


def test_as_many_outputs_as_real_items_are_told_apart() -> None:
    words = lambda n, seed: [f"word{i}" for i in np.random.default_rng(seed).integers(0, 100, n)]
    got = diversity.unique(texts(words(500, 3), train=as_items(words(60, 1)), heldout=as_items(words(50, 2))))[0]
    assert got.n == 110 and got.floor == pytest.approx(got.value, abs=0.15)


def test_wording_sees_repetition_and_made_up_words() -> None:
    honest = {m.name: m for m in diversity.wording(texts(sentences(60, 3)))}
    assert honest["known words"].value == 1
    assert honest["distinct 4-grams"].value == pytest.approx(honest["distinct 4-grams"].floor, abs=0.05)
    stuck = {m.name: m for m in diversity.wording(texts(["the cat sees a dog " * 8] * 60))}
    assert stuck["distinct 4-grams"].value < 0.05
    odd = {m.name: m for m in diversity.wording(texts([s.replace("the", "teh") for s in sentences(60, 3)]))}
    assert odd["known words"].value == pytest.approx(0.8, abs=0.01)
