"""morphogen list"""
from __future__ import annotations

from morphogen.cli.console import Json, result


def list_(*, json: Json = False) -> int:
    """Codecs, families, metrics and sizes, a line each."""
    from morphogen.api.inspect import list_ as everything

    found = everything()
    lines = []
    for axis, names in found.items():
        lines += [axis, *[f"  {name:<16}{line}" for name, line in names.items()]]
    return result(found, lines, json)
