"""morphogen tune"""

from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Number, Settings, Switch, Whole, result


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
    full: Switch = False,
    resume: Switch = False,
    device: Device = "auto",
    set_: Settings = None,
    force: Force = False,
    json: Json = False,
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
    set_
        Override one value: training.lr=1e-3, lora.alpha=32, lora.dropout=0.1. Repeat for more.
    """
    from morphogen import api
    from morphogen.api.common import parse_options
    from morphogen.api.tuning import lines_of

    with Console() as watch:
        options = parse_options(set_ or (), ("training", "lora"))
        answer = api.tune(base, data, out, rank=rank, minutes=minutes, steps=steps, seed=seed, full=full, resume=resume, device=device,
                          options=options, force=force, watch=watch)
    ahead = f"generate {answer['run']} --n 16 --out {Path(answer['run']).name}-new"
    if "base_model" in answer:
        ahead = f"chat {answer['run']}" if answer["chat"] else f'generate {answer["run"]} --prompt "..."'
    lines = [answer["run"], *lines_of(answer), f"next: morphogen {ahead}"]
    return result(answer, lines, json)
