"""How classical families use what is said about a sample: labels choose among stored rows or components."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from morphogen.spaces import Space, Tokens


def label_names(conditions: Mapping[str, Space]) -> tuple[str, ...]:
    """Names of the conditions that are one label each (Tokens of length 1), sorted."""
    return tuple(sorted(k for k, s in conditions.items() if isinstance(s, Tokens) and s.length == 1 and s.streams == 1))


def ignored_names(conditions: Mapping[str, Space]) -> tuple[str, ...]:
    """Names of the conditions a label-only family does not listen to, sorted; the caller should tell the user."""
    used = label_names(conditions)
    return tuple(sorted(k for k in conditions if k not in used))


def said(cond: Mapping[str, Tensor], names: tuple[str, ...], keys: Tensor) -> Tensor:
    """(B, len(names)) int64 labels of a batch; -1 where nothing is said."""
    out = torch.full((len(keys), len(names)), -1, dtype=torch.int64, device=keys.device)
    for column, name in enumerate(names):
        if name in cond:
            out[:, column] = cond[name].reshape(len(keys)).to(keys.device)
    return out


def matching(asked: Tensor, stored: Tensor) -> Tensor:
    """(B, N) True where stored labels (N, c) agree with all that is asked (B, c); a row that nothing matches takes all.

    -1 in `asked` agrees with everything.
    """
    agree = ((asked[:, None] == stored[None]) | (asked[:, None] < 0)).all(-1)
    return agree | ~agree.any(1, keepdim=True)
