"""morphogen train"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Number, Settings, Switch, Whole, Words, result


def train(
    data: Path,
    /,
    *,
    out: Path,
    family: str | None = None,
    size: str | None = None,
    minutes: Number | None = None,
    steps: Whole | None = None,
    seed: Whole = 0,
    cond: Words = None,
    bridge: Path | None = None,
    recipe: Path | None = None,
    resume: Switch = False,
    device: Device = "auto",
    parallel: str | None = None,
    set_: Settings = None,
    report: bool = True,
    force: Force = False,
    json: Json = False,
) -> int:
    """Learn how DATA is structured and save a run folder.

    Parameters
    ----------
    data
        A folder of pictures, a CSV, Parquet or JSONL file, a text file or a folder of them.
    out
        The run folder to make.
    family
        Model family; without it the data decide. See `morphogen list`.
    size
        tiny, small, base or large.
    minutes
        Wall time from reading the data to the saved model.
    steps
        Optimiser steps instead of minutes: the same run on any machine.
    seed
        Names every random draw.
    cond
        What outputs can be asked for: labels, captions or a column. Repeat for more.
    bridge
        A trained run with a latent (vae): model its latent instead of the data.
    recipe
        A recipe.toml, ours from recipes/ or another run's; flags win over it.
    resume
        Go on from the last checkpoint of the run folder.
    parallel
        Under torchrun, ddp (a replica a process) or fsdp (weights cut into parts); without it ddp.
    set_
        Override one value: training.lr=1e-3, net.width=96, family.kind=vq, codec.size=32. Repeat for more.
    report
        Judge the run at the end and write report.html into it.
    """
    from morphogen import api
    from morphogen.api.common import leads, parse_options

    with Console() if leads() else nullcontext() as watch:
        run = api.train(
            data,
            out,
            family=family,
            size=size,
            minutes=minutes,
            steps=steps,
            seed=seed,
            cond=cond or (),
            bridge=bridge,
            recipe=recipe,
            resume=resume,
            device=device,
            parallel=parallel,
            options=parse_options(set_ or ()),
            force=force,
            watch=watch,
            report=report,
        )
    if watch is None:
        return 0
    facts = {
        "run": str(run.path),
        "family": run.recipe["family"]["name"],
        **{k: run.provenance().get(k) for k in ("seconds", "steps", "parameters", "model")},
    }
    lines = [str(run.path), f"next: morphogen generate {run.path} --n 16 --out {run.path.name}-new"]
    if (run.path / "report.html").exists():
        lines.append(f"report: {run.path / 'report.html'}")
        facts["report"] = str(run.path / "report.html")
    return result(facts, lines, json)
