"""`build_net` is the only place that turns Spaces into layers: one match on (source, target), no modality and no family."""
from __future__ import annotations

import dataclasses
from math import prod
from typing import Literal

from torch import Tensor, nn

from morphogen.config import SIZES, NetConfig
from morphogen.contracts import Cond, Given
from morphogen.errors import UsageError, suggest
from morphogen.nets.net import net
from morphogen.spaces import Array, Space, Tokens, describe

Arm = Literal["unet", "encoder", "decoder", "mlp", "transformer", "pooled"]

# arm -> field -> value for tiny, small, base, large
TABLE: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "unet": {"width": (24, 32, 64, 128), "depth": (1, 1, 2, 3)},
    "encoder": {"width": (24, 32, 64, 128), "depth": (1, 1, 2, 2)},
    "decoder": {"width": (24, 32, 64, 128), "depth": (1, 1, 2, 2)},
    "mlp": {"width": (128, 256, 512, 1024), "depth": (2, 4, 4, 6)},
}


def arm_of(source: Space, target: Space) -> Arm:
    """Which architecture leads from one Space to the other. Raises UsageError when none does."""
    match source, target:
        case Array(shape=(_,)), Array(shape=(_,)):
            return "mlp"
        case Array(shape=(_,)), Array():
            return "decoder"
        case Array(), Array(shape=(_,)):
            return "encoder"
        case Array(), Array() if source.shape[1:] == target.shape[1:]:
            return "unet"
        case Array(), Array() if len(source.shape) == len(target.shape):
            return "encoder" if source.size // (source.shape[0] or 1) > target.size // (target.shape[0] or 1) else "decoder"
        case Tokens(), Tokens():
            return "transformer"
        case Tokens(), Array():
            return "pooled"
    raise UsageError(f"no net leads from {describe(source)} to {describe(target)}",
                     remedy="put a bridge in between: records become tokens, tokens become arrays by one_hot")


def resolve(config: NetConfig, source: Space, target: Space) -> NetConfig:
    """The config with every 0 filled in from `size` and the spaces; what is set stays. Raises UsageError for an unknown size."""
    if config.size not in SIZES:
        raise UsageError(f"unknown net size '{config.size}'", remedy=suggest(config.size, SIZES))
    arm, column = arm_of(source, target), SIZES.index(config.size)
    if arm in ("transformer", "pooled"):
        from morphogen.nets import transformer

        return transformer.resolve(config)
    filled = {field: values[column] for field, values in TABLE[arm].items()}
    if arm in ("unet", "encoder", "decoder"):
        filled |= _resolutions(config, source if arm == "encoder" else target, arm, filled["width"])
    return dataclasses.replace(config, **{k: v for k, v in filled.items() if not getattr(config, k)})


def _resolutions(config: NetConfig, space: Space, arm: str, width: int) -> dict[str, int]:
    """Patch, levels and width from the largest side: work happens on at most about 16 positions a side."""
    assert isinstance(space, Array)
    sides = [n for n in space.shape[1:] if n is not None]
    side = max(sides, default=1024)
    rank = len(space.shape) - 1
    if rank == 1:  # sequences are long and thin: a larger patch costs little
        patch, stop = (1 if side <= 64 else 4 if side <= 4096 else 16), 16
    else:
        whole = 8 if arm == "unet" else 17  # below it every position stands for itself
        patch, stop = (1 if side < whole else 2 if side <= 64 else 4 if side <= 256 else 8), 4
    patch = config.patch or patch
    # a U-Net's attention reaches over 8 a side, so it need not go lower; an encoder must, on its way to a vector
    levels, at, stop = 1, -(-side // patch), 2 * stop if arm == "unet" else 2 * stop - 1
    while at > stop and levels < 5:
        levels, at = levels + 1, -(-at // 2)
    if arm != "unet":
        return {"patch": patch, "levels": max(levels, 2 if side >= 8 else 1)}
    # the only level of a small picture is as wide as the lowest of a larger one; 8x8 digits: precision 0.70 -> 0.81 after a minute
    only = levels == 1 and patch > 1
    return {"patch": patch, "levels": levels, **({"width": 2 * width} if only else {})}


def build_net(config: NetConfig, source: Space, target: Space, *, cond: int = 0, sequence: bool = False, given: bool = False,
              time: bool = False, causal: bool = False) -> nn.Module:
    """A net from `source` to `target`, called as net(x, time=, cond=, given=, mask=, cache=).

    cond: width of Cond.vector and Cond.sequence, 0 for none; sequence: whether a Cond.sequence may come; given: whether known
    values come in beside x; time: whether a scalar per row comes in; causal: positions see only those before.
    No parameter is made that the loss would not reach. Raises UsageError when no net leads from one Space to the other.
    """
    config = resolve(config, source, target)
    options = {"cond": cond, "sequence": sequence, "given": given, "time": time}
    match arm_of(source, target), source, target:
        case "mlp", Array(), Array():
            from morphogen.nets.mlp import MLP

            return MLP(config, source.shape, target.shape, **options)
        case "unet", Array(), Array():
            from morphogen.nets.unet import UNet

            return UNet(config, source.shape, target.shape, **options)
        case "encoder", Array(), Array():
            from morphogen.nets.conv import ConvEncoder

            return ConvEncoder(config, source, target, cond=cond)
        case "decoder", Array(), Array():
            from morphogen.nets.conv import ConvDecoder

            return ConvDecoder(config, source, target, cond=cond)
        case "transformer", Tokens(), Tokens():
            from morphogen.nets.transformer import Transformer

            return Transformer(source.vocab, target.vocab, source.grid or source.length, config, causal=causal, cond=cond,
                               sequence=sequence, time=time)
        case "pooled", Tokens(), Array():
            return Pooled(config, source, target, cond=cond, sequence=sequence, time=time)
    raise UsageError(f"no net leads from {describe(source)} to {describe(target)}")


@net
class Pooled(nn.Module):
    """Ids (B, L) -> (B, D): a bidirectional transformer whose outputs are averaged over the real positions."""

    def __init__(self, config: NetConfig, source: Tokens, target: Array, *, cond: int = 0, sequence: bool = False,
                 time: bool = False) -> None:
        super().__init__()
        from morphogen.nets.transformer import Transformer

        self.shape = tuple(n or 1 for n in target.shape)
        self.body = Transformer(source.vocab, target.size, source.length, config, causal=False, cond=cond, sequence=sequence, time=time)

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: Given | None = None,
                mask: Tensor | None = None, cache: object = None) -> Tensor:
        h = self.body(x, time=time, cond=cond, mask=mask)
        if mask is None:
            return h.mean(1).unflatten(1, self.shape)
        real = mask[..., None].to(h.dtype)
        return ((h * real).sum(1) / real.sum(1).clamp(min=1)).unflatten(1, self.shape)


def parameters(net: nn.Module) -> int:
    """How many numbers a net learns."""
    return sum(prod(p.shape) for p in net.parameters())
