"""Does all of the data come back: rare categories, the shape of each column, a text's stock of words?"""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from morphogen.contracts import Identifies
from morphogen.evaluation import judges
from morphogen.evaluation.copying import fingerprint
from morphogen.evaluation.evidence import HELD, MODEL, TRAIN, Evidence, TableCoder
from morphogen.evaluation.metric import Interval, Metric, bootstrap, mean, measured, share
from morphogen.spaces import Tokens

RARE = 0.05  # a category below this share of the real rows is rare
LEAST = 3  # a rare category with fewer real rows cannot be expected back


# ----------------------------------------------------------- different from each other
def unique(evidence: Evidence) -> list[Metric]:
    """For items of tokens: the share that no earlier output equals, beside the same number of real items.

    How many equal a training item is the metric `exact copies`.
    """
    first = evidence.train[0].raw
    if not isinstance(first, str | bytes | tuple) and not isinstance(getattr(evidence.codec, "space", None), Tokens):
        return []
    real_items = [*evidence.raws(HELD), *evidence.raws(TRAIN)]
    n = min(len(evidence.rows(MODEL)), len(real_items))  # of more items fewer are new
    sets = {name: evidence.raws(name)[:n] for name in (MODEL, *evidence.baselines)}
    sets[HELD] = real_items[:n]
    firsts = {name: _first(raws, evidence.codec) for name, raws in sets.items()}
    own, real = share(firsts.pop(MODEL)), firsts.pop(HELD)
    line = f"{own.value:.1%} of {n:,} outputs are different from each other (of as many real items {float(np.mean(real)):.1%})."
    others = {name: share(hits) for name, hits in firsts.items()}
    return [measured("unique", own, floor=share(real), others=others, n=n, split="generated, beside real items",
                     feature="equal as the codec says" if isinstance(evidence.codec, Identifies) else "equal in every sign", line=line)]


def _first(raws: Sequence[Any], codec: Any) -> np.ndarray:
    """(n,) True where no earlier item is equal."""
    seen: set[str] = set()
    out = []
    for raw in raws:
        mark = fingerprint(raw, codec)
        out.append(mark not in seen)
        seen.add(mark)
    return np.array(out)


# ------------------------------------------------------------------- rare ones
def rare(evidence: Evidence) -> list[Metric]:
    """The share of rare categories that come back, and how often; for labels, the least well served one."""
    return [*_rare_categories(evidence), *_rare_labels(evidence)]


def _rare_categories(evidence: Evidence) -> list[Metric]:
    coder = evidence.coder
    if coder is None or not coder.categories:
        return []
    real = [*evidence.raws(TRAIN), *evidence.raws(HELD)]
    wanted: list[tuple[str, int, str, float]] = []
    for column, known in coder.categories.items():
        codes = coder.codes(real, column)
        for word, code in known.items():
            count = int((codes == code).sum())
            if LEAST <= count < RARE * len(codes):
                wanted.append((column, code, word, count / len(codes)))
    if not wanted:
        return []
    n = min(len(evidence.rows(MODEL)), len(real))
    names = (MODEL, HELD, *evidence.baselines)
    counts = {name: _counts(coder, evidence.raws(name)[:n], wanted) for name in names}
    rows = {name: min(n, len(evidence.rows(name))) for name in names}
    shares = np.array([w[3] for w in wanted])

    def back(name: str) -> Interval:
        # a category too rare to turn up in so few rows is not held against anybody
        due = shares * rows[name] >= 3
        return share(counts[name][due].sum(axis=1) > 0) if due.any() else Interval(math.nan)

    def often(name: str) -> Interval:
        # rows are resampled through their counts: each row holds few rare categories
        per_row = counts[name].sum(axis=0) / float(shares.sum())
        return mean(per_row)

    ratio = counts[MODEL].mean(axis=1) / shares
    order = np.argsort(ratio)
    named = ", ".join(f"{wanted[i][0]}={wanted[i][2]} {ratio[i]:.2f}×" for i in order[:3])
    own, freq = back(MODEL), often(MODEL)
    common: dict[str, Any] = {"n": rows[MODEL], "split": "generated vs all real", "feature": f"{len(wanted)} categories below {RARE:.0%}"}
    rivals = list(evidence.baselines)
    out = []
    if math.isfinite(own.value):
        out.append(measured("rare categories back", own, floor=back(HELD), others={b: back(b) for b in rivals}, **common,
                            line=f"{own.value:.0%} of the rare categories that should turn up in {rows[MODEL]:,} rows do."))
    out.append(measured("rare frequency", freq, floor=often(HELD), others={b: often(b) for b in rivals}, better="near", target=1.0,
                        line=f"rare categories come {freq.value:.2f} times as often as in real data (least: {named}).", **common))
    return out


