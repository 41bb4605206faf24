"""What bridges share: buffers sized by the data, and the check of a Record's fields."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from morphogen.spaces import Array, Record, Space, Tokens


def adopt(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Give the module's buffers the shapes found in a state dict, before torch copies the values in."""
    for name, old in module._buffers.items():
        new = state_dict.get(prefix + name)
        if old is not None and new is not None and new.shape != old.shape:
            module._buffers[name] = torch.empty(new.shape, dtype=old.dtype, device=old.device)


def flat_fields(source: Space) -> list[tuple[str, int]]:
    """(name, vocabulary or 0 for a number) of a Record's fields. Raises TypeError for any field but Tokens(V, 1) and Array((1,))."""
    if not isinstance(source, Record):
        raise TypeError(f"this bridge takes a Record, not {type(source).__name__}")
    if source.rows != 1:
        raise TypeError("this bridge takes records of one row; ragged records need a bridge of their own")
    out = []
    for name, space in source.fields:
        if isinstance(space, Tokens) and space.length == 1 and space.streams == 1:
            out.append((name, space.vocab))
        elif isinstance(space, Array) and space.shape == (1,):
            out.append((name, 0))
        else:
            raise TypeError(f"field '{name}' is {space}: this bridge takes fields of one number, Array((1,)), or one word, Tokens(V, 1)")
    return out


def atoms(values: Tensor, share: float = 0.005) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(distinct values ascending, how often each occurs, which are mass points, whether all are) of (N,) numbers.

    A mass point holds at least `share` of the rows. A column of fewer than 200 distinct values that each occur twice on
    average is discrete: all its values are mass points. Single values are never: they would come back as verbatim copies.
    """
    distinct, counts = torch.unique(values, return_counts=True)
    discrete = torch.tensor(len(distinct) < 200 and len(values) >= 2 * len(distinct))
    return distinct, counts, discrete | ((counts >= share * len(values)) & (counts >= 3)), discrete
