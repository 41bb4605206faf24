"""morphogen score"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Number, Switch, Whole, Words, result


def score(
    data: Path,
    /,
    *,
    run: Path,
    out: Path | None = None,
    rate: Number = 0.01,
    by: str = "model",
    label: str | None = None,
    normal: Words = None,
    conditional: Switch = False,
    seed: Whole = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> int:
    """Say how odd each item of DATA is, which are remarkable, and which of their parts.

    Parameters
    ----------
    data
        Items of the kind the run learned from.
    run
        A run folder.
    out
        A .csv or .jsonl file with a line an item, or a folder that also gets pictures with their odd regions in red.
    rate
        Of honest new items at most this share is alarmed, as the held-out items of the run vouch for.
    by
        model, neighbours (distance to training items) or forest (isolation forest).
    label
        A column that says which items are normal, or labels for class folders; the AUROC of all three ways is then measured.
    normal
        A value of the label that is normal; found by itself when it is called normal, good, ok, 0 or the like. Repeat for more.
    conditional
        How odd given what an item says about the run's conditions: a 7 among sevens.
    seed
        Names the noise that items are looked at with.
    """
    from morphogen import api

    with Console() as watch:
        answer = api.score(
            data, run, out=out, rate=rate, by=by, label=label, normal=normal or (), conditional=conditional, seed=seed, device=device,
            force=force, watch=watch,
        )
    rows = sorted(answer["items"], key=lambda row: -row["score"])
    level = "none can be set" if answer["threshold"] is None else f"{answer['threshold']:.4g}"
    lines = [
        f"{answer['alarms']:,} of {len(rows):,} items are odd at rate {rate:g} ({answer['meaning']}; threshold {level}, "
        f"{answer['held_out']:,} held-out items)",
        answer["verdict"],
        *[_line(row) for row in rows[:20]],
    ]
    return result(answer, lines + ([str(out)] if out else []), json)


def _line(row: dict) -> str:
    """One item on one line, its odd parts behind it."""
    parts = ", ".join(f"{p['part']} (+{p['excess']:.3g})" for p in row.get("parts", [])[:3])
    return f"  {'*' if row['alarm'] else ' '} {row['score']:>9.3f}  p {row['p']:<8.3g} {row['item']}  {parts}".rstrip()
