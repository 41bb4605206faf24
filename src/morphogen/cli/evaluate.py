"""morphogen evaluate"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Whole, result


def evaluate(
    run: Path,
    /,
    *,
    data: Path | None = None,
    out: Path | None = None,
    n: Whole | None = None,
    seed: Whole = 1,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> int:
    """Say how good a RUN is, whether a baseline beats it and whether it copied.

    Parameters
    ----------
    run
        A run folder.
    data
        Other real items to compare with, instead of those held out in training.
    out
        Where to write report.html, card.md and metrics.json; the run folder without it.
    n
        How many items to draw for the comparison.
    seed
        Names the draws.
    """
    from morphogen import api

    with Console() as watch:
        answer = api.evaluate(run, data=data, out=out, n=n, seed=seed, device=device, force=force, watch=watch)
    lines = [answer["verdict"], *answer["advice"], *[metric_line(m) for m in answer["metrics"]], answer["report"]]
    return result(answer, lines, json)


def metric_line(m: dict) -> str:
    """One metric on one line: value, interval, what real data reach, the best baseline."""
    show = lambda v: "-" if v is None else f"{v:.4g}"
    base = m["baseline"]
    beside = f"   {base['name']} {show(base['value'])}" if base and base.get("name") else ""
    return f"  {m['name']:<28}{show(m['value']):>8}  [{show(m['low'])}, {show(m['high'])}]   real {show(m['floor'])}{beside}"
