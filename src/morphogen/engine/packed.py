"""A decoder packed for drawing: 8-bit matrices, queries-keys-values and gate-up as one, and no Python inside a step.

The same function as nets/transformer.py on the same slots, for the blocks nearly all decoders share (RMSNorm, rotary, gated);
`packable` says for which. Filled piece by piece from wherever the weights come, so that all of it in float32 need never be
in memory.
"""

# pyright: reportArgumentType=false
# buffers have no annotations here: TorchScript cannot read those that are strings
from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.engine.cache import SlotCache
from morphogen.engine.int4 import Grid, Int4
from morphogen.engine.int8 import Float, Head, Int8, Table, available, loss, rounded, scripted
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


def _norm(x: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
    """RMSNorm in few operations, `weight` and `floor` as `_scaled` makes them; of no weight: the identity.

    A function and not a module: each module costs torch.jit milliseconds when a model is opened.
    """
    if weight.numel() == 0:
        return x
    x = x.float()
    return x * weight / torch.hypot(torch.linalg.vector_norm(x, 2.0, [-1], True), floor)


def _scaled(weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """w sqrt(n) and sqrt(eps n): x w sqrt(n) / hypot(|x|, sqrt(eps n)) is RMSNorm."""
    n = 1 if weight is None else weight.shape[-1]
    return torch.empty(0) if weight is None else weight * n**0.5, torch.tensor((eps * n) ** 0.5)


def neighbours(width: int, turning: int) -> Tensor:
    """(d,) which elements of a head to take so that those that turn together (j and j + turning / 2) become neighbours."""
    order = torch.arange(width)
    order[:turning] = order[:turning].view(2, -1).t().reshape(-1)
    return order


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """(N, H, d) with pairs of neighbours turned, as complex numbers, by (N, 1, n / 2); the rest stays."""
    n = 2 * turns.shape[-1]
    pairs = torch.view_as_complex(x[..., :n].unflatten(-1, [n // 2, 2]))
    out = torch.view_as_real(pairs * turns).flatten(-2)
    return torch.cat([out, x[..., n:]], -1) if n < x.shape[-1] else out


class Layer(nn.Module):
    """One block. `runs`: (start, stop, slot, first) of the step's rows; keys and values (slots, KV, capacity, d) are written to."""

    def __init__(self, a: Architecture, i: int, parts: dict[str, nn.Module], norms: dict[str, Tensor | None]) -> None:
        super().__init__()
        self.qkv, self.o, self.both, self.down = parts["qkv"], parts["o"], parts["both"], parts["down"]
        for name, weight in norms.items():
            scaled, floor = _scaled(weight, a.eps)
            self.register_buffer(name, scaled)
            self.register_buffer(f"{name}_floor", floor)
        self.whole, self.each = a.head_norm == "whole", a.head_norm == "head"
        self.kv, self.groups, self.d = a.kv_heads, a.heads // a.kv_heads, a.head_width
        self.scale = float(a.scale or a.head_width**-0.5)
        self.window = a.window if i in a.windowed else 0
        self.local, self.turns = i in a.windowed and a.local is not None, i not in a.still
        self.silu, self.tanh = a.act == "silu", a.act == "gelu_tanh"

    def forward(self, h: Tensor, turns: list[Tensor], keys: Tensor, values: Tensor, runs: list[list[int]]) -> Tensor:
        n, inner, both = h.shape[0], self.kv * self.groups * self.d, self.kv * (self.groups + 1) * self.d
        x = self.qkv(_norm(h, self.before, self.before_floor)).float()
        turn, v = x[:, :both], x[:, both:].view(n, self.kv, self.d)
        if self.whole:
            q, k = turn[:, :inner], turn[:, inner:]
            turn = torch.cat([_norm(q, self.q_norm, self.q_norm_floor), _norm(k, self.k_norm, self.k_norm_floor)], 1)
        turn = turn.view(n, -1, self.d)
        if self.each:
            heads = self.kv * self.groups
            q, k = turn[:, :heads], turn[:, heads:]
            turn = torch.cat([_norm(q, self.q_norm, self.q_norm_floor), _norm(k, self.k_norm, self.k_norm_floor)], 1)
        if self.turns:
            turn = _turn(turn, turns[1] if self.local else turns[0])
        y = self.o(self.attend(turn, v, keys, values, runs))
        h = h + _norm(y, self.attn_out, self.attn_out_floor)
        gate, up = self.both(_norm(h, self.middle, self.middle_floor)).chunk(2, -1)
        gate = F.silu(gate) if self.silu else F.gelu(gate, approximate="tanh" if self.tanh else "none")
        return h + _norm(self.down(gate * up), self.mlp_out, self.mlp_out_floor)

    def attend(self, qk: Tensor, v: Tensor, keys: Tensor, values: Tensor, runs: list[list[int]]) -> Tensor:
        """(N, H d): each run looks at its own slot, with its own length."""
        out: list[Tensor] = []
        heads = self.kv * self.groups
        for run in runs:
            start, stop, slot, first = run[0], run[1], run[2], run[3]
            end, n = first + stop - start, stop - start
            low = max(0, first + 1 - self.window) if self.window > 0 else 0
            own, other = keys[slot], values[slot]
            own[:, first:end] = qk[start:stop, heads:].transpose(0, 1)
            other[:, first:end] = v[start:stop].transpose(0, 1)
            seen, told = own[None, :, low:end], other[None, :, low:end]
            mine = qk[start:stop, :heads]
            if n == 1:  # heads that share keys stand where queries do
                y = F.scaled_dot_product_attention(mine.view(1, self.kv, self.groups, self.d), seen, told, scale=self.scale)
                out.append(y.reshape(1, -1))
                continue
            mine = mine.transpose(0, 1)[None]
            a, b = seen.repeat_interleave(self.groups, 1), told.repeat_interleave(self.groups, 1)
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

    def __init__(self, layers: list[Layer], last: tuple[Tensor, Tensor], head: nn.Module) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(layers), head
        self.register_buffer("last", last[0])
        self.register_buffer("floor", last[1])

    def forward(
        self, h: Tensor, turns: list[Tensor], keys: list[Tensor], values: list[Tensor], runs: list[list[int]], at: Tensor
    ) -> Tensor:
        for i, layer in enumerate(self.layers):
            h = layer(h, turns, keys[i], values[i], runs)
        return self.head(_norm(h[at], self.last, self.floor))


class PackedDecoder(nn.Module):
    """Called like a Transformer with a SlotCache: (1, N) ids and `at` (1, K) -> (1, K, V) logits."""

    def __init__(self, a: Architecture, table: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.architecture, self.table, self.body = a, table, body
        self.turns: list[Tensor] = []

    def turning(self, at: Tensor, extent: int) -> list[Tensor]:
        """(N, 1, n / 2) complex numbers by which heads turn at positions, of all layers and of those with a window."""
        a = self.architecture
        assert a.rotary is not None
        turns = self.turns  # another thread may put shorter ones there meanwhile
        if not turns or len(turns[0]) < extent:
            kinds = [a.rotary] if a.local is None else [a.rotary, a.local]
            self.turns = turns = [torch.complex(*rotation(torch.arange(extent), a.head_width, r))[:, None] for r in kinds]
        return [t[at] for t in turns]

    def forward(self, x: Tensor, *, cache: SlotCache, at: Tensor) -> Tensor:
        a = self.architecture
        h = self.table(x[0])
        h = h if a.embed_scale == 1 else h * a.embed_scale
        turns = self.turning(cache.at, cache.capacity)
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


TURNING = ("q_proj", "k_proj", "q_norm", "k_norm")


def pack(net: Transformer, pieces: Iterable[tuple[str, Tensor | Grid]]) -> PackedDecoder:
    """A packed decoder of `net`'s architecture (its own tensors may be without memory) from (parameter, values) as they come.

    A matrix is packed as soon as all its parts are there: files keep layers together, so little is held at a time.
    """
    a, names = net.architecture, set(net.state_dict())
    assert a.rotary is not None
    near = neighbours(a.head_width, int(a.head_width * a.rotary.share) // 2 * 2)
    jobs = [_Job(i, name, [f"layers.{i}.{leaf}" for leaf in leaves], names) for i in range(a.depth) for name, leaves in MATRICES.items()]
    job_of = {p: job for job in jobs for p in job.params}
    last = "vocabulary.weight" if net.vocabulary.head is None else "vocabulary.head"
    held: dict[str, Tensor] = {}
    ends: dict[str, nn.Module] = {}
    for name, value in pieces:
        if name == "vocabulary.weight":
            ends["table"] = table = Table(value)
        if name == last:
            ends["head"] = _matrix([value[: net.vocabulary.out]], [], False)
            if name == "vocabulary.weight" and table.exact:
                ends["head"] = Head(ends["head"], table)
        if name.split(".")[-2] in TURNING:
            order = (torch.arange(len(value)).view(-1, a.head_width)[:, near]).view(-1)
            value = value[order]
        if name in job_of:
            job_of[name].take(name, value)
        elif not name.startswith("vocabulary."):
            held[name] = value.float().clone()
        del value
    made = {(job.layer, job.name): job.made for job in jobs}
    layers = []
    for i in range(a.depth):
        norms = {name: _weight(a, held, f"layers.{i}.{leaf}.weight") for name, leaf in NORMS.items()}
        layers.append(Layer(a, i, {name: made.pop((i, name)) for name in MATRICES}, norms))
    body = Body(layers, _scaled(_weight(a, held, "norm.weight"), a.eps), ends["head"])
    assert not held, sorted(held)
    return PackedDecoder(a, ends["table"], scripted(body)).eval()


class _Job:
    """One packed matrix that waits for its parts."""

    def __init__(self, layer: int, name: str, leaves: list[str], names: set[str]) -> None:
        self.layer, self.name, self.leaves = layer, name, leaves
        self.params = {f"{leaf}.{end}" for leaf in leaves for end in ("weight", "bias")} & names
        self.parts: dict[str, Tensor | Grid] = {}
        self.made: nn.Module = nn.Identity()

    def take(self, name: str, value: Tensor | Grid) -> None:
        self.parts[name] = value
        if len(self.parts) == len(self.params):
            biases = [self.parts[f"{leaf}.bias"].float() for leaf in self.leaves if f"{leaf}.bias" in self.parts]
            self.made = _matrix([self.parts[f"{leaf}.weight"] for leaf in self.leaves], biases, self.name in FINE)
            self.parts.clear()


def _weight(a: Architecture, held: dict[str, Tensor], name: str) -> Tensor | None:
    weight = held.pop(name, None)
    return 1 + weight if weight is not None and a.norm == "rms1" else weight


def _matrix(parts: list[Tensor | Grid], biases: list[Tensor], fine: bool) -> nn.Module:
    """Parts that read the same, as one matrix: of 4 bits if they are so, else of 8, in float32 where that would lose too much."""
    bias = torch.cat(biases) if biases else None
    grids = [part for part in parts if isinstance(part, Grid) and part.four]
    if len(grids) == len(parts):
        return Int4(grids, bias)
    whole = []
    for part in parts:
        whole.append(rounded(part, turn=True, fine=fine))
        if loss(part, *whole[-1]) > WORST:
            return Float(torch.cat([part.float() for part in parts]), bias)
    return Int8(whole, bias, fine)
