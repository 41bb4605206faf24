"""What a decoder that walks over a grid row by row cannot see at a glance: where it is, what lies above, how many of each there are."""
from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.nets.blocks import edge

COUNTED = 64  # ids: of more kinds, how many there are of each says little
MANY = 24  # counts above it are alike: what a rule is about (a player, boxes, goals) is rare


class Grid(nn.Module):
    """All ids read so far (B, n), the start symbol first -> what is added to the inputs from position `first` on, (B, n - first, width).

    Input i is id i - 1 and leads to cell i. Added are: the cell's place on each axis, the ids one step back on each axis but the
    last (the start symbol where there is none), and how many of each id were read. Everything starts as nothing.
    """

    def __init__(self, vocab: int, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.grid, self.vocab = grid, vocab
        self.places = nn.ModuleList(nn.Embedding(n, width) for n in grid)
        self.above = nn.ModuleList(nn.Embedding(vocab, width) for _ in grid[1:])
        self.tally = edge(nn.Linear(vocab, width, bias=False)) if vocab <= COUNTED else None
        for p in self.parameters():
            nn.init.zeros_(p)

    def forward(self, seen: Tensor, first: int = 0) -> Tensor:
        at = torch.arange(first, seen.shape[1], device=seen.device).clamp(max=prod(self.grid) - 1)
        strides = [prod(self.grid[k + 1 :]) for k in range(len(self.grid))]
        places = [place(at // stride % n) for place, stride, n in zip(self.places, strides, self.grid, strict=True)]
        h = torch.stack(places).sum(0)[None]
        for above, stride in zip(self.above, strides, strict=False):
            h = h + above(seen[:, (at + 1 - stride).clamp(min=0)])
        if self.tally is not None:
            counts = F.one_hot(seen, self.vocab).cumsum(1)[:, first:]
            h = h + self.tally(counts.clamp(max=MANY).to(h.dtype) / 4)
        return h
