"""Does it look like the data, is it useful like the data, does it keep the data's rules?"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from morphogen.evaluation import judges
from morphogen.evaluation.evidence import HELD, MODEL, TRAIN, Evidence
from morphogen.evaluation.metric import Z95, Interval, Metric, auc, bootstrap, mean, measured, share
from morphogen.evaluation.neighbours import blocks, radii
from morphogen.evaluation.obedience import derivable
from morphogen.evaluation.rules import Rules

K = 5  # neighbours, as in Naeem et al. 2020
WIDE = 32  # columns beyond which a two-sample forest takes fewer rows and random cuts, to stay within seconds


# ------------------------------------------------- precision, recall, density, coverage
def neighbourhoods(real: np.ndarray, fake: np.ndarray, k: int = K) -> dict[str, np.ndarray]:
    """Per-row outcomes of k-nearest-neighbour balls; their means are the four measures.

    precision (m,): a generated row lies in some real row's ball; recall (n,): a real row lies in some generated row's
    ball (Kynkäänniemi et al. 2019). density (m,): in how many real balls a generated row lies, over k; coverage (n,):
    a real row's ball holds some generated row (Naeem et al. 2020).
    """
    k = max(1, min(k, len(real) - 1, len(fake) - 1))
    real_radius, fake_radius = radii(real, k), radii(fake, k)
    inside, held, reached = np.zeros(len(fake)), np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, d in blocks(fake, real):
        within = d <= real_radius
        inside[rows] = within.sum(axis=1)
        held |= within.any(axis=0)
        reached |= (d <= fake_radius[rows, None]).any(axis=0)
    return {"precision": inside > 0, "recall": reached, "density": inside / k, "coverage": held}


_NEIGHBOUR_LINES = {
    "precision": "{value:.0%} of what is generated lies where real items lie",
    "recall": "{value:.0%} of real items lie where the model puts something",
    "density": "generated items lie {value:.2f} times as densely among real ones as real ones do",
    "coverage": "{value:.0%} of real items have something generated close by",
}


def prdc(evidence: Evidence) -> list[Metric]:
    """Precision, recall, density and coverage of generated against held-out items, as many of each."""
    real = evidence.points(HELD)
    n = min(len(real), len(evidence.points(MODEL)))
    if n < 3:
        return []

    def of(points: np.ndarray) -> dict[str, Interval]:
        m = min(n, len(points))
        outcome = neighbourhoods(real[:m], points[:m])
        return {key: mean(v) if key == "density" else share(v) for key, v in outcome.items()}

    own = of(evidence.points(MODEL))
    floor = of(evidence.floor) if len(evidence.floor) >= 3 else dict.fromkeys(own, Interval(math.nan))
    rivals = {name: of(evidence.points(name)) for name in evidence.baselines if len(evidence.baselines[name]) >= 3}
    out = []
    for key, line in _NEIGHBOUR_LINES.items():
        more: dict[str, Any] = {"better": "near", "target": 1.0} if key == "density" else {}
        others = {name: values[key] for name, values in rivals.items()}
        real_too = f" (real data: {floor[key].value:{'.2f' if key == 'density' else '.0%'}})." if math.isfinite(floor[key].value) else "."
        out.append(measured(key, own[key], floor=floor[key], others=others, n=n, feature=evidence.scaler.name,
                            line=line.format(value=own[key].value) + real_too, **more))
    return out


# ------------------------------------------------------------------------ Fréchet
def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½), the squared Fréchet distance of two Gaussians (Heusel et al. 2017)."""
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov2 @ root), 0, None)).sum()
    return float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def frechet_of(x: np.ndarray, y: np.ndarray, groups: int = 12) -> Interval:
    """Fréchet distance of two samples (n, D), corrected for their size and with an interval, by the grouped jackknife.

    The plain estimate is too large by about c/n. g·F - (g - 1)·mean(F without one group) removes that term (Quenouille
    1956, the same aim as Chong and Forsyth 2020), and the spread of the leave-outs gives the interval.
    """
    def leave(sample: np.ndarray, group: int | None) -> tuple[np.ndarray, np.ndarray]:
        kept = sample if group is None else sample[np.arange(len(sample)) % groups != group]
        return kept.mean(axis=0), np.atleast_2d(np.cov(kept, rowvar=False))

    groups = min(groups, len(x), len(y))
    whole = frechet_distance(*leave(x, None), *leave(y, None))
    if groups < 3:
        return Interval(whole)
    without = np.array([frechet_distance(*leave(x, g), *leave(y, g)) for g in range(groups)])
    value = max(0.0, groups * whole - (groups - 1) * float(without.mean()))
    half = Z95 * math.sqrt((groups - 1) * float(without.var()))
    return Interval(value, max(0.0, value - half), value + half)


