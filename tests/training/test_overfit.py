"""A run that learns its items by heart is told so and ended; one that collapses goes back, and in the end says what would help."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small import whole_state
from tests.training.test_parallel import Plain
from tests.training.test_trainer import make as small
from tests.training.test_trainer import weights

from morphogen.config import make
from morphogen.contracts import Health, Item
from morphogen.model import Model
from morphogen.registry import resolve
from morphogen.spaces import Array, Space, Tokens
from morphogen.training.data import Dataset
from morphogen.training.guard import Diverged
from morphogen.training.optim import TrainConfig
from morphogen.training.overfit import Check, by_heart, words
from morphogen.training.trainer import Trainer


def checks(held: list[float], training: list[float] | None = None) -> list[Check]:
    return [Check(10 * i, h, t, 0.5) for i, (h, t) in enumerate(zip(held, training or [-i for i in range(len(held))], strict=True))]


@pytest.mark.parametrize(("held", "training", "best"), [
    ([5, 3, 2, 1], None, None),  # all is well
    ([5, 3, 1, 1.3, 1.4, 1.5], None, 2),
    ([5, 3, 1, 1.3, 1.4], None, None),  # not for long enough
    ([5, 3, 1, 1.1, 1.15, 1.19], None, None),  # by less than a twentieth of the gain
    ([5, 3, 1, 1.3, 1.1, 1.5], None, None),  # it came back in between
    ([5, 3, 1, 1.3, 1.4, 1.5], [5, 3, 1, 2, 2, 2], None),  # both losses rise: the rate is too high, not the items too few
    ([5, 3, 1, 1.3, 1.4, 1.5], [5, 3, 2, 1.9, 1.8, 1.7], None),  # no more than the losses of batches differ
    ([-1, -3, -4, -2, -2, -1], None, 2),  # densities have losses below 0
    ([1, 2, 3, 4], None, 0),  # from the first check on
    ([], None, None),
])  # fmt: skip
def test_what_counts(held: list[float], training: list[float] | None, best: int | None) -> None:
    found = by_heart(checks(held, training))
    assert (found.step if found else None) == (None if best is None else 10 * best)


def trainer(space: Space, family: str, rows: Any, held: Any, options: dict[str, Any], **training: Any) -> Trainer:
    torch.manual_seed(0)
    kind = resolve("family", family)
    model = Model(Plain(space), kind(space, {}, make(kind.Config, {"net": {"size": "tiny", "width": 32, "depth": 1}, **options})))
    train, other = (Dataset(model, [Item(row) for row in part]) if part is not None else None for part in (rows, held))
    assert train is not None
    made = Trainer(model, train, TrainConfig(**{"batch": 16, "lanes": 1, **training}), seed=0, held_out=other)
    made.calibrate()
    return made


def learner(n: int, keep: str = "best", steps: int = 240) -> Trainer:
    """A net that reads strings of eight random letters: there is nothing to learn but the strings themselves."""
    letters = np.random.default_rng(0).integers(0, 8, (n + 32, 8))
    return trainer(Tokens(8, 8), "autoregressive", letters[32:], letters[:32], {}, steps=steps, keep=keep, lr=5e-3, checks=20, ema=0.02)


def test_a_run_that_learns_by_heart_is_told_and_ended(tmp_path: Path) -> None:
    run, lines = learner(16), []
    run.run(lambda t, log: t.save(tmp_path) if log["step"] == 36 else None, warn=lines.append)
    assert 36 < run.steps < 240 and len(lines) == 1
    assert "learns its 16 items by heart" in lines[0] and "training ends here" in lines[0] and "\n" not in lines[0]
    best = by_heart(run.checks)
    assert best is not None and best.held_out == run.best_loss < run.checks[-1].held_out
    again = learner(16)
    assert again.load(tmp_path) == [] and again.checks == run.checks[: len(again.checks)]
    again.run()
    assert again.steps == run.steps, "where it ends is a function of the run, not of when it was stopped"
    expected, got = whole_state(run), whole_state(again)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())


def test_the_last_weights_are_kept_where_that_was_asked_for() -> None:
    run, lines = learner(16, keep="last", steps=120), []
    run.run(warn=lines.append)
    assert run.steps == 120 and len(lines) == 1 and "--set training.keep=best" in lines[0]


def test_a_run_with_enough_items_is_left_alone() -> None:
    run, lines = learner(2000, steps=60), []
    run.run(warn=lines.append)
    assert run.steps == 60 and not lines and not words(run.checks, 2000, "best")


# ---------------------------------------------------------------- collapse
def game(**training: Any) -> Trainer:
    rows = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    return trainer(Array((2,)), "gan", rows, None, {}, **{"steps": 2000, "lr": 2e-2, "warmup": 0.0, **training})


def test_a_gan_knows_how_well_it_is() -> None:
    gan = game().family
    for spread, share, what in ((0.05, 0.05, "nearly all alike"), (20.0, 0.05, "far from all real ones"), (1.0, 1.0, "")):
        gan.spread.fill_(spread)
        found = gan.health()
        assert found.share == pytest.approx(share) and what in found.words and "family.gamma=8" in found.remedy


@pytest.mark.slow
def test_a_game_without_a_critic_goes_astray_and_says_so() -> None:
    """The critic does not learn: all samples run to where it happens to look. Twice the run goes back, then it ends in one line."""
    run = game(lanes=1)
    for p in run.family.critic.parameters():
        p.register_hook(torch.zeros_like)
    told: list[str] = []
    with pytest.raises(Diverged, match=r"the generated samples are .*: their spread is .*--set family.gamma=8") as caught:
        run.run(lambda t, log: told.append(log["back"]) if "back" in log else None)
    assert len(told) == 2 and all("spread is" in line for line in told) and "\n" not in str(caught.value)


def test_a_run_goes_back_to_a_state_that_was_well() -> None:
    """Ill from step 120 to the way back: not the state at step 100, which was ailing already, but the one at 50 is taken up."""
    run = small(steps=160, lanes=1)
    share = {100: 0.3, 120: 0.05}
    run.family.health = lambda: Health(share.get(run.steps, 1.0), "all samples are alike", "steady it")
    kept: dict[int, torch.Tensor] = {}
    lines: list[tuple[int, str]] = []

    def hook(t: Trainer, log: dict[str, Any]) -> None:
        kept[t.steps] = weights(t)
        if "back" in log:
            lines.append((t.steps, log["back"]))
            share.clear()

    run.run(hook)
    assert lines == [(120, "all samples are alike")] and run.steps == 160
    assert torch.equal(kept[120], kept[50]) and run.guard.scale == 0.5 and not torch.equal(kept[100], kept[50])
