"""Attention with grouped queries; who sees whom is one function, and a cache may stand between keys and queries."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.contracts import Cond
from morphogen.nets.architecture import Architecture
from morphogen.nets.positions import Turn, rotate


@dataclass(frozen=True)
class Sight:
    """How one layer attends: what it sees and how scores are formed."""

    causal: bool
    window: int
    scale: float
    soft_cap: float


class Cache(Protocol):
    """Keys and values kept between calls. `positions` (n,) of the ids now given; `attend` stores k, v and answers q."""

    def positions(self, n: int, device: torch.device) -> Tensor: ...
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None) -> Tensor: ...
    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None: ...
    def keep(self, layer: int, k: Tensor, v: Tensor) -> None: ...
    def extent(self) -> int: ...
    def advance(self, n: int) -> None: ...


def visible(queries: Tensor, keys: Tensor, sight: Sight) -> Tensor | None:
    """(L, K) bool for positions of queries (L,) and keys (K,); None when everything is seen."""
    apart = queries[:, None] - keys[None, :]
    if sight.causal:
        seen = apart >= 0
        return seen & (apart < sight.window) if sight.window else seen
    return apart.abs() <= sight.window if sight.window else None


def attention(q: Tensor, k: Tensor, v: Tensor, sight: Sight, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(scale q k' + mask) v for q (B, H, L, d) and k, v (B, KV, K, d), each of KV heads shared by H / KV queries.

    `mask` bool (True = seen) or float, broadcast to (B, H, L, K). `causal`: query i sees keys up to i, when L = K.
    """
    groups = q.shape[1] // k.shape[1]
    if sight.soft_cap:
        return _capped(q, k, v, sight, mask, causal)
    if groups > 1 and q.shape[2] == 1 and (mask is None or mask.shape[1] == 1):
        # one query a head: heads that share keys become the queries of one head, and nothing is copied
        y = F.scaled_dot_product_attention(q.unflatten(1, (-1, groups)).squeeze(3), k, v, attn_mask=mask, scale=sight.scale)
        return y.flatten(1, 2)[:, :, None]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=sight.scale)