def frechet(evidence: Evidence) -> list[Metric]:
    """Fréchet distance in the leading feature directions, as many as the rows can support."""
    real = evidence.points(HELD)
    n = min(len(real), len(evidence.points(MODEL)))
    if n < 20:
        return []
    dims = max(1, min(real.shape[1], n // 5))
    sets = {TRAIN: evidence.floor, **{name: evidence.points(name) for name in (MODEL, *evidence.baselines)}}
    results = {name: frechet_of(real[:n, :dims], points[:n, :dims]) for name, points in sets.items() if len(points) >= 20}
    own, floor = results.pop(MODEL), results.pop(TRAIN, None)
    total = float(real[:n, :dims].var(axis=0).sum())
    line = (f"0 means the same mean and spread as real data, whose whole variance is {total:.1f} on this scale; "
            "corrected for the number of rows (jackknife).")
    return [measured("frechet", own, floor=floor, others=results, n=n, better="lower", line=line,
                     feature=(f"first {dims} of " if dims < real.shape[1] else "") + evidence.scaler.name)]


# --------------------------------------------------------------- two-sample test
def c2st_of(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> Interval:
    """AUC at which a forest tells two sets of rows apart, on rows it was not grown on (3-fold).

    Beyond 32 columns the trees are extremely randomised (Geurts et al. 2006): as sharp there, and several times faster.
    """
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x, y = np.concatenate([real, fake]), np.repeat([0, 1], [len(real), len(fake)])
    kind = RandomForestClassifier if x.shape[1] <= WIDE else ExtraTreesClassifier
    forest = kind(judges.TREES, min_samples_leaf=3, random_state=seed, n_jobs=judges.JOBS)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    scores = np.asarray(cross_val_predict(forest, x, y, cv=folds, method="predict_proba"))[:, 1]
    return auc(scores[y == 1], scores[y == 0])


def c2st(evidence: Evidence) -> list[Metric]:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017): 0.5 = generated and real cannot be told apart."""
    real = evidence.judged(HELD)
    n = min(len(real), len(evidence.judged(MODEL)), 2000 if real.shape[1] <= WIDE else 1000)
    if n < 10 or real.shape[1] == 0:
        return []
    results = {name: c2st_of(real[:n], evidence.judged(name)[:n], evidence.seed)
               for name in (MODEL, TRAIN, *evidence.baselines) if len(evidence.judged(name)) >= 10}
    own, floor = results.pop(MODEL), results.pop(TRAIN, None)
    line = f"shown one generated and one real item, a forest of trees tells which is which {own.value:.0%} of the time (50% = chance)."
    return [measured("c2st", own, floor=floor, others=results, n=n, feature=evidence.view, better="near", target=0.5, line=line)]


# ------------------------------------------------- usefulness and obedience
def tstr(evidence: Evidence) -> list[Metric]:
    """Train on synthetic, test on real (Esteban et al. 2017), beside the same learner trained on real.

    For each label condition, and for a table's target column; then whether generated items show what was asked for.
    """
    out = []
    for task in judges.tasks(evidence):
        sets = {name: task.data(name) for name in (HELD, TRAIN, MODEL, *evidence.baselines)}
        test = sets.pop(HELD)
        n = min(len(sets[TRAIN].y), len(sets[MODEL].y), task.most)
        if len(test.y) < 10 or n < 10:
            continue
        scores = {name: _score(task, data.first(n), test, evidence.seed) for name, data in sets.items() if len(data.y) >= 10}
        scores = {name: s for name, s in scores.items() if s is not None}
        own, floor = scores.pop(MODEL, None), scores.pop(TRAIN, None)
        if own is not None and floor is not None:
            said = f"{own.value:.3f} against {floor.value:.3f} when trained on {n:,} real ones"
            line = f"{task.learner} trained on {n:,} generated items and tested on real ones: {task.score} of {task.what} {said}."
            out.append(measured(f"tstr:{task.name}", own, floor=floor, others=scores, n=n, split="trained on generated, tested on held-out",
                                feature=task.view, line=line))
    return out + agreement(evidence)


def _score(task: judges.Task, train: judges.Data, test: judges.Data, seed: int) -> Interval | None:
    if task.kind == "class" and len(np.unique(train.y)) < 2:
        return share(test.y == train.y[0])
    guess = task.fit(train, seed)(test.x)
    if task.kind == "class":
        return share(guess == test.y)
    return bootstrap(judges.r2, test.y, guess, seed=seed) if float(np.var(test.y)) > 0 else None


def agreement(evidence: Evidence) -> list[Metric]:
    """Whether a learner trained on real items finds in generated ones the label or number that was asked for.

    What the codec works out itself needs no learner: see `obedience`.
    """
    out, certain = [], derivable(evidence)
    for task in judges.tasks(evidence, asked_only=True):
        if task.name in certain:
            continue
        train, test, own = task.data(TRAIN).first(task.most), task.data(HELD), task.data(MODEL)
        if min(len(train.y), len(test.y), len(own.y)) < 10 or (task.kind == "class" and len(np.unique(train.y)) < 2):
            continue
        guess = task.fit(train, evidence.seed)
        rate: Callable[[judges.Data], Interval] = lambda d, g=guess, t=task: (
            share(g(d.x) == d.y) if t.kind == "class" else bootstrap(judges.r2, d.y, g(d.x), seed=evidence.seed))
        rivals = {name: task.data(name) for name in evidence.baselines}
        others = {name: rate(d) for name, d in rivals.items() if len(d.y) >= 10}
        mine, floor = rate(own), rate(test)
        if not math.isfinite(mine.value + floor.value):  # one number was asked of all: nothing to explain
            continue
        told, real = max(0.0, mine.value), max(0.0, floor.value)  # R² is below 0 where a guess is worse than the mean
        line = f"the {task.what} read off generated items explains {told:.0%} of what was asked; of real items {real:.0%}."
        if task.kind == "class":
            line = f"{mine.value:.0%} of generated items are recognised as the {task.what} asked for; of real items {floor.value:.0%}."
        out.append(measured(f"agreement:{task.name}", mine, floor=floor, others=others, n=len(own.y), feature=task.view, line=line,
                            split="generated, judged by a learner of real items"))
    return out


# ------------------------------------------------------------------------- rules
def legal(evidence: Evidence) -> list[Metric]:
    """The share of outputs that keep the rules: the codec's own checks and what all training items keep."""
    rules = Rules.fit(evidence)
    if not rules.any:
        return []
    results = {name: rules.kept(evidence, name) for name in (MODEL, HELD, *evidence.baselines)}
    own = results.pop(MODEL)
    if not own:  # a table of names alone, checks that found nothing to say
        return []
    whole = {name: share(np.all(list(kept.values()), axis=0)) for name, kept in results.items() if kept}
    all_kept = share(np.all(list(own.values()), axis=0))
    worst = sorted((float(v.mean()), k) for k, v in own.items() if not v.all())[:3]
    line = f"{all_kept.value:.1%} of outputs keep " + (f"all {len(own)} rules" if len(own) > 1 else f"the rule '{next(iter(own))}'")
    line += "; most broken: " + ", ".join(f"{k} ({1 - v:.1%})" for v, k in worst) if worst else ""
    judged, drawn = len(next(iter(own.values()))), len(evidence.rows(MODEL))
    line += f" (judged {judged:,} of {drawn:,}: checking takes long)." if judged < drawn else "."
    return [measured("legal", all_kept, floor=whole.pop(HELD, None), others=whole, n=judged, split="generated",
                     feature="rules of the data", line=line)]
