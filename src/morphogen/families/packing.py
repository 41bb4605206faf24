"""Rows of different lengths in one line, with what they all begin with in front, once: no padding, and nothing computed twice."""
from __future__ import annotations

import torch
from torch import Tensor

from morphogen.nets.attention import Sight, attention, visible


class Packing:
    """One line (1, N) made of ids (B, L): the `shared` first ones of row 0, then the rest of each row up to its length.

    A cache to the decoder, which asks it for positions and attention; gradients pass through, nothing is kept.
    """

    def __init__(self, ids: Tensor, lengths: Tensor) -> None:
        same = (ids == ids[:1]).all(0).long().cumprod(0).sum()
        self.shared = max(0, min(int(same), int(lengths.min()) - 1))  # every row keeps something of its own
        self.own = (lengths - self.shared).tolist()
        self.line = torch.cat([ids[0, : self.shared], *(row[self.shared : n] for row, n in zip(ids, lengths.tolist()))])[None]
        starts = lengths.new_tensor([self.shared, *self.own[:-1]]).cumsum(0)
        at = torch.arange(ids.shape[1], device=ids.device)
        self.places = torch.where(at < self.shared, at, starts[:, None] + at - self.shared)  # (B, L): where in the line a position stands

    def positions(self, n: int, device: torch.device) -> Tensor:
        own = (torch.arange(self.shared, self.shared + m, device=device) for m in self.own)
        return torch.cat([torch.arange(self.shared, device=device), *own])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None) -> Tensor:
        """Each row sees what is shared and itself."""
        sizes = [self.shared, *self.own]
        (q0, *qs), (k0, *ks), (v0, *vs) = (t.split(sizes, 2) for t in (q, k, v))
        out = [_causal(q0, k0, v0, sight)] if self.shared else []
        out += [_causal(a, torch.cat([k0, b], 2), torch.cat([v0, c], 2), sight) for a, b, c in zip(qs, ks, vs)]
        return torch.cat(out, 2)

    def extent(self) -> int:
        return 0

    def advance(self, n: int) -> None:
        """Nothing is kept."""

    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        return None

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Nothing is kept."""


def _causal(q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
    """Attention of the last positions to all."""
    n, length = q.shape[2], k.shape[2]
    if n == length and not (sight.window and length > sight.window):
        return attention(q, k, v, sight, None, causal=True)
    at = torch.arange(length, device=q.device)
    return attention(q, k, v, sight, visible(at[length - n :], at, sight))
