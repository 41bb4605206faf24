"""A packed net straight from a file: one matrix at a time is whole, so memory stays near the packed size."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from morphogen.engine.pack import Int8, Packed, pack, packable, rounded, worth
from morphogen.formats.hf import Foreign
from morphogen.nets.attention import Attention
from morphogen.nets.feedforward import MLP
from morphogen.nets.transformer import Transformer, Vocabulary


def packed_from(foreign: Foreign) -> nn.Module:
    """The net of a foreign model with 8-bit matrices. Nets that `pack` does not know are packed after loading, or not at all."""
    net = foreign.empty()
    if not packable(net) or foreign.architecture.experts is not None:
        whole = foreign.net()
        return pack(whole) if packable(whole) else whole  # type: ignore[arg-type]
    assert isinstance(net, Transformer)
    matrices = set(_matrices(net))
    held: dict[str, tuple[Tensor, Tensor] | Tensor] = {}
    for name, value in foreign.pieces(net):
        if name in matrices:
            q, scale = rounded(value)
            held[name] = (q, scale) if worth(value, q, scale) else value.float()
        else:
            held[name] = value.float().clone()
        del value
    _put_together(net, held)
    rest = {k: v for k, v in held.items() if isinstance(v, Tensor) and k in dict(net.named_parameters())}
    net.load_state_dict(rest, strict=False, assign=True)
    left = [k for k, p in net.named_parameters() if p.is_meta]
    assert not left, left
    return net.eval().requires_grad_(False)


def _matrices(net: Transformer) -> list[str]:
    """Parameters that become 8-bit."""
    out = ["vocabulary.weight" if net.vocabulary.head is None else "vocabulary.head"]
    for path, module in net.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in f".{path}":
            out.append(f"{path}.weight")
    return out


def _join(held: dict[str, tuple[Tensor, Tensor] | Tensor], paths: list[str], end: str = ".weight") -> Packed:
    """One packed matrix from parts; float32 where any part is."""
    parts = [held.pop(p + end) for p in paths]
    biases = [held.pop(f"{p}.bias", None) for p in paths] if end == ".weight" else [None]
    bias = None if biases[0] is None else torch.cat([b for b in biases if isinstance(b, Tensor)])
    packed = Packed.__new__(Packed)
    nn.Module.__init__(packed)
    if all(isinstance(p, tuple) for p in parts):
        packed.exact = False
        packed.body = Int8(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), bias)
        return packed
    whole = [p if isinstance(p, Tensor) else p[0].float() * p[1][:, None] for p in parts]
    w = torch.cat(whole)
    packed.exact, packed.body = True, nn.Linear(w.shape[1], w.shape[0], bias=bias is not None, device="meta")
    packed.body.weight = nn.Parameter(w, requires_grad=False)
    packed.body.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return packed


def _put_together(net: Transformer, held: dict[str, tuple[Tensor, Tensor] | Tensor]) -> None:
    for path, module in list(net.named_modules()):
        if isinstance(module, Attention):
            module.qkv = _join(held, [f"{path}.{x}_proj" for x in "qkv"])
            module.o_proj = _join(held, [f"{path}.o_proj"])  # type: ignore[assignment]
            del module.q_proj, module.k_proj, module.v_proj
        elif isinstance(module, MLP):
            if module.gate_proj is not None:
                module.both = _join(held, [f"{path}.gate_proj", f"{path}.up_proj"])
                del module.gate_proj, module.up_proj
            else:
                module.up_proj = _join(held, [f"{path}.up_proj"])  # type: ignore[assignment]
            module.down_proj = _join(held, [f"{path}.down_proj"])  # type: ignore[assignment]
        elif isinstance(module, Vocabulary):
            _vocabulary(module, path, held)


def _vocabulary(v: Vocabulary, path: str, held: dict[str, tuple[Tensor, Tensor] | Tensor]) -> None:
    tied = v.head is None
    name = f"{path}.weight" if tied else f"{path}.head"
    if tied and isinstance(held[name], Tensor):
        return  # too coarse to pack: stays one float32 matrix for both uses
    v.packed = _join(held, [name], end="")
    if tied:
        assert isinstance(v.packed.body, Int8)
        del v.weight
        v.table = v.packed.body.rows
    v.head = None
