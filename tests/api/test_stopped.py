"""How a run ends when it may not go on: asked to stop, a disk that is full at the very end, a folder that another process holds."""
from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.training.small import write

from morphogen.api.train import Job
from morphogen.cli import _call
from morphogen.files import lock
from morphogen.run import Run
from morphogen.training import checkpoint


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    write(folder)
    return folder / "rows.csv"


def asked(rows: Path, out: Path, steps: int, *more: str) -> list[str]:
    tiny = ("net.width=16", "net.depth=1", "training.batch=8", "training.previews=0", "training.checks=0")
    return ["train", str(rows), "--out", str(out), "--family", "masked", "--steps", str(steps), "--no-report",
            *(word for value in tiny for word in ("--set", value)), *more]  # fmt: skip


def test_sigterm_ends_at_the_step_with_a_whole_checkpoint(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = subprocess.Popen([sys.executable, "-m", "morphogen", *asked(rows, out, 100_000)], stderr=subprocess.PIPE, text=True)
    until, log = time.monotonic() + 120, out / "metrics.jsonl"
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < until and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130 and "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("error[interrupted]: stopped; what was trained is saved") and "--resume" in last
    found = checkpoint.newest(out / "state")
    assert found is not None and found[2] == [] and 0 < found[1]["steps"] < 100_000
    assert f"step {found[1]['steps']} of" in last, "the checkpoint is of the step it stopped at"
    assert not (out / "model.safetensors").exists() and not (out / ".lock").exists()


def test_a_disk_that_is_full_at_the_end_costs_no_run(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system itself refuses the last file (a limit on sizes); later the run ends as if nothing had been."""
    finish, most = Job.finish, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self: Any, model: Any, facts: dict[str, Any]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, most[1]))
        try:
            finish(self, model, facts)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)

    monkeypatch.setattr(Job, "finish", full)
    assert _call(asked(rows, tmp_path / "run", 3)) == 5
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error[resources]: cannot write (File too large)") and "model.safetensors" in said
    assert not Run.load(tmp_path / "run").finished() and not list((tmp_path / "run").glob(".*"))
    monkeypatch.setattr(Job, "finish", finish)
    assert _call(asked(rows, tmp_path / "run", 3, "--resume")) == _call(asked(rows, tmp_path / "whole", 3)) == 0
    assert Run.load(tmp_path / "run").provenance()["model"] == Run.load(tmp_path / "whole").provenance()["model"]


@pytest.mark.parametrize("more", [(), ("--resume",), ("--force",)])
def test_one_folder_is_for_one_process(rows: Path, tmp_path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    holder = "import sys; from morphogen.files import lock\nwith lock(sys.argv[1]): print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", holder, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    try:
        assert _call(asked(rows, out, 2, *more)) == (5 if more else 2)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(said) == 1 and (str(other.pid) in said[0] or not more)
        assert [p.name for p in out.iterdir()] == [".lock"], "nothing was written"
    finally:
        other.communicate("\n")
    with lock(out):
        pass
