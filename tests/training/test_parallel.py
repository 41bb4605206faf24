"""Two processes learn what one learns. They are started once, by gloo, and run every case; one process then runs the same cases."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from morphogen.codecs.label import LabelCodec
from morphogen.config import NetConfig, make
from morphogen.contracts import Item
from morphogen.errors import FormatError, ResourceError
from morphogen.model import Model
from morphogen.registry import FAMILIES, resolve
from morphogen.sampling import draws
from morphogen.spaces import Array, Space, Tokens
from morphogen.training import checkpoint
from morphogen.training.data import Dataset
from morphogen.training.optim import TrainConfig
from morphogen.training.trainer import Trainer

STEPS = 4
N, BATCH = 30, 13  # odd shares, and a last window of 4 items for 2 processes


class Plain:
    """A codec of samples that are items already."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def encode(self, raw: Any) -> np.ndarray:
        return raw

    def decode(self, x: np.ndarray) -> np.ndarray:
        return x


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    space: Space
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


PICTURE, TEXT = Array((1, 8, 8)), Tokens(12, 10, end=11)
CASES = {
    "vae": Case("vae", PICTURE),
    "vae.vq": Case("vae", PICTURE, {"kind": "vq", "codes": 16}),
    "vae.critic": Case("vae", PICTURE, {"adversarial": 0.1}),
    "gan": Case("gan", PICTURE),
    "diffusion": Case("diffusion", PICTURE),
    "diffusion.row": Case("diffusion", Array((5,)), training={"optimiser": "muon"}),
    "flow": Case("flow", PICTURE),
    "autoregressive": Case("autoregressive", TEXT, training={"optimiser": "muon"}),
    "autoregressive.windows": Case("autoregressive", TEXT, training={"windows": 3}),
    "gan.windows": Case("gan", PICTURE, training={"windows": 2}),
    "masked": Case("masked", TEXT),
    "seq2seq": Case("seq2seq", TEXT),
}


def items(space: Space, n: int = N) -> list[Item]:
    rng = np.random.default_rng(0)
    if isinstance(space, Tokens):
        raws = [np.append(rng.integers(0, 11, rng.integers(1, 9)), 11).astype(np.int64) for _ in range(n)]
    else:
        raws = list(rng.normal(size=(n, *space.shape)).astype(np.float32))  # type: ignore[union-attr]
    return [Item(raw, {"label": "abc"[i % 3]}) for i, raw in enumerate(raws)]


def trainer(case: Case, crew: Any = None, **training: Any) -> Trainer:
    """A tiny model. Alone it works in 2 lanes: the very parts that 2 processes have, summed in the same order."""
    torch.manual_seed(0)
    label, data = LabelCodec(), items(case.space)
    label.fit([item.cond["label"] for item in data])
    kind = resolve("family", case.family)
    config = make(kind.Config, {"net": {"size": "tiny", "width": 32, "depth": 2}, **case.config}, "family.")
    model = Model(Plain(case.space), kind(case.space, {"label": label.space}, config), conditions={"label": label})
    dataset = Dataset(model, data)
    settings = {"steps": 40, "batch": BATCH, "lanes": 2, "ema": 0.1, **case.training, **training}
    out = Trainer(model, dataset, TrainConfig(**settings), seed=3, held_out=dataset, crew=crew)
    out.calibrate()
    return out


def learn(case: Case, crew: Any = None, **training: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    run = trainer(case, crew, **training)
    logs = [run.step() for _ in range(STEPS)]
    if (held := run.check()) is not None:
        logs.append({"held_out": held})
    return logs, everything(run)


def everything(run: Trainer) -> dict[str, torch.Tensor]:
    return {k: run.lanes.whole(v).contiguous().clone() for k, v in run.state().items()}


# ---------------------------------------------------------------- what each process does
def work(rank: int, world: int, folder: str, kinds: tuple[str, ...], cases: tuple[str, ...]) -> None:
    import torch.distributed as dist

    from morphogen.training import parallel

    torch.set_num_threads(1)
    parallel.BLOCK = 1  # every layer a shard of its own: the tiny ones here too
    place = Path(folder)
    store = dist.FileStore(str(place / "store"), world)
    dist.init_process_group("gloo", store=dist.PrefixStore("torch", store), rank=rank, world_size=world)
    for kind in kinds:
        crew = parallel.Crew(dist.PrefixStore(f"crew.{kind}", store), rank, world, kind)
        for name in cases:
            logs, state = learn(CASES[name], crew)
            if rank == 0:
                save_file(state, place / f"{kind}.{name}.safetensors")
                (place / f"{kind}.{name}.json").write_text(json.dumps(logs))
    dist.destroy_process_group()


def together(world: int, target: Any, *arguments: Any) -> None:
    """Run target(rank, world, ...) in fresh processes; fails when one of them does."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(rank, world, *arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [p.exitcode for p in processes] == [0] * world
