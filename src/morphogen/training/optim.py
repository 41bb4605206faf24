"""What a training run is told, and the schedule of the learning rate."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from morphogen.contracts import Phase
from morphogen.spaces import Array, Space, Tokens

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

TOKENS = {"cpu": 1536, "cuda": 4096, "mps": 4096}  # a step: a processor is short of steps, and smaller ones teach it more in its time


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Defaults come from the family; every value is saved and can be overridden."""

    steps: int = 0
    "Optimiser steps; 0 means: measured from --minutes, then frozen."
    batch: int = 0
    "Items a step; 0: sized to the data (about 1,536 tokens, 4,096 on an accelerator, or 32 to 128 pictures or rows)."
    windows: int = 1
    "Micro-batches a step is split into, to save memory; the gradient is the same."
    lanes: int = 0
    "Parts of a batch worked on at once, one thread each; 0: one a core on a processor, else 1."
    precision: str = ""
    "float32, or bfloat16: the nets' products in bfloat16, all else in float32; else bfloat16 for wide nets where there are units for it."
    activation_checkpointing: bool = False
    "Blocks forget what they worked out and do it again on the way back: less memory, the same numbers, a third more time."
    compile: bool = False
    "The loss in code generated for it (torch.compile): worth it for long runs, the same weights up to rounding."
    optimiser: str = "adamw"
    "adamw, or muon: orthogonal updates of hidden matrices (the rest by AdamW)."
    lr: float = 1e-3
    "Peak learning rate."
    betas: tuple[float, float] = (0.9, 0.99)
    "Moments of AdamW (Loshchilov & Hutter 2019)."
    weight_decay: float = 0.01
    "Decoupled weight decay on matrices."
    clip: float = 1.0
    "Largest gradient norm; 0 is off."
    warmup: float = 0.05
    "Share of the steps in which the rate rises."
    cooldown: float = 0.4
    "Share of the steps in which the rate falls linearly to nothing."
    ema: float = 0.05
    "Half-life of the weight average as a share of the steps; 0 is off."
    keep: str = "last"
    "last, or best: the average with the lowest held-out loss."
    previews: int = 5
    "How many times samples are drawn while training."
    checks: int = 20
    "How many times the held-out loss is measured."
    aims: tuple[tuple[int, int], ...] = ()
    "What --minutes aimed at, in turn: (from step, steps in all). The schedule follows the aim of the moment; empty: always `steps`."


def batch_size(space: Space, length: float | None = None, tokens: int = TOKENS["cpu"]) -> int:
    """Items a step for a family's Space: enough for a steady gradient, few enough for many steps a minute.

    `length`: mean tokens of an item, when they differ; `tokens`: how many a step should hold.
    """
    match space:
        case Tokens():
            return max(4, min(256, round(tokens / max(1.0, length or space.length))))
        case Array():
            return 128 if space.size <= 1024 else 64 if space.size <= 8192 else 32
    return 128


def aimed(config: TrainConfig, step: int) -> int:
    """The number of steps in all that was aimed at when step `step` (from 0) was taken: what shares of the run are shares of."""
    return max(1, next((total for start, total in reversed(config.aims) if start <= step), config.steps))


def retargeted(config: TrainConfig, done: int, steps: int) -> TrainConfig:
    """The config with another number of steps, after `done` of them. What has been done stays what the new config says it was."""
    if steps == config.steps:
        return config
    earlier = [aim for aim in config.aims or ((0, config.steps),) if aim[0] < done]
    return replace(config, steps=steps, aims=(*earlier, (done, steps)) if earlier else ())


def rate(config: TrainConfig, step: int) -> float:
    """The factor on the learning rate at `step` of `config.steps`: warm-up, constant, linear decay to 0.

    Each aim bends what remains: the rate falls from where it is to nothing at the last step of the newest aim.
    """
    aims, factor = config.aims or ((0, max(1, config.steps)),), 1.0
    for i, (start, total) in enumerate(aims):
        end = aims[i + 1][0] if i + 1 < len(aims) else total
        begin = max(start, total - max(1.0, config.cooldown * total))
        factor *= (total - min(max(step, begin), end)) / (total - begin) if end > begin else 1.0
        if step < end:
            break
    return min(factor, (step + 1) / max(1.0, config.warmup * aimed(config, step)))


def optimisers(config: TrainConfig, phase: Phase, family: nn.Module, params: dict[str, nn.Parameter], shares: int) -> list[Optimizer]:
    """One phase's optimisers, to be stepped in any order or at once. Muon's matrices are dealt out in `shares` of like cost.

    Raises UsageError for an unknown name.
    """
    from torch.optim import AdamW

    from morphogen.errors import UsageError, suggest
    from morphogen.training.muon import Muon, is_hidden

    if config.optimiser not in ("adamw", "muon"):
        raise UsageError(f"unknown optimiser '{config.optimiser}'", remedy=suggest(config.optimiser, ("adamw", "muon")))
    hidden = {k: p for k, p in params.items() if config.optimiser == "muon" and is_hidden(family, k, p)}
    rest = [p for k, p in params.items() if k not in hidden]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lr, out = config.lr * phase.lr, []
    if rest:
        out.append(AdamW([g for g in groups if g["params"]], lr=lr, betas=phase.betas or config.betas, eps=1e-8, foreach=True))
    by_cost = sorted(hidden.values(), key=lambda p: -p.numel() * min(p.flatten(1).shape))
    for share in range(min(shares, len(by_cost))):
        half = config.precision == "bfloat16"
        out.insert(0, Muon(by_cost[share::shares], lr, weight_decay=config.weight_decay, half=half))
    return out


def ema_decay(config: TrainConfig, step: int = 0) -> float:
    """The decay at `step`, whose half-life is `ema` × steps."""
    return 0.5 ** (1 / max(1.0, config.ema * aimed(config, step))) if config.ema else 0.0
