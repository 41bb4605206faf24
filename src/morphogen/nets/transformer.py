"""One transformer: a Qwen3 decoder when causal, a ModernBERT-like encoder when not.

Decoder block (Qwen3, Yang et al. 2025, arXiv 2505.09388): RMSNorm before, grouped queries, RMSNorm on each query and
key head, rotary positions (half-split, as Hugging Face does), SwiGLU, no biases, tied embeddings. Parameters carry Hugging
Face's names: `vocabulary.weight` is `model.embed_tokens.weight`, `vocabulary.head` is `lm_head.weight`, everything else
gains the prefix `model.`.
Encoder block (after ModernBERT, Warner et al. 2024, arXiv 2412.13663): LayerNorm without bias, GeGLU, rotary, both directions;
learned absolute positions on top.

Conditions come in twice: a projection is added to every input, and each block scales what it reads; both start as nothing.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Cond, Given
from morphogen.errors import UsageError, suggest

# width, depth, heads; see benchmarks for what a core trains per second
SIZES = {"tiny": (64, 2, 2), "small": (128, 2, 4), "base": (384, 8, 6), "large": (768, 12, 12)}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything a block needs to know; what `NetConfig` leaves open follows from `architecture`."""

    width: int
    depth: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    decoder: bool
    "Qwen3 block (RMSNorm, normed queries and keys, SiLU) or ModernBERT block (LayerNorm, GELU)."
    tied: bool = True
    theta: float = 10000.0
    eps: float = 1e-6
    dropout: float = 0.0


