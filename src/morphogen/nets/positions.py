"""Where a token stands: rotary angles and their stretched variants, and T5's bias by distance."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from morphogen.nets.architecture import Rotary

Turn = tuple[Tensor, Tensor]


def drawn(*shape: int, std: float) -> Tensor:
    """Initial weights, normal with mean 0."""
    return nn.init.normal_(torch.empty(shape), std=std)


def frequencies(rotary: Rotary, width: int, length: int) -> Tensor:
    """(n,) radians a position for each turning pair of a head of `width`; `length` is how far positions reach, itself not counted."""
    n = int(width * rotary.share) // 2 * 2
    exponent = torch.arange(0, n, 2, dtype=torch.float32) / n
    theta = rotary.theta
    if rotary.kind == "dynamic" and length > rotary.original:  # NTK: the base grows with the text
        theta *= (rotary.factor * length / rotary.original - (rotary.factor - 1)) ** (n / (n - 2))
    plain = theta**-exponent
    match rotary.kind:
        case "linear":
            return plain / rotary.factor
        case "llama3":
            return _llama3(plain, rotary)
        case "yarn":
            return _yarn(plain, rotary, n)
        case "longrope":
            return plain / torch.tensor(rotary.long if length > rotary.original else rotary.short)
    return plain


def _llama3(plain: Tensor, r: Rotary) -> Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    wave = 2 * math.pi / plain
    blend = ((r.original / wave - r.low) / (r.high - r.low)).clamp(0, 1)
    return (1 - blend) * plain / r.factor + blend * plain


def _yarn(plain: Tensor, r: Rotary, n: int) -> Tensor:
    """Peng et al. 2023, section 3.2: frequencies that turn fewer than `low` times in `original` positions are stretched."""

    def dimension(rotations: float) -> float:
        return n * math.log(r.original / (rotations * 2 * math.pi)) / (2 * math.log(r.theta))

    first, last = dimension(r.high), dimension(r.low)
    if r.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, n - 1)
    ramp = ((torch.arange(n // 2) - first) / ((last - first) or 0.001)).clamp(0, 1)
    return plain / r.factor * ramp + plain * (1 - ramp)


def rotation(positions: Tensor, width: int, rotary: Rotary, length: int = 0) -> Turn:
    """(..., n / 2) cosines and sines for integer or real positions (...)."""
    angle = positions.float()[..., None] * frequencies(rotary, width, length).to(positions.device)
    return angle.cos() * rotary.attention, angle.sin() * rotary.attention


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """Turn (B, H, L, d): element j goes with element j + n/2, Hugging Face's order and not the interleaved one.

    What lies beyond the first n elements (2 x the last axis of `turn`) stays.
    """
    cos, sin = turn
    n = 2 * cos.shape[-1]
    rest = None
    if n < x.shape[-1]:
        x, rest = x[..., :n], x[..., n:]
    a, b = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    return turned if rest is None else torch.cat([turned, rest], -1)


class Distance(nn.Module):
    """(1, H, L, K) bias by how far a key lies from a query, in buckets that grow with distance (Raffel et al. 2020, section 2.1)."""

    def __init__(self, buckets: int, reach: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.reach, self.causal, self.edge = reach, causal, True
        self.weight = nn.Parameter(drawn(buckets, heads, std=0.02))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """`queries` (L,) and `keys` (K,) are positions."""
        apart = keys[None, :] - queries[:, None]
        buckets = len(self.weight)
        base: Tensor | int = 0
        if self.causal:
            apart = (-apart).clamp(min=0)
        else:
            buckets //= 2
            base, apart = (apart > 0).long() * buckets, apart.abs()
        exact = buckets // 2
        far = exact + ((apart.float() / exact).clamp(min=1).log() / math.log(self.reach / exact) * (buckets - exact)).long()
        bucket = base + torch.where(apart < exact, apart, far.clamp(max=buckets - 1))
        return self.weight[bucket].permute(2, 0, 1)[None]
