"""generate: new things from a run, each written file stamped with how it came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch, check_count, device_of
from morphogen.api.drawing import Drawn, Said, Wish, sampling_of
from morphogen.api.writing import way_to, write
from morphogen.codecs.rows import raws_of
from morphogen.errors import UsageError
from morphogen.files import check_output
from morphogen.run import Run


def generate(
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    n: int = 16,
    seed: int = 0,
    cond: dict[str, Any] | None = None,
    given: Any = None,
    valid: bool = False,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int | None = None,
    sampling: dict[str, Any] | None = None,
    device: str = "auto",
    metadata: bool = True,
    force: bool = False,
    watch: Watch | None = None,
) -> Sequence[Any]:
    """Draw `n` items and return them raw; with `out`, also write files people can open, each stamped with its origin.

    `cond`: {"name": value} asked of all items (a table's column, a label, a caption). `given`: a file, or raw items, with
    unknown parts to fill. `valid`: items that break the codec's rules are repaired or drawn again, a few times; the
    metadata mark those that still do. `sampling`: further fields of the family's Sampling. `batch`: tiles drawn side by
    side. `metadata`: False leaves out of files what was asked for and given. The item of (seed, index) never depends on
    `n` or `batch`. With `out` many items are not kept: those that are looked at are drawn again. Raises UsageError,
    DataError, FormatError, ResourceError.
    """
    watch = watch or Watch()
    folder = run if isinstance(run, Run) else Run.load(run)
    check_count(n)
    if batch is not None:
        check_count(batch, "batch")
    if out is not None:
        check_output(Path(out), force=force, inputs=(folder.path,))
    model = folder.model(device_of(device))
    origin = given if isinstance(given, str | Path) else None
    known: Any = read_given(model, origin) if origin else given if given is None else raws_of(given)
    wish = Wish(seed, n, dict(cond or {}), known, valid, metadata=metadata)
    wishes = {"steps": steps, "guidance": guidance, **(sampling or {})}
    drawn = Drawn(model, wish, sampling_of(model, wishes), batch=batch or 0, watch=watch)
    raws: Sequence[Any] = drawn
    if out is None:
        raws = list(drawn)
    else:
        write(model, drawn, Path(out), Said(drawn), facts_of(folder, drawn, Path(out), origin), force=force)
    watch.progress("drawing", 1.0)
    if drawn.faulty():
        watch.say(f"{drawn.faulty()} of {n} still break a rule; their metadata say \"valid\": false", "warn")
    return raws


def facts_of(folder: Run, drawn: Drawn, out: Path, origin: str | Path | None = None) -> dict[str, Any]:
    """The recipe of a drawing call: with it and the run, the same bytes are made again."""
    wish = drawn.wish
    given = _file_facts(origin, out) if origin else {"items": len(wish.given)} if wish.given else None
    left_out = [name for name, said in (("cond", wish.cond), ("given", given)) if said and not wish.metadata]
    return {
        "run": way_to(folder.path, out.resolve().parent),
        "model": folder.provenance().get("model"),
        "seed": wish.seed,
        "n": wish.n,
        "cond": {k: str(v) for k, v in wish.cond.items()} if wish.metadata else {},
        "sampling": dataclasses.asdict(drawn.sampling),
        "given": given if wish.metadata else None,
        **({"valid": True} if wish.valid else {}),
        **({} if wish.metadata else {"metadata": False, "left_out": left_out}),
        "tool": "morphogen",
        "made_with": made_with(drawn.model),
    }


def made_with(model: Any) -> dict[str, Any]:
    """What the bytes depend on beside the recipe: versions, the processor's instructions, and the shape and threads of a tile."""
    from morphogen.trust.provenance import build

    where = "cpu" if model.device.type == "cpu" else build()["device"]
    return {**build(), "device": where, "tile": model.tile, "threads": 1}


def read_given(model: Any, path: str | Path) -> list[Any]:
    """The raw items with unknown parts that a file holds. Raises UsageError or DataError."""
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError("no such file", where=path, remedy="check --given")
    if hasattr(model.codec, "read_given"):
        return list(model.codec.read_given(path))
    from morphogen.codecs.sources import scan

    items = [item.raw for item in model.codec.read(scan(path))]
    model.codec.skips.check(len(items) + model.codec.skips.count)
    return items


def _file_facts(path: str | Path, out: Path) -> dict[str, Any]:
    return {"file": way_to(Path(path), out.resolve().parent), "sha256": hash_of(Path(path))}


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder."""
    from morphogen.trust.provenance import hash_data, hash_file

    return hash_file(path) if path.is_file() else hash_data(tuple(sorted(p for p in path.rglob("*") if p.is_file())), path)
