"""morphogen list"""
from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import result


def list_(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Codecs, families, metrics and sizes, a line each.

    Parameters
    ----------
    json
        Print one JSON object on stdout.
    """
    from morphogen.api.inspect import list_ as everything

    found = everything()
    lines = []
    for axis, names in found.items():
        lines += [axis, *[f"  {name:<16}{line}" for name, line in names.items()]]
    return result(found, lines, json)
