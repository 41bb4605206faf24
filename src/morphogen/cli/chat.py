"""morphogen chat"""
from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

from cyclopts import Parameter

from morphogen.cli.console import Number, Whole, result


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How answers are drawn; what is not given is the model's own."""

    temperature: Number | None = None
    """0 always takes the likeliest token, 1 draws as the model says, above is wilder."""
    top_p: Number | None = None
    """Draw among the likeliest tokens that hold this share."""
    top_k: Whole | None = None
    """Draw among this many likeliest tokens."""
    min_p: Number | None = None
    """Leave out tokens below this share of the likeliest."""
    max_tokens: Whole | None = None
    """The longest answer."""
    seed: Whole | None = None
    """The first answer's seed; later answers count on from it."""


def chat(
    model: Path,
    /,
    *,
    prompt: str | None = None,
    system: str = "",
    schema: Path | None = None,
    load: Path | None = None,
    drawing: Drawing | None = None,
    history: Annotated[bool, Parameter(name="--history", negative="--no-history")] = True,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Converse with MODEL: a GGUF file, a Hugging Face folder or a run.

    Parameters
    ----------
    model
        A .gguf file, a folder with config.json and model.safetensors, or a run folder.
    prompt
        Answer this one question and leave; so does a question on stdin: echo question | morphogen chat MODEL.
    system
        Instructions the model gets first.
    schema
        A JSON schema that answers follow.
    load
        Go on with a conversation that /save wrote.
    history
        Remember questions for the next time, in a file only you can read.
    json
        For one question: print one JSON object with the text, token counts and rates.
    """
    from morphogen.cli.terminal import options, transcript
    from morphogen.cli.terminal.session import Chat, converse, greet
    from morphogen.errors import UsageError

    wished = {k: options.check(k, v) for k, v in asdict(drawing or Drawing()).items() if v is not None}
    asked = sys.stdin.read() if prompt is None and not sys.stdin.isatty() else prompt
    if asked is not None and not asked.strip():
        raise UsageError("the question is empty", remedy="write one: echo question | morphogen chat MODEL")
    if asked is None and json:
        raise UsageError("--json is for one question", remedy="say --prompt TEXT or give the question on stdin")
    form = None if schema is None else transcript.read(schema)
    found = _load(model)
    talk = Chat(found, options=wished, schema=form, system=system)
    if load is not None:
        talk.transcript, kept, saved = transcript.load(load)
        talk.options = {k: options.check(k, v) for k, v in kept.items()} | wished
        talk.transcript.system = system or talk.transcript.system
        talk.schema, talk.file = saved if form is None else form, load
    if asked is not None:
        return _once(talk, asked.rstrip("\n"), json)
    greet(talk, _size(model))
    Thread(target=found.warm, daemon=True).start()  # while the first question is typed
    return converse(talk, history=history)


def _once(talk: Any, question: str, as_json: bool) -> int:
    """One question: text as it comes, or one JSON object."""
    import io

    from morphogen.cli.terminal.printer import Plain

    talk.console.file, kept = sys.stderr, talk.fail
    errors: list[BaseException] = []
    talk.fail = errors.append
    seed = talk.seed()
    made = talk.ask(question, Plain(io.StringIO()) if as_json else talk.printer())
    talk.fail = kept
    if errors:
        raise errors[0]
    if made is None:
        return 130
    if as_json:
        result({"model": talk.model.name, "seed": seed} | made.record(), [], True)
    elif made.reason == "length":
        talk.say("cut at the length limit", "dim")
    return 130 if made.reason == "cancelled" else 0


def _load(path: Path) -> Any:
    """The model, with a sign of life while it loads."""
    from rich.console import Console

    with Console(stderr=True).status(f"loading {path.name}", spinner="dots"):
        from morphogen.language import load

        return load(path)


def _size(path: Path) -> str:
    """How large the weights are on disk."""
    files = [path] if path.is_file() else [*path.glob("*.safetensors")]
    size = sum(f.stat().st_size for f in files)
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size else ""
