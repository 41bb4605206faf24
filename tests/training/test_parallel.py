"""Two processes learn what one learns. They are started once, by gloo, and run every case; one process then runs the same cases."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from morphogen.codecs.label import LabelCodec
from morphogen.config import make
from morphogen.contracts import Item
from morphogen.errors import FormatError, ResourceError
from morphogen.model import Model
from morphogen.registry import FAMILIES, resolve
from morphogen.spaces import Array, Space, Tokens
from morphogen.training.data import Dataset
from morphogen.training.optim import TrainConfig
from morphogen.training.trainer import Trainer

STEPS = 3
N, BATCH = 16, 13  # odd shares, and a last window of 3 items for 2 processes


class Plain:
    """A codec of samples that are items already."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def encode(self, raw: Any) -> np.ndarray:
        return raw

    def decode(self, x: np.ndarray) -> np.ndarray:
        return x


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    space: Space
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


ROW, PICTURE, TEXT = Array((5,)), Array((1, 8, 8)), Tokens(12, 10, end=11)
CASES = {
    "vae": Case("vae", ROW),
    "gan": Case("gan", ROW, training={"windows": 2, "activation_checkpointing": True}),
    "diffusion": Case("diffusion", ROW, training={"optimiser": "muon"}),
    "flow": Case("flow", ROW),
    "autoregressive": Case("autoregressive", TEXT, training={"optimiser": "muon", "windows": 3, "activation_checkpointing": True}),
    "masked": Case("masked", TEXT),
    "seq2seq": Case("seq2seq", TEXT),
    "vae.picture": Case("vae", PICTURE),
    "vae.vq": Case("vae", PICTURE, {"kind": "vq", "codes": 16}),
    "vae.critic": Case("vae", PICTURE, {"adversarial": 0.1}),
    "gan.picture": Case("gan", PICTURE),
    "diffusion.picture": Case("diffusion", PICTURE),
    "flow.picture": Case("flow", PICTURE, training={"windows": 2, "activation_checkpointing": True}),
    "autoregressive.half": Case("autoregressive", TEXT, training={"optimiser": "muon", "windows": 2, "precision": "bfloat16"}),
    "diffusion.half": Case("diffusion", PICTURE, training={"optimiser": "muon", "precision": "bfloat16"}),
}


def items(space: Space, n: int = N) -> list[Item]:
    rng = np.random.default_rng(0)
    if isinstance(space, Tokens):
        raws = [np.append(rng.integers(0, 11, rng.integers(1, 9)), 11).astype(np.int64) for _ in range(n)]
    else:
        raws = list(rng.normal(size=(n, *space.shape)).astype(np.float32))  # type: ignore[union-attr]
    return [Item(raw, {"label": "abc"[i % 3]}) for i, raw in enumerate(raws)]


def trainer(case: Case, crew: Any = None, **training: Any) -> Trainer:
    """A tiny model. Alone it works in 2 lanes: the very parts that 2 processes have, summed in the same order."""
    torch.manual_seed(0)
    label, data = LabelCodec(), items(case.space)
    label.fit([item.cond["label"] for item in data])
    kind = resolve("family", case.family)
    config = make(kind.Config, {"net": {"size": "tiny", "width": 32, "depth": 1}, **case.config}, "family.")
    model = Model(Plain(case.space), kind(case.space, {"label": label.space}, config), conditions={"label": label})
    dataset = Dataset(model, data)
    settings = {"steps": 40, "batch": BATCH, "lanes": 2, "ema": 0.1, **case.training, **training}
    out = Trainer(model, dataset, TrainConfig(**settings), seed=3, held_out=dataset, crew=crew)
    out.calibrate()
    return out


