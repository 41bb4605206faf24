"""morphogen generate"""
from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from morphogen.cli.console import Console, Device, Force, Json, Number, Switch, Whole, Words, result

CHOICES = ("top_k", "top_p", "min_p")  # of a token, in any family that has them


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Answering:
    """Of language models only, but for top_k, top_p and min_p: any family that chooses tokens may have them."""

    prompt: str | None = None
    """Text to go on from (an encoder: with `<mask>` where words are asked for)."""
    input: Path | None = None
    """A JSONL file of {"prompt"} or {"messages"}; answers go to --out, and a stopped job goes on where it was."""
    max_tokens: Whole | None = None
    """At most so many new tokens; 256."""
    top_k: Whole | None = None
    """Only the k most likely tokens."""
    top_p: Number | None = None
    """Only the fewest tokens that together reach this share."""
    min_p: Number | None = None
    """Only tokens at least this likely relative to the best."""
    repetition: Number | None = None
    """Above 1 makes tokens that were used less likely."""
    stop: Words = None
    """A string that ends the answer. Repeat for more."""
    schema: str | None = None
    """A JSON schema (a file, or written out) the answer keeps."""
    regex: str | None = None
    """A regular expression the whole answer matches."""
    grammar: str | None = None
    """A Lark or GBNF grammar (a file, or written out) the answer keeps."""
    beams: Whole | None = None
    """Search with so many beams instead of drawing."""
    logprobs: Whole | None = None
    """With --json: log-probabilities of the chosen and so many best tokens."""
    adapter: Path | None = None
    """A PEFT adapter folder to draw with."""
    weights: str = "auto"
    """float32, int8, or auto: int8 where the file is quantised already or large."""


def generate(
    run: Path,
    /,
    *,
    out: Path | None = None,
    n: Whole | None = None,
    seed: Whole = 0,
    cond: Words = None,
    given: Path | None = None,
    valid: Switch = False,
    steps: Whole | None = None,
    guidance: Number | None = None,
    temperature: Number | None = None,
    batch: Whole | None = None,
    device: Device = "auto",
    metadata: bool = True,
    answering: Answering | None = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Make new things from a trained RUN.

    Parameters
    ----------
    run
        A run folder; with --prompt or --input also a GGUF file or a Hugging Face folder.
    out
        A folder for pictures and other things that are a file each; a .csv, .parquet or .jsonl file for rows; a .jsonl file for texts.
    n
        How many: 16 of things, 1 answer to a prompt.
    seed
        Item i depends on the seed and i alone, not on n or batch.
    cond
        name=value asked of every item: a label, a caption, a table's column. Repeat for more.
    given
        A file with known parts to keep: transparent pixels, blank cells and `<mask>` are filled, a text is continued.
    valid
        Repair or draw again what breaks the rules of its kind, a few times; metadata mark what still does.
    steps
        Network calls for each item, for families that take steps.
    guidance
        How strongly the condition is followed; 1 is off.
    temperature
        Below 1 is safer, above 1 is wilder, for families that choose tokens.
    batch
        Tiles drawn side by side, each on a thread of its own: changes the time it takes, never the items. As many as cores by default.
    metadata
        --no-metadata leaves what was asked for (prompt, conditions, given parts) out of the files; seed and recipe stay.
    """
    from morphogen import api
    from morphogen.api.common import parse_cond
    from morphogen.errors import UsageError
    from morphogen.language.source import holds_model

    wishes = answering or Answering()
    if wishes.prompt is not None or wishes.input is not None or holds_model(run):
        drawing = {"cond": cond, "given": given, "valid": valid, "steps": steps, "guidance": guidance, "batch": batch,
                   "device": device not in ("auto", "cpu")}
        for name, said in drawing.items():
            if said not in (None, False):
                raise UsageError(f"--{name} is for things drawn from a run, not for answers to a prompt", remedy="leave it out")
        return _answer(run, out, wishes, {"n": n, "seed": seed, "temperature": temperature}, metadata=metadata, force=force, json=json)
    sampling = {"temperature": temperature, **{k: v for k, v in asdict(wishes).items() if k in CHOICES}}
    beyond = [k for k, v in asdict(wishes).items() if v not in (None, "auto") and k not in CHOICES]
    if beyond:
        raise UsageError(f"--{beyond[0].replace('_', '-')} is for language models", remedy="say --prompt TEXT too")
    if out is None:
        raise UsageError("it is not said where to put things", remedy="say --out FOLDER or FILE")
    n = 16 if n is None else n
    with Console() as watch:
        raws = api.generate(
            run, out, n=n, seed=seed, cond=parse_cond(cond or ()), given=given, valid=valid, steps=steps, guidance=guidance, batch=batch,
            sampling=sampling, device=device, metadata=metadata, force=force, watch=watch,
        )
    return result({"out": str(out), "n": len(raws), "seed": seed}, [str(out)], json)


def _answer(
    model: Path, out: Path | None, wishes: Answering, more: dict[str, Any], *, metadata: bool, force: bool, json: bool
) -> int:
    """Text from a language model, to the terminal as it is written, or to a file."""
    from morphogen.api.answers import answer, answers, read_schema, said
    from morphogen.errors import UsageError
    from morphogen.files import check_output
    from morphogen.language import load

    if wishes.prompt is None and wishes.input is None:
        raise UsageError("there is no prompt", where=model, remedy="say --prompt TEXT or --input FILE.jsonl; morphogen chat is for talking")
    if wishes.prompt is not None and wishes.input is not None:
        raise UsageError("--prompt and --input are two ways to say the same", remedy="give one of them")
    if wishes.input is not None and out is None:
        raise UsageError("it is not said where the answers go", remedy="say --out answers.jsonl")
    options = {k: v for k, v in asdict(wishes).items() if k not in ("prompt", "input", "adapter", "weights") and v is not None} | more
    options = {k: v for k, v in options.items() if v is not None}
    if "schema" in options:
        options["schema"] = read_schema(options["schema"])
    if "grammar" in options and Path(options["grammar"]).is_file():
        options["grammar"] = Path(options["grammar"]).read_text(encoding="utf-8")
    if out is not None and wishes.input is None:
        check_output(out, force=force)
    began = time.monotonic()
    found = load(model, weights=wishes.weights)
    if wishes.adapter is not None:
        options["adapter"] = found.load_adapter(wishes.adapter)
    if wishes.input is not None and out is not None:
        with Console() as watch:
            path = answers(found, wishes.input, out, force=force, metadata=metadata, watch=watch, **options)
        return result({"out": str(path)}, [str(path)], json)
    prompt = wishes.prompt or ""
    several = options.get("n", 1) > 1 or options.get("beams", 0) > 1
    if json or out is not None or several or found.role != "decoder":
        if out is not None:
            made = answer(found, prompt, out, force=force, metadata=metadata, **options)
        else:
            made = found.answers([prompt], **options)[0]
        rows = [said(one, found, began) for one in made]
        return result(rows[0] if len(rows) == 1 else {"answers": rows}, [str(out)] if out else [one.text for one in made], json)
    return _shown(found, prompt, options)


def _shown(model: Any, prompt: str, options: dict[str, Any]) -> int:
    """The answer as it comes: formatted on a terminal, plain elsewhere."""
    from contextlib import closing

    from morphogen.cli.terminal.printer import Plain

    printer = Plain(sys.stdout)
    with closing(model.stream(prompt, **options)) as pieces:
        for piece in pieces:
            printer.feed(piece.text)
            if piece.done:
                printer.finish()
    return 0
