"""The loop itself, on a family small enough to reason about."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from morphogen.contracts import Batch, Item, Loss, Partial, Phase, Request
from morphogen.errors import FormatError
from morphogen.model import Model
from morphogen.sampling import draws
from morphogen.spaces import Array
from morphogen.training import checkpoint
from morphogen.training.data import Dataset, order
from morphogen.training.guard import Diverged
from morphogen.training.lanes import Lanes
from morphogen.training.optim import TrainConfig, rate
from morphogen.training.split import split
from morphogen.training.trainer import Trainer


class Vectors:
    """A codec of plain vectors."""

    space = Array((3,))

    def encode(self, raw: Any) -> np.ndarray:
        return np.asarray(raw, np.float32)

    def decode(self, x: np.ndarray) -> np.ndarray:
        return x


@dataclasses.dataclass(frozen=True)
class Nothing:
    given: bool = False


class Regress(nn.Module):
    """Predicts noise-perturbed rows from noise: draws matter, so keys matter."""

    infill, phases = "none", (Phase(),)

    def __init__(self, bad_at: int | None = None) -> None:
        super().__init__()
        self.config, self.space = Nothing(), Array((3,))
        self.net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))
        self.calls, self.bad_at = 0, bad_at

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        self.calls += 1
        noise = draws.normal(batch.key, "noise", 0, (3,))
        rows = (self.net(noise) - batch.x - 0.1 * noise).square().sum(1)
        if self.bad_at is not None and self.calls >= self.bad_at:
            rows = rows * float("nan")
        return Loss((rows * batch.weight).sum(), batch.weight.sum())

    def stream(self, request: Request) -> Iterator[Partial]:
        yield Partial(draws.normal(request.key, "x", 0, (3,)))


def make(n: int = 37, bad_at: int | None = None, **config: Any) -> Trainer:
    torch.manual_seed(0)
    model = Model(Vectors(), Regress(bad_at))
    items = [Item(row) for row in np.random.default_rng(0).normal(size=(n, 3))]
    data = Dataset(model, items)
    return Trainer(model, data, TrainConfig(**{"steps": 40, "batch": 8, **config}), seed=3, held_out=data)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.family.parameters()])


@pytest.mark.parametrize("windows", [2, 4])
def test_windows_equal_one_batch(windows: int) -> None:
    one, many = make(), make(windows=windows)
    for _ in range(7):  # 37 items in eights: the fifth step has a ragged last window
        one.step(), many.step()
    torch.testing.assert_close(weights(one), weights(many), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_lanes_equal_one_batch_whatever_the_threads(lanes: int) -> None:
    one, many, again = make(lanes=1), make(lanes=lanes, windows=2), make(lanes=lanes, windows=2)
    for _ in range(7):
        one.step(), many.step(), again.step()
    torch.testing.assert_close(weights(one), weights(many), rtol=1e-5, atol=1e-6)
    assert torch.equal(weights(many), weights(again)), "sums are taken in the order of lanes, not of their ends"


def test_lanes_share_weights_and_buffers_but_no_gradients() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    other = Lanes(module, 2).modules[1]
    assert all(p.data_ptr() == q.data_ptr() for p, q in zip(module.parameters(), other.parameters(), strict=True))
    assert all(p is q for p, q in zip(module.buffers(), other.buffers(), strict=True))
    other(torch.ones(3, 2)).sum().backward()
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(("keep", "optimiser"), [("last", "adamw"), ("best", "adamw"), ("last", "muon")])
def test_resume_is_bit_equal(tmp_path: Path, keep: str, optimiser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphogen.training.muon.EDGE", 3)  # the net here is all edges otherwise
    make = partial(globals()["make"], keep=keep, optimiser=optimiser)
    whole = make(keep=keep)
    whole.run()
    first = make(keep=keep)
    while first.steps < 17:
        first.step()
        if first.steps in (2, 4, 6, 8, 10, 12, 14, 16):
            first.check()
    first.save(tmp_path)
    second = make(keep=keep)
    assert second.load(tmp_path) == []
    assert second.steps == 17
    second.run()
    assert torch.equal(weights(whole), weights(second))
    for name, tensor in whole.final().items():
        assert torch.equal(tensor, second.final()[name]), name


def test_timing_changes_nothing() -> None:
    plain, timed = make(), make()
    assert timed.seconds_per_step(0.05) > 0
    plain.run(), timed.run()
    assert torch.equal(weights(plain), weights(timed))


def test_rows_of_weight_zero_count_nothing() -> None:
    trainer = make(n=37)
    ids, _keys, weight = order(37, 8, 3, 4)
    assert weight.sum() == 5 and len(ids) == 8
    batch = trainer.data.batch(ids, torch.arange(8), weight)
    full = trainer.family(batch)
    batch.x[5:] = 1e3
    again = trainer.family(batch)
    assert torch.equal(full.total, again.total) and float(full.weight) == 5


def test_not_a_number_is_skipped_then_stops() -> None:
    trainer = make(bad_at=5)
    for _ in range(4):
        trainer.step()
    before = weights(trainer)
    assert trainer.step()["skipped"] == 1
    assert torch.equal(before, weights(trainer))
    with pytest.raises(Diverged, match="not a number"):
        trainer.run()


def test_damaged_checkpoint_falls_back(tmp_path: Path) -> None:
    trainer = make()
    for _ in range(2):
        trainer.step()
        trainer.save(tmp_path)
    newest = sorted(tmp_path.glob("step-*"))[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    other = make()
    assert other.load(tmp_path) and other.steps == 1
    for path in tmp_path.glob("step-*"):
        (path / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match="no checkpoint is whole"):
        make().load(tmp_path)


def test_only_two_checkpoints_stay(tmp_path: Path) -> None:
    trainer = make()
    for _ in range(4):
        trainer.step()
        trainer.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == checkpoint.KEEP


@given(n=st.integers(1, 300), batch=st.integers(1, 64), seed=st.integers(0, 5), ragged=st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_epoch_sees_every_item_once(n: int, batch: int, seed: int, ragged: bool) -> None:
    seen = torch.zeros(n)
    lengths = torch.arange(n) * 7 % 13 if ragged else None
    for step in range(-(-n // batch)):
        ids, _, weight = order(n, batch, seed, step, lengths)
        seen.index_add_(0, ids, weight)
    assert (seen >= 1).all() if n < batch else (seen == 1).all()


def test_items_of_like_length_meet() -> None:
    lengths = torch.arange(640) * 7 % 640
    spread = [float(lengths[order(640, 8, 0, step, lengths)[0]].float().std()) for step in range(80)]
    mixed = [float(lengths[order(640, 8, 0, step)[0]].float().std()) for step in range(80)]
    assert sum(spread) < 0.1 * sum(mixed)


def test_rate_rises_stays_and_falls_to_nothing() -> None:
    config = TrainConfig(steps=100)
    rates = [rate(config, i) for i in range(100)]
    assert rates[0] < 0.5 and max(rates) == 1.0 and rates[50] == 1.0 and rates[-1] < 0.05


@given(groups=st.lists(st.integers(0, 30), min_size=10, max_size=200), seed=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_groups_stay_on_one_side(groups: list[int], seed: int) -> None:
    items = [Item(i, group=f"g{g}") for i, g in enumerate(groups)]
    train, held = split(items, seed)
    assert sorted(train + held) == list(range(len(items))) and train
    if len(set(groups)) > 1:
        assert not {groups[i] for i in train} & {groups[i] for i in held}
    assert (train, held) == split(items, seed)