def _counts(coder: TableCoder, raws: Sequence[dict[str, Any]], wanted: Sequence[tuple[str, int, str, float]]) -> np.ndarray:
    """(categories, rows) of 0 and 1."""
    codes = {c: coder.codes(raws, c) for c in {w[0] for w in wanted}}
    return np.stack([codes[c] == code for c, code, _, _ in wanted]).astype(np.float64)


def _rare_labels(evidence: Evidence) -> list[Metric]:
    """Labels are asked for, so what counts is whether a judge of real items finds as many of each as were asked."""
    out = []
    for task in judges.tasks(evidence, asked_only=True):
        judge = judges.real_classes(evidence, task) if task.kind == "class" else None
        if judge is None:
            continue
        guess, labels = judge

        def least(name: str, t: judges.Task = task, g: Any = guess, ls: list[Any] = labels) -> tuple[Interval, str]:
            data = t.data(name)
            if not len(data.y):
                return Interval(math.nan), ""
            found = g(data.x)
            ratios = {}
            for label in ls:
                wanted = float((data.y == label).sum())
                if wanted >= 5:
                    seen = mean((found == label).astype(np.float64) * len(data.y) / wanted)
                    ratios[str(label)] = seen
            if not ratios:
                return Interval(math.nan), ""
            worst = min(ratios, key=lambda k: ratios[k].value)
            return ratios[worst], worst

        own, label = least(MODEL)
        if math.isfinite(own.value):
            out.append(measured(f"least class:{task.name}", own, floor=least(HELD)[0], others={b: least(b)[0] for b in evidence.baselines},
                                n=len(task.data(MODEL).y), split="generated vs asked", feature=task.view, better="near", target=1.0,
                                line=f"the {task.name} that comes back least is '{label}': {own.value:.2f} times as often as asked."))
    return out


# ------------------------------------------------------------ columns of a table
def columns(evidence: Evidence) -> list[Metric]:
    """How alike each column's distribution is, and how alike the correlations are, between generated and held-out rows.

    shapes: mean over columns of 1 - sup|F - G| (Kolmogorov-Smirnov) for numbers and 1 - total variation for categories.
    correlations: 1 - mean |ρ - ρ'| / 2 over pairs, ρ Spearman's; categories enter by rank of frequency.
    """
    coder = evidence.coder
    if coder is None or not coder.columns:
        return []
    real = coder.matrix(evidence.raws(HELD))
    n = min(len(real), len(evidence.rows(MODEL)))
    if n < 10:
        return []
    real, numeric = real[:n], len(coder.numbers)
    times = int(np.clip(4e7 / (n * real.shape[1]), 20, 200))
    out = []
    for name, fn, line in (("columns", column_shapes, "single columns are {:.1%} alike (100% = the same distribution in each)."),
                           ("correlations", correlations, "relations between columns are {:.1%} alike.")):
        if name == "correlations" and real.shape[1] < 2:
            continue
        results = {}
        for which in (MODEL, TRAIN, *evidence.baselines):
            fake = coder.matrix(evidence.raws(which))[:n]
            measure = lambda a, b, f=fn: float(np.mean(f(a, b, numeric)))
            spread = bootstrap(measure, real, fake, times=times, seed=evidence.seed, paired=False, centred=True)
            results[which] = Interval(spread.value, *np.clip(spread[1:], 0.0, 1.0).tolist())
        own, floor = results.pop(MODEL), results.pop(TRAIN)
        if not math.isfinite(own.value):  # no two columns vary
            continue
        worst = ""
        if name == "columns":
            each = column_shapes(real, coder.matrix(evidence.raws(MODEL))[:n], numeric)
            worst = f" Least alike: {coder.columns[int(np.argmin(each))]} ({each.min():.1%})."
        out.append(measured(name, own, floor=floor, others=results, n=n, feature="the table's own columns",
                            line=line.format(own.value) + worst))
    return out


