"""morphogen decompress"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Force, Json, result


def decompress(
    source: Path,
    /,
    *,
    run: Path,
    out: Path,
    force: Force = False,
    json: Json = False,
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
    """
    from morphogen import api

    with Console() as watch:
        facts = api.decompress(source, run, out, force=force, watch=watch)
    return result(facts, [str(out)], json)
