"""Files people can open, each with the recipe it was made by; all of them appear at once or not at all."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.errors import MorphogenError, ResourceError, UsageError


def write(
    model: Any, raws: Sequence[Any], out: Path, meta: Sequence[dict[str, Any]], facts: dict[str, Any], *, force: bool = False
) -> list[Path]:
    """codec.write, then the stamps: in each picture, or once beside a file of rows or texts. Raises UsageError, ResourceError.

    Everything is made in a hidden folder beside `out` and moved into its place at the end, stamps before what they are about.
    """
    from morphogen.files import PART

    if force and out.is_dir() and not (out / "metadata.jsonl").is_file() and any(out.iterdir()):
        raise UsageError("the folder was not written by generate; it is not overwritten", where=out, remedy="choose another name")
    scratch = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name[:60]}.", suffix=PART, dir=out.parent))
        made = model.codec.write(raws, scratch / out.name, meta)
        _stamp_all(made, scratch / out.name, meta, facts)
        _settle(scratch, out)
        return [out.parent / path.relative_to(scratch) for path in made]
    except MorphogenError as error:  # a person knows nothing of hidden folders
        error.where = error.where.replace(str(scratch), str(out.parent))
        raise
    except OSError as error:
        raise ResourceError(f"cannot write ({error.strerror or error})", where=out, remedy="free space or choose another place") from None
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _stamp_all(made: Sequence[Path], folder: Path, meta: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    from morphogen.trust.provenance import stamp

    inside = {path for path in made if path.parent == folder}
    items = {path: number for path in inside if (number := number_of(path)) is not None}
    # files are found again from where their stamp lies: a folder of files is a step further away
    further = {**facts, "run": _further(facts["run"]), "given": _further(facts["given"])}
    for path in made:
        own = further if path in inside else facts
        if path in items:
            stamp(path, {**own, "index": meta[items[path]]["index"]}, settled=False)
        elif not items or path.name != "metadata.jsonl":
            stamp(path, own, settled=False)


def _settle(scratch: Path, out: Path) -> None:
    """Move what was made into its place: on disk first, then sidecars, then the files themselves."""
    for path in scratch.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    if out.is_dir():
        os.replace(out, scratch / ".old")
    for path in sorted((p for p in scratch.iterdir() if p.name != ".old"), key=lambda p: (not p.name.endswith(".provenance.json"), p.name)):
        os.replace(path, out.parent / path.name)


def number_of(path: Path) -> int | None:
    """Which item a file holds: 00002.png is the third; a file with another name holds several."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None


def _further(where: Any) -> Any:
    """A path from one folder further down, alone or as the `file` of a dict."""
    if isinstance(where, dict):
        return {k: _further(v) if k == "file" else v for k, v in where.items()}
    return where and os.path.join("..", where)


def way_to(target: Path, start: Path) -> str:
    """How to find `target` from the folder `start` without saying whose machine it is.

    A way that leads over the folders of users, of the system or of temporary files, or names a user or a host, is left out:
    then the last name alone is said.
    """
    target, start = target.resolve(), start.resolve()
    try:
        meeting = Path(os.path.commonpath([target, start]))
    except ValueError:  # other drives
        return target.name
    way = Path(os.path.relpath(target, start))
    private = {Path.home().name, os.environ.get("USER", ""), os.environ.get("USERNAME", ""), platform.node()} - {""}
    shared = {*Path.home().parents, Path(tempfile.gettempdir()).resolve(), Path(meeting.anchor)}
    return target.name if meeting in shared or private & set(way.parts) else way.as_posix()
