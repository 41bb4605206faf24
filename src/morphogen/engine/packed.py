"""A decoder packed for drawing: 8-bit matrices, queries-keys-values and gate-up as one, and no Python inside a step.

The same function as nets/transformer.py on the same slots, for the blocks nearly all decoders share (RMSNorm, rotary, gated);
`packable` says for which. Filled piece by piece from wherever the weights come, so that all of it in float32 need never be
in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.engine.cache import SlotCache
from morphogen.engine.int8 import Float, Int8, Table, available, loss, rounded, scripted, turned
from morphogen.nets.architecture import Architecture
from morphogen.nets.positions import rotation
from morphogen.nets.transformer import Transformer

# Matrices that get nearly 16 bits, since 8 cost too much there: with none of them fine the most likely token of SmolLM2-135M
# differs from float32's in 3 % of places, with these in 2 % (benchmarks/language.py).
FINE = frozenset({"qkv", "o", "down"})
WORST = 0.03  # a matrix whose rounding changes it by more than this share (root mean square) stays in float32


def packable(net: nn.Module) -> bool:
    """Whether a net's function is the one below, and this processor has the routine."""
    if not isinstance(net, Transformer) or not net.causal or net.signal is not None:
        return False
    a = net.architecture
    usual = a.norm in ("rms", "rms1") and a.order in ("pre", "after", "both") and a.gated and a.act in ("silu", "gelu_tanh", "gelu")
    odd = a.experts or a.memory or a.learned or a.types or a.relative[0] or a.soft_cap or a.head or a.embed_norm or a.head_bias or a.bare
    return usual and not odd and a.rotary is not None and a.rotary.kind not in ("dynamic", "longrope") and a.last_norm and available()


class Norm(nn.Module):
    """RMSNorm in few operations; `on` False: the identity."""

    def __init__(self, weight: Tensor | None, eps: float) -> None:
        super().__init__()
        self.on, n = weight is not None, 1 if weight is None else weight.shape[-1]
        self.register_buffer("weight", torch.ones(1) if weight is None else weight * n**0.5)
        self.floor = eps * n

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x
        size = torch.linalg.vector_norm(x, 2.0, [-1], True)
        return x * (self.weight * torch.rsqrt(size * size + self.floor))  # type: ignore[operator]


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    n = cos.shape[-1]
    a, b = x[..., :n], x[..., n : 2 * n]
    out = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    return torch.cat([out, x[..., 2 * n :]], -1) if 2 * n < x.shape[-1] else out


