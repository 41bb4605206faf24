"""What happens at one position: norms, the gated or plain MLP, and a mixture of experts."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.nets.architecture import Architecture, Experts
from morphogen.nets.positions import drawn

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh"), "relu": F.relu}


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis; `one`: times 1 + weight (Gemma)."""

    def __init__(self, width: int, eps: float, one: bool = False) -> None:
        super().__init__()
        self.weight, self.eps, self.one = nn.Parameter(torch.zeros(width) if one else torch.ones(width)), eps, one

    def forward(self, x: Tensor) -> Tensor:
        weight = 1 + self.weight if self.one else self.weight
        return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), self.eps)  # x may be of lower precision, as products are


def norm(a: Architecture) -> nn.Module:
    """A norm over the width, as the architecture wants it."""
    if a.norm in ("rms", "rms1"):
        return RMSNorm(a.width, a.eps, a.norm == "rms1")
    return nn.LayerNorm(a.width, a.eps, bias=a.norm == "bias")


class MLP(nn.Module):
    """down(act(gate(x)) * up(x)): SwiGLU or GeGLU (Shazeer 2020, arXiv 2002.05202); without a gate down(act(up(x)))."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(a.width, a.hidden, bias=a.mlp_bias) if a.gated else None
        self.up_proj = nn.Linear(a.width, a.hidden, bias=a.mlp_bias)
        self.down_proj = nn.Linear(a.hidden, a.width, bias=a.mlp_bias)
        self.act = ACTS[a.act]

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.act(self.up_proj(x)))
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class Mixture(nn.Module):
    """Each position goes to the `chosen` experts its router likes best; their outputs are added by the router's shares."""

    def __init__(self, a: Architecture, e: Experts) -> None:
        super().__init__()
        self.chosen, self.normed, self.act = e.chosen, e.normed, ACTS[a.act]
        self.router = nn.Linear(a.width, e.count, bias=False)
        self.gate_proj = nn.Parameter(drawn(e.count, e.hidden, a.width, std=a.width**-0.5))
        self.up_proj = nn.Parameter(drawn(e.count, e.hidden, a.width, std=a.width**-0.5))
        self.down_proj = nn.Parameter(drawn(e.count, a.width, e.hidden, std=e.hidden**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        share, expert = self.router(flat).float().softmax(-1).topk(self.chosen, -1)
        if self.normed:
            share = share / share.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for e in expert.unique().tolist():
            row, column = (expert == e).nonzero(as_tuple=True)
            y = flat[row]
            y = F.linear(self.act(F.linear(y, self.gate_proj[e])) * F.linear(y, self.up_proj[e]), self.down_proj[e])
            out = out.index_add(0, row, (y * share[row, column, None].to(y.dtype)).to(out.dtype))
        return out.view_as(x)


def feedforward(a: Architecture, layer: int) -> nn.Module:
    """The MLP of a layer, or its experts."""
    return Mixture(a, a.experts) if a.experts is not None and layer in a.experts.layers else MLP(a)
