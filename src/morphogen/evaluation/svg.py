"""Small drawings for reports as inline SVG: curves and interval bars. Colours come from the page's style sheet."""
from __future__ import annotations

import math
from collections.abc import Sequence

from morphogen.evaluation.metric import Metric

POINTS = 300  # a path with more shows no more


def _ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values inside [low, high]."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    step = 10 ** math.floor(math.log10(span / wanted))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, first + wanted + 2) if i * step <= high + span * 1e-9]


def short(x: float) -> str:
    """A number in few letters: 12k, 0.031, 1.5e-05."""
    if not math.isfinite(x):
        return "–"
    if x == 0:
        return "0"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(x) >= unit:
            return f"{x / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{x:.4g}" if abs(x) >= 1e-3 else f"{x:.1e}"


def _smooth(y: Sequence[float], window: int) -> list[float]:
    """Centred running means, over fewer values at the ends: a trailing mean would show every change late."""
    half, sums = window // 2, [0.0]
    for v in y:
        sums.append(sums[-1] + v)
    spans = [(max(0, i - half), min(len(y), i + half + 1)) for i in range(len(y))]
    return [(sums[b] - sums[a]) / (b - a) for a, b in spans]


def _thin(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of a run."""
    size = max(1, math.ceil(len(x) / POINTS))
    return [(sum(x[i : i + size]) / len(x[i : i + size]), sum(y[i : i + size]) / len(y[i : i + size])) for i in range(0, len(x), size)]


def curve(x: Sequence[float], y: Sequence[float], label: str, width: int = 420, height: int = 180) -> str:
    """A line chart; values that are not finite are left out. `label` must not hold markup: it is numbers and our own words.

    Noisy series get their raw points in a faint line below a running mean.
    """
    kept = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(kept) < 2:
        return ""
    xs, ys = [k[0] for k in kept], [k[1] for k in kept]
    # the first steps of a run can be a hundred times the rest: cut the top where it hides everything else
    ordered = sorted(ys)
    top = ordered[min(len(ordered) - 1, int(0.98 * len(ordered)))]
    low, high = ordered[0], ordered[-1]
    if len(ys) > 20 and high - low > 3 * max(top - low, 1e-12):
        high = top
    if high <= low:
        low, high = low - 0.5, high + 0.5
    pad = 0.06 * (high - low)
    low, high = low - pad, high + pad
    left, right, up, down = 46, width - 10, 10, height - 24
    sx = lambda v: left + (v - xs[0]) / ((xs[-1] - xs[0]) or 1) * (right - left)
    sy = lambda v: down - (min(max(v, low), high) - low) / (high - low) * (down - up)
    path = lambda pts: "M" + "L".join(f"{sx(a):.1f} {sy(b):.1f}" for a, b in pts)
    grid = "".join(f'<line class="grid" x1="{left}" x2="{right}" y1="{sy(t):.1f}" y2="{sy(t):.1f}"/>'
                   f'<text x="{left - 6}" y="{sy(t) + 3.5:.1f}" text-anchor="end">{short(t)}</text>' for t in _ticks(low, high))
    grid += "".join(f'<text x="{sx(t):.1f}" y="{height - 7}" text-anchor="middle">{short(t)}</text>' for t in _ticks(xs[0], xs[-1], 5))
    noisy = len(ys) >= 40
    lines = f'<path class="faint" d="{path(_thin(xs, ys))}"/>' if noisy else ""
    lines += f'<path class="curve" d="{path(_thin(xs, _smooth(ys, max(1, len(ys) // 25)) if noisy else ys))}"/>'
    if not noisy:
        lines += "".join(f'<circle class="point" cx="{sx(a):.1f}" cy="{sy(b):.1f}" r="2"/>' for a, b in kept)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{grid}{lines}</svg>'


def scale(metric: Metric) -> tuple[float, float]:
    """The range a metric's bar spans: 0 to 1 for shares, otherwise what holds all its values."""
    values = [metric.value, metric.low, metric.high, metric.floor, metric.baseline["value"] if metric.baseline else None]
    finite = [float(v) for v in values if v is not None and math.isfinite(v)]
    if metric.better == "near" and metric.target == 0.5:
        return min([0.5, *finite]), 1.0
    if all(0 <= v <= 1 for v in finite) and metric.better == "higher":
        return 0.0, 1.0
    low, high = min([0.0, *finite]), max(finite, default=1.0)
    if metric.name in ("exact copies", "too close"):
        high = max(high, 0.05)  # a bar that is full at half a per cent would cry wolf
    return (low, high * 1.08 if high > 0 else 1.0) if high > low else (low - 1, high + 1)


def interval(metric: Metric, width: int = 240) -> str:
    """A metric's interval as a bar with its value as a dot, the floor as a green tick and the baseline as a hollow one."""
    if not math.isfinite(metric.value):
        return ""
    low, high = scale(metric)
    at = lambda v: 8 + (min(max(v, low), high) - low) / (high - low) * (width - 16)
    marks = f'<line class="track" x1="8" x2="{width - 8}" y1="11" y2="11"/>'
    if math.isfinite(metric.low) and math.isfinite(metric.high):
        marks += f'<line class="span" x1="{at(metric.low):.1f}" x2="{max(at(metric.high), at(metric.low) + 0.5):.1f}" y1="11" y2="11"/>'
    if metric.floor is not None and math.isfinite(metric.floor):
        marks += f'<line class="floor" x1="{at(metric.floor):.1f}" x2="{at(metric.floor):.1f}" y1="2" y2="20"/>'
    if metric.baseline and math.isfinite(metric.baseline["value"]):
        x = at(metric.baseline["value"])
        marks += f'<path class="base" d="M{x:.1f} 6.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z"/>'
    marks += f'<circle class="value" cx="{at(metric.value):.1f}" cy="11" r="4.5"/>'
    return f'<svg class="bar" viewBox="0 0 {width} 22" role="img" aria-label="value {short(metric.value)}">{marks}</svg>'
