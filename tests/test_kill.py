"""Killed at any moment, a run resumes to the same weights: ten of the three hundred of `python -m benchmarks.restart`."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_ten_killed_runs_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    asked = ["--kills", "5", "--inside", "5", "--cases", "3", "--no-record", "--work", str(tmp_path / "work")]
    done = subprocess.run([sys.executable, "-m", "benchmarks.restart", *asked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'resumed': 5" in done.stdout and "'resumed of those': 5" in done.stdout
