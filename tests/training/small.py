"""A tiny trainer of every family that has steps, on a few real items, as `morphogen train` would build it."""
from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from morphogen.api.train import build_model
from morphogen.plan import Plan, make_plan
from morphogen.training.data import Dataset
from morphogen.training.trainer import Trainer

CASES = [
    ("pictures", "flow"), ("pictures", "diffusion"), ("pictures", "gan"), ("pictures", "vae"), ("pictures", "vq"), ("pictures", "seq2seq"),
    ("rows", "masked"), ("rows", "diffusion"), ("rows", "autoregressive"), ("lines", "autoregressive"), ("lines", "masked"),
]  # fmt: skip
NAMES = ["-".join(case) for case in CASES]


def write(folder: Path) -> dict[str, Path]:
    """Twenty-two small pictures in two classes, a table and lines of text."""
    rng = np.random.default_rng(0)
    for label, shade in (("dark", 40), ("light", 200)):
        (folder / "pictures" / label).mkdir(parents=True)
        for i in range(11):
            pixels = np.clip(rng.normal(shade, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / label / f"{i}.png")
    rows = [f"{'ab'[i % 2]},{10 + i % 7 + 0.5 * (i % 2)},{'' if i % 7 == 0 else 'ok'}" for i in range(60)]
    (folder / "rows.csv").write_text("kind,size,note\n" + "\n".join(rows) + "\n")
    lines = [f"the {a} {b} runs {i} times" for i in range(5) for a in ("old", "red", "big") for b in ("fox", "dog", "cat")]
    (folder / "lines.txt").write_text("\n".join(lines))
    return {"pictures": folder / "pictures", "rows": folder / "rows.csv", "lines": folder / "lines.txt"}


def options_of(family: str, **training: Any) -> dict[str, dict[str, Any]]:
    out = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 0, "checks": 3, "batch": 8, **training}}
    return {**out, "family": {"kind": "vq", "grid": 2}} if family == "vq" else out


@cache
def planned(folder: Path, data: str, family: str) -> tuple[Plan, Any]:
    torch.manual_seed(0)
    place = {"pictures": "pictures", "rows": "rows.csv", "lines": "lines.txt"}[data]
    name = "vae" if family == "vq" else family
    plan = make_plan(folder / place, family=name, size=None, minutes=None, steps=12, seed=0, cond=(), options=options_of(family))
    return plan, build_model(plan)


def trainer(folder: Path, case: tuple[str, str], dropout: float = 0.0, **config: Any) -> Trainer:
    """A fresh one with the same first weights each time. `dropout` is set in every module that has one."""
    plan, model = planned(folder, *case)
    model = copy.deepcopy(model)
    for module in model.family.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = dropout
    settings = {"steps": 7, "batch": 8, "lanes": 1, "keep": "best", "checks": 3, **config}
    held = Dataset(model, plan.part(plan.held_out)) if plan.held_out else None
    made = Trainer(model, Dataset(model, plan.lessons()), dataclasses.replace(plan.training, **settings), seed=3, held_out=held)
    made.calibrate()
    return made


def whole_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in {**trainer.state(), **{f"final/{k}": v for k, v in trainer.final().items()}}.items()}
