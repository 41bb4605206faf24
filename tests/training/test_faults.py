"""Every call that changes the disk fails once, or from then on: a whole checkpoint stands, and nothing half-written is seen."""
from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import make, weights

from morphogen.errors import ResourceError
from morphogen.files import PART, new_folder, sweep, write_bytes
from morphogen.training import checkpoint

CALLS = ("open", "fsync", "replace", "mkdir", "chmod", "unlink", "rmdir")
REMOVING = ("unlink", "rmdir")
FAULTS = [(code, short, lasting) for code in (errno.ENOSPC, errno.EIO) for short in (False, True) for lasting in (False, True)]
IDS = [f"{errno.errorcode[c]}{'-short' * s}{'-lasting' * las}" for c, s, las in FAULTS]


class Disk:
    """Counts calls and lets the `at`-th fail (and those after it, when `lasting`; a full disk can still remove)."""

    def __init__(self, at: int, code: int, short: bool, lasting: bool) -> None:
        self.at, self.code, self.short, self.lasting, self.count, self.failed = at, code, short, lasting, 0, ""

    def call(self, name: str, real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        self.count += 1
        if self.count == self.at or (self.lasting and self.count > self.at and name not in REMOVING):
            self.failed = self.failed or name
            if self.short and name == "write":
                real(args[0][: len(args[0]) // 2])
            raise OSError(self.code, os.strerror(self.code))
        return real(*args, **more)

    def file(self, file: Any) -> Any:
        disk = self

        class Watched:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *error: Any) -> None:
                file.__exit__(*error)

            def __getattr__(self, name: str) -> Any:
                real = getattr(file, name)
                return (lambda *a: disk.call(name, real, *a)) if name in ("write", "flush") else real

        return Watched()

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        real_open = io.open

        def opened(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real_open(path, mode, *args, **more)
            return self.file(self.call("open", real_open, path, mode, *args, **more))

        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                real = getattr(os, name)
                patch.setattr(os, name, lambda *a, _name=name, _real=real, **m: self.call(_name, _real, *a, **m))
            patch.setattr(io, "open", opened)
            patch.setattr(builtins, "open", opened)
            yield


def each_call(work: Callable[[Disk], None], fault: tuple[int, bool, bool]) -> int:
    """Try with the first call failing, the second, ...; how many there were."""
    for at in range(1, 1000):
        disk = Disk(at, *fault)
        work(disk)
        if disk.count < at:
            return at - 1
    raise AssertionError("no end")


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_a_checkpoint_stands_whatever_call_fails(tmp_path: Path, fault: tuple[int, bool, bool]) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(3, dtype=torch.int64), "c": torch.zeros(0)}
    tries = iter(range(1000))

    def work(disk: Disk) -> None:
        folder = tmp_path / str(next(tries)) / "state"
        for step in (1, 2):
            checkpoint.write(folder, step, tensors, {"steps": step})
        with contextlib.suppress(ResourceError), disk.failing():
            checkpoint.write(folder, 3, {**tensors, "a": tensors["a"] + 1}, {"steps": 3})
        found = checkpoint.newest(folder)
        assert found is not None and found[1]["steps"] in (2, 3) and found[2] == [], disk.failed
        assert torch.equal(found[0]["a"], tensors["a"] + (found[1]["steps"] == 3))
        seen = [p for p in folder.iterdir() if not p.name.startswith(".")]
        assert all(checkpoint.verified(p) for p in seen) or disk.failed in REMOVING
        sweep(folder)
        assert not [p for p in folder.iterdir() if p.name.endswith(PART)]
        checkpoint.write(folder, 4, tensors, {"steps": 4})  # and it goes on when there is room again
        assert sorted(p.name for p in folder.iterdir())[-1] == "step-000000004"

    assert each_call(work, fault) >= 12


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_a_file_and_a_folder_are_old_or_new(tmp_path: Path, fault: tuple[int, bool, bool]) -> None:
    tries = iter(range(1000))

    def work(disk: Disk) -> None:
        file, folder = tmp_path / f"{next(tries)}.bin", tmp_path / f"{next(tries)}"
        write_bytes(file, b"old" * 9)
        with new_folder(folder) as new:
            (new / "x").write_text("old")
        with contextlib.suppress(ResourceError), disk.failing():
            write_bytes(file, b"new" * 7)
            with new_folder(folder) as new:
                (new / "x").write_text("new")
        assert file.read_bytes() in (b"old" * 9, b"new" * 7)
        # two renames that fail one after the other leave the old folder under its hidden name: nothing is lost
        aside = [p / "x" for p in tmp_path.glob(f".{folder.name}.*.old")]
        place = folder / "x" if folder.exists() or not disk.lasting else aside[0]
        assert place.read_text() in ("old", "new")

    assert each_call(work, fault) >= 10


@pytest.mark.parametrize("fault", FAULTS[1:5:3], ids=IDS[1:5:3])
def test_training_goes_on_without_a_disk(tmp_path: Path, fault: tuple[int, bool, bool]) -> None:
    whole, tries, said = make(steps=3, lanes=1), iter(range(1000)), []
    whole.run()

    def work(disk: Disk) -> None:
        folder, lines = tmp_path / str(next(tries)), []
        made = make(steps=3, lanes=1)
        with disk.failing():
            made.run(save_to=folder, every=-1.0, warn=lines.append)
        assert torch.equal(weights(made), weights(whole))
        again = make(steps=3, lanes=1)
        assert again.load(folder) == [] or disk.failed
        again.run()
        assert torch.equal(weights(again), weights(whole))
        assert [line.startswith("checkpoints pause") for line in lines] in ([], [True], [True, False])
        said.extend(lines)

    assert each_call(work, fault) >= 20 and said


def test_a_full_disk_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ResourceError, match="MB are free"):
        make().run(save_to=tmp_path / "state")
