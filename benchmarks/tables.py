"""Penguins and diamonds without flags: python -m benchmarks.tables --penguins penguins.csv --diamonds diamonds.csv.gz"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import morphogen
from benchmarks.common import WORK, fresh, record, unpack_csv


def split(path: Path, name: str, train: int, seed: int = 0) -> tuple[Path, Path]:
    """Two CSV files of other rows."""
    with path.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    order = np.random.default_rng(seed).permutation(len(rows))
    parts = []
    for part, ids in (("train", order[:train]), ("test", order[train : train + max(100, train // 2)])):
        target = WORK / "tables" / f"{name}-{part}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="") as file:
            csv.writer(file).writerows([head, *[rows[i] for i in ids]])
        parts.append(target)
    return parts[0], parts[1]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def matrix(rows: list[dict[str, Any]], coding: dict[str, dict[str, int]]) -> np.ndarray:
    def number(column: str, value: Any) -> float:
        if column in coding:
            return coding[column].get(str(value), -1)
        try:
            return float(value)
        except (TypeError, ValueError):
            return -999.0

    return np.array([[number(c, r[c]) for c in r] for r in rows], np.float64)


def coding_of(rows: list[dict[str, str]]) -> dict[str, dict[str, int]]:
    def words(column: str) -> bool:
        try:
            [float(r[column]) for r in rows if r[column] not in ("", "NA")]
        except ValueError:
            return True
        return False

    return {c: {v: i for i, v in enumerate(sorted({r[c] for r in rows}))} for c in rows[0] if words(c)}


def c2st(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> float:
    """AUC of a random forest, half for training and half for testing."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    n = min(len(real), len(fake))
    x, y = np.concatenate([real[:n], fake[:n]]), np.r_[np.ones(n), np.zeros(n)]
    order = np.random.default_rng(seed).permutation(len(x))
    half = len(x) // 2
    forest = RandomForestClassifier(100, random_state=seed, n_jobs=2).fit(x[order[:half]], y[order[:half]])
    return float(roc_auc_score(y[order[half:]], forest.predict_proba(x[order[half:]])[:, 1]))


def one(name: str, train: Path, test: Path, family: str | None, minutes: float, condition: tuple[str, str]) -> None:
    run = morphogen.train(train, fresh(WORK / "tables" / f"{name}-{family or 'default'}"), family=family, minutes=minutes)
    begun = time.perf_counter()
    real, held = rows_of(train), rows_of(test)
    out = WORK / "tables" / f"{name}-{family or 'default'}.csv"
    out.unlink(missing_ok=True)
    morphogen.generate(run, out, n=len(held), seed=0, force=True)
    drawing = time.perf_counter() - begun
    fake = rows_of(out)
    coding = coding_of(real)
    x, y = matrix(held, coding), matrix(fake, coding)
    legal = np.mean([all((r[c] in coding[c]) if c in coding else _inside(r[c], real, c) for c in r) for r in fake])
    asked = morphogen.generate(run, n=500, cond={condition[0]: condition[1]})
    figures = {
        "c2st": float(np.mean([c2st(x, y, s) for s in range(3)])),
        "c2st of real": float(np.mean([c2st(x, matrix(real, coding), s) for s in range(3)])),
        "legal rows": float(legal),
        "condition kept": float(np.mean([str(r[condition[0]]) == condition[1] for r in asked])),
        "distance ratio": distance_ratio(matrix(real, coding), x, y),
        "rows a second": len(held) / drawing,
        "train seconds": run.provenance()["seconds"],
    }
    record(f"table-{name}-{family or 'default'}", figures, family=run.recipe["family"]["name"], rows=len(real))


_RANGES: dict[int, tuple[float, float]] = {}


def _inside(value: str, real: list[dict[str, str]], column: str) -> bool:
    key = hash((id(real), column))
    if key not in _RANGES:
        values = [float(r[column]) for r in real if r[column] not in ("", "NA")]
        _RANGES[key] = (min(values), max(values))
    return value in ("", "NA") or _RANGES[key][0] <= float(value) <= _RANGES[key][1]


def distance_ratio(train: np.ndarray, test: np.ndarray, fake: np.ndarray) -> float:
    """Median distance to the nearest training row, generated over held-out, standardised columns."""
    from sklearn.neighbors import NearestNeighbors

    mean, spread = train.mean(0), train.std(0) + 1e-9
    near = NearestNeighbors(n_neighbors=1).fit((train - mean) / spread)
    dist = lambda a: np.median(near.kneighbors((a - mean) / spread)[0])
    return float(dist(fake) / max(dist(test), 1e-9))


def rare(minutes: float, family: str | None) -> None:
    """Categories planted at 0.2, 0.5 and 1 % in 20,000 rows; how often do they come back in 50,000?"""
    rng = np.random.default_rng(0)
    shares = {"r2": 0.002, "r5": 0.005, "r10": 0.01}
    kinds = np.array([k for k, s in shares.items() for _ in range(round(20000 * s))] + ["a"] * 9000 + ["b"] * 6000 + ["c"] * 4660)
    rng.shuffle(kinds)
    path = WORK / "tables" / "rare.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["kind", "amount", "colour"])
        for k in kinds:
            out.writerow([k, round(float(rng.gamma(2, 10) + 5 * (k == "r5")), 2), rng.choice(["red", "blue", "green"], p=[0.6, 0.3, 0.1])])
    run = morphogen.train(path, fresh(WORK / "tables" / f"rare-{family or 'default'}"), family=family, minutes=minutes)
    counts = Counter(r["kind"] for r in morphogen.generate(run, n=50000, seed=0))
    record(
        f"table-rare-{family or 'default'}",
        {f"{k} ({s:.1%})": counts[k] / 50000 / s for k, s in shares.items()},
        family=run.recipe["family"]["name"],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--penguins", type=Path)
    parser.add_argument("--diamonds", type=Path)
    parser.add_argument("--families", nargs="*", default=[None, "cart"])
    parser.add_argument("--minutes", type=float, default=3.0)
    a = parser.parse_args()
    for family in a.families:
        if a.penguins:
            one("penguins", *split(a.penguins, "penguins", 240), family, min(a.minutes, 1.0), ("species", "Gentoo"))
        if a.diamonds:
            one("diamonds", *split(unpack_csv(a.diamonds, "diamonds.csv"), "diamonds", 10000), family, a.minutes, ("cut", "Fair"))
        rare(min(a.minutes, 2.0), family)


if __name__ == "__main__":
    main()