def learn(case: Case, crew: Any = None, **training: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    run = trainer(case, crew, **training)
    logs = [run.step() for _ in range(STEPS)]
    if (held := run.check()) is not None:
        logs.append({"held_out": held})
    return logs, everything(run)


def everything(run: Trainer) -> dict[str, torch.Tensor]:
    return {k: run.lanes.whole(v).contiguous().clone() for k, v in run.state().items()}


# ---------------------------------------------------------------- what each process does
FAST = (*(("ddp", name) for name in CASES if "." not in name), ("fsdp", "gan"), ("fsdp", "autoregressive"))
SLOW = tuple((kind, name) for kind in ("ddp", "fsdp") for name in CASES if (kind, name) not in FAST)
SAVED = CASES["autoregressive"]


def work(rank: int, world: int, folder: str, jobs: tuple[tuple[str, str], ...], more: bool) -> None:
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    from morphogen.training import parallel

    torch.set_num_threads(1)
    parallel.BLOCK = 1  # every layer a part of its own: the tiny ones here too
    place = Path(folder)
    store: Any = dist.FileStore(str(place / f"store-{world}"), world)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=PrefixStore("torch", store), rank=rank, world_size=world)
    crews = {kind: parallel.Crew(PrefixStore(f"crew.{kind}", store), rank, world, kind) for kind in parallel.KINDS}
    for kind, name in jobs:
        logs, state = learn(CASES[name], crews[kind])
        if rank == 0:
            save_file(state, place / f"{kind}.{name}.safetensors")
            (place / f"{kind}.{name}.json").write_text(json.dumps(logs))
    if more:
        for kind, crew in crews.items():
            go_on(place, kind, crew)
        (place / f"errors-{rank}.json").write_text(json.dumps(errors(place, crews["ddp"])))
    dist.destroy_process_group()


def go_on(place: Path, kind: str, crew: Any) -> None:
    """Every checkpoint there is goes on for a step here, and is saved anew."""
    for path in sorted(place.glob("from-*")):
        run = trainer(SAVED, crew)
        assert run.load(path) is not None
        run.step()
        state = everything(run)
        run.save(place / f"to-{crew.world}-{kind}-{path.name}")
        if crew.first:
            save_file(state, place / f"{kind}.{crew.world}.{path.name}.safetensors")


def errors(place: Path, crew: Any) -> list[str]:
    """What each process hears when one of them fails."""
    from morphogen.errors import MorphogenError
    from morphogen.training import sharded

    def refuse(*_: Any) -> Any:
        if crew.rank == 1:
            return {"error": "cannot write (No space left on device)"}
        return written(*_)

    def nothing() -> None:
        raise ResourceError("the disk is full")

    said = []
    written, sharded._write_part = sharded._write_part, refuse
    for attempt in (
        lambda: crew.once(nothing),
        lambda: crew.same("data", crew.rank),
        lambda: sharded.write(crew, place / "refused", 1, {"a": torch.ones(2), "b": torch.ones(3)}, {}),
    ):
        try:
            attempt()
            said.append("nothing")
        except MorphogenError as error:
            said.append(f"{error.code}: {error.line()}")
    return said


def together(world: int, *arguments: Any) -> None:
    """Run `work` in fresh processes; fails when one of them does."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, world, *arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(900)
    codes = [p.exitcode for p in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did all of FAST, and went on from a checkpoint of one."""
    folder = tmp_path_factory.mktemp("ran")
    one = trainer(SAVED)
    one.step()
    one.save(folder / "from-1")
    together(2, str(folder), FAST, True)
    return folder


@functools.cache
def alone(name: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    return learn(CASES[name])


def same_as_one(folder: Path, kind: str, name: str) -> None:
    """ddp: two lanes of one process do the same sums in the same order, so all is equal to the bit.

    fsdp: gradients are equal too, but the norm that clips them is summed by parts: 3e-5 leaves room for that and for Adam.
    """
    logs, state = alone(name)
    theirs = load_file(folder / f"{kind}.{name}.safetensors")
    assert theirs.keys() == state.keys()
    near = 1e-5 if not name.endswith(".half") else 2e-3  # the last digit of a float32 may turn the last of a bfloat16
    rtol, atol = (0.0, 0.0) if kind == "ddp" else (near, 3 * near)
    for log, other in zip(logs, json.loads((folder / f"{kind}.{name}.json").read_text()), strict=True):
        assert log == pytest.approx(other, rel=near)
    for key, value in state.items():
        torch.testing.assert_close(theirs[key], value, rtol=rtol, atol=atol, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("kind", "name"), FAST)
def test_two_processes_learn_what_one_learns(ran: Path, kind: str, name: str) -> None:
    same_as_one(ran, kind, name)


def test_every_family_with_phases_is_tried() -> None:
    tried = {CASES[name].family for _, name in FAST}
    classical = {name for name in FAMILIES if hasattr(resolve("family", name), "fit")}
    assert tried >= set(FAMILIES) - classical


@pytest.mark.slow
def test_the_rest_of_the_cases(tmp_path: Path) -> None:
    together(2, str(tmp_path), SLOW, False)
    for kind, name in SLOW:
        same_as_one(tmp_path, kind, name)


def test_one_loss_is_the_same_in_one_lane(ran: Path) -> None:
    """The first loss, by one process that does not cut the batch at all: weights of all parts count alike."""
    for kind, name in ((kind, name) for kind, name in FAST if kind == "ddp"):
        first = trainer(CASES[name], lanes=1, windows=1).step()
        assert first == pytest.approx(json.loads((ran / f"{kind}.{name}.json").read_text())[0], rel=1e-5, abs=1e-6)


# ---------------------------------------------------------------- checkpoints
def gone_on(path: Path) -> dict[str, torch.Tensor]:
    run = trainer(SAVED)
    assert run.load(path) is not None
    run.step()
    return everything(run)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_checkpoints_go_from_one_process_to_two_and_back(ran: Path, kind: str) -> None:
    one, two = gone_on(ran / "from-1"), load_file(ran / f"{kind}.2.from-1.safetensors")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)
    back = trainer(SAVED)
    assert back.load(ran / f"to-2-{kind}-from-1") is not None
    assert back.steps == 2
    for key, value in everything(back).items():
        assert torch.equal(value, two[key]), key