class Layer(nn.Module):
    """One block. `runs`: (start, stop, slot, first) of the step's rows; keys and values (slots, KV, capacity, d) are written to."""

    def __init__(self, a: Architecture, i: int, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.qkv, self.o, self.both, self.down = parts["qkv"], parts["o"], parts["both"], parts["down"]
        self.before, self.middle = parts["before"], parts["middle"]
        self.attn_out, self.mlp_out = parts["attn_out"], parts["mlp_out"]
        self.q_norm, self.k_norm, self.whole = parts["q_norm"], parts["k_norm"], a.head_norm == "whole"
        self.kv, self.groups, self.d = a.kv_heads, a.heads // a.kv_heads, a.head_width
        self.scale = float(a.scale or a.head_width**-0.5)
        self.window = a.window if i in a.windowed else 0
        self.local, self.turns = i in a.windowed and a.local is not None, i not in a.still
        self.silu, self.tanh = a.act == "silu", a.act == "gelu_tanh"

    def forward(self, h: Tensor, turns: list[Tensor], keys: Tensor, values: Tensor, runs: list[list[int]]) -> Tensor:
        n, inner, kv = h.shape[0], self.kv * self.groups * self.d, self.kv * self.d
        x = self.qkv(self.before(h))
        q, k, v = x[:, :inner], x[:, inner : inner + kv], x[:, inner + kv :]
        if self.whole:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.reshape(n, -1, self.d), k.reshape(n, -1, self.d), v.reshape(n, -1, self.d)
        if not self.whole:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.turns:
            cos, sin = (turns[2], turns[3]) if self.local else (turns[0], turns[1])
            q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        y = self.attend(q, k, v, keys, values, runs)
        h = h + self.attn_out(self.o(y))
        gate, up = self.both(self.middle(h)).chunk(2, -1)
        gate = F.silu(gate) if self.silu else F.gelu(gate, approximate="tanh" if self.tanh else "none")
        return h + self.mlp_out(self.down(gate * up))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, runs: list[list[int]]) -> Tensor:
        """(N, H d): each run looks at its own slot, with its own length."""
        out: list[Tensor] = []
        for run in runs:
            start, stop, slot, first = run[0], run[1], run[2], run[3]
            end, n = first + stop - start, stop - start
            low = max(0, first + 1 - self.window) if self.window > 0 else 0
            own, other = keys[slot], values[slot]
            own[:, first:end] = k[start:stop].transpose(0, 1)
            other[:, first:end] = v[start:stop].transpose(0, 1)
            seen, told = own[:, low:end], other[:, low:end]
            mine = q[start:stop]
            if n == 1:
                score = torch.bmm(mine.view(self.kv, self.groups, self.d) * self.scale, seen.transpose(1, 2)).softmax(-1)
                out.append(torch.bmm(score, told).view(1, -1))
                continue
            mine = mine.transpose(0, 1)[None]
            a, b = seen.repeat_interleave(self.groups, 0)[None], told.repeat_interleave(self.groups, 0)[None]
            if first == 0 and (self.window == 0 or end <= self.window):
                y = F.scaled_dot_product_attention(mine, a, b, is_causal=True, scale=self.scale)
            else:
                apart = torch.arange(first, end)[:, None] - torch.arange(low, end)[None, :]
                mask = (apart >= 0) & (apart < self.window) if self.window > 0 else apart >= 0
                y = F.scaled_dot_product_attention(mine, a, b, attn_mask=mask, scale=self.scale)
            out.append(y[0].transpose(0, 1).reshape(n, -1))
        return out[0] if len(out) == 1 else torch.cat(out)


