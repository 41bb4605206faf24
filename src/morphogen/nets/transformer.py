"""One transformer, causal or not: by default a Qwen3 decoder or a ModernBERT-like encoder, by an Architecture any other.

Parameters carry Hugging Face's names: `vocabulary.weight` is `model.embed_tokens.weight`, `vocabulary.head` is
`lm_head.weight`, everything else of a decoder gains the prefix `model.`.
Conditions come in twice: a projection is added to every input, and each block scales what it reads; both start as nothing.
"""
from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Cond, Given
from morphogen.nets.architecture import SIZES, Architecture, Rotary, architecture, resolve
from morphogen.nets.attention import Around, Attention, Cache, CrossAttention, KVCache, take
from morphogen.nets.dropout import drop
from morphogen.nets.feedforward import ACTS, feedforward, norm
from morphogen.nets.grid import Grid
from morphogen.nets.net import net
from morphogen.nets.positions import Distance, drawn, rotation

__all__ = ["SIZES", "Architecture", "KVCache", "Transformer", "architecture", "resolve"]


class Block(nn.Module):
    """Attention, a look at what is said, and the MLP; each adds to the residual stream."""

    def __init__(self, a: Architecture, layer: int, causal: bool, signal: bool, memory: int) -> None:
        super().__init__()
        before, after = a.order in ("pre", "both"), a.order in ("after", "both")
        self.post = a.order == "post"
        self.input_layernorm = norm(a) if (before or self.post) and layer not in a.bare else None
        self.self_attn = Attention(a, layer, causal)
        self.post_attention_layernorm = norm(a) if before or self.post else None
        self.mlp = feedforward(a, layer)
        self.attn_out_norm, self.mlp_out_norm = (norm(a), norm(a)) if after else (None, None)
        self.cross_layernorm = norm(a) if memory else None
        self.cross_attn = CrossAttention(a, memory, layer) if memory else None
        self.modulate = nn.Linear(a.width, 2 * a.width) if signal else None
        self.dropout = a.dropout

    def drop(self, x: Tensor, normed: nn.Module | None = None) -> Tensor:
        x = x if normed is None else normed(x)
        return drop(x, self.dropout, self.training)

    def forward(self, h: Tensor, around: Around) -> Tensor:
        if self.post:
            return self.summed_then_normed(h, around)
        before, after = h if self.input_layernorm is None else self.input_layernorm(h), None
        if self.modulate is not None and around.signal is not None:
            scale, after = self.modulate(around.signal).chunk(2, -1)
            before = before * (1 + scale)
        if around.at is not None:
            h = take(h, around.at)
        h = h + self.drop(self.self_attn(before, around), self.attn_out_norm)
        if self.cross_attn is not None and self.cross_layernorm is not None and around.cond is not None:
            h = h + self.drop(self.cross_attn(self.cross_layernorm(h), around.cond, around.cache))
        y = h if self.post_attention_layernorm is None else self.post_attention_layernorm(h)
        return h + self.drop(self.mlp(y if after is None else y * (1 + after)), self.mlp_out_norm)

    def summed_then_normed(self, h: Tensor, around: Around) -> Tensor:
        """The order of BERT and the first transformer: the norm stands after the sum."""
        assert self.input_layernorm is not None and self.post_attention_layernorm is not None
        read = h if around.at is None else take(h, around.at)
        h = self.input_layernorm(read + self.drop(self.self_attn(h, around)))
        return self.post_attention_layernorm(h + self.drop(self.mlp(h)))


@net
class Vocabulary(nn.Module):
    """Ids -> vectors, and vectors -> logits; called on its own where only some logits are wanted.

    One module for both, since a tied matrix may be used in its owner's forward only.
    """

    def __init__(self, vocab: int, out: int, a: Architecture) -> None:
        super().__init__()
        self.out, self.edge, self.scale, self.logit_scale, self.cap = out, True, a.embed_scale, a.logit_scale, a.soft_cap_logits
        self.weight = nn.Parameter(drawn(vocab, a.width, std=0.02))
        # the start or mask id has an embedding and no logit, hence one row more than columns
        self.head = None if a.tied and 0 <= vocab - out <= 1 else nn.Parameter(drawn(out, a.width, std=a.width**-0.5))
        self.bias = nn.Parameter(torch.zeros(out)) if a.head_bias else None

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        if not logits:
            h = F.embedding(x, self.weight)
            return h if self.scale == 1 else h * torch.tensor(self.scale, dtype=h.dtype, device=h.device)
        x = x if self.logit_scale == 1 else x * self.logit_scale
        y = F.linear(x, self.weight[: self.out] if self.head is None else self.head, self.bias)
        return self.cap * torch.tanh(y / self.cap) if self.cap else y


