"""A U-Net for arrays over 1, 2 or 3 axes: same shape in, same extent out."""
from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Cond, Given
from morphogen.nets.blocks import CrossAttention, Down, Embedding, ResBlock, SelfAttention, Up, conv, edge, norm, patchify, unpatchify, zero
from morphogen.nets.net import net

ATTEND = 256  # self-attention where a level has at most this many positions: its cost grows with their square


@net
class UNet(nn.Module):
    """Residual blocks down and up again with skips between (Ronneberger et al. 2015, blocks of Dhariwal and Nichol 2021).

    (B, C, *space) -> (B, out, *space). Pixels enter `patch` a side as one position, so the costly first resolution is
    skipped; the first level has `width` channels, the others twice that; the lowest attends to itself when it is small
    and to Cond.sequence when there is one. Time and Cond.vector modulate every block. With `given`, known values and
    where they are known come in beside x. The output is 0 at the start.
    """

    def __init__(self, config: NetConfig, source: tuple[int | None, ...], target: tuple[int | None, ...], *, cond: int = 0,
                 sequence: bool = False, given: bool = False, time: bool = False) -> None:
        super().__init__()
        rank, channels = len(source) - 1, source[0] or 1
        self.patch, self.has_given, width = config.patch, given, config.width
        self.channels_last = rank == 2
        cell = self.patch**rank
        widths = [width] + [2 * width] * (config.levels - 1)
        emb = 4 * width if cond or time else 0
        self.embedding = Embedding(emb, cond=cond, time=time) if emb else None
        self.inp = edge(conv(rank, channels * cell * (3 if given else 1), width))

        def blocks(n_in: int, out: int) -> ResBlock:
            return ResBlock(rank, n_in, out, emb=emb, dropout=config.dropout)

        self.down, self.downs, skips = nn.ModuleList(), nn.ModuleList(), [width]
        for level, w in enumerate(widths):
            for _ in range(config.depth):
                self.down.append(blocks(w, w))
                skips.append(w)
            if level + 1 < len(widths):
                self.downs.append(Down(rank, w, widths[level + 1]))
                skips.append(widths[level + 1])
        low = widths[-1]
        self.middle = nn.ModuleList([blocks(low, low), blocks(low, low)])
        positions = self._positions(source, config.levels)
        self.attention = SelfAttention(low) if 1 < positions <= ATTEND else None
        self.cross = CrossAttention(low, cond) if sequence else None
        self.up, self.ups, at = nn.ModuleList(), nn.ModuleList(), low
        for level, w in reversed(list(enumerate(widths))):
            for _ in range(config.depth + 1):
                self.up.append(blocks(at + skips.pop(), w))
                at = w
            if level:
                at = widths[level - 1]
                self.ups.append(Up(rank, w, at))
        self.depth, self.levels = config.depth, config.levels
        self.norm, self.out = norm(at), edge(zero(conv(rank, at, (target[0] or 1) * cell)))

    def _positions(self, shape: tuple[int | None, ...], levels: int) -> int:
        """Positions of the lowest level; a ragged axis counts as too many."""
        sides = [1 << 20 if n is None else -(-n // self.patch) for n in shape[1:]]
        for _ in range(levels - 1):
            sides = [-(-n // 2) for n in sides]
        return prod(sides)

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: Given | None = None,
                mask: Tensor | None = None, cache: object = None) -> Tensor:
        size = x.shape[2:]
        if self.has_given:
            x = with_given(x, given)
        if mask is not None:
            x = x * mask[:, None].to(x.dtype)
        x = patchify(x, self.patch)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        vector = None if cond is None else cond.vector
        e = None if self.embedding is None else self.embedding(len(x), time, vector)
        h = self.inp(x)
        skips, down = [h], iter(self.down)
        for level in range(self.levels):
            for _ in range(self.depth):
                h = next(down)(h, e)
                skips.append(h)
            if level + 1 < self.levels:
                h = self.downs[level](h)
                skips.append(h)
        h = self._lowest(h, e, cond)
        up = iter(self.up)
        for level in range(self.levels):
            for _ in range(self.depth + 1):
                h = next(up)(torch.cat([h, skips.pop()], 1), e)
            if level + 1 < self.levels:
                h = self.ups[level](h, skips[-1].shape[2:])
        return unpatchify(self.out(F.silu(self.norm(h))), self.patch, size)

    def _lowest(self, h: Tensor, e: Tensor | None, cond: Cond | None) -> Tensor:
        h = self.middle[0](h, e)
        if self.attention is not None:
            h = self.attention(h)
        if self.cross is not None and cond is not None and cond.sequence is not None:
            h = self.cross(h, cond.sequence, cond.mask)
        return self.middle[1](h, e)


def with_given(x: Tensor, given: Given | None) -> Tensor:
    """x, the known values (0 elsewhere) and where they are known, along the channels; nothing known when None."""
    known = torch.zeros_like(x) if given is None else given.known.to(x.dtype).expand_as(x)
    return torch.cat([x, known if given is None else torch.where(given.known, given.x.to(x.dtype), 0.0), known], 1)
