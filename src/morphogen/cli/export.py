"""morphogen export"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Force, Json, result


def export(
    model: Path,
    /,
    *,
    out: Path,
    format: str = "hf",
    quantise: str = "f32",
    force: Force = False,
    json: Json = False,
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
    """
    from morphogen import api

    with Console() as watch:
        made = api.export(model, out, format=format, quantise=quantise, force=force, watch=watch)
    return result(made, [made["out"]], json)
