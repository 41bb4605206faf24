"""Verdicts say what a careful person would say of cases with known answers."""
from __future__ import annotations

import json

import numpy as np
import pytest
from evaluate_fakes import as_items, blobs, table, table_rows, vectors

from morphogen.errors import UsageError
from morphogen.evaluation import suite
from morphogen.evaluation.metric import Interval, Metric, measured, share

FAST = ("prdc", "frechet", "likelihood", "legal", "copying")


def test_the_same_law_is_good_and_not_copied() -> None:
    result = suite.evaluate(vectors(blobs(300, 9)), only=FAST)
    assert result.tone == "good" and result.verdict.startswith("Good") and not result.copies and not result.notes
    assert "No sign of copying" in result.verdict and len(result.pairs) == 8
    json.dumps(result.to_json(), allow_nan=False)


def test_training_rows_handed_back_are_called_copies() -> None:
    result = suite.evaluate(vectors(blobs(300, 1)), only=FAST)
    assert result.copies and result.tone == "poor" and "copies" in result.verdict and result.pairs[0].distance == 0


def test_a_better_classical_family_is_named() -> None:
    result = suite.evaluate(vectors(blobs(300, 9, shift=2), baselines={"mixture": blobs(300, 11)}), only=FAST)
    assert result.better_baseline == "mixture" and "'mixture' does better" in result.verdict
    assert any("--family mixture" in line for line in result.advice)


def test_a_copying_baseline_does_not_count_as_better() -> None:
    result = suite.evaluate(vectors(blobs(300, 9, shift=1), baselines={"neighbour": blobs(300, 1)}), only=FAST)
    assert (result.better_baseline == "" and "Not counted" in result.verdict) or "staying at the training items" in result.verdict
    assert all(m.baseline is None for m in result.metrics)


def test_a_worse_baseline_is_beaten() -> None:
    result = suite.evaluate(vectors(blobs(300, 9), baselines={"mixture": blobs(300, 11, shift=2)}), only=FAST)
    assert result.better_baseline == "" and "It beats the best classical family tried" in result.verdict


def test_collapse_is_advised_on() -> None:
    rng = np.random.default_rng(0)
    result = suite.evaluate(vectors([0.3 * rng.normal(size=8) for _ in range(300)]), only=("prdc",))
    assert result.tone != "good" and any("low coverage" in line for line in result.advice)


def test_minutes_are_advised_only_where_they_help() -> None:
    """A tree has no minutes, and what covers everything has no room for more."""
    far = blobs(300, 9, shift=1.2)
    said = {trains: " ".join(suite.evaluate(vectors(far, trains=trains), only=FAST).advice) for trains in (True, False)}
    assert "both precision and coverage still have room" in said[True] and "minutes" not in said[False]
    assert "good precision" not in said[True], "half of these outputs lie where nothing real lies"
    assert not any("minutes" in line for line in suite.evaluate(vectors(blobs(300, 9)), only=FAST).advice)


def test_rates_of_real_data_are_said_like_the_models_own() -> None:
    lines = {m.name: m.line for m in suite.evaluate(vectors(blobs(300, 9)), only=("prdc",)).metrics}
    assert lines["precision"].count("%") == 2 and lines["coverage"].count("%") == 2 and "%" not in lines["density"]


@pytest.mark.parametrize(("held", "made"), [(20, 100), (100, 20), (1, 1), (6, 6)])
def test_too_few_is_said(held: int, made: int) -> None:
    evidence = vectors(blobs(made, 9), train=as_items(blobs(40, 1)), heldout=as_items(blobs(held, 2)), baselines={"kde": blobs(made, 4)})
    result = suite.evaluate(evidence)
    assert result.verdict.startswith("Too few") and result.tone == "unknown" and result.advice


def test_a_whole_table_suite_runs_and_repeats_itself() -> None:
    build = lambda: table(table_rows(150, 7), n=300, baselines={"cart": table_rows(150, 8)}, seed=3)
    first, second = suite.evaluate(build()), suite.evaluate(build())
    assert [m.to_json() for m in first.metrics] == [m.to_json() for m in second.metrics] and first.verdict == second.verdict
    wanted = {"precision", "frechet", "c2st", "tstr:word", "tstr:y", "rare frequency", "columns", "correlations", "legal", "exact copies"}
    assert wanted <= {m.name for m in first.metrics}
    assert not first.notes


def test_a_plug_in_that_fails_is_noted() -> None:
    def broken(evidence):
        raise ValueError("no such thing")

    result = suite.evaluate(vectors(blobs(60, 9)), only=("mine",), extra={"mine": broken})
    assert result.notes == ["mine could not be measured: no such thing"]


def test_contradicting_lengths_are_refused() -> None:
    for wrong in ({"asked": [{}] * 3}, {"log_prob": {"model": np.zeros(3)}}, {"heldout": []}):
        with pytest.raises(UsageError):
            vectors(blobs(60, 9), **wrong)


def test_every_registered_metric_exists() -> None:
    from morphogen import registry

    for name in registry.METRICS:
        assert callable(registry.resolve("metric", name))


def _exact(own: tuple[int, int], held: tuple[int, int]) -> dict[str, Metric]:
    of = lambda hits, n: share(np.arange(n) < hits)
    return {"exact copies": measured("exact copies", of(*own), floor=of(*held), better="lower"),
            "nearest distance": measured("nearest distance", Interval(1.0, 0.9, 1.1), floor=Interval(1.0), better="near", target=1.0)}


def test_a_few_equal_items_are_copying_only_beyond_chance() -> None:
    assert suite.copy_finding(_exact((1, 60), (0, 60)))[0] == 0, "held-out items do as much in one of three draws"
    assert suite.copy_finding(_exact((10, 300), (0, 300)))[0] == 2 and suite.copy_finding(_exact((50, 300), (45, 300)))[0] == 0
    said = suite._not_copied(_exact((1, 60), (0, 60)))
    assert "No sure sign of copying" in said and "1.7% equal one exactly" in said
    assert "No sign of copying" in suite._not_copied(_exact((2, 60), (2, 60)))


def test_an_honest_model_is_seldom_accused() -> None:
    rng, accused = np.random.default_rng(0), 0
    for _ in range(200):
        own, held = (int(x) for x in rng.binomial(60, 0.017, 2))
        accused += suite.copy_finding(_exact((own, 60), (held, 60)))[0] == 2
    assert accused <= 5


def test_one_item_is_one() -> None:
    assert "there is only 1 held-out item," in suite.evaluate(vectors(blobs(60, 9), n=1), only=("prdc",)).verdict
