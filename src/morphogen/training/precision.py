"""Products in bfloat16, put around the nets from outside: where a machine has units for it, wide nets learn up to twice as fast.

Weights, their gradients, averages and optimisers stay in float32, and so does everything outside of the nets: losses, data,
held-out checks and draws. Inside torch's autocast decides, operation by operation (Micikevicius et al. 2018, arXiv 1710.03740).
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.errors import UsageError, suggest
from morphogen.nets.net import is_net

KINDS = ("float32", "bfloat16")
# below it casts cost more than products gain. Steps on two AVX512 cores, milliseconds in float32 and bfloat16: 0.13M 17 and 21,
# 0.5M 64 and 60, 0.7M 45 and 49, 5M 577 and 387, 7M 513 and 335, 13M 1,311 and 529
WIDE = 2_000_000


def checked(kind: str) -> str:
    """`kind` as it is, float32 where none is named. Raises UsageError for an unknown one."""
    kind = kind or "float32"
    if kind not in KINDS:
        raise UsageError(f"unknown training.precision '{kind}'", remedy=suggest(kind, KINDS))
    return kind


def precision_for(family: nn.Module, device: str | torch.device) -> str:
    """bfloat16 for wide nets where the device has units for it."""
    wide = sum(p.numel() for p in family.parameters()) >= WIDE
    return "bfloat16" if wide and has_units(torch.device(device).type) else "float32"


def has_units(kind: str) -> bool:
    """Whether a kind of device multiplies bfloat16 faster than float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch tells of a processor's units under these names; AVX512 without them works bfloat16 out in float32, slowly
    can = getattr(torch.cpu, "get_capabilities", dict)() if kind == "cpu" else {}
    return bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("amx_tile"))


def use(module: nn.Module, kind: str) -> None:
    """Let the nets of `module` work in bfloat16 where they train and gradients are wanted, or in float32 again.

    What a net gives is float32 either way, though no better than what its last product was worked out in.
    """
    for net in module.modules():
        if not is_net(net):
            continue
        if kind == "bfloat16" and not hasattr(net, "precision"):
            net.forward = partial(_in_its_precision, net, net.forward)  # type: ignore[method-assign]
        if kind == "bfloat16" or hasattr(net, "precision"):
            net.precision = kind  # type: ignore[assignment]


def _in_its_precision(net: nn.Module, forward: Callable[..., Tensor], *args: Any, **more: Any) -> Tensor:
    if net.precision == "float32" or not (net.training and torch.is_grad_enabled()):
        return forward(*args, **more)
    kind = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
    # the cache of casts belongs to the process, and lanes are threads: one would clear another's
    with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
        return forward(*args, **more).float()
