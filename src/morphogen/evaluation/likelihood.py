"""How many bits the model needs to write down what it has not seen."""
from __future__ import annotations

import math

import numpy as np

from morphogen.evaluation.evidence import Evidence
from morphogen.evaluation.metric import Interval, Metric, bootstrap, measured

_KINDS = {"exact": "exact", "bound": "an upper bound: the true figure is lower", "estimate": "an estimate"}


def bits_of(nats: np.ndarray, sizes: np.ndarray, seed: int = 0) -> Interval:
    """Bits per unit of items with log-probabilities `nats` (n,) and `sizes` (n,): -Σ nats / (ln 2 · Σ sizes)."""
    return bootstrap(lambda a, b: float(-a.sum() / (math.log(2) * b.sum())), np.asarray(nats, dtype=np.float64), sizes, seed=seed)


def bits(evidence: Evidence) -> list[Metric]:
    """Bits per dimension or per byte on held-out items, beside the baselines that have a likelihood.

    An item the model holds impossible makes the figure infinite; leaving it out would be flattery.
    """
    if "model" not in evidence.log_prob:
        return []
    measures = [evidence.codec.size_of(item.raw) for item in evidence.heldout]
    sizes, unit = np.array([m[0] for m in measures], dtype=np.float64), measures[0][1]
    if sizes.sum() <= 0:
        return []
    results, impossible = {}, 0
    for name, nats in evidence.log_prob.items():
        nats = np.asarray(nats, dtype=np.float64).ravel()
        if np.isfinite(nats).all():
            results[name] = bits_of(nats, sizes, evidence.seed)
        elif name == "model":
            impossible = int((~np.isfinite(nats)).sum())
    own = results.pop("model", Interval(math.inf))
    kind = evidence.kinds.get("model", "exact")
    line = f"{own.value:.3f} bits a {unit} to write down held-out items ({_KINDS.get(kind, kind)})."
    if impossible:
        line = f"the model gives no probability to {impossible} of {len(sizes)} held-out items, so no number of bits is enough."
    metric = measured(f"bits per {unit}", own, others=results, n=len(sizes), split="held-out", feature="log-probability",
                      better="lower", line=line)
    if metric.baseline and evidence.kinds.get(metric.baseline["name"], "exact") != "exact":
        name, note = metric.baseline["name"], evidence.kinds[metric.baseline["name"]]
        return [Metric(**{**metric.__dict__, "line": f"{line} {name}'s figure is {_KINDS.get(note, note)}."})]
    return [metric]