class Head(nn.Module):
    """norm(act(dense(h))): what stands between a masked encoder and its logits."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.dense, self.act, self.norm = nn.Linear(a.width, a.width, bias=a.out_bias), ACTS[a.head_act], norm(a)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(h)))


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
            cos, sin = rotation(1000 * time, 64, Rotary())
            t = self.time(torch.cat([cos, sin], -1))
            total = t if total is None else total + t
        return None if total is None else total[:, None]


@net
class Transformer(nn.Module):
    """Ids (B, L) below `vocab` -> logits (B, L, out).

    `length`: the longest L, or the shape of the grid that positions lie on row by row. `cond`: width of Cond.vector
    and Cond.sequence, `sequence`: blocks attend to Cond.sequence. `mask` (B, L), True = real, is for encoders; a decoder never
    looks at padding on the right.
    """

    def __init__(self, vocab: int, out: int, length: int | tuple[int, ...], config: NetConfig | Architecture, *, causal: bool,
                 cond: int = 0, sequence: bool = False, time: bool = False) -> None:
        super().__init__()
        grid = () if isinstance(length, int) else length
        length = length if isinstance(length, int) else math.prod(length)
        # Rotary positions are relative: an encoder of equal (hidden) ids could not tell one place from another, and
        # cross-attention would not know where it is. A plain decoder counts from its start symbol.
        a = architecture(config, causal, length if sequence or not causal else 0)
        self.architecture, self.causal, self.length = a, causal, length
        signal, memory = bool(cond) or time, cond if sequence else a.memory
        self.vocabulary = Vocabulary(vocab, out, a)
        self.embed_norm = norm(a) if a.embed_norm else None
        self.position = nn.Embedding(a.learned, a.width) if a.learned else None
        self.types = nn.Embedding(a.types, a.width) if a.types else None
        self.distance = Distance(*a.relative, a.heads, causal) if a.relative[0] else None
        self.grid = Grid(vocab, grid, a.width) if causal and len(grid) > 1 else None
        self.signal = Signal(cond, time, a.width) if signal else None
        self.layers = nn.ModuleList(Block(a, i, causal, signal, memory) for i in range(a.depth))
        self.norm = norm(a) if a.last_norm else None
        self.head = Head(a) if a.head else None
        self.apply(lambda module: _start(module, a.depth))

    def forward(self, x: Tensor, *, time: Tensor | None = None, cond: Cond | None = None, given: Given | None = None,
                mask: Tensor | None = None, cache: Cache | None = None, at: Tensor | None = None, hidden: bool = False) -> Tensor:
        """(B, L, out); `at` (B, K): logits of these positions only, (B, K, out); `hidden`: the last hidden states instead.

        `at` needs an encoder, or a cache that keeps rows of many streams in one line (B = 1).
        """
        if not self.causal and cache is not None:
            raise ValueError("a cache is for causal transformers")
        if self.causal and at is not None and cache is None:
            raise ValueError("`at` is for encoders")
        positions = torch.arange(x.shape[1], device=x.device) if cache is None else cache.positions(x.shape[1], x.device)
        h, signal = self.inputs(x, positions, time, cond)
        if self.grid is not None:
            assert cache is None or isinstance(cache, KVCache)
            seen = x if cache is None else cache.read(x)
            h = h + self.grid(seen, seen.shape[1] - x.shape[1])
        around = self.around(positions, cache)
        around.signal, around.cond = None if signal is None else F.silu(signal), cond
        around.mask = None if self.causal or mask is None else _visible(mask)
        for i, layer in enumerate(self.layers):
            if i == len(self.layers) - 1 and cache is None:
                around = replace(around, at=at)  # a new one: earlier layers may be worked out again on the way back
            h = layer(h, around)
        if cache is not None:
            cache.advance(x.shape[1])
            h = h if at is None else take(h, at)
        h = h if self.norm is None else self.norm(h)
        if hidden:
            return h
        return self.vocabulary(h if self.head is None else self.head(h), logits=True)

    def inputs(self, x: Tensor, positions: Tensor, time: Tensor | None, cond: Cond | None) -> tuple[Tensor, Tensor | None]:
        """(B, L, width) of what the first block reads, and the signal of conditions and time."""
        h = self.vocabulary(x)
        if self.position is not None:
            last = self.length if not self.architecture.offset else self.position.num_embeddings - self.architecture.offset
            # not in generated code, which may not ask for values: there the embedding itself refuses
            if not torch.compiler.is_compiling() and len(positions) and int(positions.max()) >= last:
                raise ValueError(f"a net of {last} positions asked for {int(positions.max()) + 1}")
            h = h + self.position(positions + self.architecture.offset)
        if self.types is not None:
            h = h + self.types(torch.zeros_like(x))
        if self.embed_norm is not None:
            h = self.embed_norm(h)
        c = None if self.signal is None else self.signal(None if cond is None else cond.vector, time)
        return (h if c is None else h + c), c

    def body(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, width) -> (B, L, width): the blocks and the last norm alone, for inputs that are vectors already."""
        around = self.around(torch.arange(h.shape[1], device=h.device), None)
        around.mask = None if self.causal or mask is None else _visible(mask)
        for layer in self.layers:
            h = layer(h, around)
        return h if self.norm is None else self.norm(h)

    def around(self, positions: Tensor, cache: Cache | None) -> Around:
        """Rotations and the bias by distance, computed once for all blocks."""
        a = self.architecture
        reach = 0
        if a.rotary is not None and a.rotary.kind in ("dynamic", "longrope"):
            reach = int(positions.max()) + 1
        turn = None if a.rotary is None else rotation(positions, a.head_width, a.rotary, reach)
        local = None if a.local is None else rotation(positions, a.head_width, a.local, reach)
        bias = None
        if self.distance is not None:
            seen = len(positions) + (0 if cache is None else cache.extent())
            bias = self.distance(positions, torch.arange(seen, device=positions.device))
        return Around(turn, local, positions, self.causal, bias=bias, cache=cache)


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
