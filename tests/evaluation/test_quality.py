"""Analytic answers: identical and disjoint sets, known Gaussians, equal laws."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluate_fakes import RowCodec, SmallerCodec, VectorCodec, as_items, blobs, table, table_rows, vectors

from morphogen.contracts import Item
from morphogen.evaluation import quality, rules
from morphogen.evaluation.evidence import Scaler, TableCoder, featurise
from morphogen.evaluation.neighbours import nearest, radii


def test_neighbours_agree_with_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphogen.evaluation.neighbours.BLOCK", 70)  # several blocks
    a, b = np.array(blobs(23, 0)), np.array(blobs(31, 1))
    full = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    distance, index = nearest(a, b)
    assert np.allclose(distance, full.min(1)) and (index == full.argmin(1)).all()
    own = np.sort(np.sqrt(((a[:, None] - a[None]) ** 2).sum(-1)), axis=1)
    assert np.allclose(radii(a, 3), own[:, 3])
    assert (nearest(a + 1e3, a + 1e3)[0] == 0).all()


def test_identical_sets_are_perfect() -> None:
    x = np.array(blobs(100, 0))
    got = {k: v.mean() for k, v in quality.neighbourhoods(x, x).items()}
    assert got["precision"] == got["recall"] == got["coverage"] == 1.0
    assert got["density"] == pytest.approx(1.2, abs=1e-9)  # each row lies in its own ball and in k others: (k + 1) / k


def test_disjoint_sets_share_nothing() -> None:
    got = {k: v.mean() for k, v in quality.neighbourhoods(np.array(blobs(80, 0)), np.array(blobs(80, 1, shift=50))).items()}
    assert got == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_mode_collapse_is_precise_and_covers_little() -> None:
    one = blobs(1, 5)[0] * 0.1
    rng = np.random.default_rng(0)
    got = {m.name: m for m in quality.prdc(vectors([one + 0.01 * rng.normal(size=8) for _ in range(300)]))}
    assert got["precision"].value == 1 and got["coverage"].value < 0.1 and got["recall"].value < 0.1
    assert got["coverage"].floor is not None and got["coverage"].floor > 0.9


def test_frechet_of_known_gaussians() -> None:
    d = 6
    cov1, cov2 = np.diag(np.arange(1.0, d + 1)), np.diag(np.arange(1.0, d + 1) * 4)
    # diagonal: |Δ|² + Σ (√a - √b)²
    truth = 9 * d + float(((np.sqrt(np.diag(cov1)) - np.sqrt(np.diag(cov2))) ** 2).sum())
    assert quality.frechet_distance(np.zeros(d), cov1, np.full(d, 3.0), cov2) == pytest.approx(truth)
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert quality.frechet_distance(np.zeros(d), turn @ cov1 @ turn.T, np.zeros(d), turn @ cov2 @ turn.T) == pytest.approx(truth - 9 * d)


def test_frechet_of_samples_is_corrected_for_their_size() -> None:
    rng = np.random.default_rng(0)
    values, plain, covered = [], [], 0
    for _ in range(20):
        x, y = rng.normal(size=(200, 10)), rng.normal(size=(200, 10)) * 1.5
        got = quality.frechet_of(x, y)
        covered += got.low <= 2.5 <= got.high
        values.append(got.value)
        plain.append(quality.frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T)))
    assert abs(np.mean(values) - 2.5) < abs(np.mean(plain) - 2.5) / 3  # Σ (1.5 - 1)² = 2.5
    assert covered >= 16


def test_c2st_equal_and_different_laws() -> None:
    same = quality.c2st(vectors(blobs(150, 9)))[0]
    assert abs(same.value - 0.5) < 0.08
    assert same.floor == pytest.approx(0.5, abs=0.09)
    assert quality.c2st(vectors(blobs(60, 9, shift=4)))[0].value > 0.99


def test_baselines_are_measured_alike() -> None:
    metric = quality.c2st(vectors(blobs(90, 9, shift=2), baselines={"near": blobs(90, 11), "far": blobs(90, 12, shift=9)}))[0]
    assert metric.baseline is not None and metric.baseline["name"] == "near" and metric.compare(metric.others["near"]) == -1


def labelled(n: int, seed: int, wrong: float = 0.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    said = np.where(rng.random(n) < wrong, rng.integers(3, size=n), y)
    return [rng.normal(size=5) + 3 * np.eye(5)[c] for c in y], [{"kind": f"k{c}"} for c in said]


def test_tstr_is_as_good_as_real_for_the_same_law_and_bad_for_wrong_labels() -> None:
    def run(wrong: float) -> dict[str, float]:
        made, asked = labelled(240, 3, wrong)
        (train, said), (held, known) = labelled(240, 1), labelled(240, 2)
        evidence = vectors(made, asked=asked, conditions={"kind": "label"}, train=as_items(train, said), heldout=as_items(held, known))
        return {m.name: m.value for m in quality.tstr(evidence)} | {"floor": quality.tstr(evidence)[0].floor}  # type: ignore[dict-item]

    good, bad = run(0.0), run(1.0)
    assert abs(good["tstr:kind"] - good["floor"]) < 0.05 and good["agreement:kind"] > 0.9
    assert bad["agreement:kind"] < 0.5


def test_a_table_is_tried_on_a_category_and_a_number() -> None:
    got = {m.name: m for m in quality.tstr(table(table_rows(600, 7)))}
    assert set(got) == {"tstr:word", "tstr:y"}
    assert got["tstr:y"].value == pytest.approx(got["tstr:y"].floor or 0, abs=0.1)


def test_legal_finds_each_broken_rule() -> None:
    rows = table_rows(400, 7)
    assert quality.legal(table(rows))[0].value > 0.95
    broken = [dict(r) for r in rows]
    for i, change in enumerate(({"word": "unheard"}, {"x": 1e6}, {"x": None}, {"y": 3.14159}, {"y": -1.0})):
        for row in broken[i * 40 : i * 40 + 40]:
            row.update(change)
    metric = quality.legal(table(broken))[0]
    assert 0.4 < metric.value < 0.55 and metric.floor is not None and metric.floor > 0.95


def test_checks_that_take_long_stop_and_the_report_says_so() -> None:
    class Slow(RowCodec):
        def checks(self, raw: dict, cond: dict) -> dict[str, bool]:
            return {"solvable": raw["word"] != "unheard"}

    rows, heard = table_rows(100, 7), []
    evidence = replace(table(rows), codec=Slow(), patience=0.0, tell=heard.append)
    metric = quality.legal(evidence)[0]
    assert metric.n == 20 and "judged 20 of 100" in metric.line and heard[0] == "generated items checked: 1 of 100"
    assert "judged" not in quality.legal(replace(evidence, patience=60.0))[0].line


def test_an_ordering_every_row_keeps_becomes_a_rule() -> None:
    rows = [{**r, "y": max(0.0, round(r["x"] - 1, 2))} for r in table_rows(300, 7)]
    metric = quality.legal(table(rows))[0]
    assert metric.value == 0 and "x <= y" in metric.line


def test_scaler_is_fitted_on_training_and_rare_columns_stay_bounded() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    x[:, 2] = 0
    x[0, 2] = 1.0
    z = Scaler.fit(x, "f")(x)
    assert np.allclose(z[:, :2].mean(0), 0) and np.allclose(z[:, :2].std(0), 1) and z[0, 2] <= 10
    wide = Scaler.fit(rng.normal(size=(200, 300)), "pixels")
    assert wide.name == "PCA-64 of pixels" and wide(rng.normal(size=(7, 300))).shape == (7, 64)


def test_table_coder_keeps_kinds() -> None:
    rows = [{"n": i % 7 if i else None, "word": "ab"[i % 2], "id": f"p{i}", "flag": i % 3 == 0} for i in range(200)]
    coder = TableCoder.fit(rows)
    assert coder.numbers == ("n",) and set(coder.categories) == {"word", "flag"} and coder.ignored == ("id",)
    assert np.isnan(coder.matrix(rows)[0, 0]) and coder.codes([{"word": "z"}, {"word": None}], "word").tolist() == [-2, -1]


def test_the_floor_is_what_new_real_data_get_even_when_the_axes_fit_noise() -> None:
    # 100 equal directions and few rows: principal axes are noise, and the rows that made them stick out along them
    got = {m.name: m for m in quality.prdc(vectors(blobs(300, 9, dims=100), dims=100))}
    assert got["coverage"].floor == pytest.approx(got["coverage"].value, abs=0.1)
    assert got["density"].floor == pytest.approx(got["density"].value, abs=0.35)


def test_a_size_the_codec_was_told_to_make_breaks_no_rule() -> None:
    whole = vectors(blobs(40, 3))
    assert quality.legal(replace(whole, generated=blobs(40, 3, dims=4)))[0].value == 0
    assert not quality.legal(replace(whole, codec=SmallerCodec(), generated=blobs(40, 3, dims=4)))


def test_a_table_of_names_alone_has_no_rules() -> None:
    rows = [{"id": f"p{i}"} for i in range(120)]
    evidence = table(rows[:40], train=as_items(rows), heldout=as_items(rows[80:]))
    assert quality.legal(replace(evidence, codec=VectorCodec())) == []


def test_decimals_of_large_numbers_are_seen() -> None:
    assert rules._decimals(np.array([2e9 + 0.5, 3e9])) == 1 and rules._decimals(np.array([0.1 + 0.2, 1e7 + 0.7])) == 1
    assert rules._decimals(np.array([2e15, -3.0])) == 0


@pytest.mark.parametrize(("asked", "said"), [((9.0, 9.0), ""), ((9.0, 11.0), "explains 0% of what was asked")])
def test_a_number_that_is_not_followed_is_said_plainly(asked: tuple[float, float], said: str) -> None:
    items = lambda seed: [Item(x, {"first": float(x[0])}, str(i)) for i, x in enumerate(blobs(60, seed))]
    wishes = [{"first": asked[i % 2]} for i in range(40)]
    got = quality.agreement(vectors(blobs(40, 3), train=items(1), heldout=items(2), asked=wishes, conditions={"first": "number"}))
    assert len(got) == bool(said) and all(said in m.line for m in got)


class Listing(list):
    """Counts the items that are made."""

    made = 0

    def __getitem__(self, i: Any) -> Any:
        self.made += 1
        return super().__getitem__(i)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))


def test_only_the_items_looked_at_are_made() -> None:
    evidence = vectors(blobs(60, 9), train=Listing(as_items(blobs(200, 1))), limit=30)
    assert len(evidence.raws("train")) == evidence.train.made == 30  # type: ignore[attr-defined]


def test_features_are_taken_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(VectorCodec):
        most = 0

        def features(self, raws: Any) -> np.ndarray:
            self.most = max(self.most, len(raws))
            return super().features(raws)

    codec, raws = Counting(), blobs(95, 1)
    monkeypatch.setattr("morphogen.evaluation.evidence.PART", 30)
    assert np.array_equal(featurise(codec, raws), np.stack(raws)) and codec.most == 30
