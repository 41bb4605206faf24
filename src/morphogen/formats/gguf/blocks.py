"""The block layouts of GGML and how each becomes float32, vectorised over blocks. No torch here.

A layout is a NumPy record whose fields stand in the order of the bytes (ggml-common.h); `d` and `m` are the half-precision scale
and offset of a block, `qs` the low bits, `qh` the high bits. The order of operations is that of the reference, so results are bit-equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Unpack = Callable[[np.ndarray, np.ndarray], None]


class Kind(NamedTuple):
    """How a GGUF file stores a tensor: `size` numbers lie in a block of `layout.itemsize` bytes."""

    name: str
    code: int
    size: int
    layout: np.dtype
    unpack: Unpack | None  # (records (n,), out (n, size) float32); None: plain numbers


def _half(field: np.ndarray) -> np.ndarray:
    """(n,) float16 -> (n, 1) float32."""
    return field.astype(np.float32)[:, None]


def _nibbles(qs: np.ndarray) -> np.ndarray:
    """(n, k) bytes -> (n, 2k): the low halves of all bytes, then the high halves."""
    k = qs.shape[1]
    out = np.empty((len(qs), 2 * k), np.uint8)
    np.bitwise_and(qs, 15, out=out[:, :k])
    np.right_shift(qs, 4, out=out[:, k:])
    return out


def _fifth(b: np.ndarray) -> np.ndarray:
    """Five-bit numbers of 32: four bits in `qs`, the fifth in bit i of `qh`."""
    high = np.unpackbits(np.ascontiguousarray(b["qh"]), axis=1, bitorder="little")
    np.left_shift(high, 4, out=high)
    high |= _nibbles(b["qs"])
    return high


def _planes(field: np.ndarray, bits: int) -> np.ndarray:
    """(n, g, 32) bytes -> (n, g, 8 / bits, 32): plane j holds bits j * bits and up of every byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    out = field[:, :, None, :] >> shifts
    out &= (1 << bits) - 1
    return out


def _q4_0(b: np.ndarray, out: np.ndarray) -> None:
    out[...] = _nibbles(b["qs"])
    out -= 8
    out *= _half(b["d"])


def _q4_1(b: np.ndarray, out: np.ndarray) -> None:
    out[...] = _nibbles(b["qs"])
    out *= _half(b["d"])
    out += _half(b["m"])


def _q5_0(b: np.ndarray, out: np.ndarray) -> None:
    out[...] = _fifth(b)
    out -= 16
    out *= _half(b["d"])


def _q5_1(b: np.ndarray, out: np.ndarray) -> None:
    out[...] = _fifth(b)
    out *= _half(b["d"])
    out += _half(b["m"])


def _q8_0(b: np.ndarray, out: np.ndarray) -> None:
    out[...] = b["qs"]
    out *= _half(b["d"])


