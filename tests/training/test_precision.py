"""Products in bfloat16: near the float32 numbers, inside the nets and in training alone, and as exact to restart as anything else."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import CASES, NAMES, trainer, whole_state, write
from torch import nn

import morphogen
from morphogen.api.common import Watch
from morphogen.api.train import recorded_wishes
from morphogen.errors import UsageError
from morphogen.nets.architecture import Architecture, Experts
from morphogen.nets.net import is_net, net
from morphogen.nets.transformer import Transformer
from morphogen.run import Run
from morphogen.training import precision
from morphogen.training.muon import Muon, orthogonal


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write(folder)
    return folder


FAST = ("pictures-diffusion", "pictures-gan", "rows-masked", "lines-autoregressive")  # every net
TRIED = [pytest.param(case, marks=() if name in FAST else pytest.mark.slow, id=name) for case, name in zip(CASES, NAMES, strict=True)]


@pytest.mark.parametrize("case", TRIED)
def test_losses_are_near_those_in_float32_and_a_stop_changes_nothing(data: Path, tmp_path: Path, case: tuple[str, str]) -> None:
    """In two lanes, windows and with drop-out: four steps, beside two, a stop and two more."""
    how: dict[str, Any] = {"dropout": 0.2, "lanes": 2, "windows": 2, "steps": 4, "optimiser": "adamw"}
    exact, whole = trainer(data, case, **how), trainer(data, case, precision="bfloat16", **how)
    logs = [(exact.step(), whole.step()) for _ in range(2)]  # what starts at zero answers alike in the first
    assert any(a != b for a, b in zip(*(log.values() for log in logs[1]), strict=True)), "nothing was worked out in bfloat16"
    for a, b in logs:
        assert all(b[k] == pytest.approx(a[k], rel=0.05, abs=0.02) for k in a), (a, b)
    whole.save(tmp_path)
    again = trainer(data, case, precision="bfloat16", **how)
    assert again.load(tmp_path) == []
    for run in (whole, again):
        run.step()
        run.step()
    ends = whole_state(whole), whole_state(again)
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())
    assert all(v.dtype != torch.bfloat16 for v in ends[0].values()), "what is kept is float32"


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_net_works_in_bfloat16_and_answers_in_float32(data: Path, case: tuple[str, str]) -> None:
    run = trainer(data, case, lanes=1, steps=4, precision="bfloat16")
    nets = [m for m in run.family.modules() if is_net(m)]
    inside: list[set[torch.dtype]] = [set() for _ in nets]
    outside: list[torch.dtype] = []

    def hear(seen: set[torch.dtype]) -> Any:
        return lambda module, args, out: seen.add(out.dtype)

    for one, seen in zip(nets, inside, strict=True):
        one.register_forward_hook(lambda module, args, out: outside.append(out.dtype))
        for part in one.modules():
            if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
                part.register_forward_hook(hear(seen))
    run.step()
    assert nets and set(outside) == {torch.float32}
    worked = [seen for seen in inside if seen]
    assert worked and all(seen == {torch.bfloat16} for seen in worked)


@pytest.mark.parametrize("case", [("pictures", "diffusion"), ("lines", "autoregressive")])
def test_blocks_worked_out_twice_give_the_same(data: Path, case: tuple[str, str]) -> None:
    made = [trainer(data, case, lanes=2, steps=3, precision="bfloat16", activation_checkpointing=again) for again in (False, True)]
    assert [made[0].step(), made[0].step()] == [made[1].step(), made[1].step()]
    ends = [whole_state(run) for run in made]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_experts_take_part() -> None:
    experts = Experts(count=4, chosen=2, hidden=8, layers=(0,))
    a = Architecture(width=16, depth=1, heads=2, kv_heads=2, head_width=8, hidden=32, experts=experts)
    model, ids = Transformer(11, 10, 8, a, causal=True), torch.randint(10, (2, 8))
    whole = model(ids)
    precision.use(model, "bfloat16")
    low = model(ids)
    low.sum().backward()
    assert low.dtype == torch.float32 and 0 < float((low - whole).detach().abs().max()) < 0.1
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_run_keeps_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen where nobody chose, written to the recipe, and read again where the machine would choose otherwise."""
    class Ear(Watch):
        def say(self, line: str, kind: str = "info") -> None:
            lines.append((line, kind))

    lines: list[tuple[str, str]] = []
    path = write(tmp_path)["lines"]
    tiny = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 0, "checks": 0, "batch": 8, "keep": "last"}}
    monkeypatch.setattr(precision, "WIDE", 0)
    for units, kind in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "has_units", lambda device, units=units: units)
        run = morphogen.train(path, tmp_path / kind, family="autoregressive", steps=2, options=tiny, watch=Ear())
        assert run.recipe["training"]["precision"] == kind
        assert any("products in bfloat16" in line for line, _ in lines) == units
        lines.clear()
    asked = {**tiny, "training": {**tiny["training"], "precision": "bfloat16"}}
    morphogen.train(path, tmp_path / "asked", family="autoregressive", steps=2, options=asked, watch=Ear())
    assert any("slow on this machine" in line for line, kind in lines if kind == "warn")
    again = recorded_wishes(Run.load(tmp_path / "bfloat16").recipe)
    assert again["options"]["training"]["precision"] == "bfloat16"