@pytest.mark.slow
def test_checkpoints_go_from_two_processes_to_four(ran: Path, tmp_path: Path) -> None:
    import shutil

    for kind in ("ddp", "fsdp"):
        shutil.copytree(ran / f"to-2-{kind}-from-1", tmp_path / f"from-2-{kind}")
    together(4, str(tmp_path), (), True)
    for kind in ("ddp", "fsdp"):
        for other in ("ddp", "fsdp"):
            four = load_file(tmp_path / f"{kind}.4.from-2-{other}.safetensors")
            for key, value in gone_on(ran / f"to-2-{other}-from-1").items():
                torch.testing.assert_close(four[key], value, rtol=1e-4, atol=1e-5)


def test_a_manifest_says_where_every_part_belongs(ran: Path, tmp_path: Path) -> None:
    import shutil

    [path] = (ran / "to-2-fsdp-from-1").glob("step-*")
    manifest = json.loads((path / "manifest.json").read_text())
    assert [part["file"] for part in manifest["files"]] == [f"state-0000{i}-of-00002.safetensors" for i in range(2)]
    sizes = [(path / part["file"]).stat().st_size for part in manifest["files"]]
    assert max(sizes) < 0.7 * sum(sizes), "each process writes its share"
    for damage in ("bytes", "file", "manifest"):
        copy = tmp_path / damage
        shutil.copytree(path.parent, copy)
        file = copy / path.name / manifest["files"][1]["file"]
        if damage == "bytes":
            file.write_bytes(file.read_bytes()[:-1] + b"?")
        elif damage == "file":
            file.unlink()
        else:
            (copy / path.name / "manifest.json").write_text(json.dumps({**manifest, "world": 3}))
        with pytest.raises(FormatError, match="no checkpoint is whole"):
            trainer(SAVED).load(copy)


def test_an_error_in_one_process_is_heard_in_all(ran: Path) -> None:
    first, second = (json.loads((ran / f"errors-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert "the disk is full" in first[0] and "do not see the same data" in first[1] and "No space left" in first[2]
    assert not list((ran / "refused").glob("*")), "nothing is left of a checkpoint that one could not write"


# ---------------------------------------------------------------- the command
def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "morphogen", *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_torchrun(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "d.csv").write_text("a,b\n" + "\n".join(f"{a:.3f},{a + b:.3f}" for a, b in rng.normal(size=(200, 2))))
    how = ("--family", "diffusion", "--size", "tiny", "--steps", "12", "--no-report")
    done = torchrun("train", "d.csv", "--out", "run", "--parallel", kind, *how, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "run" and done.stderr.count("training 12 steps") == 1, "one process speaks"
    alone = subprocess.run([sys.executable, "-m", "morphogen", "train", "d.csv", "--out", "one", *how], cwd=tmp_path, capture_output=True)
    assert alone.returncode == 0
    two, one = (json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1]) for run in ("run", "one"))
    assert two["main"] == pytest.approx(one["main"], rel=1e-5)
    again = torchrun("train", "d.csv", "--out", "run", *how, cwd=tmp_path)
    assert again.returncode != 0 and again.stderr.count("error[") == 1 and "exists already" in again.stderr
    minutes = ("--family", "vae", "--minutes", "0.2", "--no-report")
    timed = torchrun("train", "d.csv", "--out", "timed", "--parallel", kind, *minutes, cwd=tmp_path)
    assert timed.returncode == 0, timed.stderr
    from morphogen.files import lock

    with lock(tmp_path / "held"):
        refused = torchrun("train", "d.csv", "--out", "held", "--force", *how, cwd=tmp_path)
    assert refused.stderr.count("error[") == 1 and "is writing there" in refused.stderr
