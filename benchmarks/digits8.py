"""Digits 8x8, class-conditional, <= 3 min each: python -m benchmarks.digits8 [--families diffusion gan vae] [--seeds 5]"""

from __future__ import annotations

import argparse

import numpy as np

import morphogen
from benchmarks.common import WORK, digits8, fresh, load_pictures, nearest, prdc, record, svc


def one(family: str, seed: int, minutes: float, cond: bool = True) -> dict[str, float]:
    train, test = digits8(seed)
    name = f"{family}-{seed}{'' if cond else '-plain'}"
    run = morphogen.train(
        train, fresh(WORK / "digits8" / name), family=family, minutes=minutes, seed=seed, cond=("labels",) if cond else ()
    )
    out = fresh(WORK / "digits8" / f"{name}-out")
    morphogen.generate(run, out, n=5000, seed=seed)
    (x, y), (rx, ry), (tx, ty) = load_pictures(out), load_pictures(train), load_pictures(test)
    real = svc(rx, ry, tx, ty)
    flat = lambda a: a.reshape(len(a), -1)
    rng = np.random.default_rng(0)
    sample = rng.permutation(len(rx))[: len(x)]
    figures = {"tstr": svc(x, y, tx, ty), "real": real, **prdc(flat(rx[sample]), flat(x))}
    figures |= {
        f"{k} (held-out)": v
        for k, v in prdc(flat(tx), flat(x[rng.permutation(len(x))])).items()
        if k in ("precision", "recall", "coverage")
    }
    figures["distance ratio"] = float(np.median(nearest(x, rx)) / np.median(nearest(tx, rx)))
    figures["copies"] = float((nearest(x, rx) == 0).sum())
    from sklearn.svm import SVC

    named = SVC().fit(flat(rx), ry).predict(flat(x))
    figures["rarest class"] = float(np.bincount(named, minlength=10).min() / len(named))
    figures["agreement"] = float((named == y).mean())
    figures["train seconds"] = run.provenance()["seconds"]
    if family == "vae":
        figures |= reconstruction(run, rx, tx)
    return figures


def reconstruction(run: morphogen.api.Run, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Held-out reconstruction error beside PCA with as many components."""
    import torch
    from sklearn.decomposition import PCA

    model = run.model()
    raws = [np.rint(t * 255).astype(np.uint8)[..., None] for t in test]
    z = model.encode(raws)
    x = torch.stack([torch.from_numpy(model.codec.encode(r)) for r in raws])
    back = model.family.decode(z)
    pca = PCA(z[0].numel()).fit(train.reshape(len(train), -1))
    flat = test.reshape(len(test), -1)
    again = pca.inverse_transform(pca.transform(flat))
    return {"latent": float(z[0].numel()), "mse": float((back - x).square().mean() / 4), "pca mse": float(((again - flat) ** 2).mean())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="+", default=["diffusion", "flow", "gan", "vae", "mixture", "kde"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.5)
    a = parser.parse_args()
    for family in a.families:
        rows = [one(family, seed, a.minutes) for seed in range(a.seeds)]
        record(f"digits8-{family}", {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}, seeds=a.seeds, minutes=a.minutes)
    if "gan" in a.families:
        record("digits8-gan-unconditional", one_plain(a.minutes), minutes=a.minutes)


def one_plain(minutes: float) -> dict[str, float]:
    """The unconditional GAN: does any class go missing?"""
    import shutil

    train, _test = digits8(0)
    flat = fresh(WORK / "digits8" / "flat")
    flat.mkdir(parents=True)
    for file in train.rglob("*.png"):
        shutil.copy(file, flat / f"{file.parent.name}-{file.name}")
    run = morphogen.train(flat, fresh(WORK / "digits8" / "gan-plain"), family="gan", minutes=minutes)
    out = fresh(WORK / "digits8" / "gan-plain-out")
    morphogen.generate(run, out, n=2000, seed=0)
    from sklearn.svm import SVC

    (x, _), (rx, ry) = load_pictures(out), load_pictures(train)
    named = SVC().fit(rx.reshape(len(rx), -1), ry).predict(x.reshape(len(x), -1))
    return {
        "rarest class": float(np.bincount(named, minlength=10).min() / len(named)),
        **prdc(rx.reshape(len(rx), -1), x.reshape(len(x), -1)),
    }


if __name__ == "__main__":
    main()
