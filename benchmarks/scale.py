"""Large data: a table of 5 million rows and a folder of 200,000 pictures, each trained for a minute in a fresh process.

    python -m benchmarks.scale [--share 1.0] [--minutes 1] [--only table|pictures]

Records peak memory (ru_maxrss), seconds to the first step, and, at 1/100, 1/30 and 1/10 of the size, the CPU time of reading: its
slope on logarithmic axes is 1 where the time is in proportion.
"""
from __future__ import annotations

import argparse
import json
import math
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, fresh, record

ROWS, PICTURES = 5_000_000, 200_000
SHARES = (0.01, 1 / 30, 0.1)


def make_table(path: Path, n: int) -> Path:
    """Eight columns: an id, words, whole numbers, numbers with gaps, dates, truths."""
    draw = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
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
    return path


def make_pictures(folder: Path, n: int) -> Path:
    """32×32 colour PNGs, a thousand a folder; written by hand, since an encoder would take longer than the benchmark."""
    draw = np.random.default_rng(0)
    shade = np.linspace(0, 200, 32)[:, None, None] + np.linspace(0, 40, 32)[None, :, None]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
    for i in range(n):
        part = folder / "all" / f"{i // 1000:03d}"  # below one folder: the parts are no classes
        if i % 1000 == 0:
            part.mkdir(parents=True)
        lines = np.zeros((32, 97), np.uint8)
        lines[:, 1:] = (shade + draw.integers(0, 16, (4, 4, 3)).repeat(8, 0).repeat(8, 1)).astype(np.uint8).reshape(32, 96)
        (part / f"{i:06d}.png").write_bytes(head + chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)) + chunk(b"IEND", b""))
    return folder


# ------------------------------------------------------------------- in the child
def train_child(data: str, out: str, family: str, minutes: float) -> dict[str, Any]:
    """Train, and note when the first step began and how much of a step its batch takes."""
    from morphogen.api.train import train
    from morphogen.training.trainer import Trainer

    begun, first, fetch, whole = time.monotonic(), [0.0], [0.0], [0.0]
    windows, step = Trainer.windows, Trainer.step

    def timed_windows(self: Any) -> Any:
        first[0] = first[0] or time.monotonic() - begun
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

    Trainer.windows, Trainer.step = timed_windows, timed_step  # type: ignore[method-assign]
    run = train(data, out, family=family, minutes=minutes, options={"training": {"lanes": 1}}, force=True)
    return {
        "first_step_s": first[0], "all_s": time.monotonic() - begun, "steps": run.recipe["training"].get("steps", 0),
        "batch_share_of_step": fetch[0] / max(whole[0], 1e-9), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def read_child(data: str) -> dict[str, Any]:
    """CPU seconds from the files to packed samples, with the split."""
    from morphogen.plan import read
    from morphogen.training.split import split

    begun = time.process_time()
    codec, items = read(data)[-2:]
    codec.fit(items)
    split(items)
    codec.pack(items)
    return {"cpu_s": time.process_time() - begun, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def child(name: str, *arguments: Any) -> dict[str, Any]:
    """The answer of one of the functions above, in a fresh process."""
    code = f"import json, sys; from benchmarks.scale import {name} as f; print('\\n' + json.dumps(f(*json.loads(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Of log seconds over log size, least squares."""
    return float(np.polyfit([math.log(s) for s in sizes], [math.log(t) for t in seconds], 1)[0])


def measure(kind: str, share: float, minutes: float) -> dict[str, Any]:
    """All figures of one kind of data; what was made is deleted."""
    make, total, families = (make_table, ROWS, ("diffusion", "cart")) if kind == "table" else (make_pictures, PICTURES, ("vae",))
    place, figures, sizes, took = WORK / "scale", {}, [], []
    name = "data.csv" if kind == "table" else "data"
    for part in SHARES:
        data = make(fresh(place) / name, int(total * share * part))
        sizes.append(int(total * share * part))
        took.append(child("read_child", str(data))["cpu_s"])
        figures[f"{kind}_{sizes[-1]}_read_cpu_s"] = took[-1]
    figures[f"{kind}_slope"] = slope(sizes, took)
    data = make(fresh(place) / name, int(total * share))
    for family in families:
        found = child("train_child", str(data), str(place / "run"), family, minutes)
        figures |= {f"{kind}_{family}_{k}": v for k, v in found.items()}
    fresh(place)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the full sizes")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", choices=("table", "pictures"))
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for kind in ("table", "pictures"):
        if args.only in (None, kind):
            figures |= measure(kind, args.share, args.minutes)
    name = "scale" + (f"-{args.only}" if args.only else "") + ("" if args.share == 1 else "-part")
    record(name, figures, share=args.share, minutes=args.minutes)


if __name__ == "__main__":
    main()
