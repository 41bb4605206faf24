"""Where a language model's answers came from: their recipe, and the same answers again from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch
from morphogen.api.generate import hash_of
from morphogen.api.writing import way_to
from morphogen.errors import FormatError

SAID = ("prompt", "input", "stop", "schema", "regex", "grammar", "logit_bias")  # what --no-metadata leaves out
MOST_THREADS = 256  # a stamp is a file like any other: it may hold any number
FREE = ("draft", "slots")  # they change how long it takes, never an answer


def recipe(model: Any, out: Path, options: Mapping[str, Any], *, tile: int, metadata: bool = True, **asked: Any) -> dict[str, Any]:
    """What the answers in `out` follow from. `asked`: prompt=TEXT or input=PATH; `tile`: prompts under way together."""
    import torch

    from morphogen.trust.provenance import build

    here = out.resolve().parent
    said: dict[str, Any] = {k: v for k, v in options.items() if v is not None and k not in ("adapter", *FREE)}
    said |= {k: v if k == "prompt" else _file(Path(v), here) for k, v in asked.items()}
    left_out = [] if metadata else [k for k in SAID if said.pop(k, None) is not None]
    return {
        "kind": "answers",
        "run": way_to(model.source.path, here),
        "model": mark(model.source.path),
        "weights": model.weights,
        **({"adapter": _file(model.adapters[options["adapter"]], here)} if options.get("adapter") else {}),
        "asked": json.loads(json.dumps(said, default=repr)),
        **({} if metadata else {"metadata": False, "left_out": left_out}),
        "tool": "morphogen",
        "made_with": {**build(), "device": "cpu", "tile": tile, "threads": torch.get_num_threads()},
    }


def mark(path: Path) -> str:
    """The hash a model is known by: of its file, of all files of its folder, or what its run says of its weights."""
    if (path / "recipe.toml").is_file():
        from morphogen.run import Run

        return str(Run.load(path).provenance().get("model"))
    return hash_of(path)


def again(file: Path, facts: dict[str, Any], out: Path, *, run: str | Path | None, force: bool, watch: Watch) -> Path:
    """The answers in `file` once more, written to `out`, by the recipe `facts`. Raises FormatError when that cannot be."""
    from morphogen.api.answers import answer, answers
    from morphogen.language import load
    from morphogen.language.drawing import Drawing

    unknown = set(facts["asked"]) - {*Drawing.__dataclass_fields__, "prompt", "input"}
    if unknown or not {"prompt", "input"} & set(facts["asked"]):
        what = f"asks for '{min(unknown)[:40]}'" if unknown else "holds no prompt"
        raise FormatError(f"its recipe {what}", where=file, remedy="the stamp is damaged: generate it again")
    where = Path(run) if run else file.parent / facts["run"]
    if not where.exists():
        raise FormatError("the model it came from is not there", where=where, remedy="say where it is with --run")
    if (here := mark(where)) != facts["model"]:
        raise FormatError(f"another model lies there now ({here[:12]}, not {facts['model'][:12]})", where=where,
                          remedy="find the one with the recorded hash")
    asked = dict(facts["asked"])
    if "logit_bias" in asked:
        asked["logit_bias"] = {int(k): v for k, v in asked["logit_bias"].items()}
    model = load(where, weights=facts["weights"])
    if "adapter" in facts:
        asked["adapter"] = model.load_adapter(_found(file, facts["adapter"]))
    with threads(facts["made_with"].get("threads", 1)):
        if "input" in asked:
            answers(model, _found(file, asked.pop("input")), out, force=force, watch=watch, **asked)
        else:
            answer(model, asked.pop("prompt"), out, force=force, **asked)
    return out


@contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads an operation (within reason), as another machine had: sums depend on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(max(1, int(n)), MOST_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _file(path: Path, start: Path) -> dict[str, str]:
    return {"file": way_to(path, start), "sha256": hash_of(path)}


def _found(file: Path, facts: Mapping[str, str]) -> Path:
    path = file.parent / facts["file"]
    if not path.exists() or hash_of(path) != facts["sha256"]:
        raise FormatError("a file it was made from is gone or changed", where=path, remedy="restore it")
    return path
