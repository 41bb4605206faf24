"""All metrics on one body of evidence, and what they mean in plain words."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from morphogen.evaluation import copying as copies
from morphogen.evaluation.copying import Pair
from morphogen.evaluation.evidence import MODEL, Evidence
from morphogen.evaluation.metric import Metric
from morphogen.registry import tried, usable

FEW = 50  # held-out items below which no figure deserves trust
OPENINGS = {"good": "Good: close to real data.", "fair": "Fair: the same kind of data, with reservations.",
            "poor": "Poor: not a stand-in for real data.", "unknown": "There was too little to measure how good it is."}
SOUND, ROOM = 0.8, 0.9  # of what real data reach: from here on precision or recall is good; below, more training shows
LEAN, COPY = 0.8, 0.5  # of the distance to training items that held-out items keep
KEY = ("coverage", "precision", "c2st", "frechet", "tstr:", "bits per", "columns", "correlations", "rare frequency")


@dataclass(frozen=True)
class Result:
    """What `evaluate` found. `tone` is good, fair, poor or unknown; `notes` says what could not be measured and why."""

    metrics: list[Metric]
    verdict: str
    "One line a finding: how good, against the baselines, copying."
    advice: list[str]
    pairs: list[Pair]
    tone: str = "unknown"
    better_baseline: str = ""
    "A classical family that beats the model beyond chance, if one does."
    copies: bool = False
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of everything but the pairs' items."""
        pairs = [{"generated": p.generated, "train": p.train, "distance": round(p.distance, 6)} for p in self.pairs]
        return {"verdict": self.verdict, "tone": self.tone, "advice": self.advice, "better_baseline": self.better_baseline or None,
                "copies": self.copies, "metrics": [m.to_json() for m in self.metrics], "pairs": pairs, "notes": self.notes}


def evaluate(evidence: Evidence, *, only: Sequence[str] = (), extra: dict[str, Callable[[Evidence], list[Metric]]] | None = None) -> Result:
    """Measure, judge and advise by all metrics of the registry. `only`: names of those to compute; `extra`: further ones.

    A metric that cannot be computed is named in `notes` and does not take the others down.
    """
    metrics: list[Metric] = []
    notes: list[str] = []
    for name, metric in {**dict(usable("metric")), **(extra or {})}.items():
        if name != "copying" and (not only or name in only):  # copying also finds the closest pairs, below
            try:
                metrics += (metric(evidence) if name in (extra or {}) else tried("metric", name, partial(metric, evidence))) or []
            except (ValueError, ArithmeticError, LookupError, TypeError) as error:
                notes.append(f"{name} could not be measured: {error}")
    closest: list[Pair] = []
    if not only or "copying" in only:
        near, order = copies.nearness(evidence)
        metrics += copies.judge(evidence, near)
        closest = copies.pairs(evidence, near, order)
    return judge(evidence, metrics, closest, notes)


def judge(evidence: Evidence, metrics: list[Metric], closest: list[Pair], notes: list[str]) -> Result:
    """Verdict and advice from measured metrics."""
    by_name = {m.name: m for m in metrics}
    severity, copied = copy_finding(by_name)
    if len(evidence.heldout) < FEW or len(evidence.generated) < FEW:
        return _too_few(Result(metrics, copied, [], closest, copies=severity == 2, notes=notes), evidence)
    metrics = _with_honest_baselines(metrics)
    tone, said = grade(by_name)
    rival, versus = against_baselines(metrics)
    if severity == 2:
        tone = "poor"
    elif tone == "good" and (severity or rival):
        tone = "fair"
    sentences = [f"{OPENINGS[tone]} {said}".strip(), versus, copied or _not_copied(by_name)]
    advice = list(_advice(by_name, rival, evidence))
    verdict = "\n".join(s for s in sentences if s)
    return Result(metrics, verdict, advice, closest, tone, rival, severity == 2, notes)


def _too_few(found: Result, evidence: Evidence) -> Result:
    held, made = len(evidence.heldout), len(evidence.generated)
    what = f"{held} held-out item{'s' * (held != 1)}" if held < FEW else f"{made} generated item{'s' * (made != 1)}"
    there = "there is only" if what.startswith("1 ") else "there are only"
    verdict = f"Too few to say: {there} {what}, and below {FEW} the figures vary more than models do. Look at the samples."
    advice = []
    if held < FEW:
        total = len(evidence.train) + held
        advice.append(f"Collect more data: {total:,} items leave {held} to test on; a few hundred make the figures mean something.")
    if made < FEW:
        advice.append(f"Generate at least {FEW} items for the evaluation, better as many as are held out ({held:,}).")
    return replace(found, verdict=f"{verdict} {found.verdict}".strip(), advice=advice)


# ------------------------------------------------------------------- how good
def _ratio(metric: Metric | None) -> float | None:
    """Value over what real data reach."""
    if metric is None or not metric.floor or not math.isfinite(metric.value):
        return None
    return metric.value / metric.floor


