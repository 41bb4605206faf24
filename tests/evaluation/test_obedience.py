"""Asked against got, with known answers; outputs that are different from each other."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from evaluate_fakes import TextCodec, as_items, sentences, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.contracts import Item
from morphogen.evaluation import copying, diversity, quality
from morphogen.evaluation.evidence import Evidence
from morphogen.evaluation.obedience import derivable, obedience, spearman


class Counting(TextCodec):
    """Words are counted; a text about cats is of the kind "cat"."""

    derived: ClassVar[dict[str, str]] = {"words": "how many words", "kind": "what it is about"}
    words: ClassVar[bool] = False

    def derive(self, raws: Any, names: Any) -> list[dict[str, Any]]:
        found = [{"words": len(r.split()) if r else None, "kind": "cat" if "cat" in r else "other" if r else None} for r in raws]
        return [{n: one[n] for n in names} for one in found]

    def identity(self, raw: str) -> str:
        return raw.lower()


def text(words: int, kind: str = "other") -> str:
    return " ".join(["cat" if kind == "cat" else "dog", *["x"] * (words - 1)])


def evidence(generated: list[str], asked: list[dict[str, Any]], **more: Any) -> Evidence:
    rng = np.random.default_rng(1)
    raws = [text(int(rng.integers(5, 60)), str(rng.choice(["cat", "other"]))) for _ in range(300)]
    items = [Item(r, Counting().derive([r], ["words", "kind"])[0], str(i)) for i, r in enumerate(raws)]
    real: dict[str, Any] = {"train": items[:200], "heldout": items[200:], "conditions": {"words": "number", "kind": "label"}}
    return Evidence(codec=Counting(), generated=generated, asked=asked, **real, **more)


def by_name(metrics: Any) -> dict[str, Any]:
    return {m.name: m for m in metrics}


ASKED = [{"words": 5 + i % 50, "kind": "cat" if i % 2 else "other"} for i in range(120)]
EXACT = [text(a["words"], a["kind"]) for a in ASKED]


def test_what_is_asked_exactly_is_found_exact() -> None:
    got = by_name(obedience(evidence(EXACT, ASKED)))
    assert got["obedience:words"].value == pytest.approx(1) and got["error of asked:words"].value == 0
    assert got["agreement:kind"].value == 1
    assert got["obedience:words"].floor == pytest.approx(1) and got["agreement:kind"].floor == 1


def test_a_model_that_does_not_listen_is_found_out_and_baselines_stand_beside() -> None:
    shuffled = [EXACT[i] for i in np.random.default_rng(0).permutation(len(EXACT))]
    got = by_name(obedience(evidence(shuffled, ASKED, baselines={"exact": EXACT})))
    assert abs(got["obedience:words"].value) < 0.3 and got["obedience:words"].low < 0 < got["obedience:words"].high
    assert got["obedience:words"].baseline == {"name": "exact", "value": pytest.approx(1)}
    assert 0.3 < got["agreement:kind"].value < 0.7 and got["agreement:kind"].others["exact"].value == 1
    assert got["error of asked:words"].value > 0.5


def test_errors_count_in_deviations_of_the_data_and_outputs_without_a_value_are_named() -> None:
    late = evidence(["" if i < 20 else text(a["words"] + 10, a["kind"]) for i, a in enumerate(ASKED)], ASKED)
    scale = np.std([item.cond["words"] for item in late.train])
    got = by_name(obedience(late))
    assert got["error of asked:words"].value == pytest.approx(10 / scale) and got["error of asked:words"].n == 100
    assert "20 of 120 outputs have none" in got["obedience:words"].line and got["obedience:words"].value == pytest.approx(1)
    assert got["agreement:kind"].value == pytest.approx(100 / 120), "what cannot be worked out is not what was asked"


def test_no_learner_judges_what_can_be_worked_out() -> None:
    whole = evidence(EXACT, ASKED)
    assert set(derivable(whole)) == {"words", "kind"} and quality.agreement(whole) == []
    assert obedience(evidence(EXACT, [])) == []
    assert derivable(replace(whole, codec=TextCodec())) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=30))
def test_rank_correlation_is_that_of_the_textbook(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import rankdata

    x, y = np.array(pairs, float).T
    a, b = rankdata(x), rankdata(y)
    expected = np.corrcoef(a, b)[0, 1] if a.std() > 0 and b.std() > 0 else 0.0
    assert spearman(x, y) == pytest.approx(expected, abs=1e-9)


def test_repeated_outputs_are_counted_as_the_codec_counts() -> None:
    train, held = as_items(sentences(80, 1)), as_items(sentences(40, 2))
    outputs = [*sentences(30, 3), *sentences(20, 3)]
    (plain,) = diversity.unique(Evidence(codec=TextCodec(), generated=outputs, train=train, heldout=held))
    assert plain.value == pytest.approx(30 / 50) and plain.floor == 1.0
    louder = [*sentences(30, 3), *[t.upper() for t in sentences(20, 3)]]
    (same,) = diversity.unique(Evidence(codec=Counting(), generated=louder, train=train, heldout=held))
    (apart,) = diversity.unique(Evidence(codec=TextCodec(), generated=louder, train=train, heldout=held))
    assert same.value == pytest.approx(30 / 50) and apart.value == 1.0
    assert diversity.unique(vectors(np.zeros((60, 8)))) == [], "vectors are no tokens"


def test_copies_are_counted_as_the_codec_counts() -> None:
    train, held = as_items(sentences(80, 1)), as_items(sentences(40, 2))
    loud = [item.raw.upper() for item in train[:25]] + sentences(25, 9)
    got = [copying._duplicates(Evidence(codec=c, generated=loud, train=train, heldout=held)) for c in (TextCodec(), Counting())]
    assert got[0].value == 0.0 and got[1].value == pytest.approx(0.5) and "So 50.0% are new." in got[1].line


def test_strings_that_are_no_language_get_no_figures_of_wording() -> None:
    train, held = as_items(sentences(80, 1)), as_items(sentences(40, 2))
    assert diversity.wording(Evidence(codec=Counting(), generated=sentences(40, 3), train=train, heldout=held)) == []
    assert diversity.wording(Evidence(codec=TextCodec(), generated=sentences(40, 3), train=train, heldout=held)) != []
