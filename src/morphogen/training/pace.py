"""Keeping a promised time: how many steps there will be, from how long they take now. Decides numbers of steps and nothing else."""
from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from morphogen.training.data import FINISHING

if TYPE_CHECKING:
    from morphogen.training.trainer import Trainer

MEMORY = 0.05  # share of the whole time over which the length of a step is remembered: a machine's speed changes
MISS = 0.015  # a miss of this share of the whole time is worth a new number of steps
REST = 1 / 60  # the least share of the time between two new numbers, unless the miss is large: each is written to a file
LARGE = 0.08


class Pace:
    """Told of every step, it says when the run needs another number of steps to end at `deadline` (seconds of `clock`).

    The time a step takes is a mean over the last moments, weighted by time: seconds / steps of a window that fades
    exponentially. What is done beside steps (checks of the held-out loss, previews) is measured on its own.
    """

    def __init__(self, deadline: float, *, most: int = 10**9, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline, self.most, self.clock = deadline, most, clock
        self.begun = self.left = self.mended = clock()
        self.seconds = self.steps = 0.0
        self.beside: dict[str, tuple[float, int]] = {}

    def start(self, beside: dict[str, float]) -> None:
        """The first step begins now. `beside`: what is known of the seconds that things beside steps take."""
        self.left = self.mended = self.clock()
        for what, took in beside.items():
            self.add(what, took)

    @property
    def whole(self) -> float:
        return max(1e-9, self.deadline - self.begun)

    def stepped(self, also: str = "") -> None:
        """A step has ended, and with it what is called `also`, if anything."""
        now = self.clock()
        took, self.left = now - self.left, now
        if also and self.steps:
            usual = self.seconds / self.steps
            self.add(also, max(0.0, took - usual))
            took = min(took, usual)
        fade = math.exp(-took / (MEMORY * self.whole))
        self.seconds, self.steps = self.seconds * fade + took, self.steps * fade + 1

    def did(self, what: str) -> None:
        """What was done since the step ended is over."""
        now = self.clock()
        self.add(what, now - self.left)
        self.left = now

    def add(self, what: str, seconds: float) -> None:
        total, times = self.beside.get(what, (0.0, 0))
        self.beside[what] = (total + seconds, times + 1)

    def steps_in_all(self, done: int, planned: int, waiting: dict[str, int]) -> int:
        """The number of steps to aim at: `planned`, or another one when that would miss the deadline.

        `waiting`: how often things beside are still to be done.
        """
        now, usual = self.clock(), self.seconds / max(self.steps, 1e-9)
        rest = sum(total / times * waiting.get(what, 0) for what, (total, times) in self.beside.items())
        fits = max(1, round((self.deadline - now - rest) / max(usual, 1e-9)))
        steps = min(done + fits, max(self.most, done + 1))
        miss = abs(steps - planned) * usual / self.whole
        if miss < MISS or (miss < LARGE and now - self.mended < REST * self.whole):
            return planned
        self.mended = now
        return steps


def closing(trainer: Trainer) -> float:
    """Seconds from the last step to the saved model: what a family does at the end is tried on a part of the data, and forgotten."""
    took = 0.0
    with trainer.drawn() as family:  # whole, also where the one that is trained is in parts
        if hasattr(family, "finish"):
            kept = {k: v.clone() for k, v in family.state_dict().items()}
            begun = time.monotonic()
            some = min(trainer.data.n, 2048)
            with torch.no_grad():
                family.eval().finish(itertools.islice(trainer.data.batches(512), -(-some // 512)))
            took = (time.monotonic() - begun) * min(trainer.data.n, FINISHING) / some
            family.load_state_dict(kept)
        size = sum(t.numel() * t.element_size() for t in family.state_dict().values())
    return 0.3 + took + size / 1e8
