"""morphogen generate"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import Console, Number, Whole, result


def generate(
    run: Path,
    /,
    *,
    out: Path,
    n: Whole = 16,
    seed: Whole = 0,
    cond: Annotated[list[str] | None, Parameter(negative="")] = None,
    given: Path | None = None,
    valid: Annotated[bool, Parameter(negative="")] = False,
    steps: Whole | None = None,
    guidance: Number | None = None,
    temperature: Number | None = None,
    batch: Whole | None = None,
    device: str = "auto",
    force: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Make new things from a trained RUN.

    Parameters
    ----------
    run
        A run folder.
    out
        A folder for pictures and other things that are a file each; a .csv, .parquet or .jsonl file for rows; a .jsonl file for texts.
    n
        How many.
    seed
        Item i depends on the seed and i alone, not on n or batch.
    cond
        name=value asked of every item: a label, a caption, a table's column. Repeat for more.
    given
        A file with known parts to keep: transparent pixels, blank cells and <mask> are filled, a text is continued.
    valid
        Repair or draw again what breaks the rules of its kind, a few times; metadata mark what still does.
    steps
        Network calls for each item, for families that take steps.
    guidance
        How strongly the condition is followed; 1 is off.
    temperature
        Below 1 is safer, above 1 is wilder, for families that choose tokens.
    batch
        Tiles drawn side by side, each on a thread of its own: changes the time it takes, never the items. As many as cores by default.
    device
        auto, cpu, cuda or mps.
    force
        Replace outputs that exist.
    json
        Print one JSON object on stdout.
    """
    from morphogen import api
    from morphogen.api.common import parse_cond

    watch = Console()
    sampling = {} if temperature is None else {"temperature": temperature}
    try:
        raws = api.generate(
            run, out, n=n, seed=seed, cond=parse_cond(cond or ()), given=given, valid=valid, steps=steps, guidance=guidance, batch=batch,
            sampling=sampling, device=device, force=force, watch=watch,
        )
    finally:
        watch.close()
    return result({"out": str(out), "n": len(raws), "seed": seed}, [str(out)], json)
