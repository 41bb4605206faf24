"""Space -> Space on the device, fitted from data. One file a bridge; found by (source type, target type), imported on use."""
from __future__ import annotations

import importlib

from morphogen.contracts import Bridge
from morphogen.errors import UsageError
from morphogen.spaces import Array, Record, Space, Tokens

BRIDGES: dict[tuple[type, type], str] = {
    (Record, Array): "morphogen.bridges.one_hot:OneHot",
    (Record, Tokens): "morphogen.bridges.serialise:Serialise",
    (Array, Tokens): "morphogen.bridges.bins:Bins",
    (Tokens, Array): "morphogen.bridges.bits:AnalogBits",
}


def build(source: Space, kind: type) -> Bridge:
    """The bridge from a Space to a Space of type `kind`, not fitted yet. Raises KeyError when there is none."""
    module, _, name = BRIDGES[type(source), kind].partition(":")
    return getattr(importlib.import_module(module), name)(source)


def route(space: Space, accepts: tuple[type, ...]) -> list[Bridge]:
    """The shortest chain of at most two bridges from a Space to one a family accepts; earlier types of `accepts` win.

    The bridges are not fitted; a chain of two relies on the first bridge knowing its target before it is fitted.
    Raises UsageError when no chain exists, TypeError when a bridge cannot take this Space's fields.
    """
    if isinstance(space, accepts):
        return []
    for kind in accepts:
        if (type(space), kind) in BRIDGES:
            return [build(space, kind)]
    for kind in accepts:
        for source, middle in BRIDGES:
            if source is type(space) and (middle, kind) in BRIDGES and kind is not source:
                first = build(space, middle)
                return [first, build(first.target, kind)]
    names = " or ".join(kind.__name__ for kind in accepts)
    raise UsageError(f"no bridge leads from {type(space).__name__} to {names}", remedy="choose another family")
