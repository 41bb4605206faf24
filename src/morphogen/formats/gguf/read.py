"""Reading GGUF: every count, length and offset is checked against the bytes that are there before it is used.

Numbers are Python's, which do not wrap. The file is mapped; tensors become numbers when asked.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphogen.engine.int4 import Grid
from morphogen.errors import FormatError, UsageError
from morphogen.formats.gguf.blocks import BY_CODE, GRIDS, KINDS, UNREAD, Kind, dequantise
from morphogen.formats.header import map_file
from morphogen.formats.recognise import refuse_foreign, short

MAGIC = b"GGUF"
LARGEST_STRING = 16 << 20
LARGEST_METADATA = 64 << 20
MOST_KEYS, MOST_TENSORS, MOST_ENTRIES = 65_536, 200_000, 1 << 22
LONGEST_KEY, LONGEST_NAME = 65_535, 1024
LARGEST_ALIGNMENT = 64 << 10
# GGUF's types of values, by code.
TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array", "uint64", "int64", "float64"]
FORMATS = {"uint8": "<B", "int8": "<b", "uint16": "<H", "int16": "<h", "uint32": "<I", "int32": "<i", "float32": "<f", "bool": "<B",
           "uint64": "<Q", "int64": "<q", "float64": "<d"}  # fmt: skip
_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I8": torch.int8, "I16": torch.int16,
          "I32": torch.int32, "I64": torch.int64}  # fmt: skip
_DAMAGED = "the file is damaged or hostile: fetch it again"
_STEP = 1 << 18  # numbers turned at a time: they stay in the processor's cache


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as it lies in the file: `shape` in torch's order (slowest first), `bytes` (N,) uint8, mapped and read-only."""

    name: str
    shape: tuple[int, ...]
    kind: str
    bytes: np.ndarray = field(repr=False)
    forget: Callable[[], None] | None = field(default=None, repr=False)

    def load(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers, in memory of their own. Turned piece by piece into `dtype`, so that there is never a float32 copy beside it.

        Quantised kinds are computed in float32, bit for bit as GGML's reference, and then rounded to `dtype`.
        The pages of the file are given back to the system. Raises UsageError for an integer dtype of float values.
        """
        how = KINDS[self.kind]
        if not dtype.is_floating_point and not self.kind.startswith("I"):
            raise UsageError(f"{self.kind} tensor {short(self.name)} does not fit {dtype}", remedy="choose a floating-point dtype")
        out = torch.empty(self.shape, dtype=dtype)
        flat = out.view(-1)
        step = max(how.size, _STEP // how.size * how.size)
        room = np.empty(min(step, flat.numel()), np.float32) if how.unpack and dtype != torch.float32 else None
        for start in range(0, flat.numel(), step):
            part = flat[start : start + step]
            data = self.bytes[start // how.size * how.layout.itemsize :][: part.numel() // how.size * how.layout.itemsize]
            if how.unpack is None:  # copied first: torch must not see memory that cannot be written
                part.copy_(torch.from_numpy(np.array(data)).view(_TORCH[self.kind]))
            elif room is None:
                dequantise(self.kind, data, part.numpy())
            else:
                dequantise(self.kind, data, room[: part.numel()])
                part.copy_(torch.from_numpy(room[: part.numel()]))
        if self.forget:
            self.forget()
        return out

    def grid(self) -> Grid | None:
        """A matrix's codes, scales and offsets where its kind has one of each for 32 numbers; None otherwise."""
        if self.kind not in GRIDS or len(self.shape) != 2:
            return None
        with np.errstate(all="ignore"):
            parts = GRIDS[self.kind](self.bytes.view(KINDS[self.kind].layout))
        codes, scale, offset = (p if p is None else torch.from_numpy(np.ascontiguousarray(p)).view(self.shape[0], -1) for p in parts)
        if self.forget:
            self.forget()
        assert codes is not None and scale is not None
        return Grid(codes, scale, offset)


@dataclass(frozen=True)
class Gguf:
    """A GGUF file: `metadata` by key as plain values and lists, `tensors` by name in the file's order."""

    path: Path
    version: int
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, GgufTensor] = field(repr=False)


