"""morphogen nearest"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Whole, result


def nearest(
    data: Path,
    /,
    *,
    run: Path,
    k: Whole = 3,
    out: Path | None = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> int:
    """Show the training items each item of DATA lies closest to, and whether it is a copy.

    Parameters
    ----------
    data
        A file or folder of outputs, or any items of the run's kind.
    run
        A run folder.
    k
        How many training items to name for each.
    out
        A page (.html) that shows pairs side by side, the closest first.
    """
    from morphogen import api

    with Console() as watch:
        answer = api.nearest(data, run, k=k, out=out, device=device, force=force, watch=watch)
    rows = sorted(answer["items"], key=lambda row: row["nearest"][0]["distance"])
    lines = [answer["verdict"], *[_line(row) for row in rows[:20]]]
    return result(answer, lines + ([str(out)] if out else []), json)


def _line(row: dict) -> str:
    """One item and its neighbours on one line."""
    what = "copy" if row["exact"] else "close" if row["copy"] else ""
    near = ", ".join(f"{n['train']} {n['distance']:.2f}" for n in row["nearest"])
    return f"  {row['item']:<28} {near}  {what}".rstrip()
