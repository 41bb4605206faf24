"""generate: new things from a run, stamped; replay: the same bytes again from a stamp."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch, check_count, device_of
from morphogen.api.valid import draw_valid
from morphogen.api.watching import default_cond
from morphogen.errors import FormatError, UsageError, suggest
from morphogen.files import check_output
from morphogen.run import Run


def generate(
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    n: int = 16,
    seed: int = 0,
    cond: dict[str, Any] | None = None,
    given: str | Path | Sequence[Any] | None = None,
    valid: bool = False,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int | None = None,
    sampling: dict[str, Any] | None = None,
    device: str = "auto",
    force: bool = False,
    watch: Watch | None = None,
) -> list[Any]:
    """Draw `n` items and return them raw; with `out`, also write files people can open, each stamped with its origin.

    `cond`: {"name": value} asked of all items (a table's column, a label, a caption). `given`: a file, or raw items, with
    unknown parts to fill. `valid`: items that break the codec's rules are repaired or drawn again, a few times; the
    metadata mark those that still do. `sampling`: further fields of the family's Sampling. `batch`: tiles drawn side by
    side. The item of (seed, index) never depends on `n` or `batch`. Raises UsageError, DataError, FormatError.
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
    known: Any = _read_given(model, origin) if origin else given
    cond = dict(cond or {})
    plan = _Draw(model, seed, n, cond, known, sampling_of(model, {"steps": steps, "guidance": guidance, **(sampling or {})}))
    raws = plan.draw(valid, batch or 0, watch)
    watch.progress("drawing", 1.0)
    if hasattr(model.codec, "number"):
        raws = model.codec.number(raws)  # id columns are not learned: fresh ones are counted up
    if out is not None:
        facts = {
            "run": os.path.relpath(folder.path.resolve(), Path(out).resolve().parent),
            "model": folder.provenance().get("model"),
            "seed": seed,
            "n": n,
            "cond": {k: str(v) for k, v in cond.items()},
            "sampling": dataclasses.asdict(plan.sampling),
            "given": _file_facts(origin, Path(out)) if known is None or origin else {"items": len(known)},
            **({"valid": True} if valid else {}),
            "tool": "morphogen",
            "version": folder.recipe.get("morphogen", ""),
        }
        write(model, raws, Path(out), plan.meta(), facts, force=force)
    return raws


class _Draw:
    """The arguments of a drawing call, worked out from what a person said."""

    def __init__(
        self, model: Any, seed: int, n: int, cond: dict[str, Any], given: Sequence[Any] | None, sampling: Any, first: int = 0
    ) -> None:
        from morphogen.sampling import draws

        self.model, self.seed, self.first, self.sampling = model, seed, first, sampling
        self.keys = draws.seeded(seed, n, first=first)
        own = {k: condition_value(model, k, v) for k, v in cond.items() if k in model.conditions}
        columns = {k: v for k, v in cond.items() if k not in model.conditions}
        self.given: list[Any] | None = [given[(first + i) % len(given)] for i in range(n)] if given else None
        if columns:
            self.given = self._columns(columns, n)
        # what is known of an item says more than a condition drawn at random, and may contradict it
        self.cond = default_cond(model, self.keys, own) if own or self.given is None else None
        self.good: list[bool] | None = None

    def draw(self, valid: bool = False, batch: int = 0, watch: Watch | None = None) -> list[Any]:
        """The raw items, one a key; with `valid` those that keep the rules are known afterwards."""
        watch = watch or Watch()
        if not valid:
            tell = lambda share: watch.progress("drawing", share)
            return self.model.generate(
                self.keys, cond=self.cond, given=self.given, sampling=self.sampling, batch=batch, progress=tell
            )
        raws, self.good = draw_valid(self.model, self.keys, self.cond, self.given, self.sampling, batch=batch, watch=watch)
        if not all(self.good):
            watch.say(f"{self.good.count(False)} of {len(raws)} still break a rule; their metadata say \"valid\": false", "warn")
        return raws

    def _columns(self, columns: dict[str, Any], n: int) -> list[Any]:
        """A table is conditioned by saying some of its columns: they become known values."""
        names = [c.name for c in getattr(self.model.codec, "columns", [])]
        for name in columns:
            if name not in names:
                known = [*self.model.conditions, *names]
                raise UsageError(
                    f"the model has no condition '{name}'", remedy=suggest(name, known) if known else "train with --cond first"
                )
        parsed = self.model.codec.parse_row(columns) if hasattr(self.model.codec, "parse_row") else columns
        base = self.given or [{} for _ in range(n)]
        return [{**row, **parsed} for row in base]

    def meta(self) -> list[dict[str, Any]]:
        """What is known about each item, for metadata.jsonl."""
        n = len(self.keys)
        said = [{"seed": self.seed, "index": self.first + i, **{k: v[i] for k, v in (self.cond or {}).items()}} for i in range(n)]
        return said if self.good is None else [{**one, "valid": good} for one, good in zip(said, self.good, strict=True)]


def condition_value(model: Any, name: str, value: Any) -> Any:
    """A value as the condition's codec wants it; the command line knows only text."""
    codec = model.conditions[name]
    if hasattr(codec, "parse"):
        return codec.parse(value)
    return value


def sampling_of(model: Any, wishes: dict[str, Any]) -> Any:
    """The family's Sampling with the fields that were asked for. Raises UsageError for one the family does not have."""
    from morphogen.config import make

    wishes = {k: v for k, v in wishes.items() if v is not None}
    kind = type(model.family).Sampling
    names = {f.name for f in dataclasses.fields(kind)}
    for name in list(wishes):
        if name in names:
            continue
        if name == "guidance" and wishes[name] == 1:
            del wishes[name]
            continue
        family = type(model.family).__name__.lower()
        raise UsageError(f"{family} has no --{name}", remedy=f"it has {', '.join(sorted(names)) or 'nothing to set'}")
    if wishes.get("guidance", 1) != 1 and not model.conditions:
        raise UsageError("--guidance needs a condition", remedy="train with --cond")
    if "steps" in wishes and not 1 <= wishes["steps"] <= 1000 and wishes["steps"] != kind().steps:
        raise UsageError(f"--steps {wishes['steps']} is out of range", remedy="give 1 to 1000")
    return make(kind, wishes, "sampling.")


def _read_given(model: Any, path: str | Path) -> list[Any]:
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError("no such file", where=path, remedy="check --given")
    if hasattr(model.codec, "read_given"):
        return list(model.codec.read_given(path))
    from morphogen.codecs.sources import scan

    items = [item.raw for item in model.codec.read(scan(path))]
    model.codec.skips.check(len(items) + model.codec.skips.count)
    return items


def _file_facts(path: str | Path | None, out: Path) -> dict[str, Any] | None:
    if path is None:
        return None
    return {"file": os.path.relpath(Path(path).resolve(), out.resolve().parent), "sha256": _hash(Path(path))}


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder."""
    from morphogen.trust.provenance import hash_data, hash_file

    return hash_file(path) if path.is_file() else hash_data(tuple(sorted(p for p in path.rglob("*") if p.is_file())), path)


def write(model: Any, raws: list[Any], out: Path, meta: list[dict[str, Any]], facts: dict[str, Any], *, force: bool = False) -> list[Path]:
    """codec.write, then the stamps: in each picture, or once beside a file of rows or texts."""
    import shutil

    from morphogen.trust.provenance import stamp

    if force and out.is_dir():
        if not (out / "metadata.jsonl").is_file() and any(out.iterdir()):
            raise UsageError("the folder was not written by generate; it is not overwritten", where=out, remedy="choose another name")
        shutil.rmtree(out)
    paths = model.codec.write(raws, out, meta)
    inside = {path for path in paths if path.resolve().parent == out.resolve()}
    items = {path: number for path in inside if (number := _number(path)) is not None}
    for path in paths:
        # files are found again from where their stamp lies: a folder of files is a step further away
        own = {**facts, "run": _further(facts["run"]), "given": _further(facts["given"])} if path in inside else facts
        if path in items:
            stamp(path, {**own, "index": meta[items[path]]["index"]})
        elif not items or path.name != "metadata.jsonl":
            stamp(path, own)
    return paths


def _number(path: Path) -> int | None:
    """Which item a file holds: 00002.png is the third; a file with another name holds several."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None


def _further(where: Any) -> Any:
    """A path from one folder further down, alone or as the `file` of a dict."""
    if isinstance(where, dict):
        return {k: _further(v) if k == "file" else v for k, v in where.items()}
    return where and os.path.join("..", where)


def replay(file: str | Path, out: str | Path, *, run: str | Path | None = None, device: str = "auto", force: bool = False) -> Path:
    """Make a generated file again from its stamp, byte for byte on the same build. Raises FormatError when that cannot be.

    `run`: where the run folder lies now, when it was moved.
    """
    import shutil
    import tempfile

    from morphogen.trust import provenance

    file, out = Path(file), Path(out)
    check_output(out, force=force)
    facts = provenance.read(file)
    if (verb := facts.get("verb", "generate")) != "generate":
        raise FormatError(f"it was made by `morphogen {verb}`", where=file, remedy="say that again: the same words give the same bytes")
    where = Path(run) if run else (file.parent / facts["run"])
    if not where.exists():
        raise FormatError("the run it came from is not there", where=where, remedy="say where it is with --run")
    folder = Run.load(where)
    if facts.get("model") != folder.provenance().get("model"):
        raise FormatError(
            "the run holds another model now", where=where, remedy="find the run whose model.safetensors has the recorded hash"
        )
    model = folder.model(device_of(device))
    given = None
    if facts.get("given"):
        if "file" not in facts["given"]:
            raise FormatError("it was made from items handed over in Python, which are not kept", where=file, remedy="generate it again")
        source = file.parent / facts["given"]["file"]
        if not source.exists() or _hash(source) != facts["given"]["sha256"]:
            raise FormatError("the file given to it is gone or changed", where=source, remedy="restore it")
        given = _read_given(model, source)
    index = facts.get("index")
    n, first = (1, index) if index is not None else (facts["n"], 0)
    draw = _Draw(model, facts["seed"], n, facts["cond"], given, sampling_of(model, facts["sampling"]), first)
    raws = draw.draw(bool(facts.get("valid")))
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / ("one" if index is not None else out.name)
        made = write(model, raws, target, draw.meta(), facts)
        chosen = min((p for p in made if p.suffix == file.suffix), key=lambda p: (p.name != file.name, _number(p) is None, p.name))
        provenance.restamp(chosen, facts)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(chosen), out)
        if provenance.sidecar(chosen).exists():
            shutil.move(str(provenance.sidecar(chosen)), provenance.sidecar(out))
    return out