class _Reader:
    """A place in the mapped file that never moves past its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at, self.end = data, path, 0, len(data)
        self.entries = 0  # of all arrays together

    def bad(self, what: str, remedy: str = _DAMAGED) -> FormatError:
        return FormatError(what, where=f"{self.path} (byte {self.at})", remedy=remedy)

    def number(self, kind: str, what: str) -> Any:
        form = FORMATS[kind]
        after = self.at + struct.calcsize(form)
        if after > self.end:
            raise self.bad(f"the file ends inside {what}")
        value = struct.unpack_from(form, self.data, self.at)[0]
        if kind == "bool":
            if value > 1:
                raise self.bad(f"{what} is {value}, neither true nor false")
            value = bool(value)
        self.at = after
        return value

    def count(self, what: str, least: int, most: int) -> int:
        """A number of things that take at least `least` bytes each: no more than the rest of the file can hold."""
        n = self.number("uint64", f"the number of {what}")
        if n > most or n * least > self.end - self.at:
            raise self.bad(f"{n} {what} where at most {min(most, (self.end - self.at) // least)} can be")
        return n

    def string(self, what: str, longest: int = LARGEST_STRING) -> str:
        size = self.number("uint64", f"the length of {what}")
        if size > longest or size > self.end - self.at:
            raise self.bad(f"{what} claims {size} bytes where at most {min(longest, self.end - self.at)} can be")
        try:
            text = self.data[self.at : self.at + size].decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad(f"{what} is not UTF-8") from None
        self.at += size
        return text

    def value(self, key: str) -> Any:
        kind = self._type(f"the type of {short(key)}")
        if kind == "string":
            return self.string(short(key))
        return self._array(key) if kind == "array" else self.number(kind, short(key))

    def _type(self, what: str) -> str:
        code = self.number("uint32", what)
        if code >= len(TYPES):
            raise self.bad(f"{what} is {code}, which is none", "types 0 to 12 are read")
        return TYPES[code]

    def _array(self, key: str) -> list[Any]:
        kind = self._type(f"the type of the entries of {short(key)}")
        if kind == "array":
            raise self.bad(f"{short(key)} is an array of arrays", "arrays of plain values are read")
        size = 8 if kind == "string" else struct.calcsize(FORMATS[kind])
        n = self.count(f"entries of {short(key)}", size, MOST_ENTRIES - self.entries)
        self.entries += n
        if kind == "string":
            return self._strings(key, n)
        values = np.frombuffer(self.data, dtype=FORMATS[kind], count=n, offset=self.at) if n else np.empty(0)
        if kind == "bool":
            if n and values.max() > 1:
                raise self.bad(f"{short(key)} holds a value that is neither true nor false")
            values = values.astype(bool)
        self.at += n * size
        return values.tolist()

    def _strings(self, key: str, n: int) -> list[str]:
        """Vocabularies have hundreds of thousands: the loop of `string` without its calls."""
        data, at, end = self.data, self.at, self.end
        length = struct.Struct("<Q").unpack_from
        out: list[str] = []
        try:
            for _ in range(n):
                size = length(data, at)[0]
                at += 8
                if size > LARGEST_STRING or size > end - at:
                    self.at = at
                    raise self.bad(f"entry {len(out)} of {short(key)} claims {size} bytes where {min(LARGEST_STRING, end - at)} can be")
                out.append(data[at : at + size].decode("utf-8"))
                at += size
        except UnicodeDecodeError:
            self.at = at
            raise self.bad(f"entry {len(out)} of {short(key)} is not UTF-8") from None
        except struct.error:
            self.at = at
            raise self.bad(f"the file ends inside entry {len(out)} of {short(key)}") from None
        self.at = at
        return out


def read_gguf(path: Path | str) -> Gguf:
    """Open a GGUF file of version 2 or 3: metadata is read, tensors are mapped.

    Refused: counts, strings and offsets beyond the file, strings above 16 MiB, arrays of arrays, empty or repeated keys and names,
    unknown types, dimensions of 0 or more than 4 of them, rows that are no whole blocks, an alignment that is no power of two up to
    64 KiB, tensors that overlap or lie off the alignment. Raises FormatError naming key or tensor, DataError when nothing can be read.
    """
    path = Path(path).expanduser()
    data = map_file(path)
    r = _Reader(data, path)
    version = _version(r)
    r.at = 8
    # The smallest entries: a name of one byte, then dimensions, type, offset; a key of one byte, type, a value of one byte.
    tensor_count = r.count("tensors", 33, MOST_TENSORS)
    metadata = _metadata(r, r.count("keys", 14, MOST_KEYS))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise r.bad(f"general.alignment is {short(alignment)}, no power of two up to {LARGEST_ALIGNMENT}")
    if type(metadata.get("split.count")) is int and metadata["split.count"] > 1:
        parts = metadata["split.count"]
        raise FormatError(f"this is one of {parts} parts of a model", where=path, remedy="join them with llama-gguf-split --merge")
    infos = _infos(r, tensor_count, alignment)
    base = -(-r.at // alignment) * alignment
    tensors = _place(r, infos, base)
    return Gguf(path, version, metadata, tensors)


def _version(r: _Reader) -> int:
    if r.data[:4] != MAGIC:
        if r.data[:4] == MAGIC[::-1]:
            raise FormatError("this GGUF file is big-endian", where=r.path, remedy="convert it to little-endian")
        raise refuse_foreign(r.data[:512], r.path, "GGUF file")
    r.at = 4
    version = r.number("uint32", "the version")
    if version in (2, 3):
        return version
    if version and not version & 0xFFFF:
        raise FormatError("this GGUF file is big-endian", where=r.path, remedy="convert it to little-endian")
    raise FormatError(f"GGUF version {version} is not read", where=r.path, remedy="versions 2 and 3 are: convert it with a current tool")


def _metadata(r: _Reader, count: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    start = r.at
    for i in range(count):
        key = r.string(f"key {i}", LONGEST_KEY)
        if not key or key in out:
            raise r.bad(f"key {i} is empty" if not key else f"the key {short(key)} appears twice")
        out[key] = r.value(key)
        if r.at - start > LARGEST_METADATA:
            raise r.bad(f"more than {LARGEST_METADATA >> 20} MiB of metadata")
    return out


_Info = tuple[tuple[int, ...], Kind, int, int]  # shape, kind, offset, bytes


def _infos(r: _Reader, count: int, alignment: int) -> dict[str, _Info]:
    out: dict[str, _Info] = {}
    for i in range(count):
        name = r.string(f"the name of tensor {i}", LONGEST_NAME)
        if not name or name in out:
            raise r.bad(f"tensor {i} has no name" if not name else f"the tensor {short(name)} appears twice")
        dims = r.number("uint32", f"tensor {short(name)}")
        if not 0 < dims <= 4:
            raise r.bad(f"tensor {short(name)} has {dims} dimensions", "1 to 4 are read")
        shape = tuple(r.number("uint64", f"tensor {short(name)}") for _ in range(dims))
        if 0 in shape:
            raise r.bad(f"tensor {short(name)} has a dimension of 0")
        code = r.number("uint32", f"tensor {short(name)}")
        kind = BY_CODE.get(code)
        if kind is None:
            what = f"tensor {short(name)} is of type {UNREAD.get(code, code)}, which is not read"
            raise r.bad(what, "types that are: " + " ".join(KINDS))
        if shape[0] % kind.size:
            raise r.bad(f"rows of tensor {short(name)} have {shape[0]} numbers, no multiple of {kind.name}'s {kind.size}")
        offset = r.number("uint64", f"tensor {short(name)}")
        if offset % alignment:
            raise r.bad(f"tensor {short(name)} lies at {offset}, off the alignment of {alignment}")
        size = kind.layout.itemsize
        for n in shape:
            size *= n
        out[name] = shape[::-1], kind, offset, size // kind.size
    return out


def _place(r: _Reader, infos: dict[str, _Info], base: int) -> dict[str, GgufTensor]:
    at = 0
    for name, (_, _, offset, size) in sorted(infos.items(), key=lambda pair: pair[1][2]):
        if offset < at:
            raise r.bad(f"tensor {short(name)} overlaps another")
        at = offset + size
        if base + at > r.end:
            what = f"tensor {short(name)} ends at byte {base + at} of a file of {r.end}"
            raise FormatError(what, where=r.path, remedy="the download did not finish, or the file is damaged: fetch it again")
    tensors = {}
    whole = np.frombuffer(r.data, dtype=np.uint8)
    whole.flags.writeable = False
    for name, (shape, kind, offset, size) in infos.items():
        start = base + offset
        tensors[name] = GgufTensor(name, shape, kind.name, whole[start : start + size], _forgetter(r.data, start, size))
    return tensors


def _forgetter(data: mmap.mmap, start: int, size: int) -> Callable[[], None] | None:
    """Give the whole pages of a tensor back: they stay in the system's cache but no longer count as this process's memory."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length < 1 << 16 or not hasattr(data, "madvise"):  # no such call on Windows
        return None
    return lambda: data.madvise(mmap.MADV_DONTNEED, first, length)
