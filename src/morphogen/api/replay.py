"""replay: the same bytes again from the recipe a file carries, or what is different here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch, device_of
from morphogen.api.drawing import Drawn, Said, Wish, sampling_of
from morphogen.api.generate import hash_of, made_with, read_given
from morphogen.api.writing import number_of, write
from morphogen.errors import FormatError
from morphogen.files import check_output
from morphogen.run import Run

# what a recipe cannot do without
NEEDED = {"run": str, "seed": int, "cond": dict, "sampling": dict}
NEEDED_OF_ANSWERS = {"run": str, "model": str, "weights": str, "asked": dict, "made_with": dict}


def replay(
    file: str | Path, out: str | Path, *, run: str | Path | None = None, device: str = "auto", force: bool = False,
    watch: Watch | None = None,
) -> Path:
    """Make a generated file again from its stamp, byte for byte on the same build. Raises FormatError when that cannot be.

    `run`: where the run folder lies now, when it was moved. When the bytes differ, `watch` hears what does, a line each.
    """
    from morphogen.trust import provenance

    file, out, watch = Path(file), Path(out), watch or Watch()
    check_output(out, force=force, inputs=(file,))
    facts = provenance.read(file)
    _check(file, facts)
    if facts.get("kind") == "answers":
        from morphogen.api.answered import again

        if again(file, facts, out, run=run, force=force, watch=watch).read_bytes() != file.read_bytes():
            _tell(facts, provenance.read(out)["made_with"], watch)
        return out
    folder, model = _model_of(file, facts, run, device)
    index = facts.get("index")
    n, first = (1, index) if index is not None else (facts["n"], 0)
    given = _given_of(model, file, facts)
    wish = Wish(facts["seed"], n, facts["cond"], given, bool(facts.get("valid")), first, facts.get("metadata", True))
    drawn = Drawn(model, wish, sampling_of(model, facts["sampling"]), watch=watch)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:60]}.", dir=out.parent) as scratch:
        target = Path(scratch) / ("one" if index is not None else out.name)
        made = write(model, drawn, target, Said(drawn), facts)
        chosen = min((p for p in made if p.suffix == file.suffix), key=lambda p: (p.name != file.name, number_of(p) is None, p.name))
        provenance.restamp(chosen, facts)
        if provenance.sidecar(chosen).exists():
            os.replace(provenance.sidecar(chosen), provenance.sidecar(out))
        os.replace(chosen, out)
    if out.read_bytes() != file.read_bytes():
        _tell(facts, made_with(model), watch)
    return out


def _tell(facts: dict[str, Any], now: dict[str, Any], watch: Watch) -> None:
    for line in differences(facts, now):
        watch.say(line, "warn")


def differences(facts: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was when a file was made, a line each. `now`: what the same words are made with here."""
    then = facts.get("made_with")
    if not isinstance(then, dict):
        return ["the file does not say what it was made with"]
    found = [f"{name}: {then.get(name, 'not said')} then, {now.get(name, 'none')} now" for name in now if then.get(name) != now[name]]
    return found or ["versions, instruction set, tile and threads are the same: the file was changed after it was made"]


def _check(file: Path, facts: dict[str, Any]) -> None:
    """Whether a file can be made again at all. Raises FormatError."""
    if (verb := facts.get("verb", "generate")) != "generate":
        raise FormatError(f"it was made by `morphogen {verb}`", where=file, remedy="say that again: the same words give the same bytes")
    needed = NEEDED_OF_ANSWERS if facts.get("kind") == "answers" else NEEDED
    if wrong := [name for name, kind in needed.items() if not isinstance(facts.get(name), kind)]:
        raise FormatError(f"its provenance has no '{wrong[0]}'", where=file, remedy="the stamp is damaged: generate it again")
    if facts.get("left_out"):
        said = {"cond": "the conditions were", "given": "what was given was"}.get(facts["left_out"][0], "what was asked was")
        raise FormatError(f"{said} left out of it (--no-metadata)", where=file, remedy="generate it again with the same words")


def _model_of(file: Path, facts: dict[str, Any], run: str | Path | None, device: str) -> tuple[Run, Any]:
    where = Path(run) if run else (file.parent / facts["run"])
    if not where.exists():
        raise FormatError("the run it came from is not there", where=where, remedy="say where it is with --run")
    folder = Run.load(where)
    here = str(folder.provenance().get("model"))
    if facts.get("model") != here:
        what = f"the run holds another model now ({here[:12]}, not {str(facts.get('model'))[:12]})"
        raise FormatError(what, where=where, remedy="find the run whose model.safetensors has the recorded hash")
    return folder, folder.model(device_of(device))


def _given_of(model: Any, file: Path, facts: dict[str, Any]) -> list[Any] | None:
    if not facts.get("given"):
        return None
    if "file" not in facts["given"]:
        raise FormatError("it was made from items handed over in Python, which are not kept", where=file, remedy="generate it again")
    source = file.parent / facts["given"]["file"]
    if not source.exists() or hash_of(source) != facts["given"]["sha256"]:
        raise FormatError("the file given to it is gone or changed", where=source, remedy="restore it")
    return read_given(model, source)
