"""Rounding float32 to the kinds that GGUF files are written in, as GGML's reference does it (ggml-quants.c). No torch here.

Each takes (n,) float32, n a multiple of the block, and gives bytes. Raises DataError for numbers that the kind cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from morphogen.errors import DataError
from morphogen.formats.gguf.blocks import KINDS
from morphogen.formats.recognise import short


def _f32(x: np.ndarray, name: str) -> np.ndarray:
    return x.view(np.uint8)


def _half(x: np.ndarray, name: str) -> np.ndarray:
    """float16, refused where a finite number would become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = x.astype(np.float16)
    if not np.array_equal(np.isfinite(out), np.isfinite(x)):
        what = f"tensor {short(name)} needs {float(np.abs(x[np.isfinite(x)]).max()):.3g}, which half precision does not hold"
        raise DataError(what, remedy="write it as BF16 or F32")
    return out


def _f16(x: np.ndarray, name: str) -> np.ndarray:
    return _half(x, name).view(np.uint8)


def _bf16(x: np.ndarray, name: str) -> np.ndarray:
    """Round to nearest, ties to even; a NaN stays a quiet NaN."""
    bits = x.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16  # wraps for NaN only, which the next line replaces
    nan = np.isnan(x)
    if nan.any():
        rounded[nan] = (bits[nan] >> 16) | 64
    return rounded.astype(np.uint16).view(np.uint8)


def _blocks(x: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(x).all():
        raise DataError(f"tensor {short(name)} holds NaN or infinity", remedy="a model with such weights cannot be quantised")
    return x.reshape(-1, 32)


def _inverse(d: np.ndarray) -> np.ndarray:
    """1 / d, and 0 where that is infinite: a block of zeros, or of numbers so small that its scale is stored as 0."""
    with np.errstate(divide="ignore", over="ignore"):
        out = 1 / d
    out[np.isinf(out)] = 0
    return out


def _trunc(x: np.ndarray) -> np.ndarray:
    """Toward zero, at most 15. The reference adds a half first: numbers are then never below zero."""
    return np.minimum(x, np.float32(15.0)).astype(np.uint8)


def _pack(kind: str, scale: np.ndarray, q: np.ndarray, offset: np.ndarray | None, name: str) -> np.ndarray:
    out = np.empty(len(q), KINDS[kind].layout)
    out["d"] = _half(scale[:, 0], name)
    if offset is not None:
        out["m"] = _half(offset[:, 0], name)
    out["qs"] = q
    return out.view(np.uint8)


def _q8_0(x: np.ndarray, name: str) -> np.ndarray:
    """d = max |x| / 127, q = round(x / d), halves away from zero."""
    blocks = _blocks(x, name)
    size = np.abs(blocks)
    d = size.max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(d)
    size = np.abs(scaled)
    whole = np.floor(size)
    whole += np.floor(2 * (size - whole))
    return _pack("Q8_0", d, np.copysign(whole, scaled).astype(np.int8), None, name)


def _q4_0(x: np.ndarray, name: str) -> np.ndarray:
    """d = (the number of largest magnitude) / -8, q = floor(x / d + 8.5), at most 15."""
    blocks = _blocks(x, name)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    q = _trunc(blocks * _inverse(d) + np.float32(8.5))
    return _pack("Q4_0", d, q[:, :16] | q[:, 16:] << 4, None, name)


def _q4_1(x: np.ndarray, name: str) -> np.ndarray:
    """d = (max - min) / 15, m = min, q = floor((x - m) / d + 0.5)."""
    blocks = _blocks(x, name)
    low = blocks.min(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        d = (blocks.max(axis=1, keepdims=True) - low) / np.float32(15)
    if not np.isfinite(d).all():
        raise DataError(f"tensor {short(name)} spans more than half precision holds", remedy="write it as BF16 or F32")
    q = _trunc((blocks - low) * _inverse(d) + np.float32(0.5))
    return _pack("Q4_1", d, q[:, :16] | q[:, 16:] << 4, low, name)


ROUNDING: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "F32": _f32, "F16": _f16, "BF16": _bf16, "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1,
}  # fmt: skip
