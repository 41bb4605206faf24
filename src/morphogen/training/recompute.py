"""Activation checkpointing, put around blocks from outside: less memory, the same numbers, about a third more time.

A block keeps its inputs alone and is worked out a second time on the way back (Chen et al. 2016, arXiv 1604.06174).
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from morphogen.nets.dropout import again, named


def recompute(module: nn.Module) -> None:
    """Let the blocks of `module` (`blocks`) forget what they worked out, in training and where gradients are wanted."""
    for block in blocks(module):
        if "forward" in vars(block):  # it does already
            continue
        block.forward = partial(_twice, block, block.forward)  # type: ignore[method-assign]


def blocks(module: nn.Module) -> list[nn.Module]:
    """The members of lists of layers that hold more than one layer: the others have nothing inside that could be forgotten."""
    members = [m for part in module.modules() if isinstance(part, nn.ModuleList) for m in part if not isinstance(m, nn.ModuleList)]
    return [m for m in members if sum(bool(part._parameters) for part in m.modules()) > 1]


def _twice(block: nn.Module, forward: Callable[..., Any], *args: Any, **more: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **more)
    # torch's own random state belongs to the whole process: lanes would put it back under each other's feet
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=not named(), context_fn=again, **more)
