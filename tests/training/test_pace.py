"""The promised time, on a clock that is told how long a step takes; and a schedule that its config alone describes."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.training.optim import TrainConfig, aimed, ema_decay, rate, retargeted
from morphogen.training.pace import Pace


def drive(
    config: TrainConfig, minutes: float, length: Callable[[float], float], check: float = 0.0
) -> tuple[TrainConfig, float, list[float]]:
    """(config, seconds, factors of the rate) of a run whose step at time t takes length(t)."""
    now, done, factors = 0.0, 0, []
    pace = Pace(60 * minutes, clock=lambda: now)
    while done < config.steps:
        factors.append(rate(config, done))
        now += length(now)
        done += 1
        checked = done * config.checks // config.steps != (done - 1) * config.checks // config.steps
        now += check * checked
        pace.stepped("check" if checked else "")
        left = config.checks - done * config.checks // config.steps
        steps = pace.steps_in_all(done, config.steps, {"check": left})
        if steps != config.steps and done < config.steps:
            config = retargeted(config, done, max(done + 1, steps))
    return config, now, factors


@pytest.mark.parametrize("first", [3, 60, 600, 6000, 200_000])
@pytest.mark.parametrize("when", [0.05, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("times", [1 / 3, 1.0, 3.0])
def test_the_time_is_kept_when_the_machine_changes(first: int, when: float, times: float) -> None:
    """The first guess is wrong by up to a hundred times, and a step takes three times as long, or a third, from some moment on."""
    config, took, factors = drive(TrainConfig(steps=first), 1.0, lambda t: 0.1 * (times if t > 60 * when else 1), check=0.2)
    assert took == pytest.approx(60, rel=0.06)
    assert len(config.aims) < 80 and factors[-1] < 0.2, "the rate has fallen when the time is up"


@pytest.mark.parametrize("period", [2.0, 10.0, 30.0])
def test_the_time_is_kept_on_a_machine_that_is_busy_now_and_then(period: float) -> None:
    _, took, _ = drive(TrainConfig(steps=600), 1.0, lambda t: 0.1 * (3 if t % period > period / 2 else 1))
    assert took == pytest.approx(60, rel=0.06)


def test_long_steps_and_long_checks() -> None:
    _, took, _ = drive(TrainConfig(steps=20, checks=4), 1.0, lambda t: 4.0, check=3.0)
    assert took == pytest.approx(60, abs=4.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 500)), max_size=8), st.integers(1, 500))
def test_a_config_says_what_was_done(mends: list[tuple[int, int]], first: int) -> None:
    """The schedule that was followed step by step, mended on the way, is what the last config alone gives."""
    config, done, followed = TrainConfig(steps=first), 0, []
    waiting = dict(mends)
    while done < config.steps:
        followed.append((rate(config, done), ema_decay(config, done), aimed(config, done)))
        done += 1
        if done in waiting and done < config.steps:
            config = retargeted(config, done, max(done + 1, waiting[done]))
    again = [(rate(config, i), ema_decay(config, i), aimed(config, i)) for i in range(config.steps)]
    assert again == followed
    assert all(0 < factor <= 1 for factor, _, _ in followed)


def test_without_a_change_of_mind_the_schedule_is_the_plain_one() -> None:
    config = TrainConfig(steps=200)
    for step in range(200):
        assert rate(config, step) == pytest.approx(min(1.0, (step + 1) / 10, (200 - step) / 80), abs=1e-12)
    assert retargeted(config, 50, 200) is config
    assert dataclasses.replace(config, aims=((0, 200),)) != config and retargeted(config, 0, 300).aims == ()
