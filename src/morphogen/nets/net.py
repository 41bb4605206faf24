"""The mark of a whole net, from which training knows where one begins and ends."""
from __future__ import annotations

from typing import TypeVar

from torch import nn

Kind = TypeVar("Kind", bound=type[nn.Module])


def net(kind: Kind) -> Kind:
    """The class of a whole net, called as net(x, time=, cond=, given=, mask=, cache=), that gives one tensor; losses are made outside.

    Put around it from outside: `training.precision`.
    """
    kind.is_net = True  # type: ignore[attr-defined]
    return kind


def is_net(module: nn.Module) -> bool:
    return getattr(type(module), "is_net", False)
