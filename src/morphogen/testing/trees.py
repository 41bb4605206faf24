"""Tensors and dicts of tensors (a Record's batch) compared, cut and copied. What the checks share."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from morphogen.contracts import Batch, Given
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Tokens
from morphogen.testing.promise import must


def rows(x: Any) -> int:
    return rows(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def pick(x: Any, i: Any) -> Any:
    """Rows `i` of a tree; None stays None."""
    if isinstance(x, dict):
        return {k: pick(v, i) for k, v in x.items()}
    return None if x is None else x[i]


def cut(batch: Batch, i: Any) -> Batch:
    """Rows `i` of a batch."""
    given = None if batch.given is None else Given(pick(batch.given.x, i), pick(batch.given.known, i))
    return dataclasses.replace(
        batch, x=pick(batch.x, i), key=batch.key[i], weight=batch.weight[i], mask=pick(batch.mask, i), cond=pick(batch.cond, i), given=given
    )


def clone(x: Any) -> Any:
    """A copy that shares no memory, of trees and of dataclasses of trees."""
    if isinstance(x, dict):
        return {k: clone(v) for k, v in x.items()}
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return dataclasses.replace(x, **{f.name: clone(getattr(x, f.name)) for f in dataclasses.fields(x)})
    return x.clone() if torch.is_tensor(x) else x


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, NaN equal to NaN."""
    if isinstance(a, dict):
        return set(a) == set(b) and all(equal(a[k], b[k]) for k in a)
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if torch.is_tensor(a):
        return torch.is_tensor(b) and a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    return a is b or a == b


def close(a: Any, b: Any, why: str, tolerance: float = 2e-3) -> None:
    """Whole numbers equal, real ones within a tolerance: kernels round differently at different shapes."""
    if isinstance(a, dict):
        must(isinstance(b, dict) and set(a) == set(b), why)
        for k in a:
            close(a[k], b[k], why, tolerance)
        return
    must(torch.is_tensor(b) and a.shape == b.shape and a.dtype == b.dtype, why)
    a, b = a.detach(), b.detach()
    if a.is_floating_point():
        off = (a - b).abs()
        worst = float(off.max()) if off.numel() else 0.0
        must(bool((off - tolerance * b.abs() <= tolerance).all()), f"{why} (off by up to {worst:.3g})")
    else:
        must(torch.equal(a, b), why)


def inside(x: Any, space: Any, who: str) -> None:
    """A batch of samples lies in its Space, and is finite."""
    match space:
        case Array():
            floats = torch.is_tensor(x) and x.is_floating_point()
            must(floats and x.ndim == len(space.shape) + 1, f"{who} must be floats of the Space's rank")
            must(all(n is None or n == m for n, m in zip(space.shape, x.shape[1:])), f"{who} must have the Space's shape")
            must(torch.isfinite(x).all(), f"{who} must hold no NaN and no infinity")
        case Tokens():
            whole = torch.is_tensor(x) and x.dtype == torch.int64 and x.ndim == 2 + (space.streams > 1)
            must(whole and x.shape[1] <= space.length, f"{who} must be int64 of at most the Space's length")
            must(space.end is not None or x.shape[1] == space.length, f"{who} must have the Space's length, which has no end")
            must((x >= 0).all() and (x < space.vocab).all(), f"{who} must be tokens below the vocabulary")
            if space.slots and x.shape[1] == space.length:
                low, high = torch.tensor(space.slots).unbind(1)
                must(((x >= low) & (x < high)).all(), f"{who} must keep to the slots of the Space")
        case Record():
            must(isinstance(x, dict) and list(x) == [k for k, _ in space.fields], f"{who} must have the Space's fields in order")
            for name, field in space.fields:
                inside(x[name], field, f"{who} ('{name}')")


def all_alike(x: Any) -> bool:
    """Whether all rows are equal."""
    return all(all_alike(v) for v in x.values()) if isinstance(x, dict) else bool((x == x[:1]).all())


def filled(x: Any, value: bool) -> Any:
    """All known, or nothing."""
    return {k: filled(v, value) for k, v in x.items()} if isinstance(x, dict) else torch.full(x.shape, value, dtype=torch.bool)


def beginning(x: Tensor) -> Tensor:
    """Known: the first half of each row."""
    known = torch.zeros(x.shape, dtype=torch.bool)
    known[:, : x.shape[1] // 2] = True
    return known


def scattered(x: Any, keys: Tensor) -> Any:
    """Known: about half, anywhere; the fields of a Record as wholes."""
    if isinstance(x, dict):
        return {k: (draws.uniform(keys, k) < 0.5).view(-1, *[1] * (v.ndim - 1)).expand_as(v) for k, v in x.items()}
    return draws.uniform(keys, "known", 0, tuple(x.shape[1:])) < 0.5


def kept(out: Any, x: Any, known: Any, why: str) -> None:
    """Known values came back exactly."""
    if isinstance(out, dict):
        for k in out:
            kept(out[k], x[k], known[k], why)
        return
    must(torch.equal(out[known], x[known].to(out.dtype)), why)
