"""An exponential moving average of weights: what is drawn from (Polyak & Juditsky 1992)."""
from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """Follows a module's parameters; buffers are copied. The average warms up: decay(t) = min(decay, (1+t)/(10+t)).

    Parameters that are frozen when it is made are shared with the module, not copied: a large base costs nothing here.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module, frozen(module)).eval().requires_grad_(False)
        self.follow(module)

    def follow(self, module: nn.Module) -> None:
        """Be the average of this module from now on, whose parts are laid out as the average's are."""
        self._pairs = [(kept, now) for kept, now in zip(self.module.parameters(), module.parameters(), strict=True) if kept is not now]
        self._buffers = list(zip(self.module.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Call after optimiser step `step` (counted from 1)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for kept, now in self._pairs:
            kept.lerp_(now.detach(), weight)
        for kept, now in self._buffers:
            kept.copy_(now)


def frozen(module: nn.Module) -> dict[int, nn.Parameter]:
    """The parameters that are not trained, as a memo of `copy.deepcopy`: a copy made with it holds the very same ones."""
    return {id(p): p for p in module.parameters() if not p.requires_grad}