def resolve(config: NetConfig) -> NetConfig:
    """Fill width, depth and heads from `size`. Raises UsageError when they do not fit together."""
    if config.size not in SIZES:
        raise UsageError(f"unknown size '{config.size}'", remedy=suggest(config.size, SIZES))
    width, depth, heads = SIZES[config.size]
    if config.width:
        width = config.width
        heads = next((h for h in range(max(1, width // 32), 0, -1) if width % h == 0 and width // h % 2 == 0), 1)
    heads = config.heads or heads
    if width % heads or width // heads % 2:
        raise UsageError(f"a transformer of width {width} cannot have {heads} heads", where="net.heads",
                         remedy="width / heads must be an even whole number")
    return replace(config, width=width, depth=config.depth or depth, heads=heads)


def architecture(config: NetConfig | Architecture, causal: bool) -> Architecture:
    """A NetConfig as the default architecture of its kind; an Architecture stays what it is."""
    if isinstance(config, Architecture):
        return config
    net = resolve(config)
    kv = net.heads // 2 if causal and net.heads % 2 == 0 and net.heads > 4 else net.heads
    hidden = math.ceil(net.width * 8 / 3 / 32) * 32
    return Architecture(width=net.width, depth=net.depth, heads=net.heads, kv_heads=kv, head_width=net.width // net.heads,
                        hidden=hidden, decoder=causal, eps=1e-6 if causal else 1e-5, dropout=net.dropout)


class KVCache:
    """Keys and values a caller keeps between calls of a causal Transformer; `length` positions are in it.

    Owned by the caller, one per stream. Tensors (B, kv heads, capacity, head width) per layer grow by doubling up to `limit`.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.length = limit, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.cross: dict[int, tuple[Tensor, Tensor]] = {}

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


@dataclass
class Around:
    """What all blocks of one forward share."""

    rotation: tuple[Tensor, Tensor]
    causal: bool = False
    mask: Tensor | None = None
    signal: Tensor | None = None
    cond: Cond | None = None
    cache: KVCache | None = None
    at: Tensor | None = None


def rotation(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """(L, width / 2) cosines and sines of rotary positions (Su et al. 2021, arXiv 2104.09864)."""
    frequency = theta ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angle = positions.float()[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn (B, H, L, d): element j goes with element j + d/2, Hugging Face's order and not the interleaved one."""
    a, b = x.chunk(2, -1)
    cos, sin = (t.to(x.dtype) for t in turn)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def norm(a: Architecture) -> nn.Module:
    return RMSNorm(a.width, a.eps) if a.decoder else nn.LayerNorm(a.width, a.eps, bias=False)


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.head_width, self.groups = a.head_width, a.heads // a.kv_heads
        self.q_proj = nn.Linear(a.width, a.heads * a.head_width, bias=False)
        self.k_proj = nn.Linear(a.width, a.kv_heads * a.head_width, bias=False)
        self.v_proj = nn.Linear(a.width, a.kv_heads * a.head_width, bias=False)
        self.o_proj = nn.Linear(a.heads * a.head_width, a.width, bias=False)
        self.q_norm = RMSNorm(a.head_width, a.eps) if a.decoder else None
        self.k_norm = RMSNorm(a.head_width, a.eps) if a.decoder else None

    def heads(self, x: Tensor, normed: nn.Module | None = None) -> Tensor:
        """(B, L, H d) -> (B, H, L, d)."""
        x = x.unflatten(-1, (-1, self.head_width))
        return (x if normed is None else normed(x)).transpose(1, 2)

    def forward(self, x: Tensor, around: Around, layer: int) -> Tensor:
        queries, turn, mask = x, around.rotation, around.mask
        if around.at is not None:  # only these positions are asked for: keys and values of all, queries of few
            queries = take(x, around.at)
            turn = (turn[0][around.at][:, None], turn[1][around.at][:, None])
        q = rotate(self.heads(self.q_proj(queries), self.q_norm), turn)
        k = rotate(self.heads(self.k_proj(x), self.k_norm), around.rotation)
        v = self.heads(self.v_proj(x))
        start = 0
        if around.cache is not None:
            start = around.cache.length
            k, v = around.cache.append(layer, k, v)
        whole = around.causal and start == 0 and q.shape[2] > 1
        if around.causal and start and q.shape[2] > 1:  # a later chunk sees all that is cached and itself up to the diagonal
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(start)
        if self.groups > 1:
            k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=whole)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention to a sequence that is said about the sample; no positions: the sequence carries its own."""

    def __init__(self, a: Architecture, width: int) -> None:
        super().__init__()
        self.head_width, inner = a.head_width, a.heads * a.head_width
        self.q_proj, self.o_proj = nn.Linear(a.width, inner, bias=False), nn.Linear(inner, a.width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def forward(self, x: Tensor, cond: Cond, cache: KVCache | None, layer: int) -> Tensor:
        if cache is not None and layer in cache.cross:
            k, v = cache.cross[layer]
        else:
            assert cond.sequence is not None
            k, v = self.heads(self.k_proj(cond.sequence)), self.heads(self.v_proj(cond.sequence))
            if cache is not None:
                cache.cross[layer] = (k, v)
        mask = None if cond.mask is None else cond.mask[:, None, None]
        y = F.scaled_dot_product_attention(self.heads(self.q_proj(x)), k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """down(act(gate(x)) * up(x)): SwiGLU or GeGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(a.width, a.hidden, bias=False), nn.Linear(a.width, a.hidden, bias=False)
        self.down_proj = nn.Linear(a.hidden, a.width, bias=False)
        self.act = F.silu if a.decoder else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, a: Architecture, signal: bool, memory: int) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = norm(a), Attention(a)
        self.post_attention_layernorm, self.mlp = norm(a), MLP(a)
        self.cross_layernorm = norm(a) if memory else None
        self.cross_attn = CrossAttention(a, memory) if memory else None
        self.modulate = nn.Linear(a.width, 2 * a.width) if signal else None
        self.dropout = a.dropout

    def drop(self, x: Tensor) -> Tensor:
        """Dropout has no key to draw from: it uses torch's own state, which a trainer seeds per step."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, h: Tensor, around: Around, layer: int) -> Tensor:
        before, after = self.input_layernorm(h), None
        if self.modulate is not None and around.signal is not None:
            scale, after = self.modulate(around.signal).chunk(2, -1)
            before = before * (1 + scale)
        if around.at is not None:
            h = take(h, around.at)
        h = h + self.drop(self.self_attn(before, around, layer))
        if self.cross_attn is not None and self.cross_layernorm is not None and around.cond is not None:
            h = h + self.drop(self.cross_attn(self.cross_layernorm(h), around.cond, around.cache, layer))
        y = self.post_attention_layernorm(h)
        return h + self.drop(self.mlp(y if after is None else y * (1 + after)))


class Vocabulary(nn.Module):
    """Ids -> vectors, and vectors -> logits. One module for both, since a tied matrix may be used in its owner's forward only."""

    def __init__(self, vocab: int, out: int, width: int, tied: bool) -> None:
        super().__init__()
        self.out, self.edge = out, True
        self.weight = nn.Parameter(torch.randn(vocab, width) * 0.02)
        # the start or mask id has an embedding and no logit, hence one row more than columns
        self.head = None if tied and 0 <= vocab - out <= 1 else nn.Parameter(torch.randn(out, width) * width**-0.5)

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        if not logits:
            return F.embedding(x, self.weight)
        return F.linear(x, self.weight[: self.out] if self.head is None else self.head)


class Signal(nn.Module):
    """(B, 1, width) from a condition vector and a time."""

    def __init__(self, cond: int, time: bool, width: int) -> None:
        super().__init__()
        self.cond = nn.Linear(cond, width) if cond else None
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width)) if time else None

    def forward(self, vector: Tensor | None, time: Tensor | None) -> Tensor | None:
        total: Tensor | None = None
        if self.cond is not None and vector is not None:
            total = self.cond(vector)
        if self.time is not None and time is not None:
            cos, sin = rotation(1000 * time, 64, 10000.0)
            t = self.time(torch.cat([cos, sin], -1))
            total = t if total is None else total + t
        return None if total is None else total[:, None]


