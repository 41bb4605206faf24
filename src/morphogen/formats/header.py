"""The strict look at a safetensors header before anything is believed: plain Python on JSON, no torch here.

The library's own parser takes duplicate names and headers of a million tensors; both are refused here.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from morphogen.errors import DataError, FormatError
from morphogen.formats.recognise import is_safetensors, refuse_foreign, regular_file, short

LARGEST_HEADER = 16 << 20
LARGEST_INDEX = 64 << 20
MOST_TENSORS = 200_000
MOST_DIMS, LARGEST_DIM = 16, 1 << 48
# Bytes an element takes, by the name the format gives its type.
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_DAMAGED = "the file is damaged or hostile: fetch it again"


class Entry(NamedTuple):
    """Where a tensor lies: `start` and `end` count bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def strict_json(blob: bytes, where: object) -> Any:
    """JSON in UTF-8 without duplicate names, NaN, or more parts than MOST_TENSORS tensors have. Raises FormatError."""
    # Counted before it is parsed: 16 MiB of "[]," would become hundreds of megabytes of objects. A tensor has 13 of these.
    if blob.count(b"{") + blob.count(b"[") + blob.count(b'"') > 13 * MOST_TENSORS + 10_000:
        raise FormatError(f"more than {MOST_TENSORS} tensors", where=where, remedy=_DAMAGED)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            seen: set[str] = set()
            twice = next(k for k, _ in pairs if k in seen or seen.add(k))
            raise FormatError(f"the name {short(twice)} appears twice", where=where, remedy=_DAMAGED)
        return out

    def refuse(word: str) -> Any:
        raise FormatError(f"{word} is no JSON", where=where, remedy=_DAMAGED)

    try:
        return json.loads(blob.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not readable as JSON ({str(error)[:120]})", where=where, remedy=_DAMAGED) from None


def map_file(path: Path) -> mmap.mmap:
    """A private map of a regular file: pages are read when touched, and writing to them never reaches the file. Raises DataError."""
    regular_file(path)
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except ValueError:  # a map of nothing
        raise refuse_foreign(b"", path, "model") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path, remedy="check the file and your rights") from None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Hundreds of thousands of small lists without a cycle: the collector would walk them again and again, for half of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@_no_collection()
def read_header(data: mmap.mmap, path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors and metadata of a mapped safetensors file, all checked. Raises FormatError naming the tensor.

    Refused: a header above 16 MiB, more than 200,000 tensors, duplicate names, unknown types, negative or huge dimensions,
    a size that is not shape times type, offsets outside the file, overlaps, holes and bytes nobody owns.
    """
    total = len(data)
    size = int.from_bytes(data[:8], "little")
    if not is_safetensors(data[:9]):
        raise refuse_foreign(data[:512], path, "safetensors file")
    if size > LARGEST_HEADER or 8 + size > total:
        most = min(LARGEST_HEADER, total - 8)
        raise FormatError(f"the header claims {size} bytes where at most {most} can be", where=path, remedy=_DAMAGED)
    header = strict_json(data[8 : 8 + size], path)
    if not isinstance(header, dict):
        raise FormatError("the header is no table of tensors", where=path, remedy=_DAMAGED)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("__metadata__ is not text by name", where=path, remedy=_DAMAGED)
    if len(header) > MOST_TENSORS:
        raise FormatError(f"{len(header)} tensors, more than {MOST_TENSORS}", where=path, remedy=_DAMAGED)
    entries = {name: _entry(name, value, 8 + size, path) for name, value in header.items()}
    _check_layout(entries, 8 + size, total, path)
    return entries, metadata


def _entry(name: str, value: Any, base: int, path: Path) -> Entry:
    def bad(what: str) -> FormatError:
        return FormatError(f"tensor {short(name)} {what}", where=path, remedy=_DAMAGED)

    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no terminal and no other reader takes
        raise bad("has a name that is no text") from None
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise bad("does not consist of dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        what = f"tensor {short(name)} is of type {short(dtype)}"
        raise FormatError(what, where=path, remedy="types that are read: " + ", ".join(BYTES))
    # bool is an int to Python, so `type` and not `isinstance`.
    if not isinstance(shape, list) or len(shape) > MOST_DIMS or not all(type(n) is int and 0 <= n <= LARGEST_DIM for n in shape):
        raise bad(f"has the impossible shape {short(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise bad("has no two data_offsets")
    start, end = offsets
    if not 0 <= start <= end < 1 << 63:
        raise bad(f"has the impossible data_offsets {short(offsets)}")
    needed = BYTES[dtype]
    for n in shape:
        needed *= n
    if needed != end - start:
        raise bad(f"of shape {short(shape)} and type {dtype} needs {short(needed)[1:-1]} bytes but has {end - start}")
    return Entry(dtype, tuple(shape), base + start, base + end)


def _check_layout(entries: dict[str, Entry], base: int, total: int, path: Path) -> None:
    """Tensors tile the rest of the file exactly: nothing hides between them and none shares bytes."""
    at = base
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].start, pair[1].end)):
        if entry.end > total:
            what = f"tensor {short(name)} ends at byte {entry.end} of a file of {total}"
            raise FormatError(what, where=path, remedy="the download did not finish, or the file is damaged: fetch it again")
        if entry.start != at:
            kind = "overlaps another" if entry.start < at else f"leaves a hole of {entry.start - at} bytes before it"
            raise FormatError(f"tensor {short(name)} {kind}", where=path, remedy=_DAMAGED)
        at = entry.end
    if at != total:
        raise FormatError(f"{total - at} bytes at the end belong to no tensor", where=path, remedy=_DAMAGED)
