"""A file appears whole or not at all: temporary name, fsync, rename, fsync of the folder. No torch here."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from morphogen.errors import DataError, FormatError, ResourceError, UsageError


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot fsync a folder; its rename is journaled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(error: OSError, path: Path) -> ResourceError:
    return ResourceError(f"cannot write ({error.strerror or error})", where=path, remedy="free space or choose another place")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file bit by bit; it takes the name `path` only when the block ends well. Raises ResourceError when the disk refuses."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
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


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of JSON; NaN and infinities are refused because other readers refuse them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours. Raises FormatError naming the line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FormatError(f"not readable as JSON ({error})", where=path, remedy="the file is damaged or not ours") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary sibling folder; it takes the name `path` only when the block ends well."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:60]}.", dir=path.parent))
    except OSError as error:
        raise _explain(error, path) from None
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        os.chmod(temporary, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _explain(error, path) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_output(path: Path, *, force: bool = False, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse to overwrite, to write into an input, or over one. Raises UsageError or DataError before any work is done."""
    path = Path(path)
    resolved = path.resolve()
    for given in inputs:
        source = Path(given).resolve()
        if resolved == source or (source.is_dir() and source in resolved.parents):
            raise UsageError("the output lies inside the input", where=path, remedy="choose a place outside of it")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise DataError("not a regular file or folder", where=path, remedy="choose another output")
    if path.exists() and not force and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError("the output exists already", where=path, remedy="choose another name or say --force")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder alone; a second process gets one line with the holder's process id."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no flock on Windows: the exclusive create of outputs still protects whole files
            pass
        except OSError:
            pid = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            raise ResourceError(f"process {pid} is writing there", where=folder, remedy="wait for it or choose another output") from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):
            path.unlink()