def _capped(q: Tensor, k: Tensor, v: Tensor, sight: Sight, mask: Tensor | None, causal: bool) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    score = sight.soft_cap * torch.tanh(q @ k.transpose(2, 3) * (sight.scale / sight.soft_cap))
    if causal:
        mask = torch.ones(score.shape[2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        score = score.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score + mask
    return score.softmax(-1) @ v


class KVCache:
    """Keys and values a caller keeps between calls of a causal Transformer; `length` positions are in it.

    Owned by the caller, one per stream of rows that all know equally much. Tensors (B, kv heads, capacity, head width) per
    layer grow by doubling up to `limit`.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.length = limit, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.memory: dict[int, tuple[Tensor, Tensor]] = {}
        self.ids: Tensor | None = None

    def read(self, x: Tensor) -> Tensor:
        """All ids read so far, `x` (B, n) the last of them, for nets that look at them themselves."""
        self.ids = x if self.ids is None else torch.cat([self.ids, x], 1)
        return self.ids

    def positions(self, n: int, device: torch.device) -> Tensor:
        return torch.arange(self.length, self.length + n, device=device)

    def extent(self) -> int:
        """How many positions keys will have after the ids now given were added, at least."""
        return self.length

    def advance(self, n: int) -> None:
        self.length += n

    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        return self.memory.get(layer)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        self.memory[layer] = (k, v)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, n, d) at `length` and return everything up to there. Raises ValueError past `limit`."""
        end = self.length + k.shape[2]
        if end > self.limit:
            raise ValueError(f"cache of {self.limit} positions asked to hold {end}")
        if layer not in self.layers or self.layers[layer][0].shape[2] < end:
            capacity = min(self.limit, max(end, 2 * self.length, 64))
            grown = [x.new_zeros(*x.shape[:2], capacity, x.shape[3]) for x in (k, v)]
            for new, old in zip(grown, self.layers.get(layer, ())):
                new[:, :, : self.length] = old[:, :, : self.length]
            self.layers[layer] = (grown[0], grown[1])
        keys, values = self.layers[layer]
        keys[:, :, self.length:end], values[:, :, self.length:end] = k, v
        return keys[:, :, :end], values[:, :, :end]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None) -> Tensor:
        """A later chunk sees all that is cached and itself up to the diagonal."""
        keys, values = self.append(layer, k, v)
        n, length = q.shape[2], keys.shape[2]
        whole = self.length == 0 and n > 1
        short = not sight.window or length <= sight.window
        if bias is None and short and (whole or n == 1):
            return attention(q, keys, values, sight, None, causal=whole)
        at = torch.arange(length, device=q.device)
        mask = visible(at[self.length:], at, sight)
        return attention(q, keys, values, sight, mask if bias is None else _both(bias, mask))


def _both(bias: Tensor, mask: Tensor | None) -> Tensor:
    return bias if mask is None else bias.masked_fill(~mask, -torch.inf)


@dataclass
class Around:
    """What all blocks of one forward share."""

    turn: Turn | None
    local: Turn | None
    positions: Tensor
    causal: bool = False
    mask: Tensor | None = None
    bias: Tensor | None = None
    signal: Tensor | None = None
    cond: Cond | None = None
    cache: Cache | None = None
    at: Tensor | None = None


class Attention(nn.Module):
    """Grouped-query self-attention of one layer."""

    def __init__(self, a: Architecture, layer: int, causal: bool) -> None:
        super().__init__()
        from morphogen.nets.feedforward import RMSNorm

        self.head_width, self.layer = a.head_width, layer
        windowed = layer in a.windowed
        self.sight = Sight(causal, a.window if windowed else 0, a.scale or a.head_width**-0.5, a.soft_cap)
        self.turns = "" if layer in a.still or a.rotary is None else "local" if windowed and a.local else "turn"
        inner, kv = a.heads * a.head_width, a.kv_heads * a.head_width
        self.q_proj = nn.Linear(a.width, inner, bias=a.qkv_bias)
        self.k_proj = nn.Linear(a.width, kv, bias=a.qkv_bias)
        self.v_proj = nn.Linear(a.width, kv, bias=a.qkv_bias)
        self.o_proj = nn.Linear(inner, a.width, bias=a.out_bias)
        self.whole = a.head_norm == "whole"
        widths = (inner, kv) if self.whole else (a.head_width, a.head_width)
        self.q_norm = RMSNorm(widths[0], a.eps, a.norm == "rms1") if a.head_norm else None
        self.k_norm = RMSNorm(widths[1], a.eps, a.norm == "rms1") if a.head_norm else None

    def heads(self, x: Tensor, normed: nn.Module | None = None) -> Tensor:
        """(B, L, H d) -> (B, H, L, d)."""
        if normed is not None and self.whole:
            x, normed = normed(x), None
        x = x.unflatten(-1, (-1, self.head_width))
        return (x if normed is None else normed(x)).transpose(1, 2)

    def forward(self, x: Tensor, around: Around) -> Tensor:
        # when few positions are asked for: keys and values of all, queries of few
        q = self.q_proj(x if around.at is None else take(x, around.at))
        k, v = self.k_proj(x), self.v_proj(x)
        q, k, v = self.heads(q, self.q_norm), self.heads(k, self.k_norm), self.heads(v)
        turn: Turn | None = getattr(around, self.turns) if self.turns else None
        if turn is not None:
            own = turn if around.at is None else (turn[0][around.at][:, None], turn[1][around.at][:, None])
            q, k = rotate(q, own), rotate(k, turn)
        if around.cache is not None:
            y = around.cache.attend(self.layer, q, k, v, self.sight, around.bias)
        else:
            y = attention(q, k, v, self.sight, *self.mask(around, x.shape[1]))
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def mask(self, around: Around, length: int) -> tuple[Tensor | None, bool]:
        """(mask, whether it is plainly causal) of a forward without a cache."""
        windowed = bool(self.sight.window) and length > self.sight.window
        if self.sight.causal and not windowed and around.bias is None and around.mask is None:
            return None, True
        seen = visible(around.positions, around.positions, self.sight) if self.sight.causal or windowed else None
        if seen is not None and around.at is not None:
            seen = seen[around.at][:, None]
        mask = around.mask if seen is None else seen if around.mask is None else seen & around.mask
        return (mask if around.bias is None else _both(around.bias, mask)), False


class CrossAttention(nn.Module):
    """Attention to a sequence that is said about the sample; no positions: the sequence carries its own."""

    def __init__(self, a: Architecture, width: int, layer: int) -> None:
        super().__init__()
        self.head_width, inner, self.layer = a.head_width, a.heads * a.head_width, layer
        self.sight = Sight(False, 0, a.scale or a.head_width**-0.5, 0.0)
        self.q_proj, self.o_proj = nn.Linear(a.width, inner, bias=a.qkv_bias), nn.Linear(inner, a.width, bias=a.out_bias)
        self.k_proj, self.v_proj = nn.Linear(width, inner, bias=a.qkv_bias), nn.Linear(width, inner, bias=a.qkv_bias)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def forward(self, x: Tensor, cond: Cond, cache: Cache | None) -> Tensor:
        known = None if cache is None else cache.cross(self.layer)
        if known is None:
            assert cond.sequence is not None
            known = self.heads(self.k_proj(cond.sequence)), self.heads(self.v_proj(cond.sequence))
            if cache is not None:
                cache.keep(self.layer, *known)
        mask = None if cond.mask is None else cond.mask[:, None, None]
        y = attention(self.heads(self.q_proj(x)), *known, self.sight, mask)
        return self.o_proj(y.transpose(1, 2).flatten(2))


def take(x: Tensor, at: Tensor) -> Tensor:
    """(B, L, D) at (B, K) -> (B, K, D)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
