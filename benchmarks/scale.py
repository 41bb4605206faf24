"""Large data: a table of 5 million rows and a folder of 200,000 pictures, each trained for a minute in a fresh process.

    python -m benchmarks.scale [--share 1.0] [--minutes 1] [--only table|pictures] [--limit 900]

Records peak memory (ru_maxrss of the process; of its largest worker), seconds and CPU seconds from the start of the process to the
end of the first step that counts, and, at 1/100, 1/30 and 1/10 of the size, the CPU time of reading: its slope on logarithmic axes
is 1 where the time is in proportion. A process that takes longer than `--limit` seconds is ended and said to be so. Data are kept in
the scratch folder for the next time.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, record

ROWS, PICTURES = 5_000_000, 200_000
SHARES = (0.01, 1 / 30, 0.1)


def make_table(n: int) -> Path:
    """Eight columns: an id, words, whole numbers, numbers with gaps, dates, truths."""
    draw, path = np.random.default_rng(0), WORK / "scale" / f"table-{n}.csv"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_suffix(".part")
    with begun.open("w") as file:
        file.write("id,city,age,income,score,day,ok,grade\n")
        for start in range(0, n, 50_000):
            k = min(50_000, n - start)
            day = (np.datetime64("2015-01-01") + draw.integers(0, 3000, k)).astype(str)
            score = [f"{x:.6f}" if keep else "" for x, keep in zip(draw.normal(size=k).tolist(), (draw.random(k) > 0.05).tolist())]
            income = draw.lognormal(10, 1, k).round(2).tolist()
            age, city = draw.integers(18, 90, k).tolist(), draw.integers(0, 300, k).tolist()
            ok, grade = (draw.random(k) < 0.3).tolist(), draw.choice(list("ABCDE"), k).tolist()
            cells = zip(range(start + 1, start + k + 1), city, age, income, score, day, ok, grade)
            file.writelines(f"{a},c{b},{c},{d},{e},{f},{str(g).lower()},{h}\n" for a, b, c, d, e, f, g, h in cells)
    begun.rename(path)
    return path


def make_pictures(n: int) -> Path:
    """32×32 colour PNGs in one folder; written by hand, since an encoder would take longer than the benchmark."""
    draw, whole = np.random.default_rng(0), WORK / "scale" / f"pictures-{n}"
    if whole.exists():
        return whole
    folder = whole.with_suffix(".part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shade = np.linspace(0, 200, 32)[:, None, None] + np.linspace(0, 40, 32)[None, :, None]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
    for i in range(n):
        lines = np.zeros((32, 97), np.uint8)
        lines[:, 1:] = (shade + draw.integers(0, 16, (4, 4, 3)).repeat(8, 0).repeat(8, 1)).astype(np.uint8).reshape(32, 96)
        (folder / f"{i:06d}.png").write_bytes(head + chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)) + chunk(b"IEND", b""))
    folder.rename(whole)
    return whole


# ------------------------------------------------------------------- in the child
def spent() -> dict[str, float]:
    """Seconds and CPU seconds (with ended workers) of this process so far, and the most memory it and a worker held."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "s": time.time() - float(os.environ["SCALE_BEGUN"]), "cpu_s": own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime,
        "peak_mb": own.ru_maxrss / 1024, "worker_mb": ended.ru_maxrss / 1024,
    }  # fmt: skip


def train_child(data: str, out: str, family: str, minutes: float) -> dict[str, Any]:
    """Train, and note when the first step that counts was done (not those on a copy that time a step), and a batch's share of a step."""
    from morphogen.api.train import Job, train
    from morphogen.training.trainer import Trainer

    first: dict[str, float] = {}
    fetch, whole, counts = [0.0], [0.0], [False]
    windows, step, run_, classical = Trainer.windows, Trainer.step, Trainer.run, Job.classical

    def timed_windows(self: Any) -> Any:
        at = time.thread_time()
        try:
            return windows(self)
        finally:
            fetch[0] += time.thread_time() - at

    def timed_step(self: Any) -> Any:
        at = time.process_time()
        try:
            return step(self)
        finally:
            whole[0] += time.process_time() - at
            if counts[0]:
                first.update(first or spent())

    def counted(self: Any, *args: Any, **named: Any) -> Any:
        counts[0] = True
        return run_(self, *args, **named)

    def fitted(self: Any, *args: Any) -> Any:
        first.update(spent())  # a classical family has no steps: its fit begins
        return classical(self, *args)

    Trainer.windows, Trainer.step, Trainer.run, Job.classical = timed_windows, timed_step, counted, fitted  # type: ignore[method-assign]
    run = train(data, out, family=family, minutes=minutes, options={"training": {"lanes": 1}}, force=True)
    return {
        **{f"first_step_{k}": v for k, v in first.items()}, **spent(), "steps": run.recipe["training"].get("steps", 0),
        "batch_share_of_step": fetch[0] / max(whole[0], 1e-9),
    }  # fmt: skip


def read_child(data: str) -> dict[str, Any]:
    """CPU seconds from the files to packed samples, with the split, one process."""
    from morphogen.codecs import workers
    from morphogen.plan import read
    from morphogen.training.split import split

    workers.cores = lambda: 1
    begun = time.process_time()
    codec, items = read(data)[-2:]
    codec.fit(items)
    split(items)
    codec.pack(items)
    return {"cpu_s": time.process_time() - begun}


def child(name: str, limit: float, *arguments: Any) -> dict[str, Any]:
    """The answer of one of the functions above, in a fresh process; {"ended_after_s": limit} when it took longer."""
    code = f"import json, sys; from benchmarks.scale import {name} as f; print('\\n' + json.dumps(f(*json.loads(sys.argv[1]))))"
    env = {**os.environ, "SCALE_BEGUN": str(time.time())}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True, check=False, timeout=limit, env=env
        )
    except subprocess.TimeoutExpired:
        return {"ended_after_s": limit}
    return json.loads(done.stdout.splitlines()[-1]) if not done.returncode else {"failed": done.stderr[-500:]}


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Of log seconds over log size, least squares."""
    return float(np.polyfit([math.log(s) for s in sizes], [math.log(t) for t in seconds], 1)[0])


def measure(kind: str, share: float, minutes: float, limit: float) -> dict[str, Any]:
    """All figures of one kind of data."""
    make, total, families = (make_table, ROWS, ("diffusion", "cart")) if kind == "table" else (make_pictures, PICTURES, ("vae",))
    figures: dict[str, Any] = {}
    took: dict[int, float] = {}
    for part in SHARES:
        n = int(total * share * part)
        found = child("read_child", limit, str(make(n)))
        figures |= {f"{kind}_{n}_read_{k}": v for k, v in found.items()}
        if "cpu_s" in found:
            took[n] = found["cpu_s"]
    if len(took) > 1:
        figures[f"{kind}_slope"] = slope(list(took), list(took.values()))
    data = make(int(total * share))
    for family in families:
        with tempfile.TemporaryDirectory(dir=WORK) as out:
            figures |= {f"{kind}_{family}_{k}": v for k, v in child("train_child", limit, str(data), f"{out}/run", family, minutes).items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the full sizes")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", choices=("table", "pictures"))
    parser.add_argument("--limit", type=float, default=900.0, help="seconds a process may take")
    args = parser.parse_args()
    for kind in ("table", "pictures"):
        if args.only in (None, kind):
            figures = measure(kind, args.share, args.minutes, args.limit)
            record(f"scale-{kind}" + ("" if args.share == 1 else "-part"), figures, share=args.share, minutes=args.minutes)


if __name__ == "__main__":
    main()
