"""Killed with SIGKILL at any moment and inside saves, a run that is gone on with ends with the very same weights.

    nice python -m benchmarks.restart [--kills 200] [--inside 100] [--no-record]

One process imports everything and forks a child for each run. Every trainable family takes its turn, tiny, on the shipped data.
Children save after each step; for kills inside a save their disk is slow (1 ms for each write, fsync, rename and removal).
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CASES = [
    ("digits", "flow"), ("digits", "diffusion"), ("digits", "gan"), ("digits", "vae"), ("digits", "vq"), ("digits", "seq2seq"),
    ("penguins", "masked"), ("penguins", "diffusion"), ("penguins", "autoregressive"), ("text", "autoregressive"), ("text", "masked"),
    ("text", "lora"),
]  # fmt: skip
STEPS = 8


def data_in(folder: Path) -> dict[str, Path]:
    """A few of the shipped items each, so that reading them is quick."""
    from morphogen import samples

    found = samples.unpack(folder / "all")
    for i, picture in enumerate(sorted(found["digits"].rglob("*.png"))):
        if i % 30 == 0:
            (folder / "digits" / picture.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, folder / "digits" / picture.parent.name)
    (folder / "penguins.csv").write_text("".join(found["penguins"].open().readlines()[:90]))
    (folder / "text.txt").write_text(found["docstrings"].read_text()[:6000])
    return {"digits": folder / "digits", "penguins": folder / "penguins.csv", "text": folder / "text.txt"}


def learn(case: tuple[str, str], data: dict[str, Path], out: Path, *, lanes: int) -> None:
    """Begin a run or go on with it; in two lanes with products in bfloat16."""
    from morphogen import api

    name, family = case
    training = {"previews": 1, "checks": 3, "batch": 8, "lanes": lanes, "keep": "best", "precision": ("float32", "bfloat16")[lanes - 1]}
    if family == "lora":
        api.tune(data["base"], data[name], out, steps=STEPS, seed=1, resume=True, options={"training": training, "lora": {"dropout": 0.1}})
        return
    options: dict[str, Any] = {"net": {"size": "tiny", "width": 16, "depth": 1, "dropout": 0.1}, "training": training}
    if family == "vq":
        options["family"] = {"kind": "vq", "grid": 2}
    api.train(data[name], out, family="vae" if family == "vq" else family, steps=STEPS, options=options, resume=True)


def save_each_step() -> None:
    from morphogen.training.trainer import Trainer

    run = Trainer.run
    Trainer.run = lambda self, *args, **more: run(self, *args, **{**more, "every": 0.0})  # type: ignore[method-assign]


def slow_disk(tell: int) -> None:
    """Each call that changes the disk takes a millisecond more; the parent hears when a checkpoint, or the model, is begun."""
    from morphogen.api.train import Job
    from morphogen.training import checkpoint
    from morphogen.training.trainer import Trainer

    def slowed(call: Any) -> Any:
        def slow(*args: Any, **more: Any) -> Any:
            time.sleep(0.001)
            return call(*args, **more)

        return slow

    for name in ("fsync", "replace", "unlink", "rmdir", "mkdir", "chmod"):
        setattr(os, name, slowed(getattr(os, name)))

    def telling(call: Any) -> Any:
        def told(*args: Any, **more: Any) -> Any:
            os.write(tell, b"s")
            try:
                return call(*args, **more)
            finally:
                os.write(tell, b"e")

        return told

    Trainer.save = telling(Trainer.save)  # type: ignore[method-assign]
    checkpoint.Hashed.write = slowed(checkpoint.Hashed.write)  # type: ignore[method-assign]
    Job.finish = telling(Job.finish)  # type: ignore[method-assign]


def fork(work: Any) -> tuple[int, int]:
    """(process id, what it tells) of a child that does `work(pipe)`, quietly, and exits with 0 when it went well."""
    heard, tell = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(tell)
        return pid, heard
    code = 1
    try:
        os.close(heard)
        save_each_step()
        with contextlib.redirect_stdout(io.StringIO()):
            work(tell)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def warm(case: tuple[str, str], data: dict[str, Path], out: Path) -> None:
    """Import here what a child needed for a run, without computing anything here: a process with threads must not be forked."""

    def work(tell: int) -> None:
        learn(case, data, out, lanes=1)
        os.write(tell, "\n".join(sys.modules).encode())

    pid, heard = fork(work)
    names = b""
    while piece := os.read(heard, 1 << 16):
        names += piece
    assert wait(pid, heard) == 0
    for name in names.decode().split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def wait(pid: int, heard: int) -> int:
    """The exit status of a child."""
    os.close(heard)
    return os.waitpid(pid, 0)[1]


def kill_after(pid: int, seconds: float) -> bool:
    """Whether it was still at work and now is dead."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(min(0.002, max(0.0, end - time.monotonic())))
    os.kill(pid, signal.SIGKILL)
    return True


