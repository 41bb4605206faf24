"""What is done about losses that are no numbers or leap: skip the step, go back to a good state, in the end stop and say so."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from morphogen.errors import MorphogenError

IN_A_ROW = 3  # skipped steps in a row that send a run back
WINDOW, MOST_SKIPPED = 100, 5  # as do more skipped steps than this among the last WINDOW
HIGH, FEWEST = 5, 10  # steps in a row with a loss far above its median; losses before there is a median to speak of
KEEP_EVERY = 50  # steps between the states that are gone back to
COLLAPSED, HEALTHY = 0.1, 0.5  # `Health.share` below which a run goes back, and above which a state is one to go back to
ROLL_BACKS = 2  # the next time a run is stopped


class Diverged(MorphogenError):
    """The loss stopped being a number, or leapt, and did so again after going back."""

    code, exit_code = "diverged", 5


@dataclasses.dataclass
class Guard:
    """Watches the steps of one run; all it knows is part of the run's state, so a resumed run decides the same.

    A loss is far above its running median m over the last 100 steps when it exceeds m + 20 MAD + |m|: a leap, not a bad batch.
    Steps never go back, only what was learned does: the batches that led astray are passed over, and the schedule stands.
    """

    skipped: int = 0
    "Steps that changed nothing, of the whole run."
    row: int = 0
    "Skipped steps in a row until now."
    late: list[int] = dataclasses.field(default_factory=list)
    "Which of the last steps were skipped, since the last roll-back."
    high: int = 0
    "Steps in a row with a loss that is far too high."
    losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    "The last losses of each phase."
    roll_backs: int = 0
    good: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    "The state that is gone back to, on the host."
    good_at: int = -1
    "The step it is from."

    @property
    def scale(self) -> float:
        """What the learning rate is multiplied by: it halves at each roll-back."""
        return 0.5**self.roll_backs

    def facts(self) -> dict[str, Any]:
        """Everything but tensors, as JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "good"}

    def note(self, step: int, losses: dict[str, float], finite: bool) -> str:
        """Hear of a step (counted from 1); returns why the run must go back, or nothing."""
        self.late = [s for s in self.late if s > step - WINDOW]
        if not finite:
            self.skipped, self.row, self.late = self.skipped + 1, self.row + 1, [*self.late, step]
        else:
            self.row = 0
            far = [self._far(self.losses.setdefault(name, []), value) for name, value in losses.items() if math.isfinite(value)]
            self.high = self.high + 1 if any(far) else 0
        if self.row >= IN_A_ROW:
            return f"the loss is not a number for {self.row} steps in a row"
        if len(self.late) > MOST_SKIPPED:
            return f"the loss was not a number in {len(self.late)} of the last {WINDOW} steps"
        if self.high >= HIGH:
            return f"the loss is far above its median for {self.high} steps"
        return ""

    def _far(self, past: list[float], value: float) -> bool:
        if len(past) >= FEWEST:
            middle = median(past)
            if value > middle + 20 * median(abs(v - middle) for v in past) + abs(middle):
                return True
        past.append(value)
        del past[:-WINDOW]
        return False

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be kept: now and then, and only while nothing looks wrong."""
        return not self.good or (step % KEEP_EVERY == 0 and not self.row and not self.high)

    def keep(self, step: int, state: dict[str, Tensor]) -> None:
        """Copy a good state to the host."""
        self.good_at = step
        if self.good.keys() == state.keys():
            for name, value in state.items():
                self.good[name].copy_(value)
        else:
            self.good = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def go_back(self, step: int, why: str, remedy: str = "") -> None:
        """Count a roll-back. Raises Diverged when there were enough."""
        if self.roll_backs >= ROLL_BACKS:
            where = f"step {step}, after {ROLL_BACKS} returns to a good state at half the rate"
            usual = "train again with a lower rate, as --set training.lr=1e-4, or look for wrong items"
            raise Diverged(why, where=where, remedy=remedy or usual)
        self.roll_backs, self.row, self.high, self.late = self.roll_backs + 1, 0, 0, []


def finite(state: Mapping[str, Tensor]) -> bool:
    """Whether every number of a state is one."""
    return all(bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point())


def recalled(facts: dict[str, Any], good: dict[str, Tensor]) -> Guard:
    """A guard as `facts` and its tensors tell."""
    known = {f.name for f in dataclasses.fields(Guard)}
    return Guard(**{k: v for k, v in facts.items() if k in known}, good=good)

