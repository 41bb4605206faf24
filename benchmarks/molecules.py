"""Molecules on MOSES: python -m benchmarks.molecules --data moses-train.csv.gz --test moses-test.csv.gz [--part main]

Parts, each alone or all: main (SMILES: drawn freely, at temperature 0.9, and under the grammar), selfies, few (4,000 molecules, with
the codec's own augmentation and without), conditions (asked QED and logP). An order-7 n-gram stands beside main and few.
The data: PyPI `molsets` 0.3.1 (Polykovskiy et al. 2020). The judges ask RDKit, and nothing of the package.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import morphogen
from benchmarks.common import WORK, fresh, record, unpack_csv

PARTS = ("main", "selfies", "few", "conditions")
FEW = 4000
NGRAM = {"order": 7}


# ------------------------------------------------------------------ data
def smiles_of(path: Path, name: str) -> list[str]:
    with unpack_csv(path, f"molecules/{name}.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    at = [c.lower() for c in rows[0]].index("smiles")
    return [row[at] for row in rows[1:]]


def some(smiles: list[str], n: int, seed: int = 0) -> list[str]:
    """n of them at random (all when there are fewer)."""
    return [smiles[int(i)] for i in np.random.default_rng(seed).permutation(len(smiles))[:n]]


def csv_of(smiles: Sequence[str], name: str) -> Path:
    path = WORK / "molecules" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("SMILES\n" + "\n".join(smiles) + "\n")
    return path


# ------------------------------------------------------------------ judges
def parsed(smiles: Sequence[str]) -> list[Any]:
    """An RDKit molecule each, or None."""
    from rdkit import Chem, rdBase

    block = rdBase.BlockLogs()
    found = [Chem.MolFromSmiles(s) if s else None for s in smiles]
    del block
    return [mol if mol is not None and mol.GetNumAtoms() else None for mol in found]


def scaffolds(mols: Sequence[Any]) -> list[str]:
    """Bemis-Murcko scaffolds of at least two rings, as in MOSES; "" for the others."""
    from rdkit.Chem import MolToSmiles
    from rdkit.Chem.Scaffolds import MurckoScaffold

    out = []
    for mol in mols:
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
        out.append(MolToSmiles(scaffold) if scaffold.GetRingInfo().NumRings() >= 2 else "")
    return out


def properties(mols: Sequence[Any]) -> np.ndarray:
    """(N, 3): QED, logP, weight."""
    from rdkit.Chem import QED
    from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors, CalcExactMolWt

    return np.array([[QED.qed(m), CalcCrippenDescriptors(m)[0], CalcExactMolWt(m)] for m in mols], float).reshape(-1, 3)


def cosine(a: Counter[str], b: Counter[str]) -> float:
    keys = sorted({*a, *b})
    x, y = np.array([a[k] for k in keys], float), np.array([b[k] for k in keys], float)
    return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-12))


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of two empirical distribution functions."""
    at = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(np.sort(a), at, "right") / len(a) - np.searchsorted(np.sort(b), at, "right") / len(b)).max())


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, ties at mid-ranks; 0 when one side is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0


def interval(measure: Any, n: int, times: int = 200, seed: int = 0) -> list[float]:
    """95 % of `measure(rows)` over samples of n rows with replacement."""
    rng = np.random.default_rng(seed)
    low, high = np.percentile([measure(rng.integers(0, n, n)) for _ in range(times)], [2.5, 97.5])
    return [round(float(low), 4), round(float(high), 4)]


