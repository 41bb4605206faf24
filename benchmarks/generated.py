"""Steps in generated code (torch.compile) beside steps as they are, in turns: python -m benchmarks.generated [--only mlp transformer unet]

Seconds of processor time of one lane, so other work on the machine counts little; writing the code is counted apart, with its compilers.
"""
from __future__ import annotations

import argparse
import os
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch._inductor import config as inductor

from benchmarks.common import record
from benchmarks.estimates import Plain
from morphogen.config import make
from morphogen.contracts import Item
from morphogen.model import Model
from morphogen.registry import resolve
from morphogen.spaces import Array, Tokens
from morphogen.training.data import Dataset
from morphogen.training.optim import TrainConfig
from morphogen.training.trainer import Trainer

CASES: dict[str, tuple[str, Any, int]] = {
    "mlp": ("diffusion", Array((16,)), 512), "transformer": ("autoregressive", Tokens(256, 128), 16),
    "unet": ("diffusion", Array((1, 28, 28)), 32),
}


def trainer(family: str, space: Any, batch: int, *, compiled: bool) -> Trainer:
    rng = np.random.default_rng(0)
    shape: Any = (batch, *space.shape) if isinstance(space, Array) else (batch, space.length)
    raws = rng.normal(size=shape).astype(np.float32) if isinstance(space, Array) else rng.integers(0, space.vocab, shape)
    torch.manual_seed(0)
    kind = resolve("family", family)
    model = Model(Plain(space), kind(space, {}, make(kind.Config, {"net": {"size": "small"}})))
    recipe = make(TrainConfig, {**getattr(kind, "recipe", {}), "steps": 100, "batch": batch, "lanes": 1, "ema": 0.0, "compile": compiled})
    out = Trainer(model, Dataset(model, [Item(raw) for raw in raws]), recipe)
    out.calibrate()
    return out


def spent() -> float:
    return sum(os.times()[:4])  # this process and those it waited for


def measure(name: str, turns: int) -> dict[str, float]:
    plain, code = (trainer(*CASES[name], compiled=on) for on in (False, True))
    plain.step()
    begun = spent()
    code.step()
    writing = spent() - begun
    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(turns):
        for on, run in ((False, plain), (True, code)):
            before = time.process_time()
            run.step()
            took[on].append(time.process_time() - before)
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(plain.family.parameters(), code.family.parameters(), strict=True))
    eager, generated = median(took[False]), median(took[True])
    return {"step": eager, "generated": generated, "times": eager / generated, "writing": writing, "weights apart": apart,
            "pays after steps": writing / (eager - generated) if eager > generated else float("inf")}


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--only", nargs="*", default=[*CASES])
    ask.add_argument("--turns", type=int, default=7)
    a = ask.parse_args()
    inductor.compile_threads = 1  # compilers run as children that are waited for, and count
    torch.set_num_threads(1)
    found = {}
    for name in a.only:
        found[name] = measure(name, a.turns)
        print(name, {k: round(v, 6) for k, v in found[name].items()}, flush=True)
    if set(a.only) == set(CASES):
        record("generated", {k: {n: v if v < float("inf") else None for n, v in f.items()} for k, f in found.items()})


if __name__ == "__main__":
    main()
