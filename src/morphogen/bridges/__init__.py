"""Space -> Space on the device, fitted from data. One file a bridge; found in the registry by what it `leads` from and to."""
from __future__ import annotations

from typing import Any

from morphogen.errors import UsageError
from morphogen.registry import usable
from morphogen.spaces import Array, Record, Space, Tokens

WORDS: dict[type, str] = {Array: "numbers on a grid", Tokens: "strings of tokens", Record: "rows of fields"}


def bridges() -> dict[tuple[type, type], Any]:
    """(source type, target type) -> class; the first of the registry wins."""
    found: dict[tuple[type, type], Any] = {}
    for _, kind in usable("bridge"):
        found.setdefault(kind.leads, kind)
    return found


def route(space: Space, accepts: tuple[type, ...]) -> list[Any]:
    """The shortest chain of at most two bridges from a Space to one a family accepts; earlier types of `accepts` win.

    The bridges are not fitted; a chain of two relies on the first bridge knowing its target before it is fitted.
    Raises UsageError when no chain exists, TypeError when a bridge cannot take this Space's fields.
    """
    if isinstance(space, accepts):
        return []
    known = bridges()
    for kind in accepts:
        if (type(space), kind) in known:
            return [known[type(space), kind](space)]
    for kind in accepts:
        for source, middle in known:
            if source is type(space) and (middle, kind) in known and kind is not source:
                first = known[source, middle](space)
                return [first, known[middle, kind](first.target)]
    names = " or ".join(WORDS[kind] for kind in accepts)
    raise UsageError(f"this family models {names}, and nothing here turns {WORDS[type(space)]} into that", remedy="choose another family")
