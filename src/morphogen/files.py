"""A file appears whole or not at all: temporary name, fsync, rename, fsync of the folder. No torch here."""
from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from morphogen.errors import DataError, FormatError, ResourceError, UsageError

PART = ".new"  # the end of every temporary name: what a killed writer leaves is known by it


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot fsync a folder; its rename is journaled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make(folder: Path) -> None:
    """Make a folder and those above it, each noted on disk in the one that holds it."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _explain(error: OSError, path: Path) -> ResourceError:
    return ResourceError(f"cannot write ({error.strerror or error})", where=path, remedy="free space or choose another place")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file bit by bit; it takes the name `path` only when the block ends well. Raises ResourceError when the disk refuses."""
    path = Path(path)
    temporary = None
    try:
        _make(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=PART, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise _explain(error, path) from None
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically. Raises ResourceError when the disk refuses; the old file then stands."""
    with new_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """`write_text` of many pieces that are never all in memory."""
    with new_file(path) as file:
        for line in lines:
            file.write(line.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of JSON; NaN and infinities are refused because other readers refuse them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours. Raises FormatError naming the line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise FormatError(f"not readable as JSON ({error})", where=path, remedy="the file is damaged or not ours") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary sibling folder; it takes the name `path` only when the block ends well. Raises ResourceError.

    An older folder of that name is moved aside first, and back again when the new one cannot take its place.
    """
    path, temporary = Path(path), None
    try:
        _make(path.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:60]}.", suffix=PART, dir=path.parent))
        yield temporary
        for part in (temporary, *temporary.rglob("*")):
            if part.is_file():
                with part.open("rb") as handle:
                    os.fsync(handle.fileno())
            elif part.is_dir():
                _sync_folder(part)
        os.chmod(temporary, 0o755)
        _take(path, temporary)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise _explain(error, path) from None
        raise


def _take(path: Path, temporary: Path) -> None:
    """Give a finished folder its name."""
    aside = temporary.with_name(f"{temporary.name}.old") if path.exists() else None
    if aside is not None:
        os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        if aside is not None:
            os.replace(aside, path)
        raise
    _sync_folder(path.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Take away what killed writers left in a folder. Only for the holder of its lock: nobody else may be writing there."""
    for path in Path(folder).glob(f".*{PART}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _followed(path: Path) -> Path:
    """Where a path leads in the end. Raises DataError for links that go round in a circle and names no system takes."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise DataError("a path that leads nowhere", where=path, remedy="check its links and characters") from None


def nearby(path: Path) -> str:
    """The remedy for a path where nothing is: the name beside it that looks most like it."""
    try:
        close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    except OSError:
        close = []
    return f"did you mean '{close[0]}'?" if close else "check the path"


def check_output(path: Path, *, force: bool = False, inputs: Iterable[Any] = ()) -> None:
    """Refuse to overwrite, to write into an input, or over one. Raises UsageError or DataError before any work is done.

    `inputs` that are no paths (data handed over in Python) are passed over.
    """
    path = Path(path)
    resolved = _followed(path)
    for given in inputs:
        if not isinstance(given, str | os.PathLike):
            continue
        source = _followed(Path(given).expanduser())
        if resolved == source or (source.is_dir() and source in resolved.parents):
            what = "the output is the input" if resolved == source else "the output lies inside the input"
            raise UsageError(what, where=path, remedy="choose another place")
        if resolved in source.parents and force:  # what is replaced is taken away first
            raise UsageError("the input lies inside the output that --force would replace", where=path, remedy="choose another place")
    above = next((p for p in resolved.parents if p.exists()), None)
    if above is not None and not above.is_dir():
        raise UsageError("a file, so that nothing can be put into it", where=above, remedy="choose another place")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise DataError("not a regular file or folder", where=path, remedy="choose another output")
    if path.exists() and not force and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError("the output exists already", where=path, remedy="choose another name or say --force")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder alone; a second process gets one line with the holder's process id. Raises ResourceError.

    The system lets go of it when the holder dies, however it dies.
    """
    folder = Path(folder)
    made, path = not folder.exists(), folder / ".lock"
    try:
        _make(folder)
        handle = _held(path)
    except OSError as error:
        raise _explain(error, folder) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: the name never goes from under a new holder
        os.close(handle)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only when nothing came of it


def _held(path: Path) -> int:
    """An open, locked file of that name, with our process id in it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock_or_refuse(handle, path)
            if os.fstat(handle).st_nlink:  # else its last holder took the name away after we had opened it
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock_or_refuse(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no flock on Windows: the exclusive create of outputs still protects whole files
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
        what, remedy = f"process {pid} is writing there", "wait for it or choose another output"
        raise ResourceError(what, where=path.parent, remedy=remedy) from None
