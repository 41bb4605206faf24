"""The command line: parse, call the verb, print. Results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

VERBS = {
    "train": "Learn how data are structured and save a run folder.",
    "tune": "Let a run go on learning from other data, by a small adapter or in full.",
    "generate": "Make new things from a run.",
    "chat": "Converse with a language model in the terminal.",
    "evaluate": "How good a run is, whether a baseline beats it, whether it copied.",
    "compare": "Every family on equal time: which should I use?",
    "compress": "Code a file or folder without loss by what a run has learned.",
    "decompress": "Turn a compressed file back into what it was.",
    "score": "How odd each item is, and which of its parts.",
    "nearest": "The closest training items of any output: is it a copy?",
    "reconstruct": "Encode and decode items: what a run keeps of them.",
    "interpolate": "Items on the way from one to another.",
    "vary": "Variations of an item at a chosen distance.",
    "export": "Write a language model as a Hugging Face folder or a GGUF file.",
    "replay": "Make a generated file again from its own provenance.",
    "inspect": "What a run or a data set is; where two runs first differ.",
    "list": "Codecs, families, metrics and sizes.",
    "demo": "Train on packaged data and look at the report.",
}
EXAMPLES = {
    "train": "morphogen train photos/ --out runs/photos --minutes 10",
    "tune": "morphogen tune runs/notes letters.jsonl --out runs/letters --rank 8 --minutes 5",
    "generate": "morphogen generate runs/digits --n 64 --seed 7 --cond label=3 --out threes",
    "chat": "morphogen chat model.gguf",
    "evaluate": "morphogen evaluate runs/digits",
    "compare": "morphogen compare penguins.csv --minutes 5 --out which",
    "compress": "morphogen compress notes.txt --run runs/notes --out notes.mgc",
    "decompress": "morphogen decompress notes.mgc --run runs/notes --out notes.txt",
    "score": "morphogen score new/ --run runs/parts --rate 0.01 --out odd",
    "nearest": "morphogen nearest threes --run runs/digits --out pairs.html",
    "reconstruct": "morphogen reconstruct photos/ --run runs/vae --out again",
    "interpolate": "morphogen interpolate photos/a.png photos/b.png --run runs/vae --n 8 --out between",
    "vary": "morphogen vary photos/a.png --run runs/photos --distance 0.5 --out variations",
    "export": "morphogen export runs/notes --format gguf --quantise q8_0 --out notes.gguf",
    "replay": "morphogen replay threes/00002.png --out again.png",
    "inspect": "morphogen inspect runs/a runs/b",
    "list": "morphogen list",
    "demo": "morphogen demo --out demo",
}


def build() -> Any:
    """The cyclopts application with one verb a file."""
    from cyclopts import App

    from morphogen import __version__

    app = App(
        name="morphogen",
        help="Learn how data is structured, then make more of it.",
        version=__version__,
        version_flags=["--version"],
        result_action="return_value",
    )
    for i, (verb, line) in enumerate(VERBS.items()):
        target = f"morphogen.cli.{verb}:{'list_' if verb == 'list' else verb}"
        app.command(target, name=verb, help=f"{line}\n\nExample: `{EXAMPLES[verb]}`", sort_key=i)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `morphogen` command; exits with the codes of the documentation."""
    tokens = [*(sys.argv[1:] if arguments is None else arguments)]  # the name `list` is a verb here once that was used
    _plain_warnings()
    debug = "--debug" in tokens
    tokens = [t for t in tokens if t != "--debug"]
    if debug:
        sys.exit(_call(tokens, debug=True))
    try:
        code = _call(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: nothing more to say
        code = 141
    sys.exit(code)


def _plain_warnings() -> None:
    """What is wrong with a plug-in is one line for a person, without the place in our code that found it."""
    import warnings

    from morphogen.registry import PluginWarning

    usual = warnings.showwarning

    def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
        if issubclass(category, PluginWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *rest, **more)

    warnings.showwarning = show


def _call(tokens: list[str], *, debug: bool = False) -> int:
    from cyclopts import CycloptsError

    from morphogen.errors import MorphogenError

    try:
        return build()(tokens or ["--help"], exit_on_error=False, print_error=False) or 0
    except MorphogenError as error:
        return _fail(error.code, error.line(), error.exit_code)
    except CycloptsError as error:
        return _fail("usage", _usage(error, tokens), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", "stopped", 130)
    except OSError as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        where = f", {str(error.filename)[:500]!r}" if error.filename is not None else ""
        return _fail("data", f"{error.strerror or error}{where}: check the path and your rights", 3)
    except Exception as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        if _out_of_memory(error):
            return _fail("resources", "not enough memory: try a smaller --size or --set training.batch=32", 5)
        return _fail("internal", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}: a fault of ours; --debug shows where", 1)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate" in str(error)


def _usage(error: Any, tokens: list[str]) -> str:
    from morphogen.errors import suggest

    if tokens and tokens[0] not in VERBS and not tokens[0].startswith("-"):
        return f"unknown verb '{tokens[0]}': {suggest(tokens[0], VERBS)}"
    return " ".join(str(error).split()).rstrip(".") + f": see morphogen {tokens[0]} --help"


def _fail(code: str, line: str, status: int) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # under torchrun one process speaks, the first to fail
        from morphogen.training.parallel import first_to_fail

        if not first_to_fail():
            return status
    print(f"error[{code}]: {line}", file=sys.stderr)
    return status