class Body(nn.Module):
    """All blocks, the last norm and the logits of the rows asked for."""

    def __init__(self, layers: list[Layer], last: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.layers, self.last, self.head = nn.ModuleList(layers), last, head

    def forward(
        self, h: Tensor, turns: list[Tensor], keys: list[Tensor], values: list[Tensor], runs: list[list[int]], at: Tensor
    ) -> Tensor:
        for i, layer in enumerate(self.layers):
            h = layer(h, turns, keys[i], values[i], runs)
        return self.head(self.last(h[at]))


class PackedDecoder(nn.Module):
    """Called like a Transformer with a SlotCache: (1, N) ids and `at` (1, K) -> (1, K, V) logits."""

    def __init__(self, a: Architecture, table: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.architecture, self.table, self.body = a, table, body

    def forward(self, x: Tensor, *, cache: SlotCache, at: Tensor) -> Tensor:
        a = self.architecture
        h = self.table(x[0])
        h = h if a.embed_scale == 1 else h * a.embed_scale
        assert a.rotary is not None
        turns = [t[:, None] for r in (a.rotary, a.local or a.rotary) for t in rotation(cache.at, a.head_width, r)]
        rooms = [cache.room(i, a.kv_heads, a.head_width, h.device) for i in range(a.depth)]
        runs = [[r.start, r.stop, r.slot, r.first] for r in cache.runs]
        # torch.jit profiles by itself: that costs seconds at first and gains nothing here
        with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
            y = self.body(h, turns, [k for k, _ in rooms], [v for _, v in rooms], runs, at[0])
        y = y if a.logit_scale == 1 else y * a.logit_scale
        return (a.soft_cap_logits * torch.tanh(y / a.soft_cap_logits) if a.soft_cap_logits else y)[None]


MATRICES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "both": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
NORMS = {
    "before": "input_layernorm",
    "middle": "post_attention_layernorm",
    "attn_out": "attn_out_norm",
    "mlp_out": "mlp_out_norm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}


def pack(net: Transformer, pieces: Iterable[tuple[str, Tensor]]) -> PackedDecoder:
    """A packed decoder of `net`'s architecture (its own tensors may be without memory) from (parameter, values) as they come.

    A matrix is packed as soon as all its parts are there: files keep layers together, so little is held at a time.
    """
    a, names = net.architecture, set(net.state_dict())
    jobs = [_Job(i, name, [f"layers.{i}.{leaf}" for leaf in leaves], names) for i in range(a.depth) for name, leaves in MATRICES.items()]
    job_of = {p: job for job in jobs for p in job.params}
    last = "vocabulary.weight" if net.vocabulary.head is None else "vocabulary.head"
    held: dict[str, Tensor] = {}
    ends: dict[str, nn.Module] = {}
    for name, value in pieces:
        if name == "vocabulary.weight":
            ends["table"] = Table(*rounded(value))
        if name == last:
            ends["head"] = _matrix([_rounded(value[: net.vocabulary.out], "head" in FINE)], [], "head" in FINE)
        if name in job_of:
            job_of[name].take(name, value)
        elif not name.startswith("vocabulary."):
            held[name] = value.float().clone()
        del value
    made = {(job.layer, job.name): job.made for job in jobs}
    layers = []
    for i in range(a.depth):
        norms = {name: Norm(_weight(a, held, f"layers.{i}.{leaf}.weight"), a.eps) for name, leaf in NORMS.items()}
        layers.append(Layer(a, i, {name: made.pop((i, name)) for name in MATRICES} | norms))
    body = Body(layers, Norm(_weight(a, held, "norm.weight"), a.eps), ends["head"])
    assert not held, sorted(held)
    return PackedDecoder(a, ends["table"], scripted(body)).eval()


class _Job:
    """One packed matrix that waits for its parts."""

    def __init__(self, layer: int, name: str, leaves: list[str], names: set[str]) -> None:
        self.layer, self.name, self.leaves = layer, name, leaves
        self.params = {f"{leaf}.{end}" for leaf in leaves for end in ("weight", "bias")} & names
        self.parts: dict[str, tuple[Tensor, Tensor] | Tensor] = {}
        self.made: nn.Module = nn.Identity()

    def take(self, name: str, value: Tensor) -> None:
        self.parts[name] = _rounded(value, self.name in FINE) if name.endswith("weight") else value.float().clone()
        if len(self.parts) == len(self.params):
            biases = [self.parts.get(f"{leaf}.bias") for leaf in self.leaves]
            weights = [self.parts[f"{leaf}.weight"] for leaf in self.leaves]
            self.made = _matrix(weights, [b for b in biases if isinstance(b, Tensor)], self.name in FINE)
            self.parts.clear()


def _weight(a: Architecture, held: dict[str, Tensor], name: str) -> Tensor | None:
    weight = held.pop(name, None)
    return 1 + weight if weight is not None and a.norm == "rms1" else weight


def _rounded(w: Tensor, fine: bool) -> tuple[Tensor, Tensor] | Tensor:
    """A matrix turned and rounded, or as it is where that would lose too much."""
    q, scale = rounded(w, turn=True, fine=fine)
    return (q, scale) if loss(w, q, scale) <= WORST else w.float()


def _matrix(parts: list[tuple[Tensor, Tensor] | Tensor], biases: list[Tensor], fine: bool) -> nn.Module:
    """Parts that read the same, as one matrix; in float32 where any of them is."""
    bias = torch.cat(biases) if biases else None
    if all(isinstance(p, tuple) for p in parts):
        return Int8([p for p in parts if isinstance(p, tuple)], bias, fine)
    return Float(torch.cat([p if isinstance(p, Tensor) else _back(*p, fine) for p in parts]), bias)


def _back(q: Tensor, scale: Tensor, fine: bool) -> Tensor:
    """A matrix that was rounded, in float32."""
    w = q.float() * scale[:, None]
    return turned(w[: len(w) // 2] + w[len(w) // 2:] if fine else w)
