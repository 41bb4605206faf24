"""morphogen tune"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import Console, Number, Whole, result


def tune(
    base: Path,
    data: Path,
    /,
    *,
    out: Path,
    rank: Whole | None = None,
    minutes: Number | None = None,
    steps: Whole | None = None,
    seed: Whole = 0,
    full: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Let a run or language model BASE go on learning from DATA and save what it has become.

    Parameters
    ----------
    base
        A finished run folder of any kind that was trained by steps; or a Hugging Face folder or GGUF file with a decoder.
    data
        The kind of data the base was trained on; for text also JSON lines of prompt and completion, or of messages.
        For a Hugging Face folder or GGUF file: JSON lines of messages, of prompt and completion, or of text.
    out
        The run folder to make; a Hugging Face folder where the base is no run.
    rank
        Rank of the adapter: more learns more and costs more (8).
    minutes
        Wall time from reading the data to the saved model. A language model from elsewhere sees the data at most ten times.
    steps
        Optimiser steps instead of minutes: the same run on any machine.
    seed
        Names every random draw.
    full
        Train all weights instead of an adapter.
    resume
        Go on from the last checkpoint of the run folder.
    device
        auto, cpu, cuda or mps.
    set_
        Override one value: training.lr=1e-3, lora.alpha=32, lora.dropout=0.1. Repeat for more.
    force
        Replace a run folder that exists.
    json
        Print one JSON object on stdout.
    """
    from morphogen import api
    from morphogen.api.common import parse_options
    from morphogen.api.tuning import lines_of

    watch = Console()
    try:
        options = parse_options(set_ or (), ("training", "lora"))
        answer = api.tune(base, data, out, rank=rank, minutes=minutes, steps=steps, seed=seed, full=full, resume=resume, device=device,
                          options=options, force=force, watch=watch)
    finally:
        watch.close()
    ahead = f"generate {answer['run']} --n 16 --out {Path(answer['run']).name}-new"
    if "base_model" in answer:
        ahead = f"chat {answer['run']}" if answer["chat"] else f'generate {answer["run"]} --prompt "..."'
    lines = [answer["run"], *lines_of(answer), f"next: morphogen {ahead}"]
    return result(answer, lines, json)
