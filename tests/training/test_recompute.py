"""Activation checkpointing costs time and nothing else: the same numbers to the bit, in lanes, after a stop and with drop-out."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import CASES, NAMES, trainer, whole_state, write

from morphogen.training.recompute import blocks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write(folder)
    return folder


FAST = ("pictures-flow", "pictures-gan", "rows-masked", "lines-autoregressive")  # every net
TRIED = [pytest.param(case, marks=() if name in FAST else pytest.mark.slow, id=name) for case, name in zip(CASES, NAMES, strict=True)]


@pytest.mark.parametrize("case", TRIED)
def test_losses_and_weights_are_equal_to_the_bit(data: Path, tmp_path: Path, case: tuple[str, str]) -> None:
    """Two steps, in two lanes, with drop-out; then a stop, and two more."""
    made: dict[bool, tuple[list[Any], dict[str, torch.Tensor]]] = {}
    for again in (False, True):
        run = trainer(data, case, dropout=0.2, lanes=2, steps=4, activation_checkpointing=again)
        assert blocks(run.family) and all(("forward" in vars(block)) == again for m in run.lanes.modules for block in blocks(m))
        logs = [run.step(), run.step()]
        if again:
            run.save(tmp_path)
            run = trainer(data, case, dropout=0.2, lanes=2, steps=4, activation_checkpointing=True)
            assert run.load(tmp_path) == []
        logs += [run.step(), run.step()]
        made[again] = logs, whole_state(run)
    assert made[False][0] == made[True][0]
    for name, value in made[False][1].items():
        assert torch.equal(value, made[True][1][name]), name


def test_a_run_goes_on_with_or_without_it(data: Path, tmp_path: Path) -> None:
    """It is no part of a run's state: a checkpoint of one goes on as the other."""
    case = CASES[0]
    whole = trainer(data, case, steps=4)
    for _ in range(4):
        whole.step()
    first, second = trainer(data, case, steps=4, activation_checkpointing=True), trainer(data, case, steps=4)
    first.step()
    first.save(tmp_path)
    assert second.load(tmp_path) == []
    for _ in range(3):
        second.step()
    expected, got = whole_state(whole), whole_state(second)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
