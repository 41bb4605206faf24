"""Killed at any moment, a run resumes to the same weights (part of `make test-all`)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from morphogen.run import Run

SCRIPT = """
import sys
from morphogen import api
from morphogen.training.trainer import Trainer
run = Trainer.run
Trainer.run = lambda self, hook=None, *, save_to=None, every=0.0: run(self, hook, save_to=save_to, every=0.0)  # a checkpoint each step
options = {"net": {"size": "tiny", "width": 8, "depth": 1}, "training": {"previews": 0, "checks": 3, "batch": 8, "keep": "best"}}
api.train(sys.argv[1], sys.argv[2], family="flow", steps=120, options=options, resume=True)
"""


@pytest.mark.slow
def test_sigkill_loses_nothing(tmp_path: Path) -> None:
    data, rng = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(data / f"{i}.png")

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(data), str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole = start(tmp_path / "whole")
    begun = time.monotonic()
    assert whole.wait() == 0
    length, moments, killed = time.monotonic() - begun, random.Random(0), 0
    for attempt in range(40):
        process = start(tmp_path / "cut")
        try:
            process.wait(moments.uniform(0.35, 0.8) * length)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        assert attempt < 39, "never finished"
    assert killed >= 1
    assert Run.load(tmp_path / "cut").provenance()["model"] == Run.load(tmp_path / "whole").provenance()["model"]
