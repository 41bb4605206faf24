"""Ordinary learners that judge generated data: what they are asked, what they see, how they are scored."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from morphogen.evaluation.evidence import HELD, TRAIN, Evidence

JOBS = 2  # threads of a forest: evaluation shares the machine
TREES = 100


class Data(NamedTuple):
    """Rows (n, D) and what is to be told from them (n,)."""

    x: np.ndarray
    y: np.ndarray

    def first(self, n: int) -> Data:
        """At most n rows."""
        return Data(self.x[:n], self.y[:n])


@dataclass(frozen=True)
class Task:
    """Tell one label or number of an item from the rest of it."""

    name: str
    kind: str
    "class or number"
    what: str
    evidence: Evidence
    column: str = ""
    "The table column, or empty for a condition."

    @property
    def table(self) -> bool:
        """Whether rows are a table's."""
        return self.evidence.coder is not None

    @property
    def view(self) -> str:
        """What the learner sees."""
        return self.evidence.view + (f" without {self.name}" if self.table else "")

    @property
    def learner(self) -> str:
        """The learner in words."""
        return "a random forest" if self.table or self.kind == "number" else "a support vector machine"

    @property
    def score(self) -> str:
        """The score in words."""
        return "accuracy" if self.kind == "class" else "R²"

    @property
    def most(self) -> int:
        """Rows it learns from: a support vector machine's time grows with their square."""
        return 5000 if self.table else 3000

    def data(self, name: str) -> Data:
        """The rows of a set for which the answer is known."""
        evidence = self.evidence
        if self.table and evidence.coder is not None:
            raws = evidence.raws(name)
            x = evidence.coder.matrix(raws, without=self.name)
        else:
            raws, x = [], evidence.judged(name)
        if self.column and evidence.coder is not None:
            coder = evidence.coder
            y = coder.codes(raws, self.column) if self.kind == "class" else coder.number(raws, self.column)
            known = np.isfinite(y.astype(np.float64)) & (y != -1 if self.kind == "class" else True)
        else:
            said = [c.get(self.name) for c in evidence.conds(name)]
            known = np.array([s is not None for s in said], dtype=bool)
            y = np.array([str(s) if self.kind == "class" else float("nan") if s is None else float(s) for s in said])
        return Data(x[known], y[known])

    def fit(self, data: Data, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        """A function from rows to answers."""
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
        from sklearn.svm import SVC

        if self.learner == "a support vector machine":
            # one common scale, not one per column: a nearly constant pixel must not count like the others
            centre, scale = data.x.mean(axis=0), float(data.x.std()) or 1.0
            machine = SVC(C=10, gamma="scale", random_state=seed).fit((data.x - centre) / scale, data.y)
            return lambda x: machine.predict((x - centre) / scale)
        kind = RandomForestClassifier if self.kind == "class" else RandomForestRegressor
        # regression on all columns at a third each is Breiman's advice; a forest on few columns takes them all
        share: Any = "sqrt" if self.kind == "class" else (1.0 if data.x.shape[1] <= 12 else 1 / 3)
        forest = kind(TREES, min_samples_leaf=2, max_features=share, random_state=seed, n_jobs=JOBS)
        return forest.fit(data.x, data.y).predict


def tasks(evidence: Evidence, *, asked_only: bool = False) -> list[Task]:
    """What can be told: each label and number condition, and for tables the target columns."""
    kinds = {"label": "class", "number": "number"}
    out = [Task(name, kinds[kind], name, evidence) for name, kind in evidence.conditions.items() if kind in kinds]
    out = [t for t in out if asked_only or t.kind == "class"]
    coder = evidence.coder
    if asked_only or coder is None:
        return out
    if evidence.target:
        chosen = [evidence.target]
    else:
        few = [c for c, known in coder.categories.items() if 2 <= len(known) <= 50]
        chosen = [*few[-1:], *[c for c in coder.numbers if varies(evidence, c)][-1:]]
    named = {t.name for t in out}
    return out + [Task(c, "number" if c in coder.numbers else "class", c, evidence, column=c) for c in chosen
                  if c in coder.columns and c not in named and len(coder.columns) > 1]


def varies(evidence: Evidence, column: str) -> bool:
    """Whether a number column can be a target: more than two values, not a running number."""
    assert evidence.coder is not None
    values = evidence.coder.number(evidence.raws(TRAIN), column)
    values = values[np.isfinite(values)]
    steps = np.diff(np.unique(values))
    # an id counts through: all different and evenly spaced
    return len(steps) >= 2 and not (len(steps) == len(values) - 1 and len(values) > 20 and float(np.ptp(steps)) == 0.0)


def r2(y: np.ndarray, guess: np.ndarray) -> float:
    """1 - residual / total sum of squares."""
    total = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - guess) ** 2).sum()) / total if total > 0 else float("nan")


def real_classes(evidence: Evidence, task: Task) -> tuple[Callable[[np.ndarray], np.ndarray], list[Any]] | None:
    """A judge of a label condition trained on real items, and the labels; None when there is nothing to tell."""
    data = task.data(TRAIN).first(task.most)
    labels = sorted(set(data.y.tolist()))
    if len(labels) < 2 or len(data.y) < 20 or len(task.data(HELD).y) < 10:
        return None
    return task.fit(data, evidence.seed), labels
