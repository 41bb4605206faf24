"""Randomness is a value: a draw is a pure function of (key, name, step, element).

An element is named by its coordinates, never by a flat index, so padding an axis changes no draw of the real part, and
neither does the batch a row happens to be in. The hash is splitmix64's finaliser (Steele, Lea, Flood 2014, "Fast
splittable pseudorandom number generators"), computed in wrapping int64 arithmetic.
"""
from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


# Odd multipliers, one per axis: coordinates of different axes must not alias each other.
_AXES = [_signed(v) for v in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)]
_MIX1, _MIX2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift(x: Tensor, k: int) -> Tensor:
    """Logical right shift: torch's >> on int64 keeps the sign."""
    return (x >> k) & ((1 << (64 - k)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def seeded(seed: int, n: int, *, first: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """(n,) sample keys of a seed; the key of sample i depends on (seed, i) alone."""
    index = torch.arange(first, first + n, device=device)
    return derive(index, f"seed.{seed}")


def _crc(name: str) -> int:
    """zlib.crc32 of a name; spelled out where torch.compile reads along, which cannot look into zlib."""
    if not torch.compiler.is_compiling():
        return zlib.crc32(name.encode())
    value = 0xFFFFFFFF
    for byte in name.encode():
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _times(index: Tensor, factor: int) -> Tensor:
    """index * factor in wrapping int64. By ~, or torch.compile takes the product for a place in memory."""
    return ~index * -factor - factor


def derive(keys: Tensor, name: str, step: int | Tensor = 0) -> Tensor:
    """New keys (B,) from keys (B,) int64. `step` is an int or one per row."""
    salt = _signed(_crc(name) * 0x9E3779B97F4A7C15)
    where = torch.as_tensor(step, dtype=torch.int64, device=keys.device)
    return _mix(_mix(keys + salt) + _mix(where * _AXES[1] + 1))


def bits(keys: Tensor, name: str, step: int | Tensor = 0, shape: tuple[int, ...] = ()) -> Tensor:
    """(B, *shape) int64 of 64 mixed bits."""
    where = torch.zeros((), dtype=torch.int64, device=keys.device)
    for axis, n in enumerate(shape):
        coordinate = _times(torch.arange(1, n + 1, device=keys.device), _AXES[axis])
        where = where[..., None] + coordinate
    return _mix(derive(keys, name, step).view(-1, *[1] * len(shape)) + where)


def _one(key: int, name: str, step: int) -> int:
    """The 64 bits of `bits` for a single key, without a sign, in plain numbers."""
    everything = (1 << 64) - 1

    def mix(x: int) -> int:
        x = ((x ^ (x & everything) >> 30) * _MIX1) & everything
        x = ((x ^ x >> 27) * _MIX2) & everything
        return x ^ x >> 31

    salt = zlib.crc32(name.encode()) * 0x9E3779B97F4A7C15
    first, second = mix((key + salt) & everything), mix((step * _AXES[1] + 1) & everything)
    return mix(mix((first + second) & everything))


def uniform(keys: Tensor, name: str, step: int | Tensor = 0, shape: tuple[int, ...] = ()) -> Tensor:
    """(B, *shape) in (0, 1): 23 bits, never 0 or 1, so that log is safe."""
    return (_shift(bits(keys, name, step, shape), 41).float() + 0.5) * 2.0**-23


def normal(keys: Tensor, name: str, step: int | Tensor = 0, shape: tuple[int, ...] = ()) -> Tensor:
    """(B, *shape) standard normal by Box and Muller, one hash a draw; tails reach 6.7 sigma."""
    h = bits(keys, name, step, shape)
    radius = (-2 * torch.log((_shift(h, 32).float() + 0.5) * 2.0**-32)).clamp(min=0).sqrt()
    return radius * torch.cos((h & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32))


def weights(logits: Tensor) -> Tensor:
    """(..., V) float64 whole numbers in proportion to softmax: 2^34 for the most likely.

    Sums of whole numbers below 2^53 (up to 2^19 ids) are exact: they do not depend on their order, nor on how many zeros lie
    between. So a law keeps its draws, bit for bit, when tokens without a chance are left out.
    """
    wide = logits.detach().to(torch.float64, copy=True)  # in place from here on: fresh pages cost more than the sums do
    return wide.sub_(wide.amax(-1, keepdim=True)).exp_().mul_(2.0**34).floor_()


def choose(logits: Tensor, keys: Tensor, name: str, step: int | Tensor = 0) -> Tensor:
    """(B,) one index a row of (B, V) logits, by inverse CDF: one uniform a row, 12x cheaper than Gumbel for large V.

    In whole numbers: the index is the first whose running sum exceeds floor(u total), with u = (2 m + 1) / 2^24.
    """
    cdf = weights(logits)
    torch.cumsum(cdf, -1, out=cdf)
    if len(cdf) == 1 and keys.device.type == "cpu":  # thirty operations on one number cost more than the rest of a token
        total, odd = cdf[0, -1].item(), 2 * (_one(int(keys[0]), name, int(step)) >> 41) + 1
        point = int(total) * odd >> 24 if total == total else 0
        return torch.searchsorted(cdf[0], float(point), right=True).clamp(max=logits.shape[-1] - 1)[None]
    total, odd = cdf[:, -1].long(), 2 * _shift(bits(keys, name, step), 41) + 1
    points = (total >> 24) * odd + (((total & 0xFFFFFF) * odd) >> 24)  # the product of both would need 77 bits
    return torch.searchsorted(cdf, points[:, None].double(), right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def permutation(keys: Tensor, name: str, n: int, step: int | Tensor = 0) -> Tensor:
    """(B, n) an order of 0..n-1 for each row."""
    return bits(keys, name, step, (n,)).argsort(-1)
