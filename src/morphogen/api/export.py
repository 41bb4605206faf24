"""export: a language model as a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from morphogen.api.common import Watch
from morphogen.files import check_output


def export(model: str | Path, out: str | Path, *, format: str = "hf", quantise: str = "f32", force: bool = False,
           watch: Watch | None = None) -> dict[str, Any]:
    """Write a run, a Hugging Face folder or a GGUF file in another form, read back and compared before it takes its place.

    `format`: hf or gguf; `quantise`: f32, f16, bf16 and, for GGUF, q8_0, q4_0, q4_1. Returns {"out", "kl", "top1",
    "positions"}: how far the written model is from the source. Raises UsageError or FormatError; then nothing is written.
    """
    from morphogen.language import load
    from morphogen.language.export import export as write

    out, watch = Path(out), watch or Watch()
    check_output(out, force=force, inputs=(Path(model),))
    watch.say(f"reading {model}")
    made = write(load(model, weights="float32"), out, form=format, quantise=quantise)
    watch.say(f"written and read back: the same ids, {made.kl:.2g} nats from the source, top choice alike at {made.top1:.1%}", "good")
    return {"out": str(out), "kl": made.kl, "top1": made.top1, "positions": made.positions}
