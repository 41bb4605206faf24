"""Buffers whose size depends on the data: a fresh module must take the shapes of the state dict it loads."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def adopt(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Give the module's own buffers the shapes found in a state dict, before torch copies the values in.

    To be called first in `_load_from_state_dict(self, state_dict, prefix, *rest)`: torch would refuse the new shapes.
    Device and dtype stay the module's; buffers missing from the state dict stay as they are (strict loading reports them).
    """
    for name, old in module._buffers.items():
        new = state_dict.get(prefix + name)
        if old is not None and new is not None and new.shape != old.shape:
            module._buffers[name] = torch.empty(new.shape, dtype=old.dtype, device=old.device)
