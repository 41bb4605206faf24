"""Every family that has steps: stopped and gone on with, split into windows, or with drop-out, it is the same run."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import CASES, NAMES, trainer, whole_state, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write(folder)
    return folder


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_stopped_anywhere_it_ends_the_same(data: Path, tmp_path: Path, case: tuple[str, str], lanes: int) -> None:
    whole = trainer(data, case, lanes=lanes, dropout=0.2)
    whole.run()
    done = 0
    for stop in (3, 4, 7):  # two checkpoints, the second one step after the first
        part = trainer(data, case, lanes=lanes, dropout=0.2)
        torch.manual_seed(stop)  # nothing hangs on the state of torch's own generator
        if done:
            assert part.load(tmp_path) == [] and part.steps == done
        part.run(lambda t, log, stop=stop: t.save(tmp_path) if log["step"] == stop < 7 else None)
        done = stop
        if stop < 7:
            continue
        expected, got = whole_state(whole), whole_state(part)
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert torch.equal(value, got[name]), name
        assert part.guard.facts() == whole.guard.facts() and part.best_loss == whole.best_loss


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_windows_give_the_gradient_of_the_whole_batch(data: Path, case: tuple[str, str]) -> None:
    """Also in the last batch of an epoch, which is not full."""
    one, many = (trainer(data, case, windows=windows, batch=7) for windows in (1, 3))
    assert one.data.n % 7
    for step in range(-(-one.data.n // 7)):
        grads = []
        for made in (one, many):
            made.steps, stats = step, {}
            made.lanes.train()
            for phase in made.family.phases:
                _, weight, _ = made._backward(made.windows(), phase.name, stats)
            grads.append({k: p.grad / weight for k, p in made.family.named_parameters() if p.grad is not None})
            for p in made.family.parameters():
                p.grad = None
        assert grads[0].keys() == grads[1].keys()
        size = max(float(g.abs().max()) for g in grads[0].values())
        for name, grad in grads[0].items():
            torch.testing.assert_close(grad, grads[1][name], rtol=1e-3, atol=1e-5 * size, msg=lambda m, n=name, s=step: f"{n} at {s}: {m}")
