"""Damaged files: each is read or refused in one line, fast and in little memory. 100 of each format here, 10,000 in `make test-all`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Run in a process of its own, so that a crash is seen and memory is this reader's alone. Arguments: folder, format, number, seed.
SCRIPT = """
import json, os, resource, signal, sys, time
from collections import Counter
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from mutation import mutants
from morphogen.errors import DataError, FormatError
from morphogen.formats.gguf import read_gguf, write_gguf
from morphogen.formats.shards import Shards, write_shards

folder, kind, number, seed = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
path = folder / "model.safetensors"
g = torch.Generator().manual_seed(0)
tensors = {f"blk.{i}.{n}.weight": torch.randn(64, 256, generator=g) for i in range(6) for n in ("attn_q", "ffn_up")}
tensors |= {"norm.weight": torch.ones(256), "half.weight": torch.randn(64, 256, generator=g).bfloat16()}
if kind == "gguf":
    kinds = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
    metadata = {"general.architecture": "llama", "general.alignment": 32, "llama.block_count": 6, "llama.eps": 1e-5, "flag": True,
                "tokenizer.ggml.tokens": [f"t{i}" for i in range(200)], "tokenizer.ggml.scores": [i / 2 for i in range(200)],
                "tokenizer.ggml.token_type": [1] * 200, "tokenizer.chat_template": "{{ messages }}"}
    write_gguf(path, metadata, {k: (v, kinds[i % 6]) for i, (k, v) in enumerate(tensors.items())})
else:
    write_shards(folder, tensors)
data = path.read_bytes()

def read():
    return list(Shards(path).values()) if kind == "safetensors" else list(read_gguf(path).tensors.values())

def load(tensors):
    for t in tensors:
        t.sum() if kind == "safetensors" else t.load()

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

def hang(*_):
    raise SystemExit("a mutant took more than two seconds")

load(read())
signal.signal(signal.SIGALRM, hang)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
times, says, read_well, growth = [], Counter(), 0, 0
for i, mutant in enumerate(mutants(data, number, seed)):
    path.write_bytes(mutant)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    signal.setitimer(signal.ITIMER_REAL, 2)
    begun = time.perf_counter()
    try:
        found = read()
        read_well += 1
    except (FormatError, DataError) as error:
        found = []
        line = str(error)
        assert "\\n" not in line and len(line) < 900 and error.remedy, line
        says[" ".join(w for w in error.what.split() if w.isalpha())] += 1
    times.append(time.perf_counter() - begun)
    growth = max(growth, memory("VmHWM") - before)
    load(found)
    signal.setitimer(signal.ITIMER_REAL, 0)
    del found
times.sort()
print(json.dumps({"n": number, "file": len(data), "read": read_well, "refused": sum(says.values()), "reasons": len(says), "growth": growth,
                  "p50_ms": 1e3 * times[len(times) // 2], "p99_ms": 1e3 * times[int(len(times) * 0.99)], "max_ms": 1e3 * times[-1]}))
"""


def torture(folder: Path, kind: str, number: int, seed: int) -> dict[str, float]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(Path(__file__).parent), str(folder), kind, str(number), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    out = json.loads(done.stdout)
    print(kind, out)
    assert out["read"] + out["refused"] == number
    assert out["refused"] > number / 3 and out["read"] > 0 and out["reasons"] >= 8  # the changes reach the rules
    # Lists of small numbers take eight bytes an entry, short strings sixty, whatever they take in the file: small files need a floor.
    # For any file it ends at four million entries (about 130 MB).
    assert out["growth"] < max(2 * out["file"], 4 << 20)
    assert out["p99_ms"] < 50
    return out


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_sec_mutants_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    torture(tmp_path, kind, 100, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_sec_many_mutants_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    torture(tmp_path, kind, 10_000, 2)
