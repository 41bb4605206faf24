"""morphogen vary"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Number, Whole, result


def vary(
    item: str,
    /,
    *,
    run: Path,
    out: Path,
    n: Whole = 8,
    distance: Number = 0.3,
    seed: Whole = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> int:
    """Make variations of an ITEM at a chosen distance from it.

    Parameters
    ----------
    item
        A file, FILE:NUMBER for one of many in a file, or a number in the run's data.
    run
        A run folder of any family that can begin from an item: all but gan.
    out
        Where the variations go: a folder or a file, as with generate.
    n
        How many.
    distance
        1 is how far a real new item lies from its nearest training item; 0 is as near as the run comes.
    seed
        Names the draws.
    """
    from morphogen import api

    with Console() as watch:
        answer = api.vary(item, run, out, n=n, distance=distance, seed=seed, device=device, force=force, watch=watch)
    answer.pop("raws")
    low, high = answer["range"]
    line = f"distance {answer['distance']:g} ({low:g} to {high:g}), level {answer['level']:g} (1: {answer['unit']})"
    return result(answer, [line, str(out)], json)
