"""Does an output have what was asked for? Measured on the output itself, where the codec can work it out."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from morphogen.contracts import Derives
from morphogen.evaluation.evidence import HELD, MODEL, TRAIN, Evidence
from morphogen.evaluation.metric import Interval, Metric, bootstrap, mean, measured, share

MOST = 2000  # outputs looked at: working a value out may take a solver
REAL = 200  # held-out items looked at: what is said of them mostly was worked out in the same way


def derivable(evidence: Evidence) -> dict[str, str]:
    """Conditions, name -> kind, that the codec can work out of any item."""
    codec = evidence.codec
    if not isinstance(codec, Derives):
        return {}
    return {name: kind for name, kind in evidence.conditions.items() if name in codec.derived and kind in ("label", "number")}


def obedience(evidence: Evidence) -> list[Metric]:
    """Asked against got: rank correlation and mean error of numbers, agreement of labels."""
    if not evidence.asked:
        return []
    out: list[Metric] = []
    for name, kind in derivable(evidence).items():
        out += _number(evidence, name) if kind == "number" else _label(evidence, name)
    return out


def _pairs(evidence: Evidence, which: str, name: str) -> list[tuple[Any, Any]]:
    """(asked, got) of a set's rows that were asked for something; `got` None where nothing can be worked out."""
    got = evidence.derived(which, name, REAL if which == HELD else MOST)
    asked = [cond.get(name) for cond in evidence.conds(which)[: len(got)]]
    return [(a, g) for a, g in zip(asked, got, strict=True) if a is not None]


def _label(evidence: Evidence, name: str) -> list[Metric]:
    pairs = {which: _pairs(evidence, which, name) for which in (MODEL, HELD, *evidence.baselines)}
    hits = {which: share(np.array([g is not None and str(a) == str(g) for a, g in found])) for which, found in pairs.items() if found}
    if MODEL not in hits:
        return []
    own, floor = hits.pop(MODEL), hits.pop(HELD, None)
    line = f"{own.value:.0%} of outputs have the {name} that was asked for, worked out of each output."
    return [measured(f"agreement:{name}", own, floor=floor, others=hits, n=len(pairs[MODEL]), split="generated, asked against worked out",
                     feature=evidence.codec.derived[name], line=line)]


def _number(evidence: Evidence, name: str) -> list[Metric]:
    scale = float(np.std([float(c[name]) for c in evidence.conds(TRAIN) if c.get(name) is not None] or [1.0])) or 1.0
    ranks: dict[str, Interval] = {}
    errors: dict[str, Interval] = {}
    known: dict[str, tuple[int, int]] = {}
    for which in (MODEL, HELD, *evidence.baselines):
        pairs = _pairs(evidence, which, name)
        both = np.array([(float(a), float(g)) for a, g in pairs if g is not None], dtype=np.float64).reshape(-1, 2)
        known[which] = (len(both), len(pairs))
        if len(both) >= 10:
            ranks[which] = bootstrap(spearman, both[:, 0], both[:, 1], seed=evidence.seed)
            errors[which] = mean(np.abs(both[:, 0] - both[:, 1]) / scale)
    if MODEL not in ranks:
        return []
    none = known[MODEL][1] - known[MODEL][0]
    aside = f" ({none:,} of {known[MODEL][1]:,} outputs have none)" if none else ""
    common: dict[str, Any] = {"n": known[MODEL][0], "split": "generated, asked against worked out", "feature": evidence.codec.derived[name]}
    rank, floor = ranks.pop(MODEL), ranks.pop(HELD, None)
    error, least = errors.pop(MODEL), errors.pop(HELD, None)
    said = f"asked and got {name} of outputs{aside} have a rank correlation of {rank.value:.2f} (1 = as asked, 0 = no relation)."
    off = f"the {name} of an output is {error.value:.2f} deviations of the data away from what was asked, on average."
    return [measured(f"obedience:{name}", rank, floor=floor, others=ranks, line=said, **common),
            measured(f"error of asked:{name}", error, floor=least, others=errors, better="lower", line=off, **common)]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation with mid-ranks for ties; 0 when one side does not vary: nothing follows anything then."""
    if len(x) < 2:
        return math.nan
    a, b = (_ranks(v) - (len(v) + 1) / 2 for v in (x, y))
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
    ordered = np.sort(x)
    return (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right") + 1) / 2
