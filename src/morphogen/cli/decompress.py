"""morphogen decompress"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import Console, result


def decompress(
    source: Path,
    /,
    *,
    run: Path,
    out: Path,
    force: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Turn a file made by compress back into what it was.

    Parameters
    ----------
    source
        The compressed file.
    run
        The run it was compressed with.
    out
        Where the file or folder goes.
    force
        Replace an output that exists.
    json
        Print one JSON object on stdout.
    """
    from morphogen import api

    watch = Console()
    try:
        facts = api.decompress(source, run, out, force=force, watch=watch)
    finally:
        watch.close()
    return result(facts, [str(out)], json)