def take(x: Tensor, at: Tensor) -> Tensor:
    """(B, L, D) at (B, K) -> (B, K, D)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


class Transformer(nn.Module):
    """Ids (B, L) below `vocab` -> logits (B, L, out).

    `length`: the longest L. `cond`: width of Cond.vector and Cond.sequence, `sequence`: blocks attend to Cond.sequence.
    `mask` (B, L), True = real, is for encoders; a decoder never looks at padding on the right.
    """

    def __init__(self, vocab: int, out: int, length: int, config: NetConfig | Architecture, *, causal: bool, cond: int = 0,
                 sequence: bool = False, time: bool = False) -> None:
        super().__init__()
        a = architecture(config, causal)
        self.architecture, self.causal, self.length = a, causal, length
        signal = bool(cond) or time
        self.vocabulary = Vocabulary(vocab, out, a.width, a.tied)
        self.embed_norm = None if a.decoder else norm(a)
        # Rotary positions are relative: an encoder of equal (hidden) ids could not tell one place from another, and
        # cross-attention would not know where it is. A plain decoder counts from its start symbol.
        self.position = nn.Embedding(length, a.width) if sequence or not causal else None
        self.signal = Signal(cond, time, a.width) if signal else None
        self.layers = nn.ModuleList(Block(a, signal, cond if sequence else 0) for _ in range(a.depth))
        self.norm = norm(a)
        self.apply(lambda module: _start(module, a.depth))

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: Given | None = None,
                mask: Tensor | None = None, cache: KVCache | None = None, at: Tensor | None = None, hidden: bool = False) -> Tensor:
        """(B, L, out); `at` (B, K): logits of these positions only, (B, K, out); `hidden`: the last hidden states instead."""
        if not self.causal and cache is not None:
            raise ValueError("a cache is for causal transformers")
        if self.causal and at is not None:
            raise ValueError("`at` is for encoders")
        start = 0 if cache is None else cache.length
        if self.position is not None and start + x.shape[1] > self.length:
            raise ValueError(f"a net of {self.length} positions asked for {start + x.shape[1]}")
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        h = self.vocabulary(x)
        if self.position is not None:
            h = h + self.position(positions)
        if self.embed_norm is not None:
            h = self.embed_norm(h)
        c = None if self.signal is None else self.signal(None if cond is None else cond.vector, time)
        if c is not None:
            h = h + c
        around = Around(rotation(positions, self.architecture.head_width, self.architecture.theta), self.causal,
                        None if self.causal or mask is None else _visible(mask), None if c is None else F.silu(c), cond, cache)
        for i, layer in enumerate(self.layers):
            if i == len(self.layers) - 1:
                around.at = at
            h = layer(h, around, i)
        if cache is not None:
            cache.length += x.shape[1]
        h = self.norm(h)
        return h if hidden else self.vocabulary(h, logits=True)


def _visible(mask: Tensor) -> Tensor:
    """(B, 1, 1, L); a row without any real position sees all of its padding, since a softmax over nothing is NaN."""
    return (mask | ~mask.any(1, keepdim=True))[:, None, None]


def _start(module: nn.Module, depth: int) -> None:
    """Initial weights: 0.02 everywhere but in outputs onto the residual stream, 0.02 / sqrt(2 depth) (GPT-2)."""
    if isinstance(module, Signal) and module.cond is not None:
        nn.init.normal_(module.cond.weight, std=0.02)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, Block):
        inner = [module.self_attn, module.mlp] + ([module.cross_attn] if module.cross_attn is not None else [])
        for part in inner:
            for name, linear in part.named_children():
                if isinstance(linear, nn.Linear):
                    out = name in ("o_proj", "down_proj")
                    nn.init.normal_(linear.weight, std=linear.in_features**-0.5 / (math.sqrt(2 * depth) if out else 1))
        if module.modulate is not None:
            nn.init.zeros_(module.modulate.weight)
            nn.init.zeros_(module.modulate.bias)
