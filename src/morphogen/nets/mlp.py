"""A residual multi-layer perceptron for vectors: table rows, latents."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Cond, Given
from morphogen.nets.blocks import Embedding, FiLM, edge, quiet, zero
from morphogen.nets.dropout import drop
from morphogen.nets.net import net


class Block(nn.Module):
    """h + linear(silu(linear(adaln(h)))), LayerNorm modulated by the embedding (adaLN of Peebles and Xie 2023)."""

    def __init__(self, width: int, *, emb: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = FiLM(emb, width) if emb else None
        self.up, self.down = nn.Linear(width, 2 * width), quiet(nn.Linear(2 * width, width))
        self.dropout = dropout

    def forward(self, h: Tensor, e: Tensor | None) -> Tensor:
        r = self.norm(h)
        if self.film is not None and e is not None:
            r = self.film(r, e)
        return h + self.down(drop(F.silu(self.up(r)), self.dropout, self.training))


@net
class MLP(nn.Module):
    """(B, D) -> (B, out). Time and Cond.vector modulate every block; with `given`, known values come in beside x.

    A net of noise levels (`time`) starts at output 0, so a preconditioned denoiser starts at its skip; others start as usual.
    """

    def __init__(self, config: NetConfig, source: tuple[int | None, ...], target: tuple[int | None, ...], *, cond: int = 0,
                 sequence: bool = False, given: bool = False, time: bool = False) -> None:
        super().__init__()
        n, out, width = source[0] or 1, target[0] or 1, config.width
        self.has_given = given
        emb = width if cond or time else 0
        self.embedding = Embedding(emb, cond=cond, time=time) if emb else None
        self.inp = edge(nn.Linear(n * (3 if given else 1), width))
        self.blocks = nn.ModuleList(Block(width, emb=emb, dropout=config.dropout) for _ in range(config.depth))
        self.out = edge(nn.Linear(width, out))
        if time:
            zero(self.out)

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: Given | None = None,
                mask: Tensor | None = None, cache: object = None) -> Tensor:
        if self.has_given:
            known = torch.zeros_like(x) if given is None else given.known.to(x.dtype).expand_as(x)
            x = torch.cat([x, known if given is None else torch.where(given.known, given.x.to(x.dtype), 0.0), known], 1)
        e = None if self.embedding is None else self.embedding(len(x), time, said(cond))
        h = self.inp(x)
        for block in self.blocks:
            h = block(h, e)
        # no norm at the end: what is linear in x stays linear however far out x lies
        return self.out(h)


def said(cond: Cond | None) -> Tensor | None:
    """One vector a row: Cond.vector plus the mean of Cond.sequence, for a net that has no positions to attend from."""
    if cond is None or cond.sequence is None:
        return None if cond is None else cond.vector
    mask = torch.ones_like(cond.sequence[..., 0]) if cond.mask is None else cond.mask.to(cond.sequence.dtype)
    mean = (cond.sequence * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return mean if cond.vector is None else cond.vector + mean
