"""Which family to use: the one that wins most comparisons that chance cannot explain."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from morphogen.evaluation.suite import KEY

COMPARED = (*KEY, "copied run")


def recommend(results: Mapping[str, Any], seconds: Mapping[str, float]) -> tuple[str, str]:
    """(family, because ...) by net wins over all pairs and key metrics (Copeland's rule).

    A family that copies the training data, or breaks the data's rules, comes last whatever else it does. Among equals the
    faster one to train is named.
    """
    names = list(results)
    wins = dict.fromkeys(names, 0)
    against: dict[str, list[str]] = {name: [] for name in names}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            for metric in results[a].metrics:
                other = next((m for m in results[b].metrics if m.name == metric.name), None)
                if other is None or not metric.name.startswith(COMPARED) or math.isnan(metric.value + other.value):
                    continue
                outcome = metric.compare(other.interval)
                wins[a] += outcome
                wins[b] -= outcome
                if outcome:
                    against[a if outcome > 0 else b].append(metric.name)
    flawed = {name: _flaw(results[name]) for name in names}
    order = sorted(names, key=lambda k: (bool(flawed[k]), -wins[k], seconds.get(k, 0.0)))
    best = order[0]
    return best, _because(best, order, wins, against, flawed, seconds)


def _flaw(result: Any) -> str:
    if result.copies:
        return "copies the training data"
    legal = next((m for m in result.metrics if m.name == "legal"), None)
    if legal is None or legal.value >= 0.98 * (1.0 if legal.floor is None else legal.floor):
        return ""
    # new real rows break learned rules too (each may hold a new largest value): what counts is doing worse than they
    return "breaks the data's rules" if legal.real is None or legal.compare(legal.real) < 0 else ""


def _because(
    best: str, order: list[str], wins: dict[str, int], against: dict[str, list[str]], flawed: dict[str, str], seconds: Mapping[str, float]
) -> str:
    if len(order) == 1:
        return "because it is the only one that fits these data" + (f". But it {flawed[best]}." if flawed[best] else ".")
    strong = sorted(set(against[best]), key=lambda m: -against[best].count(m))[:3]
    text = f"because it is ahead in {', '.join(strong)}" if strong else "because none is clearly better"
    ties = [name for name in order[1:] if wins[name] == wins[best] and not flawed[name]]
    if ties:
        text += f" (as good: {', '.join(ties)}; this one trains in {seconds.get(best, 0):.0f} s)"
    if flawed[best]:
        return f"{text}. But it {flawed[best]}, and no other is free of a flaw: look at its report before you use it."
    out = [f"{name} {why}" for name, why in flawed.items() if why]
    return text + (f". Set aside: {'; '.join(out)}." if out else ".")
