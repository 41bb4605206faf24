"""Parts shared by the convolutional nets: one implementation for 1, 2 and 3 spatial axes."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.nets.dropout import drop

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
HEAD = 32  # channels per attention head


def conv(rank: int, channels: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution over `rank` spatial axes; stride 1 keeps the size n, stride 2 gives ceil(n / 2)."""
    return CONVS[rank](channels, out, kernel, stride=stride, padding=kernel // 2)


def zero(module: nn.Module) -> nn.Module:
    """The same module with all parameters 0: a residual branch that starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def edge(module: nn.Module) -> nn.Module:
    """The same module, marked as an end of its net: its rows or columns are data, not features, and are trained as such."""
    module.edge = True  # type: ignore[assignment]
    return module


def quiet(module: nn.Module, gain: float = 0.3) -> nn.Module:
    """The same module with outputs of deviation about `gain` for inputs of deviation 1.

    For the last layer of a residual branch. Zero would start as the identity, but three zeros in a row (this, a modulation, an
    output) hold gradients back for the first dozens of steps: measured 4 % less loss after 200 steps than all zero.
    """
    for name, p in module.named_parameters():
        if name == "weight":
            nn.init.normal_(p, std=gain / p[0].numel() ** 0.5)
        else:
            nn.init.zeros_(p)
    return module


class Norm(nn.GroupNorm):
    """GroupNorm (Wu and He 2018), worked out in float32: in bfloat16 a processor takes four times as long."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


def norm(channels: int) -> Norm:
    """With groups of at least 8 channels where that divides."""
    return Norm(math.gcd(channels, max(1, min(32, channels // 8))), channels)


class FiLM(nn.Module):
    """h (1 + scale(e)) + shift(e) per channel (Perez et al. 2018). Channels are axis 1."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = quiet(nn.Linear(width, 2 * channels), 0.5)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.linear(e).view(len(e), -1, *[1] * (h.ndim - 2)).chunk(2, 1)
        return torch.addcmul(shift, h, 1 + scale)


class ResBlock(nn.Module):
    """h + conv(silu(film(norm(conv(silu(norm(h))))))): the residual block of Dhariwal and Nichol 2021.

    `emb`: width of the embedding that modulates it, 0 for none. (B, C, *space) -> (B, out, *space).
    """

    def __init__(self, rank: int, channels: int, out: int, *, emb: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), conv(rank, channels, out)
        self.norm2, self.conv2 = norm(out), quiet(conv(rank, out, out))
        self.film = FiLM(emb, out) if emb else None
        self.skip = conv(rank, channels, out, 1) if channels != out else None
        self.dropout = dropout

    def forward(self, h: Tensor, e: Tensor | None = None) -> Tensor:
        r = self.norm2(self.conv1(F.silu(self.norm1(h))))
        if self.film is not None and e is not None:
            r = self.film(r, e)
        r = drop(F.silu(r), self.dropout, self.training)
        return self.conv2(r) + (h if self.skip is None else self.skip(h))


class SelfAttention(nn.Module):
    """Residual attention of every position to every other; for the low resolutions. (B, C, *space) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        if channels % self.heads:
            self.heads = 1
        self.norm, self.qkv, self.out = norm(channels), nn.Linear(channels, 3 * channels), quiet(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        x = self.norm(h).flatten(2).transpose(1, 2)
        q, k, v = (a.unflatten(2, (self.heads, -1)).transpose(1, 2) for a in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return h + self.out(y).transpose(1, 2).reshape(h.shape)


class CrossAttention(nn.Module):
    """Residual attention of every position to a sequence (B, S, D) with mask (B, S), True = real.

    One more key, all zero, is always there to look at: rows about which nothing is said have nothing else.
    """

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        if channels % self.heads:
            self.heads = 1
        self.norm, self.q, self.kv = norm(channels), nn.Linear(channels, channels), nn.Linear(context, 2 * channels)
        self.out = quiet(nn.Linear(channels, channels))

    def forward(self, h: Tensor, sequence: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.q(self.norm(h).flatten(2).transpose(1, 2)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = (F.pad(a, (0, 0, 1, 0)).unflatten(2, (self.heads, -1)).transpose(1, 2) for a in self.kv(sequence).chunk(2, -1))
        seen = None if mask is None else F.pad(mask, (1, 0), value=True)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        return h + self.out(y).transpose(1, 2).reshape(h.shape)


class Down(nn.Module):
    """Half the size, rounded up: 28 -> 14 -> 7 -> 4."""

    def __init__(self, rank: int, channels: int, out: int) -> None:
        super().__init__()
        self.conv = conv(rank, channels, out, 3, 2)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(h)


class Up(nn.Module):
    """Channels mixed, then twice the size by repetition; cropped to `size`, the size before the matching Down.

    The mixing is 1 wide and comes first, where it is 4 times cheaper in 2-D: the block that follows smooths the repeats.
    """

    def __init__(self, rank: int, channels: int, out: int) -> None:
        super().__init__()
        self.conv = conv(rank, channels, out, 1)

    def forward(self, h: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
        h = F.interpolate(self.conv(h), scale_factor=2.0, mode="nearest")
        for axis, n in enumerate(size):
            h = h.narrow(2 + axis, 0, n)
        return h


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, *space) -> (B, C patch^rank, *ceil(space / patch)): space to depth; edges repeat where the size is no multiple."""
    if patch == 1:
        return x
    rank = x.ndim - 2
    missing = [-n % patch for n in x.shape[2:]]
    if any(missing):
        x = F.pad(x, [m for n in reversed(missing) for m in (0, n)], mode="replicate")
    x = x.reshape(*x.shape[:2], *[m for n in x.shape[2:] for m in (n // patch, patch)])
    inner, outer = [3 + 2 * i for i in range(rank)], [2 + 2 * i for i in range(rank)]
    return x.permute(0, 1, *inner, *outer).flatten(1, 1 + rank)


def unpatchify(x: Tensor, patch: int, size: tuple[int, ...] | torch.Size) -> Tensor:
    """The inverse of `patchify`, cropped to `size`."""
    if patch == 1:
        return x
    rank = x.ndim - 2
    x = x.unflatten(1, (-1, *[patch] * rank))
    x = x.permute(0, 1, *[a for i in range(rank) for a in (2 + rank + i, 2 + i)])
    x = x.reshape(*x.shape[:2], *[x.shape[2 + 2 * i] * patch for i in range(rank)])
    for axis, n in enumerate(size):
        x = x.narrow(2 + axis, 0, n)
    return x


class Fourier(nn.Module):
    """(B,) -> (B, 2 n + 1): t and sines and cosines of it at n frequencies in geometric steps from 1/8 to 8 periods a unit."""

    def __init__(self, n: int = 32) -> None:
        super().__init__()
        self.n = n
        # recomputed on load rather than saved: it is a constant of the architecture
        self.register_buffer("frequency", 2 * math.pi * 2.0 ** torch.linspace(-3, 3, n), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequency  # type: ignore[operator]
        return torch.cat([t[:, None], angle.sin(), angle.cos()], 1)


class Embedding(nn.Module):
    """What modulates the blocks: (B, width) from the time (B,) and the condition's vector (B, cond), each where it exists."""

    def __init__(self, width: int, *, cond: int = 0, time: bool = False) -> None:
        super().__init__()
        self.fourier = Fourier() if time else None
        self.time = nn.Sequential(nn.Linear(65, width), nn.SiLU(), nn.Linear(width, width)) if time else None
        self.cond = quiet(nn.Linear(cond, width), 1.0) if cond else None

    def forward(self, n: int, time: Tensor | None, vector: Tensor | None) -> Tensor | None:
        e: Tensor | None = None
        if self.time is not None and self.fourier is not None:
            if time is None:
                raise ValueError("this net was built with time=True and needs time=")
            e = self.time(self.fourier(time))
        if self.cond is not None and vector is not None:
            c = self.cond(vector)
            e = c if e is None else e + c
        return None if e is None else F.silu(e)
