"""Writing GGUF version 3: plain Python values as metadata, tensors rounded to their kind one piece at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphogen.errors import UsageError
from morphogen.files import new_file
from morphogen.formats.gguf.blocks import KINDS
from morphogen.formats.gguf.quantise import ROUNDING
from morphogen.formats.gguf.read import (
    FORMATS,
    LARGEST_ALIGNMENT,
    LARGEST_STRING,
    LONGEST_KEY,
    LONGEST_NAME,
    MAGIC,
    MOST_KEYS,
    MOST_TENSORS,
    TYPES,
)
from morphogen.formats.recognise import short

_STEP = 1 << 20


@dataclass(frozen=True)
class Typed:
    """A value of metadata with its GGUF type said: `Typed(3, "int8")`; for a list, the type of its entries."""

    value: Any
    type: str


def write_gguf(path: Path | str, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, str]]) -> None:
    """Write a GGUF file atomically: `tensors` maps a name to a tensor (in torch's order of axes) and a kind.

    Kinds: F32 F16 BF16 Q8_0 Q4_0 Q4_1, rounded as GGML's reference does. Values: str, bool, int (uint32; int32 when negative; 64 bits
    when larger), float (float32), lists of one of these (integers as int32), or Typed. `general.alignment` counts when given, else 32.
    The rounding goes piece by piece: no second copy of the model. Raises UsageError naming key or tensor, DataError for numbers
    that a kind cannot hold, ResourceError when the disk refuses.
    """
    alignment = metadata.get("general.alignment", 32)
    alignment = alignment.value if isinstance(alignment, Typed) else alignment
    if type(alignment) is not int or not 0 < alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise UsageError(f"general.alignment is {alignment!r}", remedy=f"a power of two up to {LARGEST_ALIGNMENT}")
    if len(metadata) > MOST_KEYS or len(tensors) > MOST_TENSORS:
        raise UsageError(f"{len(metadata)} keys and {len(tensors)} tensors", remedy=f"at most {MOST_KEYS} and {MOST_TENSORS} are read")
    head = bytearray(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        if not key:
            raise UsageError("a key of metadata is empty", remedy="give it a name")
        head += _string(key, LONGEST_KEY) + _value(key, value)
    at = 0
    for name, (tensor, kind) in tensors.items():
        size = _size(name, tensor, kind)
        dims = tensor.shape[::-1]
        head += _string(name, LONGEST_NAME) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, KINDS[kind].code, at)
        at += -(-size // alignment) * alignment
    head += b"\0" * (-len(head) % alignment)
    with new_file(Path(path)) as file:
        file.write(head)
        for name, (tensor, kind) in tensors.items():
            size = 0
            for part in _pieces(name, tensor, kind):
                file.write(part.data)
                size += part.nbytes
            file.write(b"\0" * (-size % alignment))


def _size(name: str, tensor: Tensor, kind: str) -> int:
    """Bytes a tensor takes in the file, after everything that can be wrong with it without looking at its numbers."""
    how = KINDS.get(kind)
    if not name:
        raise UsageError("a tensor has no name", remedy="give it one")
    if how is None or kind not in ROUNDING:
        raise UsageError(f"tensor {short(name)}: {short(kind)} is not written", remedy="choose one of " + " ".join(ROUNDING))
    if not 1 <= tensor.dim() <= 4 or not tensor.numel() or not tensor.dtype.is_floating_point:
        what = f"tensor {short(name)} is {tensor.dtype} of shape {tuple(tensor.shape)}"
        raise UsageError(what, remedy="GGUF holds 1 to 4 dimensions, none of them 0, of floating-point numbers")
    if tensor.shape[-1] % how.size:
        what = f"rows of tensor {short(name)} have {tensor.shape[-1]} numbers, no multiple of {kind}'s {how.size}"
        raise UsageError(what, remedy="write it as F16 or F32")
    return tensor.numel() // how.size * how.layout.itemsize


def _pieces(name: str, tensor: Tensor, kind: str) -> Iterator[np.ndarray]:
    flat = tensor.detach().reshape(-1)  # no copy unless it is not contiguous
    for part in flat.split(_STEP):
        yield ROUNDING[kind](part.to("cpu", torch.float32).contiguous().numpy(), name)


# ---------------------------------------------------------------- metadata
def _string(text: str, longest: int = LARGEST_STRING) -> bytes:
    try:
        blob = text.encode("utf-8")
    except (UnicodeEncodeError, AttributeError):
        raise UsageError(f"{short(text)} is no text", remedy="give a str without halves of surrogate pairs") from None
    if len(blob) > longest:
        raise UsageError(f"{short(text)} has {len(blob)} bytes", remedy=f"at most {longest} are read again")
    return struct.pack("<Q", len(blob)) + blob


def _value(key: str, value: Any) -> bytes:
    said = ""
    if isinstance(value, Typed):
        value, said = value.value, value.type
        if said != "string" and said not in FORMATS:
            raise UsageError(f"the key {short(key)} is said to be {short(said)}", remedy="choose string or one of " + " ".join(FORMATS))
    if isinstance(value, list | tuple):
        kind = said or _kind_of(key, list(value), whole="int32")
        body = struct.pack("<IIQ", TYPES.index("array"), TYPES.index(kind), len(value))
        if kind == "string":
            return body + b"".join(map(_string, value))
        return body + _packed(key, kind, list(value))
    kind = said or _kind_of(key, [value], whole="uint32")
    body = struct.pack("<I", TYPES.index(kind))
    return body + (_string(value) if kind == "string" else _packed(key, kind, [value]))


def _kind_of(key: str, values: list[Any], whole: str) -> str:
    """The type llama.cpp expects of such values: counts are uint32, entries of arrays int32, fractions float32."""
    types = {type(v) for v in values}
    if types == {str}:
        return "string"
    if types == {bool}:
        return "bool"
    if types == {float} or types == {int, float}:
        return "float32"
    if types <= {int}:  # an empty list too
        low, high = min(values, default=0), max(values, default=0)
        fits = {"uint32": (0, 1 << 32), "int32": (-(1 << 31), 1 << 31), "uint64": (0, 1 << 64), "int64": (-(1 << 63), 1 << 63)}
        order = [whole, *fits]
        return next((t for t in order if fits[t][0] <= low and high < fits[t][1]), "int64")
    names = ", ".join(sorted(t.__name__ for t in types))
    raise UsageError(f"the key {short(key)} holds {names}", remedy="values are str, bool, int, float or lists of one of these")


def _packed(key: str, kind: str, values: list[Any]) -> bytes:
    try:
        return struct.pack(f"<{len(values)}{FORMATS[kind][1]}", *values)
    except (struct.error, OverflowError, KeyError):
        raise UsageError(f"the key {short(key)} does not fit {kind}", remedy="choose another type") from None