def grade(by_name: dict[str, Metric]) -> tuple[str, str]:
    """(tone, findings in a sentence). The worst of them rules: a sharp model that misses half of the data is not good."""
    points: list[int] = []  # 2 good, 1 fair, 0 poor
    said: list[str] = []
    apart, cover, precise = by_name.get("c2st"), by_name.get("coverage"), by_name.get("precision")
    if apart and math.isfinite(apart.value):
        points.append(2 if apart.value <= 0.75 else 1 if apart.value <= 0.9 else 0)
        said.append(f"a classifier tells it from real data {apart.value:.0%} of the time (50% is chance)")
    for metric, words in ((cover, "it covers {:.0%} of the variety of real data"), (precise, "{:.0%} of outputs look like real items")):
        ratio = _ratio(metric)
        if metric and ratio is not None:
            points.append(2 if ratio >= 0.85 else 1 if ratio >= 0.5 else 0)
            said.append(words.format(min(metric.value, 1.0)) + f" (real against real: {metric.floor:.0%})")
    for metric in by_name.values():
        ratio = _ratio(metric) if metric.name.startswith("tstr:") else None
        if ratio is not None and (metric.floor or 0) > 0.1:
            points.append(2 if ratio >= 0.95 else 1 if ratio >= 0.8 else 0)
            kept, what = min(1.0, max(0.0, ratio)), metric.name.partition(":")[2]
            said.append(f"a model trained on it instead of real data keeps {kept:.0%} of its score on {what}")
    legal = _ratio(by_name.get("legal"))
    if legal is not None and legal < 0.98:
        points.append(1 if legal >= 0.8 else 0)
        said.append(f"only {by_name['legal'].value:.0%} of outputs keep the rules that real data keep")
    if not points:
        return "unknown", ""
    # a classifier is the strictest judge of all: it alone does not make useful data poor
    rest = points[1:] if apart and len(points) > 1 else points
    worst = min(min(rest), points[0] + 1)
    return ("poor", "fair", "good")[worst], _sentence(said)


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


# ------------------------------------------------------------- against baselines
def against_baselines(metrics: list[Metric]) -> tuple[str, str]:
    """(family that beats the model, sentence): families are compared on key measures, beyond chance only.

    A family that stands on the training rows cannot win: copies look perfect to every measure of quality.
    """
    key = [m for m in metrics if m.name.startswith(KEY) and m.others]
    names = sorted({name for m in key for name in m.others})
    honest = [name for name in names if _closeness(metrics, name) >= COPY]
    left_out = ", ".join(name for name in names if name not in honest)
    aside = f" (Not counted, for staying at the training items: {left_out}.)" if left_out else ""
    if not honest:
        return "", aside.strip(" ()")
    won = {name: [m.name for m in key if name in m.others and m.compare(m.others[name]) > 0] for name in honest}
    lost = {name: [m.name for m in key if name in m.others and m.compare(m.others[name]) < 0] for name in honest}
    best = max(honest, key=lambda n: (len(lost[n]) - len(won[n]), n))
    wins, losses, total = won[best], lost[best], sum(best in m.others for m in key)
    if len(losses) > len(wins):
        near = _closeness(metrics, best)
        note = f", but it stays close to the training items ({near:.2f} of the distance real new ones keep)" if near < LEAN else ""
        return best, f"The classical family '{best}' does better on {len(losses)} of {total} key measures ({_list(losses)}){note}.{aside}"
    tally = f"better on {len(wins)} of {total} key measures and worse on {len(losses) or 'none'}, beyond chance"
    if len(wins) > len(losses):
        return "", f"It beats the best classical family tried ('{best}'): {tally}.{aside}"
    return "", f"It is no better than the best classical family tried ('{best}'): {tally}.{aside}"


def _with_honest_baselines(metrics: list[Metric]) -> list[Metric]:
    """The same metrics, where a family that stands on the training rows is no longer anybody's best baseline."""
    out = []
    for metric in metrics:
        kept = {name: value for name, value in metric.others.items() if _closeness(metrics, name) >= COPY}
        best = min(kept, key=lambda name: metric.distance(kept[name].value), default=None)
        baseline = {"name": best, "value": kept[best].value} if best else None
        out.append(replace(metric, baseline=baseline) if metric.baseline else metric)
    return out


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _closeness(metrics: list[Metric], name: str) -> float:
    """The most a family's distance ratio to the training items can be; infinite when it was not measured."""
    near = next((m for m in metrics if m.name == "nearest distance" and name in m.others), None)
    return near.others[name].high if near else math.inf


