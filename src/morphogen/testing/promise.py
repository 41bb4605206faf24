"""How a broken promise is reported: one sentence that names it, whatever was raised on the way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class BrokenPromise(AssertionError):
    """One sentence: which promise is broken, and how it showed."""


def must(holds: Any, promise: str) -> None:
    """Raise BrokenPromise unless it holds."""
    if not holds:
        raise BrokenPromise(promise)


@contextmanager
def promised(promise: str) -> Iterator[None]:
    """Whatever is raised in the block breaks this promise; what was named more exactly inside keeps its name."""
    try:
        yield
    except BrokenPromise:
        raise
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BrokenPromise(f"{promise} ({detail})") from error


@contextmanager
def untouched(who: str) -> Iterator[None]:
    """The caller's grad mode, default dtype and random states (torch, numpy, Python) are the same after the block."""
    import torch

    grad, dtype, torch_state, numpy_state, python_state = (
        torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state(), np.random.get_state(), random.getstate(),
    )
    yield
    must(torch.is_grad_enabled() == grad, f"{who} must leave the caller's grad mode alone")
    must(torch.get_default_dtype() == dtype, f"{who} must leave the default dtype alone")
    must(torch.equal(torch.get_rng_state(), torch_state), f"{who} must leave torch's global random state alone: draw by keys")
    same = all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state))  # also the normal that is kept for later
    must(same, f"{who} must leave numpy's global random state alone")
    must(random.getstate() == python_state, f"{who} must leave Python's global random state alone")
