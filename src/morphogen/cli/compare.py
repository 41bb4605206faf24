"""morphogen compare"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import Console, Device, Force, Json, Number, Settings, Whole, Words, result


def compare(
    data: Path,
    /,
    *,
    out: Path,
    minutes: Number = 10.0,
    families: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    seed: Whole = 0,
    cond: Words = None,
    size: str | None = None,
    n: Whole | None = None,
    device: Device = "auto",
    set_: Settings = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Train every family that fits DATA on equal time and say which to use.

    Parameters
    ----------
    data
        A folder or file, as for train.
    out
        Where to write the runs, compare.html and compare.json.
    minutes
        Time of the whole comparison; networks share it equally, classical families take seconds.
    families
        Only these.
    seed
        Names every random draw.
    cond
        As for train.
    size
        tiny, small, base or large.
    n
        How many items to draw from each for the comparison.
    set_
        Override one value for all networks, as for train.
    """
    from morphogen import api
    from morphogen.api.common import parse_options

    with Console() as watch:
        answer = api.compare(data, out, minutes=minutes, families=families, seed=seed, cond=cond or (), size=size, n=n, device=device,
                             options=parse_options(set_ or ()), force=force, watch=watch)
    return result(answer, [f"use {answer['use']} {answer['why']}", answer["report"]], json)
