"""One self-contained page that can be mailed: inline style, data-URI pictures, our own SVG; no script, no network."""
from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from morphogen.evaluation import svg
from morphogen.evaluation.metric import Metric
from morphogen.evaluation.page import Command, Copies, Curves, Facts, Lines, Measures, Page, Preview, Row, Samples, Section, Strips

TITLES = {
    "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage", "frechet": "Fréchet distance",
    "c2st": "Told from real (AUC)", "legal": "Keeps the rules", "nearest distance": "Distance to training items",
    "nearest distance, closest 5%": "Distance, closest 5%", "too close": "Suspiciously close", "exact copies": "Exact copies",
    "copied run": "Copied run of letters", "columns": "Column shapes", "correlations": "Correlations",
    "rare categories back": "Rare categories back", "rare frequency": "Rare categories' frequency",
    "distinct 4-grams": "Distinct four-word runs", "known words": "Known words",
}
PERCENT = ("precision", "recall", "coverage", "legal", "too close", "exact copies", "columns", "correlations", "rare categories back",
           "agreement:", "distinct", "known words")
FIRST = ("precision", "coverage", "c2st", "tstr:", "bits per", "nearest distance", "exact copies", "legal", "columns", "agreement:")
MORE = {"higher": "higher is better", "lower": "lower is better"}
CELLS = 40  # characters of a table cell that are shown
LETTERS = 1200  # characters of a text that are shown
KEPT = "\n\t\u200c\u200d"  # joiners: without them emoji and some scripts fall apart


# ------------------------------------------------------------------ words of numbers
def title_of(name: str) -> str:
    """A metric's name for people."""
    head, _, what = name.partition(":")
    known = {"tstr": "Useful for", "agreement": "Gives the asked", "least class": "Rarest"}
    if what and head in known:
        return f"{known[head]} {what}"
    return TITLES.get(name, name[:1].upper() + name[1:])


def number(metric: Metric, value: float | None) -> str:
    """A value of a metric as it is read: 93%, 0.861, 12.4."""
    if value is None or not math.isfinite(value):
        return "∞" if value is not None and value == math.inf else "–"
    if metric.name.startswith(PERCENT):
        return f"{value:.1%}" if 0 < value < 0.1 or 0.99 < value < 1 else f"{value:.0%}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def wanted(metric: Metric) -> str:
    """Which way is better."""
    return MORE.get(metric.better) or f"near {metric.target:.3g} is better"


def finding(metric: Metric) -> str:
    """better, worse, even or "" against its baseline, beyond chance; keeping away from the training items is no contest."""
    if not metric.baseline or metric.name in ("nearest distance", "nearest distance, closest 5%", "too close", "exact copies"):
        return ""
    rival = metric.others.get(metric.baseline["name"])
    outcome = metric.compare(rival) if rival else 0
    return {1: "better", -1: "worse", 0: "even"}[outcome]


