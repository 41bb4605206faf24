"""Sixty damaged files of every format through the code of `benchmarks/fuzz.py`, which takes thousands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = [
    "png",
    "jpeg",
    "gif",
    "webp",
    "bmp",
    "tiff",
    "metadata",
    "csv",
    "tsv",
    "parquet",
    "jsonl",
    "chat",
    "txt",
    "smi",
    "sdf",
    "abc",
    "midi",
    "sok",
    "tiled",
    "recipe",
    "safetensors",
    "gguf",
    "config",
    "tokenizer",
]
SCRIPT = """
import json, sys
from benchmarks.fuzz import run
from benchmarks.fuzz_formats import FORMATS
for name in sys.argv[2:]:
    tally = run(FORMATS[name], int(sys.argv[1]), seed=7)
    print(json.dumps({"format": name, "says": tally.faults, **tally.figures()}), flush=True)
"""


def fuzzed(number: int, *names: str) -> list[dict]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(number), *names], cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_sec_damaged_files_are_read_or_refused() -> None:
    """One process for all, since starting one costs more than most formats take."""
    found = fuzzed(60, *QUICK)
    assert [f["format"] for f in found] == QUICK
    assert not [(f["format"], f["says"]) for f in found if f["faults"]]
    assert all(f["read"] + f["refused"] == 60 and f["read"] for f in found)
    for f in found:
        if f["format"] in ("safetensors", "gguf"):
            assert f["refused"] > 20 and f["reasons"] >= 6 and f["p99 s"] < 0.05  # the changes reach the rules


@pytest.mark.slow
def test_sec_damaged_runs_and_compressed_files() -> None:
    assert not [(f["format"], f["says"]) for f in fuzzed(100, "run", "container", "generation config", "tokenizer config") if f["faults"]]


def test_the_harness_sees_crashes_hangs_memory_noise_and_litter(tmp_path: Path) -> None:
    """Readers that misbehave on purpose: each is found, put down to its file, and the rest is still read."""
    script = """
import json, os, sys, warnings
from benchmarks.fuzz import Format, run
from benchmarks.fuzz_formats import single
def use(path):
    n = int(path.read_bytes().partition(b" ")[2] or b"99")
    if n == 1: os.kill(os.getpid(), 11)
    if n == 2:
        while True: pass
    if n == 3: bytearray(b"x") * (400 << 20)
    if n == 4: os.write(2, b"noise")
    if n == 5: (path.parent / "left").write_text("x")
    if n == 6: raise ValueError("bare")
    if n == 7: warnings.warn("careful")
    if n == 8: bytearray(8 << 30)
form = Format("x", single(("a.txt", b"a")), use, lambda data, rng: data)
import benchmarks.fuzz as fuzz
fuzz.damaged = lambda form, cases, number, seed: (*cases[0], b"a %d" % number)
tally = run(form, 10)
print(json.dumps(sorted(tally.faults)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(json.loads(done.stdout))
    says = {1: "SIGSEGV", 2: "processor time", 3: "MiB", 4: "chatter", 5: "left", 6: "ValueError", 7: "UserWarning", 8: "MemoryError"}
    assert sorted(found) == sorted(says)
    assert all(word in found[n] for n, word in says.items()), found