# ---------------------------------------------------------------------- copying
def copy_finding(by_name: dict[str, Metric]) -> tuple[int, str]:
    """(2 copies, 1 leans on the training items, 0 neither; what was found), beyond chance only."""
    exact, near, close, run = (by_name.get(k) for k in ("exact copies", "nearest distance", "too close", "copied run"))
    # held-out items equal training items too, now and then: their share is as unsure as that of the outputs
    if exact and exact.real and exact.low > max(exact.real.value * 1.5, 0.002) and exact.compare(exact.real) < 0:
        return 2, f"It copies: {exact.value:.1%} of outputs equal a training item exactly (held-out items: {exact.floor:.1%})."
    if run and run.floor is not None and run.low > max(2 * run.floor, 40):
        said = f"one text in twenty repeats {run.value:.0f} characters or more of a training text (held-out: {run.floor:.0f})"
        return 2, f"It recites: {said}."
    if near and near.high < LEAN:
        words = "It copies, with small changes" if near.high < COPY else "It leans on the training items"
        said = f"outputs lie only {near.value:.2f} times as far from them as real new items do"
        return (2 if near.high < COPY else 1), f"{words}: {said}."
    if close and close.low > 0.05:
        return 1, f"Some outputs are near-copies: {close.value:.0%} are closer to a training item than 99% of real new ones."
    return 0, ""


def _not_copied(by_name: dict[str, Metric]) -> str:
    near, exact = by_name.get("nearest distance"), by_name.get("exact copies")
    more = exact and exact.value > (exact.floor or 0)
    if near:
        sure = "sure " if more or near.value < LEAN else ""
        also = f"; {exact.value:.1%} equal one exactly, of real new items {exact.floor or 0:.1%}" if exact and more else ""
        kept = f"outputs keep {near.value:.2f} times the distance to training items that real new items keep"
        return f"No {sure}sign of copying: {kept}{also}."
    if exact:
        return f"Exact copies: {exact.value:.1%}, of held-out items {exact.floor or 0:.1%}."
    return ""


# ----------------------------------------------------------------------- advice
def _advice(by_name: dict[str, Metric], rival: str, evidence: Evidence) -> Iterator[str]:
    """What to do next, the most useful first."""
    copied = copy_finding(by_name)[0] > 0
    if copied and len(evidence.train) < 2000:
        smaller = " or a smaller model" if evidence.trains else ""
        yield f"Use more data{smaller}: {len(evidence.train):,} items are few enough to be learned by heart."
    elif copied:
        less = "Train for fewer minutes or with a smaller size, and look" if evidence.trains else "Look"
        yield f"{less} at the closest pairs before sharing any output."
    if rival:
        more = " More minutes may turn this around; compare shows both." if evidence.trains else ""
        yield f"Try --family {rival}: it is better here and takes seconds.{more}"
    cover, precise, recall = (_ratio(by_name.get(k)) for k in ("coverage", "precision", "recall"))
    if cover is not None and precise is not None:
        if cover < precise - 0.2 and precise >= SOUND:
            yield "It repeats a few kinds of output (good precision, low coverage): try a higher temperature or less guidance."
        elif recall is not None and precise < recall - 0.2 and recall >= SOUND:
            longer = "train for more minutes, or draw with more steps or a lower temperature" if evidence.trains else "try another family"
            yield f"It is varied but often wrong (low precision): {longer}."
        elif evidence.trains and max(cover, precise) < ROOM and not rival:
            yield "Give it more minutes: both precision and coverage still have room."
    yield from _advice_details(by_name, hasattr(evidence.codec, "checks"))
    if 0 < len(evidence.heldout) < 200:
        yield f"Only {len(evidence.heldout)} items are held out: intervals are wide, so do not read much into small differences."
    if not evidence.baselines:
        yield "No classical baseline was run: compare would say whether a simple method does as well."


def _advice_details(by_name: dict[str, Metric], checked: bool) -> Iterator[str]:
    unique = by_name.get("unique")
    if unique and unique.floor is not None and unique.high < 0.9 * unique.floor:
        yield f"Only {unique.value:.0%} of outputs are different from each other: raise --temperature, or train on more varied data."
    rare = by_name.get("rare frequency")
    if rare and rare.high < 0.7:
        yield "Rare categories come too seldom: ask for them with a condition, or try --family cart, which keeps their shares."
    legal = by_name.get("legal")
    if legal and legal.floor is not None and legal.high < legal.floor - 0.01:
        remedy = "generate --valid repairs or redraws them" if checked else "filter them, or train longer"
        yield f"{1 - legal.value:.0%} of outputs break a rule that real data keep: {remedy}."
    for metric in by_name.values():
        if metric.name.startswith("agreement:") and metric.floor is not None and metric.high < 0.9 * metric.floor:
            yield f"It does not always give the {metric.name.partition(':')[2]} that was asked for: raise --guidance or train longer."
        if metric.name.startswith("obedience:") and metric.high < 0.7:
            what = metric.name.partition(":")[2]
            yield f"Asked values of {what} are followed loosely (rank correlation {metric.value:.2f}): raise --guidance or train longer."
        if metric.name.startswith("least class:") and metric.high < 0.5:
            yield f"One {metric.name.partition(':')[2]} hardly comes back: a sign of collapse; train longer or try another family."


def summary(metrics: Sequence[Metric]) -> dict[str, float]:
    """Name -> value of the finite ones, for tables of many runs."""
    return {m.name: m.value for m in metrics if math.isfinite(m.value)}


__all__ = ["FEW", "MODEL", "Evidence", "Metric", "Result", "evaluate", "judge", "summary"]
