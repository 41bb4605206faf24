"""Samples on the host: compared, and held against their Space. What the checks of codecs share."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from morphogen.contracts import Given
from morphogen.spaces import Array, Record, Space, Tokens
from morphogen.testing.promise import must


def plain(value: Any) -> Any:
    """Something equal for equal raw items, arrays included."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # whose repr would leave out the middle of arrays
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return repr(value)


def same(a: Any, b: Any, why: str, tolerance: float = 1e-4) -> None:
    """Samples are equal, real numbers within a tolerance."""
    if isinstance(a, dict):
        must(isinstance(b, dict) and set(a) == set(b), why)
        for k in a:
            same(a[k], b[k], why, tolerance)
        return
    must(np.shape(a) == np.shape(b), why)
    real = np.asarray(a).dtype.kind == "f"
    must(np.allclose(a, b, rtol=tolerance, atol=tolerance / 10) if real else np.array_equal(a, b), why)


def check_sample(x: Any, space: Space) -> None:
    """A sample has the dtype, shape and range its Space says."""
    match space:
        case Array():
            must(x.dtype == np.float32, "Array samples are float32")
            fits = len(x.shape) == len(space.shape) and all(b is None or a == b for a, b in zip(x.shape, space.shape))
            must(fits, f"Array samples have the Space's shape: {x.shape} is not {space.shape}")
            must(np.isfinite(x).all(), "Array samples are finite")
        case Tokens():
            must(x.dtype == np.int64, "Tokens samples are int64")
            must(x.ndim == 1 + (space.streams > 1), "Tokens samples have one axis, two where there are streams")
            must(len(x) <= space.length and (space.end is not None or len(x) == space.length), "Tokens keep their length")
            must(((x >= 0) & (x < space.vocab)).all(), "Tokens are below vocab")
            if space.slots:
                low, high = np.array(space.slots).T[:, : len(x)]
                must((x.T.clip(low, high - 1) == x.T).all(), "Tokens keep to the slots of the Space")
            over = np.maximum.accumulate(x == space.end)
            must((x[over] == space.end).all(), "nothing but padding follows the end of Tokens")
        case Record():
            must(list(x) == [k for k, _ in space.fields], "a Record has its fields in order")
            for name, field in space.fields:
                check_sample(x[name], field)


def check_given(given: Given, x: Any, space: Space, who: str) -> None:
    """Known values, and which they are, lie as the sample x does; open ends may be longer."""
    match space:
        case Record():
            names = {k for k, _ in space.fields}
            must(set(given.known) == names and set(given.x) == names, f"{who}: known has every field")
            for name, field in space.fields:
                check_given(Given(given.x[name], given.known[name]), x[name], field, who)
            return
        case Tokens():
            must(len(given.x) == len(given.known) <= space.length, f"{who}: x and known in the layout of a sample")
        case Array():
            shapes = np.shape(given.known), np.shape(given.x)
            must(shapes[1] == np.shape(x), f"{who}: x in the layout of a sample")
            fits = len(shapes[0]) == len(shapes[1]) and all(k in (1, n) for k, n in zip(*shapes))
            must(fits, f"{who}: known in the layout of a sample, an axis of 1 for all along it")
    known, told = np.asarray(given.known), np.asarray(given.x)
    must(known.dtype == bool, f"{who}: known is bool")
    if isinstance(space, Tokens):
        must(((told[known] >= 0) & (told[known] < space.vocab)).all(), f"{who}: known tokens are below vocab")
    else:
        must(np.isfinite(told).all(), f"{who}: x holds no NaN, where nothing is known neither")
