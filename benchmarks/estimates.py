"""Estimated against measured memory of training on 30 configurations: python -m benchmarks.estimates [--only NAME]

Each configuration runs in a fresh process: the estimate, then some steps, a checkpoint, and the peak of resident memory.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, fresh, record

PICTURES = [("picture", f, size, side, batch) for f, size, side, batch in [
    ("diffusion", "tiny", 16, 32), ("diffusion", "small", 16, 64), ("diffusion", "small", 32, 32), ("diffusion", "base", 32, 16),
    ("flow", "small", 16, 128), ("flow", "small", 32, 64), ("flow", "tiny", 64, 32), ("vae", "small", 16, 64), ("vae", "small", 32, 128),
    ("vae", "base", 32, 32), ("vae", "small", 64, 32), ("gan", "small", 16, 64), ("gan", "small", 32, 64), ("gan", "base", 32, 32)]]
TOKENS = [("tokens", f, size, length, batch) for f, (size, length, batch) in product(
    ("autoregressive", "masked"), [("tiny", 64, 64), ("small", 64, 64), ("small", 128, 32), ("base", 128, 16), ("small", 512, 8)])]
VECTORS = [("vector", f, size, width, batch) for f, size, width, batch in [
    ("diffusion", "small", 16, 512), ("flow", "base", 64, 512), ("vae", "small", 32, 1024), ("gan", "base", 32, 256),
    ("diffusion", "large", 64, 256), ("flow", "small", 16, 4096)]]
CASES = {f"{kind} {f} {size} {n} x{batch}": (kind, f, size, n, batch) for kind, f, size, n, batch in PICTURES + TOKENS + VECTORS}


class Plain:
    """A codec of arrays or ids that are samples already."""

    def __init__(self, space: Any) -> None:
        self.space = space

    def encode(self, raw: Any) -> Any:
        return raw

    def decode(self, x: Any) -> Any:
        return x


def child(kind: str, name: str, size: str, n: int, batch: int) -> dict[str, float]:
    """The estimate and the truth, in bytes, of one configuration in this process."""
    import resource

    import numpy as np
    import torch

    from morphogen.config import make
    from morphogen.contracts import Item
    from morphogen.model import Model
    from morphogen.registry import resolve
    from morphogen.spaces import Array, Tokens
    from morphogen.training.data import Dataset
    from morphogen.training.estimate import measure
    from morphogen.training.optim import TrainConfig
    from morphogen.training.trainer import Trainer

    space: Any = {"picture": Array((1, n, n)), "tokens": Tokens(256, n), "vector": Array((n,))}[kind]
    rng = np.random.default_rng(0)
    raws = rng.integers(0, 256, (batch, n)) if kind == "tokens" else rng.normal(size=(batch, *space.shape)).astype(np.float32)
    torch.manual_seed(0)
    kind_ = resolve("family", name)
    model = Model(Plain(space), kind_(space, {}, make(kind_.Config, {"net": {"size": size}})))
    data = Dataset(model, [Item(raw) for raw in raws])
    recipe = getattr(kind_, "recipe", {})
    config = make(TrainConfig, {**recipe, "steps": 3, "batch": batch, "lanes": 2})
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    memory = measure(model.family, data, config)
    trainer = Trainer(model, data, config)
    for _ in range(2):
        trainer.step()
    trainer.save(fresh(WORK / "estimates" / name))
    trainer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {"before": before, "estimate": memory.peak(config), "grown": peak - before, "kept": memory.kept, "step": memory.step(config),
            "state": memory.state, "weights": memory.weights, "parameters": model.parameters()}


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--only", default="")
    ask.add_argument("--child", default="")
    a = ask.parse_args()
    if a.child:
        print(json.dumps(child(*CASES[a.child])))
        return
    found: dict[str, Any] = {}
    for name in (k for k in CASES if a.only in k):
        done = subprocess.run([sys.executable, "-m", "benchmarks.estimates", "--child", name], capture_output=True, text=True)
        if done.returncode:
            print(name, done.stderr.strip().splitlines()[-1:], flush=True)
            continue
        f = found[name] = json.loads(done.stdout)
        f["total"] = (f["before"] + f["estimate"]) / (f["before"] + f["grown"]) - 1
        f["error"] = f["estimate"] / f["grown"] - 1
        mib = {k: round(f[k] / 2**20) for k in ("before", "estimate", "grown", "kept", "step", "state")}
        print(f"{name:34} {f['error']:+.0%} of the growth, {f['total']:+.0%} of the whole {mib}", flush=True)
    if not a.only:
        within = lambda key: sum(abs(f[key]) <= 0.2 for f in found.values())
        record("estimates", {"cases": len(CASES), "measured": len(found), "growth within 20 %": within("error"),
                             "whole within 20 %": within("total"), "each": found})


if __name__ == "__main__":
    main()
