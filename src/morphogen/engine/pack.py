"""Weights packed for drawing: matrices as 8-bit whole numbers with a scale a row, queries-keys-values and gate-up as one.

Stock torch only. Chosen by measurement (benchmarks/README.md): at one row a step the bytes read are what counts; from
`FEW` rows on, turning a matrix back into float32 and one large product is faster.
"""
from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.nets.attention import Attention, CrossAttention
from morphogen.nets.feedforward import MLP
from morphogen.nets.transformer import Transformer, Vocabulary

FEW = 4
WORST = 0.02  # a matrix whose rounding changes it by more than this share stays as it is


class Int8(nn.Module):
    """x W' + b with W rounded to 8 bits: W[i, j] ~ scale[i] q[i, j]; activations in bfloat16 at few rows."""

    def __init__(self, q: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        self.register_buffer("short", scale.bfloat16())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) <= FEW and x.device.type == "cpu":
            y = torch._weight_int8pack_mm(flat.bfloat16(), self.q, self.short).to(x.dtype)
            y = y if self.bias is None else y + self.bias
        else:
            y = F.linear(flat, self.q.to(x.dtype) * self.scale[:, None].to(x.dtype), self.bias)  # type: ignore[operator, arg-type, index]
        return y.view(*x.shape[:-1], -1)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the matrix as float32, which is what an embedding is."""
        return self.q[ids].float() * self.scale[ids][..., None]  # type: ignore[index]


def rounded(w: Tensor) -> tuple[Tensor, Tensor]:
    """(int8, scale a row) of a matrix: symmetric, the largest of a row becomes 127."""
    w = w.float()
    scale = (w.abs().amax(1) / 127).clamp(min=1e-12)
    return (w / scale[:, None]).round_().to(torch.int8), scale


def worth(w: Tensor, q: Tensor, scale: Tensor) -> bool:
    """Whether rounding changed a matrix little enough (root mean square, relative)."""
    error = (q.float() * scale[:, None] - w.float()).norm()
    return bool(error <= WORST * w.float().norm())


class Packed(nn.Module):
    """Several matrices that read the same, as one; each is Int8 or float32."""

    def __init__(self, parts: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        weights, biases = zip(*parts)
        w = torch.cat([x.float() for x in weights]) if len(weights) > 1 else weights[0]
        bias = None if biases[0] is None else torch.cat([b.float() for b in biases])
        q, scale = rounded(w)
        self.exact = not worth(w, q, scale)
        self.body: nn.Module = Int8(q, scale, bias)
        if self.exact:
            self.body = nn.Linear(w.shape[1], w.shape[0], bias=bias is not None, device="meta")
            self.body.weight = nn.Parameter(w.float(), requires_grad=False)
            self.body.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def pack(net: Transformer) -> Transformer:
    """Replace a net's matrices by packed ones, in place, one after another, so that there is never a second copy of all of it.

    Embeddings that are tied to the logits are read from the packed matrix. Experts and cross-attention's keys stay as they are.
    """
    for module in list(net.modules()):
        if isinstance(module, Attention):
            parts = [module.q_proj, module.k_proj, module.v_proj]
            module.qkv = Packed((p.weight, p.bias) for p in parts)
            module.o_proj = Packed([(module.o_proj.weight, module.o_proj.bias)])  # type: ignore[assignment]
            del module.q_proj, module.k_proj, module.v_proj
        elif isinstance(module, MLP):
            if module.gate_proj is not None:
                module.both = Packed((p.weight, p.bias) for p in (module.gate_proj, module.up_proj))
                del module.gate_proj, module.up_proj
            else:
                module.up_proj = Packed([(module.up_proj.weight, module.up_proj.bias)])  # type: ignore[assignment]
            module.down_proj = Packed([(module.down_proj.weight, module.down_proj.bias)])  # type: ignore[assignment]
        elif isinstance(module, Vocabulary):
            pack_vocabulary(module)
    return net


def pack_vocabulary(v: Vocabulary) -> None:
    """The logits' matrix; tied embeddings then come from it too."""
    tied = v.head is None
    w = v.weight[: v.out] if tied else v.head
    assert w is not None
    v.packed = Packed([(w.detach(), v.bias)])
    if tied and isinstance(v.packed.body, Int8) and len(v.weight) == v.out:
        del v.weight
        v.table = v.packed.body.rows  # type: ignore[assignment]
    v.head = None


def packable(net: nn.Module) -> bool:
    """Whether `pack` knows every large matrix of a net: causal, without cross-attention."""
    return isinstance(net, Transformer) and net.causal and not any(isinstance(m, CrossAttention) for m in net.modules())