def _q2_k(b: np.ndarray, out: np.ndarray) -> None:
    scales = b["scales"]  # 16 bytes: the scale of 16 numbers in the low half, their offset in the high half
    groups = out.reshape(-1, 16, 16)
    groups[...] = _planes(b["qs"].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    groups *= (_half(b["d"]) * (scales & 15))[:, :, None]
    groups -= (_half(b["m"]) * (scales >> 4))[:, :, None]


def _q3_k(b: np.ndarray, out: np.ndarray) -> None:
    packed = b["scales"]  # 16 scales of six bits: four in bytes 0..7, two in bytes 8..11
    high = (packed[:, None, 8:] >> np.array([[0], [2], [4], [6]], np.uint8)).reshape(-1, 16) & 3
    scales = _nibbles(packed[:, :8]).astype(np.int8) | (high << 4).astype(np.int8)
    q = _planes(b["qs"].reshape(-1, 2, 32), 2).reshape(-1, 8, 32).astype(np.int8)
    q -= (_planes(b["hmask"].reshape(-1, 1, 32), 1).reshape(-1, 8, 32).astype(np.int8) ^ 1) << 2
    groups = out.reshape(-1, 16, 16)
    groups[...] = q.reshape(-1, 16, 16)
    groups *= (_half(b["d"]) * (scales - 32))[:, :, None]


def _scales_k(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 12) bytes -> eight scales and eight offsets of six bits each, as Q4_K and Q5_K pack them."""
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 2 & 48)], axis=1)
    offset = np.concatenate([b & 63, c >> 4 | (b >> 2 & 48)], axis=1)
    return scale, offset


def _affine_k(b: np.ndarray, q: np.ndarray, out: np.ndarray) -> None:
    scale, offset = _scales_k(b["scales"])
    groups = out.reshape(-1, 8, 32)
    groups[...] = q.reshape(-1, 8, 32)
    groups *= (_half(b["d"]) * scale)[:, :, None]
    groups -= (_half(b["m"]) * offset)[:, :, None]


def _q4_k(b: np.ndarray, out: np.ndarray) -> None:
    _affine_k(b, _planes(b["qs"].reshape(-1, 4, 32), 4), out)


def _q5_k(b: np.ndarray, out: np.ndarray) -> None:
    q = _planes(b["qs"].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    q |= _planes(b["qh"].reshape(-1, 1, 32), 1).reshape(-1, 8, 32) << 4
    _affine_k(b, q, out)


def _q6_k(b: np.ndarray, out: np.ndarray) -> None:
    low = b["ql"].reshape(-1, 2, 64)
    q = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)  # two halves of 128: four planes of 32 each
    q |= _planes(b["qh"].reshape(-1, 2, 32), 2) << 4
    groups = out.reshape(-1, 16, 16)
    groups[...] = q.reshape(-1, 16, 16)
    groups -= 32
    groups *= (_half(b["d"]) * b["scales"])[:, :, None]


def _record(*fields: tuple[str, str, int]) -> np.dtype:
    return np.dtype([(name, kind) if count == 1 else (name, kind, (count,)) for name, kind, count in fields])


_D, _M = ("d", "<f2", 1), ("m", "<f2", 1)
_KINDS = [
    Kind("F32", 0, 1, np.dtype("<f4"), None),
    Kind("F16", 1, 1, np.dtype("<f2"), None),
    Kind("Q4_0", 2, 32, _record(_D, ("qs", "u1", 16)), _q4_0),
    Kind("Q4_1", 3, 32, _record(_D, _M, ("qs", "u1", 16)), _q4_1),
    Kind("Q5_0", 6, 32, _record(_D, ("qh", "u1", 4), ("qs", "u1", 16)), _q5_0),
    Kind("Q5_1", 7, 32, _record(_D, _M, ("qh", "u1", 4), ("qs", "u1", 16)), _q5_1),
    Kind("Q8_0", 8, 32, _record(_D, ("qs", "i1", 32)), _q8_0),
    Kind("Q2_K", 10, 256, _record(("scales", "u1", 16), ("qs", "u1", 64), _D, _M), _q2_k),
    Kind("Q3_K", 11, 256, _record(("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), _D), _q3_k),
    Kind("Q4_K", 12, 256, _record(_D, _M, ("scales", "u1", 12), ("qs", "u1", 128)), _q4_k),
    Kind("Q5_K", 13, 256, _record(_D, _M, ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)), _q5_k),
    Kind("Q6_K", 14, 256, _record(("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D), _q6_k),
    Kind("I8", 24, 1, np.dtype("i1"), None),
    Kind("I16", 25, 1, np.dtype("<i2"), None),
    Kind("I32", 26, 1, np.dtype("<i4"), None),
    Kind("I64", 27, 1, np.dtype("<i8"), None),
    Kind("F64", 28, 1, np.dtype("<f8"), None),
    Kind("BF16", 30, 1, np.dtype("<u2"), None),
]
KINDS = {kind.name: kind for kind in _KINDS}
BY_CODE = {kind.code: kind for kind in _KINDS}
# Kinds other programs write and this one does not read, for the error message.
UNREAD = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


def _k_grid(b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale, offset = _scales_k(b["scales"])
    return _planes(b["qs"].reshape(-1, 4, 32), 4), _half(b["d"]) * scale, _half(b["m"]) * -offset.astype(np.float32)


# Kinds of the form codes * scale + offset with a scale and an offset for each 32 numbers: those parts, in one type each.
GRIDS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray | None]]] = {
    "Q4_0": lambda b: (_nibbles(b["qs"]), _half(b["d"]), _half(b["d"]) * -8),
    "Q4_1": lambda b: (_nibbles(b["qs"]), _half(b["d"]), _half(b["m"])),
    "Q4_K": _k_grid,
    "Q8_0": lambda b: (b["qs"], _half(b["d"]), None),
}


def dequantise(kind: str, data: np.ndarray, out: np.ndarray) -> None:
    """Blocks of a quantised kind, (n * bytes,) uint8, into float32, (n * size,); both contiguous."""
    how = KINDS[kind]
    assert how.unpack is not None
    with np.errstate(all="ignore"):  # a hostile scale may be infinite or NaN, and then so are the numbers
        how.unpack(data.view(how.layout), out.reshape(-1, how.size))
