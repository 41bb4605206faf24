"""Damaged files of every format: each is read or refused in one typed line, in two seconds and 256 MiB, and nothing stays behind.

    python -m benchmarks.fuzz                     2,000 of each format (10,000 of model files), results/fuzz.json
    python -m benchmarks.fuzz --number 100 png    100 of one format; `make test` runs these through the same code
    python -m benchmarks.fuzz --show png 1234     the damaged file's bytes to ./mutant, and what the reader says

Readers run in forked children with limits on processor time and address space, so that a crash or a hang ends a child,
is found, and is put down to the file that caused it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, GROWTH, WALL = 2.0, 256 << 20, 60
CHUNK = 250


@dataclass(frozen=True)
class Format:
    """`make(folder)` writes undamaged cases, each a folder with the file that gets damaged: [(folder, file name)]. `use(file)`
    reads a file as the package does and uses all it gives. `damage(data, rng)`: a damaged copy."""

    name: str
    make: Callable[[Path], list[tuple[Path, str]]]
    use: Callable[[Path], Any]
    damage: Callable[[bytes, random.Random], bytes]
    number: int = 2000


@dataclass
class Tally:
    """What came of a format's files. `faults`: (number of the file, what happened)."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    growth: int = 0
    p99: float = 0.0

    def __post_init__(self) -> None:
        self.faults: list[tuple[int, str]] = []
        self.reasons: Counter[str] = Counter()
        self.times: list[float] = []

    def figures(self) -> dict[str, Any]:
        """As they are recorded."""
        times = sorted(self.times)
        return {
            "files": self.read + self.refused + len(self.faults),
            "read": self.read,
            "refused": self.refused,
            "reasons": len(self.reasons),
            "faults": len(self.faults),
            "p99 s": times[int(0.99 * (len(times) - 1))] if times else 0,
            "slowest s": max(times, default=0),
            "growth MiB": self.growth / 2**20,
        }


def damaged(form: Format, cases: list[tuple[Path, str]], number: int, seed: int) -> tuple[Path, str, bytes]:
    """(case folder, file name, bytes) of one damaged file, the same for the same number."""
    rng = random.Random(f"{form.name} {seed} {number}")
    folder, name = cases[number % len(cases)]
    return folder, name, form.damage((folder / name).read_bytes(), rng)


# ------------------------------------------------------------------ in the child
def _memory(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024


def _holds(folder: Path) -> list[tuple[str, int]]:
    return sorted((p.relative_to(folder).as_posix(), p.stat().st_size if p.is_file() else 0) for p in folder.rglob("*"))


def _attempt(form: Format, file: Path, work: Path) -> dict[str, Any]:
    """Use one damaged file: what happened, how long it took, how much memory."""
    from morphogen.errors import MorphogenError

    before, held = _holds(work), _memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak begins anew
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # no handler: a hang ends the process, inside a library too
    begun, out = time.process_time(), {"read": True}
    try:
        form.use(file)
    except MorphogenError as error:
        line = str(error)
        out = {"refused": " ".join(w for w in error.what.split() if w.isalpha())[:80]}
        if not line.isprintable() or len(line) > 1200 or error.code == "internal":
            out = {"fault": f"not one clear line: {line[:300]!r}"}
    except BaseException as error:
        place = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)][-4:]
        out = {"fault": f"{type(error).__name__}: {str(error)[:160]!r} at {' < '.join(reversed(place))}"}
    out["seconds"] = time.process_time() - begun
    signal.setitimer(signal.ITIMER_PROF, 0)
    out["growth"] = max(0, _memory("VmHWM") - held)
    if "fault" not in out and out["growth"] > GROWTH:
        out["fault"] = f"took {out['growth'] >> 20} MiB"
    if "fault" not in out and _holds(work) != before:
        out["fault"] = "left something behind"
    return out


