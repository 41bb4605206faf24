"""Muon: momentum whose matrices are made orthogonal, so that every direction of a layer learns at the same speed."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

LONG = 4  # a side so many times the other is multiplied twice instead of ten times
TOGETHER = 1 << 20  # numbers in matrices that are worked on at once: the iteration holds half a dozen copies of them
EDGE = 16  # matrices with a side below this are the ends of a net (a few channels in or out): nothing to orthogonalise


class Muon(torch.optim.Optimizer):
    """W <- W - lr (0.2 sqrt(max(m, n)) O + weight_decay W), O the orthogonal factor of the Nesterov momentum of the gradient.

    Jordan et al. 2024; the factor 0.2 sqrt(max(m, n)) gives updates the size AdamW's have, so that one rate serves both
    (Liu et al. 2025, "Muon is scalable"). Convolutions are matrices of (out, everything else). State: `momentum`.
    `half`: O is worked out in bfloat16, as Jordan does: 1 to 4 % off, in a quarter of the time where there are units for it.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0, half: bool = False
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = torch.bfloat16 if half else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. Small matrices of one shape are worked on together: they wait on calls."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(tuple(p.flatten(1).shape), []).append(p)
            for shape, found in alike.items():
                n = max(1, TOGETHER // prod(shape))
                for some in (found[i : i + n] for i in range(0, len(found), n)):
                    for p, update in zip(some, orthogonal_all([self._wanted(p, group["momentum"]) for p in some]), strict=True):
                        p.mul_(1 - group["lr"] * group["weight_decay"])
                        p.add_(update.view_as(p), alpha=-0.2 * group["lr"] * max(shape) ** 0.5)

    def _wanted(self, p: nn.Parameter, momentum: float) -> Tensor:
        """(m, n) the Nesterov momentum of a gradient, after it was noted."""
        assert p.grad is not None
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        mean = state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum).flatten(1).to(self.dtype)


def orthogonal_all(gs: list[Tensor]) -> list[Tensor]:
    """`orthogonal` of matrices of one shape."""
    if hasattr(gs[0], "full_tensor"):
        return [orthogonal_whole(g) for g in gs]
    return list(orthogonal(torch.stack(gs)))


def orthogonal_whole(g: Any) -> Tensor:
    """`orthogonal` of a matrix whose rows lie in several processes: each works on all of it and keeps its own rows."""
    from morphogen.training.parallel import part_of

    return part_of(orthogonal(g.full_tensor()), g)


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """About U V' of g = U S V' (..., m, n), by `steps` of the quintic Newton-Schulz iteration: singular values end in 0.7 .. 1.2.

    X <- P X with P = a I + b A + c A A, A = X X' and Jordan's coefficients, on the smaller side. Where the other side is much
    longer (convolutions), the P alone are multiplied: they are polynomials of the first A and commute, so A <- P A P. In bfloat16
    they do not commute well enough: matrices of low rank, as gradients are, come out a million times too large.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).flatten(0, -3) if g.ndim > 2 else (g.mT if tall else g)[None]
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.shape[2] < LONG * x.shape[1] or x.dtype != torch.float32:
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        gram, one = x @ x.mT, torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        whole = one.expand_as(gram)
        for _ in range(steps):
            factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * one
            whole, gram = factor @ whole, factor @ gram @ factor
        x = whole @ x
    x = x.view(*g.shape[:-2], *x.shape[1:])
    return x.mT if tall else x


def is_hidden(module: nn.Module, name: str, p: nn.Parameter) -> bool:
    """Whether Muon suits a parameter: a matrix or convolution inside the net; not an embedding and not at the net's ends."""
    owner = module.get_submodule(name.rpartition(".")[0])
    return p.ndim > 1 and not isinstance(owner, nn.Embedding) and not getattr(owner, "edge", False) and min(p.flatten(1).shape) >= EDGE