class Judge:
    """What generated molecules are held against: the training set (novelty) and a test set (likeness)."""

    def __init__(self, train: list[str], test: list[str], real: int) -> None:
        from rdkit import Chem

        self.train = {Chem.CanonSmiles(s) for s in train}
        mols = [m for m in parsed(some(test, real)) if m is not None]
        self.scaffolds = Counter(s for s in scaffolds(mols) if s)
        self.properties = properties(mols[:10_000])

    def shares(self, drawn: Sequence[str]) -> dict[str, Any]:
        """Validity, uniqueness among valid ones, novelty among unique ones. Uniqueness has no interval: resampling makes copies."""
        from rdkit import Chem

        mols = parsed(drawn)
        valid = np.array([m is not None for m in mols])
        unique = sorted({Chem.MolToSmiles(m) for m in mols if m is not None})
        new = np.array([s not in self.train for s in unique])
        return {
            "valid": float(valid.mean()),
            "valid 95 %": interval(lambda i: valid[i].mean(), len(valid)),
            "unique": len(unique) / max(1, int(valid.sum())),
            "novel": float(new.mean()) if len(new) else 0.0,
            "novel 95 %": interval(lambda i: new[i].mean(), len(new)) if len(new) else [0.0, 0.0],
        }

    def likeness(self, drawn: Sequence[str]) -> dict[str, Any]:
        """Scaffold cosine and Kolmogorov-Smirnov distances of QED, logP and weight to the test set."""
        mols = [m for m in parsed(drawn) if m is not None]
        if len(mols) < 10:
            return {}
        found, values = scaffolds(mols), properties(mols)

        def likely(i: np.ndarray) -> float:
            return cosine(Counter(found[k] for k in i if found[k]), self.scaffolds)

        out: dict[str, Any] = {"scaffold cosine": likely(np.arange(len(mols))), "scaffold cosine 95 %": interval(likely, len(mols), 50)}
        for k, name in enumerate(("QED", "logP", "weight")):
            out[f"KS {name}"] = ks(values[:, k], self.properties[:, k])
            out[f"KS {name} 95 %"] = interval(lambda i, k=k: ks(values[i, k], self.properties[:, k]), len(mols), 50)
        return out


# ------------------------------------------------------------------ parts
def trained(data: Path, name: str, minutes: float, **options: Any) -> tuple[Any, float]:
    begun = time.perf_counter()
    run = morphogen.train(data, fresh(WORK / "molecules" / name), minutes=minutes, **options)
    return run, time.perf_counter() - begun


def keep(name: str, judge: Judge, drawn: Sequence[str], **facts: Any) -> None:
    record(f"molecules-{name}", {**judge.shares(drawn), **judge.likeness(drawn)}, samples=len(drawn), **facts)


def ngram(a: argparse.Namespace, judge: Judge, data: Path, name: str) -> None:
    run, seconds = trained(data, f"{name}-ngram", 1.0, family="ngram", options={"family": NGRAM, "codec": {"augment": 0}})
    keep(f"{name}-ngram", judge, morphogen.generate(run, n=a.samples, seed=0), seconds=seconds)


def main_part(a: argparse.Namespace, train: list[str], test: list[str]) -> None:
    judge, data = Judge(train, test, a.real), csv_of(train, f"train-{len(train)}")
    run, seconds = trained(data, "main", a.minutes, options={"net": {"depth": a.depth}} if a.depth else None)
    for name, valid, temperature in (("main", False, 1.0), ("bolder", False, 0.9), ("grammar", True, 1.0)):
        begun = time.perf_counter()
        drawn = morphogen.generate(run, n=a.samples, seed=0, valid=valid, sampling={"temperature": temperature})
        took = time.perf_counter() - begun
        keep(name, judge, drawn, rows=len(train), minutes=a.minutes, seconds=seconds, drawing=took, temperature=temperature)
    real = some(test, a.samples, seed=1)
    keep("real", judge, real, note="real test molecules judged as if they were drawn: the best there is")
    ngram(a, judge, data, "main")


def selfies_part(a: argparse.Namespace, train: list[str], test: list[str]) -> None:
    judge, data = Judge(train, test, a.real), csv_of(train, f"train-{len(train)}")
    run, seconds = trained(data, "selfies", a.minutes, options={"codec": {"notation": "selfies"}})
    keep("selfies", judge, morphogen.generate(run, n=a.samples, seed=0), rows=len(train), minutes=a.minutes, seconds=seconds)


