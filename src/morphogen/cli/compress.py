"""morphogen compress"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Force, Json, Switch, result


def compress(
    source: Path,
    /,
    *,
    run: Path,
    out: Path,
    items: Switch = False,
    force: Force = False,
    json: Json = False,
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
    """
    from morphogen import api

    with Console() as watch:
        facts = api.compress(source, run, out, items=items, force=force, watch=watch)
    beside = "".join(f", {name} {facts[name]:,}" for name in ("xz", "zstd") if name in facts)
    return result(facts, [f"{out}  {facts['compressed']:,} bytes from {facts['bytes']:,}{beside}"], json)
