"""What a metric promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from morphogen.contracts import Item
from morphogen.evaluation.evidence import HELD, MODEL, Evidence
from morphogen.evaluation.metric import Metric
from morphogen.testing.promise import must, promised, untouched

LETTERS = "abcdefghijklmnopqrstuvwxyz "
NOUNS = ("cat", "dog", "bird", "house", "tree", "river", "cloud", "stone")
VERBS = ("sees", "likes", "moves", "finds", "holds", "paints")


class RowsCodec:
    """Rows of two numbers and a word, as far as metrics look at a codec."""

    feature_name = "numbers and one-hot words"

    def features(self, raws: Sequence[dict[str, Any]]) -> np.ndarray:
        return np.array([[r["x"], r["y"], *[float(r["word"] == w) for w in ("a", "b", "c", "rare")]] for r in raws])

    def size_of(self, raw: dict[str, Any]) -> tuple[int, str]:
        return len(raw), "cell"

    def checks(self, raw: dict[str, Any], cond: dict[str, Any]) -> dict[str, bool]:
        return {"y is above x": raw["y"] >= raw["x"]}


class WordsCodec:
    """Sentences, as far as metrics look at a codec; their length can be asked for."""

    feature_name = "letter counts"
    derived = {"letters": "how many letters it has"}

    def features(self, raws: Sequence[str]) -> np.ndarray:
        return np.array([[r.lower().count(c) for c in LETTERS] for r in raws], np.float64)

    def size_of(self, raw: str) -> tuple[int, str]:
        return max(1, len(raw.encode())), "byte"

    def derive(self, raws: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        return [dict.fromkeys(names, len(raw)) for raw in raws]


def rows(n: int, seed: int, noise: float = 0.0) -> list[dict[str, Any]]:
    """`noise` 1: nothing of the law is left."""
    rng = np.random.default_rng([seed, 1])
    word = rng.choice(["a", "b", "c", "rare"], size=n, p=[0.47, 0.3, 0.2, 0.03] if not noise else [0, 0, 0, 1])
    x = rng.normal(10, 2, n) + 3 * (word == "b") + 30 * noise
    y = x + rng.exponential(1, n) * (1 - 40 * noise)
    return [{"x": round(float(a), 2), "y": round(float(b), 2), "word": str(w)} for a, b, w in zip(x, y, word)]


def sentences(n: int, seed: int, noise: float = 0.0) -> list[str]:
    """`noise` 1: letters at random."""
    rng = np.random.default_rng([seed, 2])
    pick = lambda words: words[rng.integers(len(words))]
    if noise:
        return ["".join(pick("qxzjkv") for _ in range(rng.integers(20, 80))) for _ in range(n)]
    return [" ".join(f"the {pick(NOUNS)} {pick(VERBS)} a {pick(NOUNS)}" for _ in range(rng.integers(3, 9))) for _ in range(n)]


def evidence(kind: str, n: int = 100, noise: float = 0.0) -> Evidence:
    """Evidence of known quality. `kind` is "rows" or "words"; the generated items follow the data's law, or none (`noise` 1)."""
    make = rows if kind == "rows" else sentences
    said = (lambda raw: {"label": raw["word"]}) if kind == "rows" else (lambda raw: {"letters": len(raw)})
    train, held = ([Item(raw, said(raw), str(i)) for i, raw in enumerate(make(n, seed))] for seed in (1, 2))
    generated = make(n, 3, noise)
    worth = np.full(n, -40.0 - 400 * noise) + np.random.default_rng(4).normal(0, 1, n)
    return Evidence(
        codec=RowsCodec() if kind == "rows" else WordsCodec(), generated=generated, train=train, heldout=held,
        asked=[said(raw) for raw in (make(n, 3) if noise else generated)], baselines={"other": make(n, 5)},
        conditions={"label": "label"} if kind == "rows" else {"letters": "number"},
        log_prob={"model": worth, "other": worth - 1}, kinds={"model": "exact", "other": "exact"},
    )


@promised("a metric must answer without an error")
def check_metric(metric: Callable[[Evidence], list[Metric]], own: Sequence[Evidence] = ()) -> list[Metric]:
    """Figures that are finite, named, within their interval, the same twice, and do not prefer noise to real data.

    Tried on tables and sentences made here, few and many, and on `own` evidence; it may answer [] where it does not apply, but
    not everywhere. Returns what it found. Raises BrokenPromise (an AssertionError) with one sentence.
    """
    kinds = ("rows", "words")
    found: list[Metric] = []
    for make in [*[lambda kind=kind: evidence(kind) for kind in kinds], *[lambda given=given: given for given in own]]:
        with promised("a metric must not raise on evidence"):
            first = metric(make())
        here = _check_one(metric, make())
        same = len(first) == len(here) and all(_alike(a.to_json(), b.to_json()) for a, b in zip(first, here))
        must(same, "a metric must be a function of the evidence")
        found += here
    must(found, "a metric must apply somewhere: it answered nothing on tables, sentences or the evidence given")
    for kind in kinds:
        _check_one(metric, evidence(kind, n=2), "a metric must answer, or answer nothing, when there are only two items")
        _check_taste(metric(evidence(kind)), metric(evidence(kind, noise=1.0)))
    return found


def _check_one(
    metric: Callable[[Evidence], list[Metric]], what: Evidence, promise: str = "a metric must not raise on evidence"
) -> list[Metric]:
    before = repr((what.generated, what.train, what.heldout)), what.features(HELD).copy(), what.features(MODEL).copy()
    with promised(promise), untouched("a metric"):
        found = metric(what)
    after = repr((what.generated, what.train, what.heldout))
    same = after == before[0] and np.array_equal(what.features(HELD), before[1]) and np.array_equal(what.features(MODEL), before[2])
    must(same, "a metric must not change the evidence, which others share")
    must(isinstance(found, list) and all(isinstance(m, Metric) for m in found), "a metric must answer a list of Metric")
    names = [m.name for m in found]
    must(all(names) and len(set(names)) == len(names), "each figure needs a name of its own")
    for m in found:
        must(math.isfinite(m.value), f"'{m.name}' must be finite: leave a figure out that cannot be had")
        must(not (m.low > m.value + 1e-9 or m.high < m.value - 1e-9), f"'{m.name}' must lie within its interval")
        must(m.n > 0, f"'{m.name}' must say how many items it rests on")
        must(m.split and m.feature is not None, f"'{m.name}' must say what was compared")
        must(m.line and "\n" not in m.line, f"'{m.name}' must say in one line what the number means")
        must(m.better in ("higher", "lower", "near"), f"'{m.name}': better is higher, lower or near")
        with promised(f"'{m.name}' must be plain JSON"):
            json.dumps(m.to_json(), allow_nan=False)
    return found


def _check_taste(real: list[Metric], noise: list[Metric]) -> None:
    """What draws from the data's own law must not be judged worse than noise by every figure there is."""
    by_name = {m.name: m for m in noise}
    verdicts = [m.compare(by_name[m.name].interval) for m in real if m.name in by_name]
    must(not verdicts or max(verdicts) >= 0, "a metric must not prefer noise to draws from the data's own law")


def _alike(a: Any, b: Any) -> bool:
    """Equal but for the last bits: forests sum in the order their threads end."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k]) for k in a)
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) if isinstance(a, float) and isinstance(b, float) else a == b
