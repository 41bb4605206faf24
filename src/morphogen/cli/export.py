"""morphogen export"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import Console, result


def export(
    model: Path,
    /,
    *,
    out: Path,
    format: str = "hf",
    quantise: str = "f32",
    force: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write a language MODEL for other tools.

    Parameters
    ----------
    model
        A text run, a Hugging Face folder or a GGUF file.
    out
        A new folder (hf) or a .gguf file.
    format
        hf: config.json, model.safetensors, tokenizer.json. gguf: one file for llama.cpp and its kin.
    quantise
        f32, f16, bf16; for GGUF also q8_0, q4_0, q4_1.
    force
        Replace outputs that exist.
    json
        Print one JSON object on stdout.
    """
    from morphogen import api

    watch = Console()
    try:
        made = api.export(model, out, format=format, quantise=quantise, force=force, watch=watch)
    finally:
        watch.close()
    return result(made, [made["out"]], json)