def digest(out: Path) -> tuple[str, list[Any]]:
    """Hash of the weights, and the losses on the way."""
    from morphogen.run import Run
    from morphogen.trust.provenance import hash_file

    run = Run.load(out)
    weights = hash_file(out / "model.safetensors")
    assert run.provenance()["model"] == weights and not (out / "state").exists()
    return weights, [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]


class Trial:
    """One case: the run that nobody disturbs, then runs that are killed."""

    def __init__(self, case: tuple[str, str], lanes: int, data: dict[str, Path], folder: Path) -> None:
        self.case, self.lanes, self.data, self.folder = case, lanes, data, folder
        self.name = f"{case[0]}-{case[1]}-{lanes}"
        begun = time.monotonic()
        assert wait(*fork(lambda tell: learn(case, data, folder / f"{self.name}-whole", lanes=lanes))) == 0, self.name
        self.length = time.monotonic() - begun
        self.whole = digest(folder / f"{self.name}-whole")

    def killed(self, inside: bool, rng: random.Random) -> bool:
        """Kill one run, go on with it; whether it ended as the undisturbed one did. Moments at which it had ended are drawn again."""
        out = self.folder / f"{self.name}-cut"
        while True:
            shutil.rmtree(out, ignore_errors=True)

            def work(tell: int) -> None:
                if inside:
                    slow_disk(tell)
                learn(self.case, self.data, out, lanes=self.lanes)

            pid, heard = fork(work)
            told, saves = b"", rng.randrange(STEPS)  # the last one is the finished model's
            while inside and told.count(b"s") <= saves and (new := os.read(heard, 1)):
                told += new
            hit = kill_after(pid, rng.uniform(0, 0.1 if inside else self.length))
            while new := os.read(heard, 64):
                told += new
            status = wait(pid, heard)
            assert status == 0 or os.WIFSIGNALED(status), f"{self.name}: the child failed by itself"
            if hit and os.WIFSIGNALED(status) and (not inside or told.count(b"s") == told.count(b"e") + 1):
                break
        if wait(*fork(lambda tell: learn(self.case, self.data, out, lanes=self.lanes))) != 0:
            print(f"{self.name}: could not be gone on with, see {out}", flush=True)
            return False
        if (got := digest(out)) != self.whole:
            print(f"{self.name}: {'weights' if got[0] != self.whole[0] else 'losses'} differ, see {out}", flush=True)
            shutil.move(out, out.with_name(f"{out.name}-{rng.random()}"))
            return False
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--inside", type=int, default=100)
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of the families take part")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    import torch

    from benchmarks.common import WORK, fresh, record

    torch.set_num_threads(1)  # a process that never had threads can be forked
    folder = fresh(args.work or WORK / "restart")
    folder.mkdir()
    data, rng = data_in(folder), random.Random(0)
    data["base"] = folder / "base"
    warm(("text", "autoregressive"), data, data["base"])
    warm(("digits", "flow"), data, folder / "warm")
    trials = [Trial(case, 1 + i % 2, data, folder) for i, case in enumerate(CASES[: args.cases])]
    print(f"{len(trials)} families, undisturbed in {sum(t.length for t in trials) / len(trials):.1f} s each", flush=True)
    good = {False: 0, True: 0}
    for i in range(args.kills + args.inside):
        inside = i >= args.kills
        good[inside] += trials[i % len(trials)].killed(inside, rng)
        if (i + 1) % 20 == 0:
            print(f"{sum(good.values())} of {i + 1}", flush=True)
    figures = {"killed": args.kills, "resumed": good[False], "killed inside a save": args.inside, "resumed of those": good[True]}
    if args.no_record:
        print(figures)
    else:
        record("restart", figures, families=[t.name for t in trials], steps=STEPS)
    if sum(good.values()) != args.kills + args.inside:
        raise SystemExit("some runs did not end as they would have")


if __name__ == "__main__":
    main()
