"""A network's next-token weights as whole numbers: the same step for encoder and decoder, with the same shapes and one thread."""
from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from morphogen.contracts import Request
from morphogen.spaces import Tokens

SCALE = 1 << 36
WINDOW = 192  # tokens of a running text a network looks back on at most: attention to more costs more than it saves


class Steps(Protocol):
    """Rows in lock step: `begin`, then `weights` (R, V) and `push` (R,) in turn."""

    def begin(self, rows: int, middle: bool) -> None: ...
    def weights(self) -> np.ndarray: ...
    def push(self, ids: np.ndarray) -> None: ...


class NetSteps:
    """Any family with `start` and `step`. A running text outlives the longest item: then the last half is read again in one go."""

    def __init__(self, family: Any, space: Tokens) -> None:
        self.family, self.space, self.window = family, space, space.length
        self.state: Any = None
        self.rows = self.read = 0
        self.past: list[np.ndarray] = []

    def begin(self, rows: int, middle: bool) -> None:
        """Nothing read yet; `middle`: the rows of a running text, which is read through a window."""
        self.rows, self.past, self.window = rows, [], min(self.space.length, WINDOW) if middle else self.space.length
        self._start()

    def _start(self) -> None:
        import torch

        self.state, self.read = self.family.start(Request(torch.zeros(self.rows, dtype=torch.int64))), 0

    def push(self, ids: np.ndarray) -> None:
        """(R,) the tokens that came."""
        self.past.append(ids)

    def weights(self) -> np.ndarray:
        """(R, V) int64, positive for tokens that may stand here, sum below 2^37."""
        import torch

        news = torch.from_numpy(self._feed())  # may begin a new state
        with torch.inference_mode():
            logits = self.family.step(self.state, news).double().numpy()
        position = len(self.past)
        legal = np.isfinite(logits)
        if self.space.slots:
            low, high = self.space.slots[position]
            legal &= (np.arange(logits.shape[1]) >= low) & (np.arange(logits.shape[1]) < high)
        logits = np.where(legal, logits, -np.inf)
        p = np.exp(logits - logits.max(1, keepdims=True))
        return np.where(legal, (p / p.sum(1, keepdims=True) * SCALE).astype(np.int64) + 1, 0)

    def _feed(self) -> np.ndarray:
        """(R, n) what has not been read: the last token, or at a window's beginning its past."""
        if self.read and len(self.past) and self.read < self.window:
            self.read += 1
            return self.past[-1][:, None]
        if self.read:
            self._start()
        kept = self.past[-(self.window // 2) :] if self.past else []
        self.read = len(kept) + 1
        return np.stack(kept, 1) if kept else np.zeros((self.rows, 0), np.int64)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One thread of torch's, since sums are grouped by threads and rounding follows the groups."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build(steps: NetSteps, rows: int) -> dict[str, Any]:
    """What a network's rounding depends on, and a probe of it: a hash of the weights after a few tokens."""
    import torch

    digest = hashlib.sha256()
    steps.begin(rows, False)
    for i in range(min(4, steps.space.length)):
        weights = steps.weights()
        digest.update(weights.astype("<i8").tobytes())
        steps.push(weights.argmax(1) if i % 2 == 0 else (np.arange(rows) % np.maximum(1, (weights > 0).sum(1))) + (weights > 0).argmax(1))
    return {
        "torch": str(torch.__version__), "machine": platform.machine(), "isa": torch.backends.cpu.get_cpu_capability(), "threads": 1,
        "rows": rows, "probe": digest.hexdigest()[:16],
    }
