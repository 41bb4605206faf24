"""Vectors to codes and back: a learned codebook (VQ) and a fixed grid (FSQ). Both work on (B, c, *grid)."""
from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.errors import UsageError

# codes as products of few levels: table 1 of Mentzer et al. 2023 from (8, 6, 5) on, smaller sets before it
_LEVELS = ((2, 2), (4, 2), (4, 4), (8, 4), (8, 8), (5, 5, 5), (8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5), (8, 8, 8, 5, 5, 5))


def levels_for(codes: int) -> tuple[int, ...]:
    """The known set of levels whose product is nearest to `codes` on a log scale."""
    return min(_LEVELS, key=lambda levels: max(prod(levels) / codes, codes / prod(levels)))


class VQ(nn.Module):
    """Nearest codebook vector with a straight-through gradient (van den Oord et al. 2017, "Neural discrete representation learning").

    The codebook is a buffer that follows a moving average of what it is used for (their appendix A.1), from sums gathered in
    `count` and applied by `update`, so windows and ranks add up. A code whose average use falls below `revive` of an even
    share is put on a vector the encoder gave in that step.
    """

    def __init__(self, codes: int, width: int, *, decay: float = 0.98, revive: float = 0.02) -> None:
        super().__init__()
        if codes < 2:
            raise UsageError(f"a codebook of {codes} codes cannot tell anything apart", remedy="set codes to 2 or more")
        self.codes, self.width, self.decay, self.revive = codes, width, decay, revive
        self.register_buffer("codebook", torch.randn(codes, width) * 0.1)
        self.register_buffer("hits", torch.zeros(codes))
        self.codebook: Tensor
        self.hits: Tensor

    def ids(self, h: Tensor) -> Tensor:
        """(B, c, *grid) -> (B, prod(grid)) int64 nearest codes, row-major."""
        rows = h.flatten(2).transpose(1, 2)
        # |h - e|^2 without the |h|^2 that all codes share
        return (self.codebook.square().sum(1) - 2 * rows @ self.codebook.T).argmin(-1)

    def vectors(self, ids: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, prod(grid)) -> (B, c, *grid)."""
        return self.codebook[ids].transpose(1, 2).unflatten(2, grid)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(codes' vectors with the gradient of h, ids (B, L), commitment (B,): squared distance from h to its code)."""
        ids = self.ids(h)
        q = self.vectors(ids, tuple(h.shape[2:]))
        return h + (q - h).detach(), ids, (h - q).square().flatten(1).sum(1)

    def count(self, h: Tensor, ids: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Sums for `update`: uses and vectors of each code over rows of weight 1, and candidates for dead codes."""
        rows = h.detach().flatten(2).transpose(1, 2)
        one = F.one_hot(ids, self.codes).to(rows.dtype) * weight[:, None, None]
        total = torch.einsum("blk,blc->kc", one, rows)
        return {"codes.n": one.sum((0, 1)), "codes.sum": total, "codes.new": self._candidates(rows, weight)}

    def _candidates(self, rows: Tensor, weight: Tensor) -> Tensor:
        """(codes, c + 1) one vector of the batch for each code, and a 1 beside it; 0 where there is none to offer.

        Over windows both add up and their ratio is taken: one vector a window, as a mean of many would sit where no vector is.
        """
        each = weight.repeat_interleave(rows.shape[1])[:, None]
        flat = torch.cat([rows.flatten(0, 1) * each, each], 1)
        stride = max(1, len(flat) // self.codes)
        picked = flat[::stride][: self.codes]
        return F.pad(picked, (0, 0, 0, self.codes - len(picked)))

    @torch.no_grad()
    def update(self, stats: Mapping[str, Tensor]) -> None:
        """Move codes by a step's summed stats; call between optimiser steps."""
        n, total, new = stats["codes.n"], stats["codes.sum"], stats["codes.new"]
        fresh = self.hits.sum() == 0
        decay = 0.0 if fresh else self.decay
        share = n / n.sum().clamp(min=1) * self.codes
        # a code that is used more moves by its own share of evidence, so rare codes are not dragged to one sample
        kept = self.hits * decay
        moved = (self.codebook * kept[:, None] + (1 - decay) * total * (self.codes / n.sum().clamp(min=1))) / (
            kept + (1 - decay) * share).clamp(min=1e-8)[:, None]
        used = n > 0
        self.codebook.copy_(torch.where(used[:, None], moved, self.codebook))
        self.hits.copy_(kept + (1 - decay) * share)
        dead = (self.hits < self.revive) & (new[:, -1] > 0)
        self.codebook.copy_(torch.where(dead[:, None], new[:, :-1] / new[:, -1:].clamp(min=1), self.codebook))
        self.hits.copy_(torch.where(dead, torch.full_like(self.hits, 10 * self.revive), self.hits))


class FSQ(nn.Module):
    """Each channel rounded to one of a few levels; codes are all combinations (Mentzer et al. 2023, "Finite scalar quantization").

    z_i = round((l_i - 1)/2 · tanh(h_i + shift) + offset): nothing to learn, no code can die. `levels` per channel, each >= 2.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise UsageError(f"levels {levels} cannot be told apart", remedy="give each channel 2 levels or more")
        self.levels, self.width, self.codes = tuple(levels), len(levels), prod(levels)
        basis = [prod(levels[:i]) for i in range(len(levels))]
        # constants of the configuration: made again on load
        self.register_buffer("basis", torch.tensor(basis), persistent=False)
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        self.basis: Tensor
        self.sizes: Tensor

    def _column(self, a: Tensor, h: Tensor) -> Tensor:
        return a.view(1, -1, *[1] * (h.ndim - 2))

    def _digits(self, h: Tensor) -> Tensor:
        """Bounded h in units of levels, 0 ... l - 1, not rounded."""
        top = self._column(self.sizes, h).to(h.dtype) - 1
        # a shade wider than the levels, so that the outer ones can be reached without driving tanh to its limit
        return (torch.tanh(h) * (1 + 1e-3) + 1) / 2 * top

    def _values(self, digits: Tensor) -> Tensor:
        """Digits to [-1, 1]."""
        return 2 * digits / (self._column(self.sizes, digits) - 1).to(digits.dtype) - 1

    def ids(self, h: Tensor) -> Tensor:
        """(B, c, *grid) -> (B, prod(grid)) int64."""
        top = self._column(self.sizes, h) - 1
        digits = torch.minimum(self._digits(h).round().long().clamp(min=0), top)
        return (digits * self._column(self.basis, h)).sum(1).flatten(1)

    def vectors(self, ids: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, prod(grid)) -> (B, c, *grid) values in [-1, 1]."""
        digits = (ids[:, None] // self.basis[:, None]) % self.sizes[:, None]
        return self._values(digits.float()).unflatten(2, grid)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(values with the gradient of the bounded h, ids (B, L), zeros (B,): nothing to commit to)."""
        soft, ids = self._values(self._digits(h)), self.ids(h)
        q = self.vectors(ids, tuple(h.shape[2:])).to(soft.dtype)
        return soft + (q - soft).detach(), ids, torch.zeros(len(h), dtype=h.dtype, device=h.device)


def perplexity(n: Tensor) -> Tensor:
    """How many codes are in use: exp of the entropy of the counts n (codes,). A scalar."""
    p = n / n.sum().clamp(min=1)
    return torch.exp(-(p * p.clamp(min=1e-12).log()).sum())


def reached(fine: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """The grid that a downsampling factor (a power of two) gives, rounding up."""
    if factor < 1 or factor & (factor - 1):
        raise UsageError(f"grid factor {factor} is not a power of two", remedy="choose 2, 4, 8 or 16; 0 for a vector")
    return tuple(ceil(n / factor) for n in fine)
