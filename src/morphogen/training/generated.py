"""torch.compile for those who ask: a family's loss as one graph, in code generated for it; weights agree up to rounding."""
from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, Loss
from morphogen.errors import UsageError
from morphogen.training.optim import TrainConfig

ASKED, EAGER = "training.compile", "leave --set training.compile=true out"
SHAPES = 8  # how many shapes of a batch code is written for; then sizes are left open


def generated(family: nn.Module) -> Callable[[Batch, str], Loss]:
    """The loss of a family in generated code, which is written at its first call. That raises UsageError where it cannot be."""
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    config.recompile_limit += SHAPES  # replicas in lanes are counted together, having the same source
    call = torch.compile(family, fullgraph=True)

    def loss(batch: Batch, phase: str) -> Loss:
        try:
            return call(batch, phase)
        except TorchDynamoException as error:
            raise UsageError(f"{ASKED}: no code can be written for this loss ({_line(error)})", remedy=EAGER) from None

    return loss


def check(family: nn.Module, config: TrainConfig, world: int = 1) -> None:
    """Raises UsageError, in one line, where `training.compile` cannot be: it was asked for, so nothing else is done in its place."""
    name = type(family).__name__.lower()
    if not getattr(family, "compiles", True):
        raise UsageError(f"{ASKED}: the loss of {name} is not one graph", remedy=EAGER)
    if world > 1:
        raise UsageError(f"{ASKED} is for one process, not {world}", remedy=EAGER)
    if config.activation_checkpointing:
        raise UsageError(f"{ASKED} does not go with training.activation_checkpointing", remedy="choose one of them")
    # drop-out is drawn by item keys, which generated code does not see: torch's own draws are no function of (seed, step)
    if any(isinstance(share := getattr(m, "dropout", None), float) and share > 0 for m in family.modules()):
        raise UsageError(f"{ASKED} does not go with drop-out", remedy=f"say --set net.dropout=0, or {EAGER}")
    if why := _missing():
        raise UsageError(f"{ASKED} does not work here ({why})", remedy=f"install a C++ compiler, as g++, or {EAGER}")


@cache
def _missing() -> str:
    """Why nothing can be compiled here, tried on one addition; nothing when it can."""
    try:
        torch.compile(_add)(torch.ones(2))
    except Exception as error:
        return _line(error)
    return ""


def _add(x: Tensor) -> Tensor:
    return x + 1


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