def column_shapes(real: np.ndarray, fake: np.ndarray, numeric: int) -> np.ndarray:
    """(columns,) likeness in 0..1; the first `numeric` columns hold numbers, NaN = missing."""
    out = []
    for j in range(real.shape[1]):
        a, b = real[:, j], fake[:, j]
        if j >= numeric:
            words = np.unique(np.concatenate([a, b]))
            p, q = (np.searchsorted(np.sort(x), words, "right") - np.searchsorted(np.sort(x), words, "left") for x in (a, b))
            out.append(1 - 0.5 * float(np.abs(p / len(a) - q / len(b)).sum()))
            continue
        gaps = abs(float(np.isnan(a).mean()) - float(np.isnan(b).mean()))
        a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
        if len(a) and len(b):
            where = np.concatenate([a, b])
            apart = np.abs(np.searchsorted(a, where, "right") / len(a) - np.searchsorted(b, where, "right") / len(b)).max()
            gaps = max(gaps, float(apart))
        elif len(a) != len(b):
            gaps = 1.0
        out.append(1 - gaps)
    return np.array(out)


def correlations(real: np.ndarray, fake: np.ndarray, numeric: int) -> float:
    """1 - mean |difference of rank correlations| / 2 over pairs of columns that vary in both."""
    del numeric
    a, b = _ranks(real), _ranks(fake)
    moving = (a.std(axis=0) > 0) & (b.std(axis=0) > 0)
    if moving.sum() < 2:
        return math.nan
    upper = np.triu_indices(int(moving.sum()), 1)
    gap = np.corrcoef(a[:, moving], rowvar=False)[upper] - np.corrcoef(b[:, moving], rowvar=False)[upper]
    return 1 - float(np.abs(gap).mean()) / 2


def _ranks(x: np.ndarray) -> np.ndarray:
    """Mid-ranks by column; missing gets the middle rank, so that it adds no relation."""
    out = np.empty(x.shape)
    for j in range(x.shape[1]):
        v = x[:, j]
        known = ~np.isnan(v)
        ordered = np.sort(v[known])
        ranks = (np.searchsorted(ordered, v, "left") + np.searchsorted(ordered, v, "right")) / 2
        out[:, j] = np.where(known, ranks, len(ordered) / 2)
    return out


# ------------------------------------------------------------------ texts
WORDS = re.compile(r"\w+|[^\w\s]")


def wording(evidence: Evidence) -> list[Metric]:
    """For texts: how varied the wording is (distinct-4, Li et al. 2016), and how many words exist at all.

    A codec whose strings are no language says `words = False`.
    """
    if not isinstance(evidence.train[0].raw, str) or not getattr(evidence.codec, "words", True):
        return []
    sets = {name: [WORDS.findall(t.lower()) for t in evidence.raws(name)] for name in (TRAIN, HELD, MODEL, *evidence.baselines)}
    known = {w for text in sets[TRAIN] for w in text}
    # a longer text repeats more: compare as many words of each
    budget = min(sum(map(len, sets[name])) for name in (HELD, MODEL))
    if budget < 50:
        return []
    sets = {name: _cut(texts, budget) for name, texts in sets.items()}
    out = []
    for name, fn, line in (("distinct 4-grams", _distinct, "{:.1%} of four-word runs are new within the generated texts"),
                           ("known words", lambda t: _known(t, known), "{:.1%} of generated words occur in the training texts")):
        results = {which: fn(texts) for which, texts in sets.items() if which != TRAIN and texts}
        own, floor = results.pop(MODEL), results.pop(HELD)
        # repeating oneself more than real texts do is bad, and so is never repeating a phrase
        out.append(measured(name, own, floor=floor, others=results, n=len(sets[MODEL]), split="generated beside held-out", feature="words",
                            better="near", target=floor.value, line=f"{line.format(own.value)} (held-out texts: {floor.value:.1%})."))
    return out


def _cut(texts: list[list[str]], budget: int) -> list[list[str]]:
    out: list[list[str]] = []
    for text in texts:
        if budget <= 0:
            break
        out.append(text[:budget])
        budget -= len(text)
    return out


def _distinct(texts: list[list[str]]) -> Interval:
    counts = Counter(tuple(t[i : i + 4]) for t in texts for i in range(len(t) - 3))
    # per text, the share of its 4-grams that no other place repeats: texts are the rows that vary
    rows = np.array([(sum(1 / counts[tuple(t[i : i + 4])] for i in range(len(t) - 3)), max(0, len(t) - 3)) for t in texts])
    return _ratio(rows)


def _known(texts: list[list[str]], known: set[str]) -> Interval:
    return _ratio(np.array([(sum(w in known for w in t), len(t)) for t in texts], dtype=np.float64))


def _ratio(rows: np.ndarray) -> Interval:
    """Σ first / Σ second with rows resampled."""
    return bootstrap(lambda r: float(r[:, 0].sum() / max(r[:, 1].sum(), 1e-12)), rows)
