"""Memory found out on a few items: against what is known, and without a trace."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.test_trainer import make
from torch import nn

from morphogen.config import make as config_of
from morphogen.contracts import Item
from morphogen.errors import ResourceError
from morphogen.model import Model
from morphogen.registry import resolve
from morphogen.spaces import Array, Tokens
from morphogen.training.data import Dataset
from morphogen.training.estimate import Living, Memory, _group, check, measure
from morphogen.training.optim import TrainConfig


class Plain:
    """A codec of samples that are items already."""

    def __init__(self, space: Any) -> None:
        self.space = space

    def encode(self, raw: Any) -> Any:
        return raw


def test_living_counts_what_lives_at_one_time() -> None:
    net, x = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(3))), torch.zeros(100, 1000)
    with Living() as living:
        net(x).sum().backward()
    row, weight = 100 * 1000 * 4, 1000 * 1000 * 4
    assert 3 * weight + row <= living.peak <= 3 * weight + 5 * row, "gradients of all, activations of a few layers"
    with Living() as living:
        for _ in range(5):
            y = torch.zeros(1000)
            del y
    assert living.peak == 4000 and living.now == 0


@pytest.mark.parametrize("name", ["diffusion", "gan", "vae", "flow"])
def test_measuring_changes_nothing(name: str) -> None:
    kind, space = resolve("family", name), Array((1, 8, 8))
    model = Model(Plain(space), kind(space, {}, config_of(kind.Config, {"net": {"size": "tiny", "width": 16, "depth": 1}})))
    data = Dataset(model, [Item(row.numpy()) for row in torch.randn(6, 1, 8, 8)])
    before = {k: v.clone() for k, v in model.family.state_dict().items()}
    state = torch.get_rng_state()
    one, two = (measure(model.family, data, TrainConfig(steps=1, batch=b, lanes=1)) for b in (8, 8))
    assert one == two and one.of_window(2) > one.of_window(1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.family.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.family.parameters())


def test_copies_are_counted() -> None:
    trainer = make(lanes=1)
    weights = sum(p.numel() * 4 for p in trainer.family.parameters())
    for config, copies in ((TrainConfig(ema=0.0), 2), (TrainConfig(), 3), (TrainConfig(keep="best"), 4),
                           (TrainConfig(keep="best", optimiser="muon"), 3)):
        assert measure(trainer.family, trainer.data, dataclasses.replace(config, batch=8, lanes=1)).kept == copies * weights


def test_refused_with_the_smallest_change_that_fits() -> None:
    """Windows first; then blocks are worked out twice, before windows of few items; then a smaller net."""
    memory, light = (Memory(0, ((1, each, 0.0), (4, 4 * each, 0.0)), 0, 0) for each in (2.0**20, 2.0**17))
    config = TrainConfig(batch=1024, lanes=2)
    assert check(memory, config, 4 << 30, lambda: light, "") > 1 << 30

    def remedy(free: int, **more: Any) -> str:
        with pytest.raises(ResourceError) as caught:
            check(memory, dataclasses.replace(config, **more), free, lambda: light, "--size tiny")
        assert caught.value.exit_code == 5
        return str(caught.value)

    assert "training.windows=4 needs" in remedy(520 << 20)
    assert "--set training.activation_checkpointing=true needs 98 MiB" in remedy(100 << 20, batch=16)
    assert "--set training.activation_checkpointing=true --set training.windows=2" in remedy(97 << 20, batch=16)
    already = remedy(97 << 20, batch=16, activation_checkpointing=True)
    assert "checkpointing" not in already and "training.lanes=1" in already
    assert "--size tiny" in remedy(1 << 20)


@pytest.mark.parametrize(("name", "space", "most"), [("autoregressive", Tokens(16, 64), 0.45), ("diffusion", Array((1, 32, 32)), 0.6)])
def test_activation_checkpointing_is_seen(name: str, space: Any, most: float) -> None:
    """Deep nets: an item of a window costs a fraction of what it does when every block keeps what it worked out."""
    kind, depth = resolve("family", name), 12 if name == "autoregressive" else 4
    raws = torch.randint(16, (4, 64)) if isinstance(space, Tokens) else torch.randn(4, *space.shape)
    config = config_of(kind.Config, {"net": {"size": "tiny", "width": 32, "depth": depth}})
    model = Model(Plain(space), kind(space, {}, config))
    data = Dataset(model, [Item(raw.numpy()) for raw in raws])
    kept, forgot = (measure(model.family, data, TrainConfig(batch=8, lanes=1, activation_checkpointing=on)) for on in (False, True))
    assert kept.kept == forgot.kept
    few, many = (m.of_window(8) - m.of_window(4) for m in (forgot, kept))
    assert few < most * many


def test_what_few_items_hide_is_found() -> None:
    """Gradients are the peak of few rows, activations of many: the estimate follows the bend."""
    kind, n = resolve("family", "flow"), 512
    model = Model(Plain(Array((16,))), kind(Array((16,)), {}, config_of(kind.Config, {"net": {"size": "tiny"}})))
    data = Dataset(model, [Item(row.numpy()) for row in torch.randn(n, 16)])
    memory = measure(model.family, data, TrainConfig(batch=n, lanes=1))
    line = memory.window[1][1] + (memory.window[1][1] - memory.window[0][1]) / 3 * (n - 4)
    assert memory.window[-1][0] == n and memory.of_window(n) > 2 * line
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in zip(memory.window, memory.window[1:]))
    assert memory.of_window(2 * n) > 1.5 * memory.of_window(n)
    # where no more than four items are tried, what waits for the way back tells of the bend
    few = dataclasses.replace(memory, window=memory.window[:2])
    assert 0.6 * memory.of_window(n) < few.of_window(n) < 1.4 * memory.of_window(n)


def test_products_in_bfloat16_hold_less() -> None:
    kind, space = resolve("family", "diffusion"), Array((1, 32, 32))
    model = Model(Plain(space), kind(space, {}, config_of(kind.Config, {"net": {"size": "tiny", "width": 64}})))
    data = Dataset(model, [Item(row.numpy()) for row in torch.randn(8, 1, 32, 32)])
    low, whole = (measure(model.family, data, TrainConfig(batch=8, lanes=1, precision=p)) for p in ("bfloat16", "float32"))
    assert low.of_window(8) < 0.95 * whole.of_window(8) and low.kept == whole.kept


def test_control_groups_are_asked(tmp_path: Path) -> None:
    for folder, most, now in ((tmp_path / "a" / "b", "max", 10), (tmp_path / "a", "1000", 400)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(most)
        (folder / "memory.current").write_text(str(now))
        (folder / "memory.stat").write_text("anon 5\ninactive_file 50\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    assert _group(tmp_path, own) == [650]
    assert _group(tmp_path, tmp_path / "none") == []
