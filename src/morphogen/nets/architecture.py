"""What a transformer is made of, as values: one dataclass covers the decoders and encoders people know by name."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

from morphogen.config import NetConfig
from morphogen.errors import UsageError, suggest

# width, depth, heads; see benchmarks for what a core trains per second
SIZES = {"tiny": (64, 2, 2), "small": (128, 2, 4), "base": (384, 8, 6), "large": (768, 12, 12)}


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864) and the ways they were stretched to longer texts."""

    theta: float = 10000.0
    share: float = 1.0
    "Share of a head's width that turns; the rest carries no position."
    kind: str = "plain"
    "plain, linear, dynamic, llama3, yarn (arXiv 2309.00071) or longrope (arXiv 2402.13753)."
    factor: float = 1.0
    original: int = 0
    "Positions the model was first trained on."
    low: float = 1.0
    high: float = 4.0
    "llama3: wavelengths above original / low are stretched, below original / high kept. yarn: the same as rotations (slow, fast)."
    attention: float = 1.0
    "Multiplies cosines and sines."
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    "longrope: a factor for each frequency, up to `original` positions and beyond."


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the MLP (Shazeer et al. 2017, arXiv 1701.06538; Mixtral, arXiv 2401.04088)."""

    count: int
    chosen: int
    hidden: int
    normed: bool = True
    "Whether the shares of the chosen experts are scaled to add up to 1."
    layers: tuple[int, ...] = ()
    "Which layers have them."


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything a block needs to know; what `NetConfig` leaves open follows from `architecture`.

    The defaults are Qwen3's decoder (Yang et al. 2025, arXiv 2505.09388): RMSNorm before each branch, grouped queries, RMSNorm
    on each query and key head, rotary positions, SwiGLU, no biases, tied embeddings.
    """

    width: int
    depth: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    norm: str = "rms"
    "rms; rms1 (the weight is added to 1, as in Gemma); layer; bias (layer with a bias)."
    order: str = "pre"
    "Where norms stand: pre (before a branch), after (on its output, OLMo2), both (Gemma 2), post (after the sum, BERT)."
    head_norm: str = "head"
    "Norms of queries and keys: head (each), whole (all heads together, OLMo2) or empty."
    act: str = "silu"
    "silu, gelu, gelu_tanh or relu."
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tied: bool = True
    eps: float = 1e-6
    dropout: float = 0.0
    rotary: Rotary | None = Rotary()
    local: Rotary | None = None
    "Rotary positions of layers with a window, where they differ (Gemma 3, ModernBERT)."
    still: tuple[int, ...] = ()
    "Layers without rotary positions (SmolLM3)."
    learned: int = 0
    "Learned absolute positions, 0 for none."
    offset: int = 0
    "The first learned position (RoBERTa: 2)."
    relative: tuple[int, int] = (0, 0)
    "Buckets and reach of a learned bias by distance (T5, arXiv 1910.10683)."
    window: int = 0
    "How many positions back a windowed layer sees, itself counted; in an encoder: how far to either side."
    windowed: tuple[int, ...] = ()
    "Layers with that window."
    scale: float = 0.0
    "Queries times keys are multiplied by it; 0: 1 / sqrt(head_width)."
    soft_cap: float = 0.0
    "c tanh(x / c) on attention's scores (Gemma 2)."
    soft_cap_logits: float = 0.0
    embed_scale: float = 1.0
    embed_norm: bool = False
    types: int = 0
    "Kinds of segment (BERT's token types)."
    bare: tuple[int, ...] = ()
    "Layers whose attention reads its input without a norm (ModernBERT's first)."
    last_norm: bool = True
    head: str = ""
    "Before the logits: dense (matrix, activation, norm, a bias on the logits: BERT) or empty."
    head_act: str = "gelu"
    head_bias: bool = False
    logit_scale: float = 1.0
    experts: Experts | None = None
    memory: int = 0
    "Width of a sequence that every block attends to (the encoder's output in T5)."


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


def architecture(config: NetConfig | Architecture, causal: bool, positions: int = 0) -> Architecture:
    """A NetConfig as the default architecture of its kind; an Architecture stays what it is.

    `positions`: how many learned positions a net of ours gets on top of the rotary ones. Encoders are after ModernBERT
    (Warner et al. 2024, arXiv 2412.13663): LayerNorm without bias, GeGLU, rotary, both directions.
    """
    if isinstance(config, Architecture):
        return config
    net = resolve(config)
    kv = net.heads // 2 if causal and net.heads % 2 == 0 and net.heads > 4 else net.heads
    made = Architecture(width=net.width, depth=net.depth, heads=net.heads, kv_heads=kv, head_width=net.width // net.heads,
                        hidden=math.ceil(net.width * 8 / 3 / 32) * 32, dropout=net.dropout, learned=positions)
    return made if causal else replace(made, norm="layer", head_norm="", act="gelu", eps=1e-5, embed_norm=True)