def headline(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics that get a card, in the order people ask."""
    finite = [m for m in metrics if math.isfinite(m.value) and m.name != "nearest distance, closest 5%"]
    return [m for prefix in FIRST for m in finite if m.name.startswith(prefix)][:9]


def duration(seconds: float) -> str:
    """8 s, 2 min 05 s, 1 h 10 min."""
    if not math.isfinite(seconds):
        return "–"
    s = round(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


# ------------------------------------------------------------------ pictures
def data_uri(png: bytes) -> str:
    """PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height from the header; (0, 0) when these are no PNG bytes."""
    if len(png) < 24 or png[:8] != b"\x89PNG\r\n\x1a\n":
        return 0, 0
    return struct.unpack(">II", png[16:24])


def picture(png: bytes, target: int = 112) -> dict[str, Any]:
    """What the template needs of one picture: small ones are enlarged by a whole factor so that pixels stay square."""
    width, height = png_size(png)
    largest = max(width, height, 1)
    factor = max(1, round(target / largest)) if largest < target else min(1.0, 2 * target / largest)
    size = {"width": max(1, round(width * factor)), "height": max(1, round(height * factor))}
    return {"src": data_uri(png), **size, "crisp": largest < target}


def cell(value: Any) -> dict[str, str]:
    """A table cell: its text, and whether it is a number, a word or missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return {"text": "–", "kind": "none"}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {"text": clean(str(value), CELLS), "kind": "word"}
    return {"text": f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else f"{value:.6g}", "kind": "num"}


def clean(text: str, most: int) -> str:
    """Printable text of bounded length: other controls would be drawn as boxes or, as bidi marks, reorder the page."""
    kept = "".join(c for c in text[: most + 1] if c in KEPT or c.isprintable())
    return kept[:most] + "…" if len(text) > most else kept


def shown(preview: Preview, captions: Sequence[str] = (), target: int = 112) -> dict[str, Any]:
    """A preview with everything the template prints, cut to what fits on a page."""
    captions = [clean(str(c), 80) for c in captions]
    if preview["kind"] == "image":
        pictures = [picture(p, target) for p in preview["png"]]
        return {"kind": "image", "items": [{**p, "caption": captions[i] if i < len(captions) else ""} for i, p in enumerate(pictures)]}
    if preview["kind"] == "table":
        rows = [[cell(v) for v in row] for row in preview["rows"][:100]]
        return {"kind": "table", "columns": [clean(str(c), CELLS) for c in preview["columns"]], "rows": rows}
    texts = [{"text": clean(str(t), LETTERS), "caption": captions[i] if i < len(captions) else ""} for i, t in enumerate(preview["texts"])]
    return {"kind": "text", "items": texts}


def singles(preview: Preview) -> list[dict[str, Any]]:
    """A preview item by item, for pairs."""
    if preview["kind"] == "image":
        return [shown({"kind": "image", "png": [p]}, target=96) for p in preview["png"]]
    if preview["kind"] == "table":
        return [shown({"kind": "table", "columns": preview["columns"], "rows": [row]}) for row in preview["rows"]]
    return [shown({"kind": "text", "texts": [t]}) for t in preview["texts"]]


# ------------------------------------------------------------------ curves
def charts(section: Curves) -> list[dict[str, str]]:
    """One chart for each series that has two points or more."""
    skip = {section.x, "time", "seconds", "epoch"}
    keys = list(section.keys) or list(dict.fromkeys(k for row in section.rows for k, v in row.items() if _real(v) and k not in skip))
    out = []
    for key in keys[:12]:
        points = [(float(row.get(section.x, i)), float(row[key])) for i, row in enumerate(section.rows) if _real(row.get(key))]
        drawn = svg.curve([p[0] for p in points], [p[1] for p in points], "chart") if len(points) > 1 else ""
        if drawn:
            out.append({"name": key, "last": svg.short(points[-1][1]), "svg": drawn})
    return out


def _real(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


# ------------------------------------------------------------------ pages
@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(loader=PackageLoader("morphogen.evaluation", "templates"), autoescape=True, undefined=StrictUndefined,
                      trim_blocks=True, lstrip_blocks=True)
    tools = {"title_of": title_of, "number": number, "wanted": wanted, "finding": finding, "headline": headline, "shown": shown,
             "singles": singles, "charts": charts, "bar": svg.interval, "duration": duration, "zip": zip}
    env.globals.update(tools)
    return env


def render(page: Page) -> str:
    """The report as one HTML document."""
    return _environment().get_template("report.html.j2").render(page=page)


def render_compare(rows: Sequence[Row], *, title: str, date: str, recommended: str = "", because: str = "",
                   sections: Sequence[Section] = ()) -> str:
    """The page of `compare`: every family in a table, the recommended one set off, and why.

    Columns are the key metrics that any family has, in the order people ask.
    """
    metrics: dict[str, Metric] = {m.name: m for row in rows for m in row.metrics}
    columns = headline(list(metrics.values()))[:6]
    best = {m.name: _best(m, rows) for m in columns}
    cells = [{"row": row, "values": {m.name: m for m in row.metrics}} for row in rows]
    page = Page(title=title, verdict=f"Use {recommended} {because}".strip() if recommended else because, date=date, sections=sections,
                tone="good" if recommended else "unknown")
    return _environment().get_template("compare.html.j2").render(page=page, rows=cells, columns=columns, best=best, recommended=recommended)


def _best(metric: Metric, rows: Sequence[Row]) -> str:
    """The family with the best value of a metric."""
    values = {row.family: m.value for row in rows for m in row.metrics if m.name == metric.name and math.isfinite(m.value)}
    return min(values, key=lambda f: metric.distance(values[f])) if len(values) > 1 else ""


# ------------------------------------------------------------------ model card
def card(page: Page) -> str:
    """The same page as a Markdown model card, without pictures."""
    lead, _, rest = page.verdict.partition(". ")
    findings = [line for part in rest.splitlines() if part.strip() for line in (_md(part), "")]
    out = [f"# {_md(page.title)}", "", f"*{_md(page.date)}*", "", f"**{_md(lead + '.' * bool(rest))}**", "", *findings]
    for section in page.sections:
        body = _card_section(section)
        if body:
            out += [f"## {_md(section.title)}", "", *body, ""]
    return "\n".join([*out, _md(page.footer)]) + "\n"


def _card_section(section: Section) -> list[str]:
    match section:
        case Lines():
            return [f"- {_md(line)}" if isinstance(line, str) else f"- **{_md(line[0])}**: {_md(line[1])}" for line in section.lines]
        case Facts():
            return ["| | |", "|---|---|", *[f"| {_md(k)} | {_md(v)} |" for k, v in section.facts.items()]]
        case Command():
            fence = "`" * max(3, _longest_ticks(section.command) + 1)
            return [f"{fence}sh", section.command, fence]
        case Measures():
            return [*_card_metrics(section.metrics), *(["", _md(section.note)] if section.note else [])]
        case Samples() if section.preview["kind"] == "text":
            return [f"> {_md(clean(str(t), 300))}\n" for t in section.preview["texts"][:3]]
        case Samples() | Strips() | Curves() | Copies():
            return []


def _card_metrics(metrics: Sequence[Metric]) -> list[str]:
    head = ["| measure | value | 95% interval | real against real | best baseline | n |", "|---|---|---|---|---|---|"]
    rows = []
    for m in metrics:
        base = f"{number(m, m.baseline['value'])} ({_md(m.baseline['name'])})" if m.baseline else "–"
        span = f"{number(m, m.low)} – {number(m, m.high)}" if math.isfinite(m.low) else "–"
        rows.append(f"| {_md(title_of(m.name))} ({wanted(m)}) | {number(m, m.value)} | {span} | {number(m, m.floor)} | {base} | {m.n:,} |")
    return head + rows


def _md(value: Any) -> str:
    """Text that Markdown and the HTML it allows leave as it is, on one line."""
    text = clean(" ".join(str(value).split()), 2000)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]" else c for c in text)


def _longest_ticks(text: str) -> int:
    best = run = 0
    for c in text:
        run = run + 1 if c == "`" else 0
        best = max(best, run)
    return best


__all__ = ["Command", "Copies", "Curves", "Facts", "Lines", "Mapping", "Measures", "Page", "Preview", "Row", "Samples", "Section", "Strips",
           "card", "render", "render_compare"]
