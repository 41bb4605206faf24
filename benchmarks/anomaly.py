"""Digits 8x8, one class left out at a time: is it odd? python -m benchmarks.anomaly [--family vae] [--minutes 1] [--classes 0 1 ...]

Trained on nine classes without saying which (80 % of them); scored: the rest of the nine and all of the tenth. Nearest
neighbours and an isolation forest meet the same items; so does a kNN-5 on pixels that shares no code with the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import morphogen
from benchmarks.common import WORK, fresh, record


def folders(left_out: int, seed: int = 0) -> tuple[Path, Path]:
    """(training folder without the class, test folder with normal/ and abnormal/)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = map(np.asarray, load_digits(return_X_y=True))
    images = np.rint(x.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=y)
    root = fresh(WORK / "anomaly" / f"data-{left_out}-{seed}")
    sides = {
        "train": [i for i in train if y[i] != left_out],
        "test/normal": [i for i in test if y[i] != left_out],
        "test/abnormal": np.flatnonzero(y == left_out),
    }
    for name, chosen in sides.items():
        (root / name).mkdir(parents=True)
        for i in chosen:
            Image.fromarray(images[i]).save(root / name / f"{i:05d}.png")
    return root / "train", root / "test"


def judge(train: Path, test: Path) -> float:
    """AUROC of the mean distance to the five nearest training pictures."""
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    load = lambda files: np.stack([np.asarray(Image.open(f), np.float32).ravel() for f in files])
    files = sorted(test.rglob("*.png"))
    near = NearestNeighbors(n_neighbors=5).fit(load(sorted(train.glob("*.png"))))
    distance = near.kneighbors(load(files))[0].mean(1)
    return float(roc_auc_score([f.parent.name == "abnormal" for f in files], distance))


def one(left_out: int, family: str, minutes: float, seed: int = 0, steps: int | None = None) -> dict[str, float]:
    """Train without one class, score, and see who tells."""
    train, test = folders(left_out, seed)
    time = {"steps": steps} if steps else {"minutes": minutes}
    run = morphogen.train(train, fresh(WORK / "anomaly" / f"{family}-{left_out}-{seed}"), family=family, seed=seed, **time)  # type: ignore[arg-type]
    answer = morphogen.score(test, run, rate=0.05)
    ways = answer["separates"]["ways"]
    normal = [row for row in answer["items"] if not row["odd"]]
    figures = {name: ways[name]["auroc"] for name in ways}
    figures |= {f"{name} {end}": ways[name][end] for name in ways for end in ("low", "high")}
    figures |= {
        "knn-5 judge": judge(train, test),
        "false alarms at 5 %": float(np.mean([row["alarm"] for row in normal])),
        "says neighbours are better": float(ways.get("neighbours", {}).get("better", 0) > 0),
        "train seconds": run.provenance()["seconds"],
    }
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", default="vae")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(arguments)
    rows = {c: one(c, a.family, a.minutes, a.seed, a.steps) for c in a.classes}
    first = "model" if "model" in next(iter(rows.values())) else "neighbours"
    figures: dict[str, float] = {}
    for name in ("model", "neighbours", "forest", "knn-5 judge"):
        if name in next(iter(rows.values())):
            values = [row[name] for row in rows.values()]
            figures |= {f"{name} mean": float(np.mean(values)), f"{name} min": float(np.min(values))}
    # the ten figures are the sample: how surely their mean is what it is
    half = 1.96 * float(np.std([row[first] for row in rows.values()], ddof=1)) / len(rows) ** 0.5 if len(rows) > 1 else float("nan")
    figures |= {f"{first} mean low": figures[f"{first} mean"] - half, f"{first} mean high": figures[f"{first} mean"] + half}
    for name in ("false alarms at 5 %", "says neighbours are better", "train seconds"):
        figures[name] = float(np.mean([row[name] for row in rows.values()]))
    each = {str(c): {k: round(v, 4) for k, v in row.items()} for c, row in rows.items()}
    record(f"anomaly-{a.family}", figures, minutes=a.minutes, steps=a.steps, seed=a.seed, classes=each)


if __name__ == "__main__":
    main()
