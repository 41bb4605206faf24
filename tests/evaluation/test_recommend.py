"""Which family is named, and what is said of it."""
from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from morphogen.evaluation.metric import Interval, measured
from morphogen.evaluation.recommend import recommend


def found(cover: float, copies: bool = False, bits: float = math.nan) -> Any:
    metrics = [measured("coverage", Interval(cover, cover - 0.01, cover + 0.01)), measured("bits per byte", Interval(bits), better="lower")]
    return SimpleNamespace(metrics=metrics, copies=copies)


def test_what_copies_is_set_aside() -> None:
    use, why = recommend({"gan": found(0.9, copies=True), "vae": found(0.5)}, {"gan": 1.0, "vae": 2.0})
    assert use == "vae" and "Set aside: gan copies the training data." in why


def test_where_all_copy_the_one_named_is_not_set_aside() -> None:
    use, why = recommend({"gan": found(0.9, copies=True), "vae": found(0.5, copies=True)}, {"gan": 1.0, "vae": 2.0})
    assert use == "gan" and "Set aside" not in why and "it copies the training data, and no other is free of a flaw" in why
    assert recommend({"gan": found(0.9, copies=True)}, {})[1].endswith("But it copies the training data.")


def test_rules_that_new_real_items_break_as_often_are_no_flaw() -> None:
    def kept(share: float, width: float = 0.01) -> Any:
        legal = measured("legal", Interval(share, share - width, share + width), floor=Interval(0.93, 0.92, 0.94))
        return SimpleNamespace(metrics=[*found(share).metrics, legal], copies=False)

    assert "breaks the data's rules" not in recommend({"gan": kept(0.93)}, {})[1]
    assert "breaks the data's rules" not in recommend({"gan": kept(0.9, 0.04)}, {})[1], "chance alone may do that"
    assert "breaks the data's rules" in recommend({"gan": kept(0.8)}, {})[1]


def test_a_family_that_holds_a_real_item_impossible_loses() -> None:
    assert recommend({"a": found(0.9, bits=math.inf), "b": found(0.9, bits=2.0)}, {"a": 1.0, "b": 9.0})[0] == "b"
