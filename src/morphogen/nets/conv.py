"""Convolutional encoder and decoder for any number of spatial axes: picture to vector or grid, and back.

Without normalisation layers, after R3GAN (Huang et al. 2024, "The GAN is dead; long live the GAN!"): residual branches start at
zero, so depth does no harm, and nothing looks across rows, so the same nets serve as generator and critic under gradient penalties.
"""
from __future__ import annotations

from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Cond
from morphogen.errors import UsageError
from morphogen.nets.blocks import conv, edge, patchify, unpatchify, zero
from morphogen.nets.dropout import drop
from morphogen.nets.net import net
from morphogen.spaces import Array, describe

COARSEST = 4  # an encoder to a vector stops halving an axis at this extent
_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_GAIN = 2 ** 0.5


def extents(fine: tuple[int, ...], coarse: tuple[int, ...] | None = None, levels: int = 0) -> list[tuple[int, ...]]:
    """Extents from fine to coarse; an axis is halved (rounding up) until it reaches `coarse`, or `COARSEST` when that is None.

    `levels` > 0 bounds how many there are on the way to a vector. Raises UsageError when halving does not meet `coarse`.
    """
    path = [fine]
    while True:
        now = path[-1]
        stop = coarse or tuple(min(COARSEST, n) for n in fine)
        after = tuple(-(-n // 2) if n > m else n for n, m in zip(now, stop))
        if after == now:
            break
        path.append(after)
    if coarse is not None and path[-1] != coarse:
        raise UsageError(f"halving {'x'.join(map(str, fine))} does not give {'x'.join(map(str, coarse))}",
                         remedy="choose a grid factor that is a power of two")
    return path[:levels] if coarse is None and levels else path


class Residual(nn.Module):
    """x + conv(act(film(conv(act(x))))), whose branch starts at zero; the condition scales and shifts its middle."""

    def __init__(self, width: int, rank: int, cond: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = conv(rank, width, width)
        self.outer = zero(conv(rank, width, width))
        self.film = nn.Linear(cond, 2 * width) if cond else None
        self.dropout = dropout
        if self.film is not None:
            # from the first step on: the branch is zero then, so a random condition harms nothing
            nn.init.normal_(self.film.weight, std=0.5 * cond**-0.5)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.inner(_act(x))
        if self.film is not None and cond is not None:
            scale, shift = self.film(cond).view(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, 1)
            h = h * (1 + scale) + shift
        return x + self.outer(drop(_act(h), self.dropout, self.training))


def _act(x: Tensor) -> Tensor:
    # the gain keeps the variance, which no norm layer looks after here
    return F.leaky_relu(x, 0.2) * _GAIN


def _check(what: str, space: Array, spatial: bool) -> None:
    if None in space.shape or not 1 <= len(space.shape) <= 4 or (spatial and len(space.shape) < 2):
        raise UsageError(f"{what} cannot work on {describe(space)}", remedy="give an array with 1 to 3 fixed spatial axes")


def _size(space: Array) -> tuple[int, ...]:
    return tuple(int(n or 1) for n in space.shape[1:])


def _plan(config: NetConfig, fine: Array, coarse: Array) -> tuple[list[tuple[int, ...]], list[int], int]:
    """(extents per level, channels per level, patch) of the way between a fine and a coarse Array."""
    size, end = _size(fine), _size(coarse) or None
    patch = config.patch or 1
    # pixels entering as one must not make the net coarser than its target
    while patch > 1 and any(-(-n // patch) < m for n, m in zip(size, end or (1,) * len(size))):
        patch //= 2
    inner = tuple(-(-n // patch) for n in size)
    path = extents(inner, end, config.levels)
    width = config.width or 32
    return path, [width * min(2**i, 4) for i in range(len(path))], patch


@net
class ConvEncoder(nn.Module):
    """(B, C, *space) -> (B, D) for a vector target or (B, c, *grid) for a coarser grid.

    `config.levels` bounds the resolutions on the way to a vector (0 = until 4 a side), `config.patch` pixels enter as one.
    """

    def __init__(self, config: NetConfig, source: Array, target: Array, *, cond: int = 0) -> None:
        super().__init__()
        _check("a convolutional encoder", source, spatial=True)
        path, widths, patch = _plan(config, source, target)
        rank, depth = len(source.shape) - 1, config.depth or 1
        self.path, self.patch = path, patch
        self.enter = edge(conv(rank, int(source.shape[0] or 1) * patch**rank, widths[0]))
        self.levels = nn.ModuleList(nn.ModuleList(Residual(w, rank, cond, config.dropout) for _ in range(depth)) for w in widths)
        self.down = nn.ModuleList(conv(rank, a, b, 1) for a, b in pairwise(widths))
        self.vector = len(target.shape) == 1
        out = int(target.shape[0] or 1)
        self.leave: nn.Module = nn.Linear(widths[-1] * prod(path[-1]), out) if self.vector else conv(rank, widths[-1], out)

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: object = None,
                mask: Tensor | None = None, cache: object = None) -> Tensor:
        vector = cond.vector if cond is not None else None
        h = self.enter(patchify(x, self.patch))
        for i, blocks in enumerate(self.levels):
            if i:
                step = [2 if a > b else 1 for a, b in zip(self.path[i - 1], self.path[i])]
                h = self.down[i - 1](_POOL[len(step)](h, step, ceil_mode=True, count_include_pad=False))
            for block in blocks:  # type: ignore[union-attr]
                h = block(h, vector)
        h = _act(h)
        return self.leave(h.flatten(1) if self.vector else h)


@net
class ConvDecoder(nn.Module):
    """(B, D) or (B, c, *grid) -> (B, C, *space): the mirror of `ConvEncoder`, upsampling by nearest neighbours."""

    def __init__(self, config: NetConfig, source: Array, target: Array, *, cond: int = 0) -> None:
        super().__init__()
        _check("a convolutional decoder", target, spatial=True)
        path, widths, patch = _plan(config, target, source)
        path, widths = path[::-1], widths[::-1]
        rank, depth = len(target.shape) - 1, config.depth or 1
        out = int(target.shape[0] or 1)
        self.path, self.patch, self.size, self.first = path, patch, _size(target), (widths[0], *path[0])
        entering = int(source.shape[0] or 1)
        self.vector = len(source.shape) == 1
        self.enter: nn.Module = nn.Linear(entering, prod(self.first)) if self.vector else conv(rank, entering, widths[0])
        self.levels = nn.ModuleList(nn.ModuleList(Residual(w, rank, cond, config.dropout) for _ in range(depth)) for w in widths)
        self.up = nn.ModuleList(conv(rank, a, b, 1) for a, b in pairwise(widths))
        self.leave = edge(conv(rank, widths[-1], out * patch**rank))

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: object = None,
                mask: Tensor | None = None, cache: object = None) -> Tensor:
        vector = cond.vector if cond is not None else None
        h = self.enter(x).view(len(x), *self.first)
        for i, blocks in enumerate(self.levels):
            if i:
                # channels first, then pixels: the convolution is cheaper on the coarse side and gives the same numbers
                h = F.interpolate(self.up[i - 1](h), size=self.path[i], mode="nearest")
            for block in blocks:  # type: ignore[union-attr]
                h = block(h, vector)
        return unpatchify(self.leave(_act(h)), self.patch, self.size)
