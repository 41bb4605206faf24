"""Fifty ways to lead a run astray: it recovers or stops with one line, and nothing that is no number is ever kept."""
from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import trainer, write

from morphogen.training import checkpoint
from morphogen.training.guard import FEWEST, HIGH, IN_A_ROW, MOST_SKIPPED, Diverged, Guard, finite
from morphogen.training.trainer import Trainer

STEPS = 60


def bad_batches(made: Trainer, steps: set[int], value: float) -> None:
    windows = made.windows

    def worse() -> Any:
        batches = windows()
        if made.steps in steps:
            for batch in (b for lane in batches for b in lane):
                batch.x[0] = value
        return batches

    made.windows = worse  # type: ignore[method-assign]


def fast(made: Trainer, steps: set[int], times: float) -> None:
    step, lr = made.step, made.config.lr

    def faster() -> Any:
        made.config = dataclasses.replace(made.config, lr=lr * (times if made.steps in steps else 1))
        return step()

    made.step = faster  # type: ignore[method-assign]


def bad_gradient(made: Trainer, steps: set[int], value: float) -> None:
    """The loss is a number, its slope is not."""
    first = next(p for p in made.params[made.family.phases[0].name].values() if p.ndim > 1)
    first.register_hook(lambda g: g * value if made.steps in steps else g)


def bad_row(made: Trainer, rows: set[int], value: float) -> None:
    batch = made.data.batch

    def worse(ids: torch.Tensor, *args: Any, plain: bool = False) -> Any:
        out = batch(ids, *args, plain=plain)
        if not plain:
            out.x[torch.isin(ids, torch.tensor(sorted(rows)))] = value
        return out

    made.data.batch = worse  # type: ignore[method-assign]


NAN, INF = math.nan, math.inf
CASES = [
    *((f, bad_batches, steps, value) for f in ("gan", "vae", "vector") for value in (INF, NAN)
      for steps in ({0}, {17}, {59}, {17, 18, 19}, set(range(30, 60)))),
    *(("vector", fast, steps, times) for times in (1e3, 1e30)
      for steps in (set(range(60)), {20}, set(range(20, 24)), set(range(20, 60)), {59})),
    *(("vector", bad_gradient, steps, value) for value in (INF, NAN) for steps in ({3}, {8, 9, 10}, set(range(9, 60)))),
    *(("vae", bad_row, rows, value) for value in (INF, NAN) for rows in ({3}, set(range(9)))),
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write(folder)
    return folder


def make(data: Path, kind: str) -> Trainer:
    case = ("rows", "diffusion") if kind == "vector" else ("pictures", kind)
    return trainer(data, case, steps=STEPS, checks=4, batch=4, warmup=0.01)


def run(made: Trainer, folder: Path) -> list[str]:
    """What it went back for, or why it stopped; every checkpoint on the way is looked at."""
    said = []

    def hook(made: Trainer, log: dict[str, Any]) -> None:
        if "back" in log:
            said.append(log["back"])
        if log["step"] % 6 == 0:
            made.save(folder)

    try:
        made.run(hook)
    except Diverged as error:
        assert "\n" not in str(error) and error.exit_code == 5 and "--set training.lr" in str(error)
        said.append(str(error))
    found = checkpoint.newest(folder)
    assert found is None or finite(found[0])
    assert finite(made.state()) and finite(made.final()) and finite(made.best)
    return said


def _marked(case: tuple[str, Any, set[int], float]) -> Any:
    name = f"{case[0]}-{case[1].__name__}-{min(case[2])}-{len(case[2])}-{case[3]:g}"
    return pytest.param(case, id=name, marks=() if case[0] == "vector" and case[3] != NAN else pytest.mark.slow)


@pytest.mark.parametrize("case", map(_marked, CASES))
def test_led_astray_it_recovers_or_stops(data: Path, tmp_path: Path, case: tuple[str, Any, set[int], float]) -> None:
    kind, wrong, when, value = case
    made = make(data, kind)
    wrong(made, when, value)
    said = run(made, tmp_path)
    assert len(said) == made.guard.roll_backs + (made.steps < STEPS)
    if wrong in (bad_batches, bad_gradient):
        lone = len(when) < IN_A_ROW
        assert bool(said) != lone and (made.guard.skipped == len(when) if lone else made.guard.skipped >= IN_A_ROW)
        assert (made.steps == STEPS) == (len(when) <= IN_A_ROW), "one streak is survived, an endless one is not"


def test_there_are_fifty() -> None:
    assert len(CASES) == 50


def test_going_back_is_part_of_the_state(data: Path, tmp_path: Path) -> None:
    """Stopped before, between and after what leads it astray, a run goes back to the same place."""
    def astray() -> Trainer:
        made = make(data, "vector")
        bad_batches(made, {17, 20, 21, 22, 40, 41}, NAN)
        return made

    whole = astray()
    whole.run()
    assert whole.guard.roll_backs == 1 and whole.guard.skipped == 6
    for stop in (19, 22, 41):
        astray_once = astray()
        astray_once.run(lambda t, log, stop=stop: t.save(tmp_path / str(stop)) if log["step"] == stop else None)
        again = astray()
        assert again.load(tmp_path / str(stop)) == [] and again.steps == stop
        again.run()
        assert again.guard.facts() == whole.guard.facts()
        for name, value in whole.state().items():
            assert torch.equal(value, again.state()[name]), (stop, name)


def test_a_guard_hears_leaps_and_not_noise() -> None:
    torch.manual_seed(0)
    for scale, shift in ((1.0, 3.0), (100.0, -2000.0), (0.01, 0.0)):  # log-likelihoods are negative, and near 0 is a loss too
        guard = Guard()
        for i, value in enumerate((shift + scale * torch.randn(2000).exp()).tolist()):
            assert guard.note(i + 1, {"main": value - 0.001 * scale * i}, True) == ""
        high = shift + abs(shift) * 3 + 1000 * scale
        said = [guard.note(2001 + i, {"main": high}, True) for i in range(HIGH)]
        assert said[:-1] == [""] * (HIGH - 1) and "above its median" in said[-1]
    guard = Guard()
    assert [guard.note(i + 1, {"main": 1e9 if i >= FEWEST - 1 else 1.0}, True) for i in range(FEWEST)][-1] == ""


def test_many_skipped_steps_count_though_none_follow_each_other() -> None:
    guard = Guard()
    said = [guard.note(i + 1, {"main": 1.0}, i % 7 != 0) for i in range(60)]
    assert [i for i, line in enumerate(said) if line] and said[: 7 * MOST_SKIPPED] == [""] * 7 * MOST_SKIPPED
    guard = Guard()
    assert not any(guard.note(i + 1, {"main": 1.0}, i % 25 != 0) for i in range(500))
