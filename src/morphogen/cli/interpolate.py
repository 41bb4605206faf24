"""morphogen interpolate"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Whole, result


def interpolate(
    a: str,
    b: str,
    /,
    *,
    run: Path,
    out: Path,
    n: Whole = 8,
    seed: Whole = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> int:
    """Go from item A to item B in steps that are items themselves.

    Parameters
    ----------
    a
        A file, FILE:NUMBER for one of many in a file, or a number in the run's data.
    b
        Where to.
    run
        A run folder: vae, diffusion or flow.
    out
        Where the items go: a folder or a file, as with generate.
    n
        How many, both ends included.
    seed
        Names the draws of decoding, where there are any.
    """
    from morphogen import api

    with Console() as watch:
        answer = api.interpolate(a, b, run, out, n=n, seed=seed, device=device, force=force, watch=watch)
    answer.pop("raws")
    first, last = answer["items"][0], answer["items"][-1]
    line = f"the ends come back at distance {first['from_a']:g} and {last['from_b']:g}, the largest step is {answer['largest_step']:g}"
    return result(answer, [f"{line} (1: {answer['unit']})", str(out)], json)