def few_part(a: argparse.Namespace, train: list[str], test: list[str]) -> None:
    few = some(train, FEW, seed=1)
    judge, data = Judge(few, test, a.real), csv_of(few, f"few-{len(few)}")
    for name, codec in (("few", {}), ("few-plain", {"augment": 0})):
        run, seconds = trained(data, name, a.minutes, options={"codec": codec})
        keep(name, judge, morphogen.generate(run, n=a.samples, seed=0), rows=len(few), minutes=a.minutes, seconds=seconds)
    ngram(a, judge, data, "few")


def conditions_part(a: argparse.Namespace, train: list[str], test: list[str]) -> None:
    """Pairs of QED and logP of 500 real test molecules are asked for, one molecule each; a fault counts as the worst guess, the mean.

    Once as it is drawn without a wish, once as who wants to be obeyed draws: guidance 2.5, under the grammar.
    """
    from morphogen.api.drawing import sampling_of
    from morphogen.sampling import draws

    run, seconds = trained(csv_of(train, f"train-{len(train)}"), "conditions", a.minutes, cond=("qed", "logp"))
    asked, model = properties([m for m in parsed(some(test, a.asked, seed=2)) if m is not None]), run.model()
    cond = {"qed": asked[:, 0].tolist(), "logp": asked[:, 1].tolist()}
    for name, guidance, strict in (("conditions", 1.0, False), ("conditions-guided", 2.5, True)):
        sampling = sampling_of(model, {"guidance": guidance})
        figures = obeyed(asked, model.generate(draws.seeded(0, len(asked)), cond=cond, sampling=sampling, strict=strict))
        record(f"molecules-{name}", figures, asked=len(asked), rows=len(train), minutes=a.minutes, seconds=seconds, guidance=guidance)


def obeyed(asked: np.ndarray, drawn: Sequence[str]) -> dict[str, Any]:
    """Rank correlations of what was asked for, (N, 2) QED and logP, with what came."""
    mols = parsed(drawn)
    got = np.tile(asked.mean(0), (len(asked), 1))
    good = np.array([m is not None for m in mols])
    if good.any():
        got[good] = properties([m for m in mols if m is not None])
    figures: dict[str, Any] = {"valid": float(good.mean())}
    for k, name in enumerate(("QED", "logP")):
        figures[f"{name} rank correlation"] = rank_correlation(asked[:, k], got[:, k])
        figures[f"{name} 95 %"] = interval(lambda i, k=k: rank_correlation(asked[i, k], got[i, k]), len(asked))
        figures[f"{name} mean error"] = float(np.abs(asked[:, k] - got[:, k])[good].mean()) if good.any() else None
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="MOSES training molecules, .csv or .csv.gz")
    parser.add_argument("--test", type=Path, help="MOSES test molecules; without it, a tenth of --data is set aside")
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, each model")
    parser.add_argument("--depth", type=int, help="layers of the network in `main`; the default's when it is not said")
    parser.add_argument("--rows", type=int, default=250_000, help="molecules to train on")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--asked", type=int, default=500, help="values asked for in `conditions`")
    parser.add_argument("--real", type=int, default=50_000, help="test molecules whose scaffolds are compared with")
    a = parser.parse_args()
    everything = smiles_of(a.data, a.data.name.partition(".")[0])
    if a.test:
        test = smiles_of(a.test, a.test.name.partition(".")[0])
    else:
        everything = some(everything, len(everything))
        test, everything = everything[: len(everything) // 10], everything[len(everything) // 10 :]
    train = some(everything, a.rows)
    run = {"main": main_part, "selfies": selfies_part, "few": few_part, "conditions": conditions_part}
    for part in PARTS if a.part == "all" else (a.part,):
        run[part](a, train, test)


if __name__ == "__main__":
    main()