def _child(form: Format, cases: list[tuple[Path, str]], numbers: range, seed: int, pipe: int, place: Path) -> None:
    """Work through the numbers, telling of each before and after."""
    errors = os.open(place / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(errors, 2)
    os.dup2(errors, 1)
    warnings.simplefilter("error")
    used = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20,) * 2)
    works: dict[Path, Path] = {}
    for left in place.glob("work*"):  # of a child that was ended
        shutil.rmtree(left)
    for number in numbers:
        os.write(pipe, b"%d\n" % number)
        folder, name, data = damaged(form, cases, number, seed)
        work = works.setdefault(folder, place / f"work{len(works)}")
        if not work.exists():
            shutil.copytree(folder, work)
        (work / name).write_bytes(data)
        gc.collect()
        out = _attempt(form, work / name, work)
        sys.stdout.flush()
        if "fault" not in out and os.fstat(errors).st_size:
            out["fault"] = "chatter: " + (place / "stderr").read_text("utf-8", "replace")[:200]
        os.ftruncate(errors, 0)
        (work / name).write_bytes((folder / name).read_bytes())
        if "fault" in out:
            shutil.rmtree(work)
        os.write(pipe, json.dumps({"number": number, **out}).encode() + b"\n")


# ------------------------------------------------------------------ the parent
def run(form: Format, number: int, seed: int = 0, keep: Path | None = None) -> Tally:
    """`number` damaged files of a format, one child after another. Files at fault are kept in `keep`."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        cases = _make(form, Path(place))
        gc.collect()
        gc.freeze()  # what was imported need not be walked again after each file, nor its pages be copied
        at = 0
        while at < number:
            at = _chunk(form, cases, range(at, min(number, at + CHUNK)), seed, Path(place), tally)
        for bad, _ in tally.faults if keep else []:
            keep.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
            _, name, data = damaged(form, cases, bad, seed)
            (keep / f"{form.name}-{seed}-{bad}-{Path(name).name}").write_bytes(data)  # type: ignore[operator]
    return tally


def _make(form: Format, place: Path) -> list[tuple[Path, str]]:
    """The undamaged cases, each of which must be read well: otherwise nothing is tested."""
    cases = form.make(place / "cases")
    for folder, name in cases:
        form.use(folder / name)
    return cases


def _chunk(form: Format, cases: list[tuple[Path, str]], numbers: range, seed: int, place: Path, tally: Tally) -> int:
    """Numbers done by one child; the next number to begin with."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            _child(form, cases, numbers, seed, writer, place)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
        os._exit(0)
    os.close(writer)
    begun, rest = numbers.start, b""
    while True:
        ready, _, _ = select.select([reader], [], [], WALL)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        data = os.read(reader, 1 << 16) if ready else b""
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                _count(tally, json.loads(line))
                begun += 1
        if not data:
            break
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if begun < numbers.stop and status:
        name = signal.Signals(status & 127).name if status & 127 else f"exit {status >> 8}"
        what = f"more than {SECONDS:g} s of processor time" if name == "SIGPROF" else name
        _count(tally, {"number": begun, "fault": what, "seconds": SECONDS if name == "SIGPROF" else 0.0, "growth": 0})
        return begun + 1
    return numbers.stop


def _count(tally: Tally, out: dict[str, Any]) -> None:
    tally.times.append(out["seconds"])
    tally.growth = max(tally.growth, out["growth"])
    if "fault" in out:
        tally.faults.append((out["number"], out["fault"]))
    elif "refused" in out:
        tally.refused += 1
        tally.reasons[out["refused"]] += 1
    else:
        tally.read += 1


def main() -> None:
    from benchmarks import common
    from benchmarks.fuzz_formats import FORMATS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", help="all when none is named")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="formats are then NAME NUMBER")
    parser.add_argument("--no-record", action="store_true")
    a = parser.parse_args()
    if a.show:
        form = FORMATS[a.formats[0]]
        with tempfile.TemporaryDirectory() as place:
            folder, name, data = damaged(form, form.make(Path(place)), int(a.formats[1]), a.seed)
            Path("mutant").write_bytes(data)
            (folder / name).write_bytes(data)
            with contextlib.suppress(KeyboardInterrupt):
                form.use(folder / name)
        return
    path = common.RESULTS / "fuzz.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() and not a.no_record else {}
    faults = 0
    for name in a.formats or FORMATS:
        tally = run(FORMATS[name], a.number or FORMATS[name].number, a.seed, common.WORK / "crashers")
        figures[name] = tally.figures()
        print(name, json.dumps(figures[name]), flush=True)
        for number, what in tally.faults[:10]:
            print(f"  {number}: {what}", flush=True)
        faults += len(tally.faults)
        if not a.no_record:  # after each, since all of them take long
            common.record("fuzz", figures, unit="processor time", seed=a.seed)
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
