"""Cost curves: seconds of a training step against what it grows with: python -m benchmarks.curves [--plot docs/curves.svg]

Each curve doubles one thing and holds the rest: batch, side of a picture, length of a text, parameters, items in the data. The slope
is of log seconds on log size over the upper half of the sizes, five repeats in turns, with a 95 % interval over repeats. A slope
above 1.15 in batch or data is a defect.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, fresh, record, save_pictures
from benchmarks.speed import our_trainer

REPEATS = 5
QUIET = {"previews": 0, "checks": 1}


# ------------------------------------------------------------------ data
def pictures(n: int, side: int) -> Path:
    """n smooth random grey pictures."""
    folder = fresh(WORK / "curves" / f"{n}x{side}")
    rng = np.random.default_rng(0)
    x = np.linspace(0, 3, side)
    a, b, c = rng.uniform(0, 6, (3, n, 1, 1))
    values = np.sin(a + b * x[None, :, None]) * np.cos(c + b * x[None, None, :])
    save_pictures(folder, np.rint(127.5 + 127 * values).astype(np.uint8), np.arange(n) % 2)
    return folder


def table(n: int) -> Path:
    path = WORK / "curves" / f"{n}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=n).round(3), rng.gamma(2, 1, n).round(3), rng.integers(0, 50, n)])
    kinds = rng.choice(["red", "green", "blue"], n)
    path.write_text("a,b,c,kind\n" + "\n".join(f"{a},{b},{int(c)},{k}" for (a, b, c), k in zip(rows, kinds)) + "\n")
    return path


def text(n: int = 400) -> Path:
    path = WORK / "curves" / "text.txt"
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("etaoinshr"), rng.integers(2, 8))) for _ in range(300)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(" ".join(rng.choice(words, 400)) for _ in range(n)) + "\n")
    return path


# ------------------------------------------------------------------ curves: name -> (sizes, size -> something to time)
def step_of(data: Path, family: str, **options: Any) -> Callable[[], Any]:
    options["training"] = {**QUIET, **options.get("training", {})}
    return our_trainer(data, family, options, 10_000).step


def by_batch(n: int) -> Callable[[], Any]:
    return step_of(pictures(1500, 16), "diffusion", training={"batch": n})


def by_side(n: int) -> Callable[[], Any]:
    return step_of(pictures(200, n), "diffusion", codec={"size": n}, training={"batch": 16})


def by_length(n: int) -> Callable[[], Any]:
    return step_of(text(), "autoregressive", codec={"length": n, "tokens": "bytes"}, training={"batch": 8})


def by_parameters(n: int) -> Callable[[], Any]:
    return step_of(text(), "autoregressive", codec={"length": 128, "tokens": "bytes"}, net={"width": n}, training={"batch": 8})


def by_pictures(n: int) -> Callable[[], Any]:
    """Reading, not a step: what it takes to stand before the first one."""
    folder = pictures(n, 16)
    return lambda: our_trainer(folder, "diffusion", {"training": QUIET}, 10_000)


def by_rows(n: int) -> Callable[[], Any]:
    path = table(n)
    return lambda: our_trainer(path, "masked", {"training": QUIET}, 10_000)


CURVES: dict[str, tuple[tuple[int, ...], Callable[[int], Callable[[], Any]], str]] = {
    "batch": ((8, 16, 32, 64, 128, 256), by_batch, "items a step; 16×16 diffusion"),
    "resolution": ((8, 16, 32, 64), by_side, "pixels a side; diffusion, 16 items"),
    "length": ((64, 128, 256, 512, 1024), by_length, "tokens an item; GPT, 8 items"),
    "width": ((64, 128, 256, 512), by_parameters, "width of a GPT, 8 items of 128"),
    "pictures": ((500, 1000, 2000, 4000, 8000), by_pictures, "pictures read before the first step"),
    "rows": ((2500, 5000, 10000, 20000, 40000), by_rows, "rows read before the first step"),
}


def measure(name: str) -> dict[str, Any]:
    sizes, make, _ = CURVES[name]
    jobs = {n: make(n) for n in sizes}
    for work in jobs.values():
        work()
    seconds: dict[int, list[float]] = {n: [] for n in sizes}
    for _ in range(REPEATS):
        for n, work in jobs.items():
            begun, count = time.perf_counter(), 0
            while not count or (time.perf_counter() - begun < 0.5 and count < 50):
                work()
                count += 1
            seconds[n].append((time.perf_counter() - begun) / count)
    upper = sizes[len(sizes) // 2 :] if len(sizes) > 3 else sizes
    slopes = [float(np.polyfit(np.log(upper), np.log([seconds[n][i] for n in upper]), 1)[0]) for i in range(REPEATS)]
    spread = 2.78 * statistics.stdev(slopes) / REPEATS**0.5  # Student's t, four degrees of freedom
    mean = statistics.mean(slopes)
    medians = [statistics.median(seconds[n]) for n in sizes]
    return {"sizes": sizes, "seconds": medians, "slope": mean, "low": mean - spread, "high": mean + spread}


# ------------------------------------------------------------------ a picture of them
def plot(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """Small multiples, both axes logarithmic; light and dark pages alike."""
    wide, tall, cells = 300, 210, []
    for i, (name, curve) in enumerate(curves.items()):
        x, y = np.log10(curve["sizes"]), np.log10(curve["seconds"])
        span = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
        px = 46 + (x - x[0]) / np.ptp(x) * 225
        py = 160 - (y - y.min()) / span * 105
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py))
        dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in zip(px, py))
        ends = (0, len(x) - 1)
        labels = "".join(_label(px[k], 180, f"{curve['sizes'][k]:,}") + _label(px[k], py[k] - 9, _time(curve["seconds"][k])) for k in ends)
        cells.append(
            f'<g transform="translate({i % 3 * wide},{i // 3 * tall})"><text x="46" y="22" class="t">{name}</text>'
            f'<text x="271" y="22" class="n" text-anchor="end">slope {curve["slope"]:.2f} ± {curve["high"] - curve["slope"]:.2f}</text>'
            f'<path d="M46 165H271" class="axis"/><polyline points="{points}" class="line"/>{dots}{labels}'
            f"{_label(158, 198, CURVES[name][2])}</g>"
        )
    rows = -(-len(curves) // 3)
    style = (
        "text{font:12px system-ui,sans-serif;fill:#888}.t{font-weight:600;font-size:14px;fill:#2a7f9e}.n{font-size:11px}"
        ".axis{stroke:#8886}.line{fill:none;stroke:#2a7f9e;stroke-width:2}circle{fill:#2a7f9e}"
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * wide} {rows * tall + 8}"><style>{style}</style>{"".join(cells)}</svg>\n'
    )


def _label(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="n" text-anchor="middle">{words}</text>'


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(CURVES), default=list(CURVES))
    parser.add_argument("--plot", type=Path, help="write an SVG of the curves here")
    a = parser.parse_args()
    curves = {}
    for name in a.only:
        curves[name] = measure(name)
        print(f"{name:<12} slope {curves[name]['slope']:.2f} [{curves[name]['low']:.2f}, {curves[name]['high']:.2f}]", flush=True)
    record("curves", curves, repeats=REPEATS)
    if a.plot:
        plot(curves, a.plot)


if __name__ == "__main__":
    main()