def test_the_other_side_of_a_game_is_watched(data: Path) -> None:
    run = trainer(data, ("pictures", "gan"), lanes=1, steps=4)
    run.step()
    assert {"game", "fool"} <= run.guard.losses.keys()


@net
class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(8, 8), torch.float32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        self.seen = y.dtype
        return y


def test_only_nets_and_only_in_training() -> None:
    net, outside = Linear(), nn.Linear(8, 8)
    module, x = nn.ModuleList([net, outside]), torch.randn(3, 8)
    precision.use(module, "bfloat16")
    precision.use(module, "bfloat16")  # twice is once
    assert net(x).dtype == torch.float32 and net.seen == torch.bfloat16
    net(x).sum().backward()
    assert net.layer.weight.grad is not None and net.layer.weight.grad.dtype == torch.float32
    assert "forward" not in vars(outside)
    with torch.no_grad():
        net(x)
    assert net.seen == torch.float32
    net.eval()(x)
    assert net.seen == torch.float32
    precision.use(module, "float32")
    net.train()(x)
    assert net.seen == torch.float32
    again = Linear()
    precision.use(again, "float32")
    assert "forward" not in vars(again), "nothing is put around what is not to change"


def test_wide_nets_where_there_are_units(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = nn.Linear(8, 8), nn.Linear(2000, 1000)
    for units, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "has_units", lambda kind, units=units: units)
        assert precision.precision_for(wide, "cpu") == wanted and precision.precision_for(narrow, "cpu") == "float32"


def test_units_of_a_processor_as_torch_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for can, wanted in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True, "avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        assert precision.has_units("cpu") is wanted
    assert precision.has_units("mps") is False


def test_an_unknown_precision_is_refused_in_one_line(data: Path) -> None:
    assert precision.checked("") == "float32"
    with pytest.raises(UsageError, match="unknown training.precision 'float16'"):
        trainer(data, CASES[0], precision="float16")


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 576), (96, 32)])
def test_matrices_of_low_rank_stay_bounded_in_bfloat16(shape: tuple[int, int], rank: int) -> None:
    """As gradients are: a few directions and noise. No direction may come out larger than the iteration's bound."""
    draw = torch.Generator().manual_seed(0)
    noise, left, right = (torch.randn(n, generator=draw) for n in (shape, (shape[0], rank), (rank, shape[1])))
    values = torch.linalg.svdvals(orthogonal((left @ right + 1e-6 * noise).bfloat16()).float())
    assert float(values.max()) < 1.3
    assert float(values[rank - 1]) > 0.4


@pytest.mark.parametrize("shape", [(3, 32, 48), (2, 24, 200), (2, 200, 24)])
def test_orthogonal_in_bfloat16(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    whole, low = orthogonal(g), orthogonal(g.bfloat16()).float()
    assert float((whole - low).norm() / whole.norm()) < 0.08
    values = torch.linalg.svdvals(low)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3


def test_muon_in_bfloat16_keeps_float32() -> None:
    first = torch.randn(16, 32)
    ends = []
    for half in (False, True):
        weight = nn.Parameter(first.clone())
        weight.grad = torch.ones(16, 32).tril()
        Muon([weight], 0.01, half=half).step()
        assert weight.dtype == torch.float32
        ends.append(weight.detach() - first)
    assert 0 < float((ends[0] - ends[1]).norm() / ends[0].norm()) < 0.5, "near, and not the same"
