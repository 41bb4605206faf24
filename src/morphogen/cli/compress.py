"""morphogen compress"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import Console, result


def compress(
    source: Path,
    /,
    *,
    run: Path,
    out: Path,
    items: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Code a file or folder without loss by what a run has learned.

    Parameters
    ----------
    source
        A file or a folder.
    run
        A run folder whose family writes tokens one after another (ngram, latent_class, autoregressive, seq2seq).
    out
        The compressed file, .mgc by custom. It is decoded and compared before it is written.
    items
        Keep what the codec reads (pixels, rows) of files it would write differently, not their own bytes.
    force
        Replace an output that exists.
    json
        Print one JSON object on stdout.
    """
    from morphogen import api

    watch = Console()
    try:
        facts = api.compress(source, run, out, items=items, force=force, watch=watch)
    finally:
        watch.close()
    beside = "".join(f", {name} {facts[name]:,}" for name in ("xz", "zstd") if name in facts)
    return result(facts, [f"{out}  {facts['compressed']:,} bytes from {facts['bytes']:,}{beside}"], json)
