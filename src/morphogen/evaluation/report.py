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
    "distinct 4-grams": "Distinct four-word runs", "known words": "Known words", "unique": "Different from each other",
}
PERCENT = ("precision", "recall", "coverage", "legal", "too close", "exact copies", "columns", "correlations", "rare categories back",
           "agreement:", "distinct", "known words", "unique")
FIRST = ("precision", "coverage", "c2st", "tstr:", "bits per", "nearest distance", "exact copies", "legal", "obedience:", "columns",
         "agreement:", "unique")
MORE = {"higher": "higher is better", "lower": "lower is better"}
CELLS = 40  # characters of a table cell that are shown
LETTERS = 1200  # characters of a text that are shown
LINE = 160  # characters of the line under a picture
SMALL, WIDE = 56, 200  # sides of pictures in a strip, and of pictures that have a sound
AUDIO = 6_000_000  # bytes of sound in one section: a page that cannot be mailed is no report
KEPT = "\n\t\u200c\u200d"  # joiners: without them emoji and some scripts fall apart


# ------------------------------------------------------------------ words of numbers
def title_of(name: str) -> str:
    """A metric's name for people."""
    head, _, what = name.partition(":")
    known = {"tstr": "Useful for", "agreement": "Gives the asked", "least class": "Rarest", "obedience": "Follows the asked",
             "error of asked": "Distance to the asked"}
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
def picture_kind(data: bytes) -> str:
    """png, gif, webp or "" by the first bytes. No other kind enters a page: an SVG can load and run things."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def data_uri(data: bytes) -> str:
    """Bytes of a picture, or of a WAV, as a data URI. Bytes of any other kind are called PNG, and show as a broken picture."""
    kind = "audio/wav" if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else f"image/{picture_kind(data) or 'png'}"
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header of a PNG, GIF or WebP; (0, 0) when it is none or cut short."""
    kind = picture_kind(data) if len(data) >= 30 else ""
    if kind == "png":
        return struct.unpack(">II", data[16:24])
    if kind == "gif":
        return struct.unpack("<HH", data[6:10])
    if kind != "webp":
        return 0, 0
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def picture(png: bytes, target: int = 112) -> dict[str, Any]:
    """What the template needs of one picture: small ones are enlarged by a whole factor so that pixels stay square."""
    width, height = picture_size(png)
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


def shown(preview: Preview, captions: Sequence[str] = (), target: int = 112, audio: int = AUDIO) -> dict[str, Any]:
    """A preview with everything the template prints, cut to what fits on a page: `audio` bytes of sound, the first items'."""
    captions = [clean(str(c), 80) for c in captions]
    if preview["kind"] == "image":
        sounds, said = preview.get("audio") or (), [clean(str(t), LINE) for t in preview.get("texts") or ()]
        pictures = [picture(p, max(target, WIDE if sounds and target > SMALL else 0)) for p in preview["png"]]
        items = []
        for i, one in enumerate(pictures):
            sound = sounds[i] if i < len(sounds) and sounds[i] and len(sounds[i]) <= audio else b""
            audio -= len(sound)
            texts = {"caption": captions[i] if i < len(captions) else "", "said": said[i] if i < len(said) else ""}
            items.append({**one, **texts, "audio": data_uri(sound) if sound else ""})
        return {"kind": "image", "items": items}
    if preview["kind"] == "table":
        rows = [[cell(v) for v in row] for row in preview["rows"][:100]]
        return {"kind": "table", "columns": [clean(str(c), CELLS) for c in preview["columns"]], "rows": rows}
    texts = [{"text": clean(str(t), LETTERS), "caption": captions[i] if i < len(captions) else ""} for i, t in enumerate(preview["texts"])]
    return {"kind": "text", "items": texts}


def strip(preview: Preview) -> dict[str, Any]:
    """A step of a strip: small pictures, and one sound."""
    sounds = list(preview.get("audio") or ())[:1]
    return shown({**preview, "audio": sounds, "texts": []} if preview["kind"] == "image" else preview, (), SMALL, AUDIO // 8)


def singles(preview: Preview) -> list[dict[str, Any]]:
    """A preview item by item, for pairs."""
    if preview["kind"] == "image":
        each = {k: list(preview.get(k) or ()) for k in ("texts", "audio")}
        size = max(1, len(preview["png"]))
        return [shown({"kind": "image", "png": [p], **{k: v[i : i + 1] for k, v in each.items()}}, target=96, audio=AUDIO // size)
                for i, p in enumerate(preview["png"])]
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
             "strip": strip, "singles": singles, "charts": charts, "bar": svg.interval, "duration": duration, "zip": zip}
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
        case Samples() if section.preview.get("texts"):
            most = 3 if section.preview["kind"] == "text" else 6
            return [f"> {_md(clean(str(t), 300))}\n" for t in section.preview["texts"][:most]]
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
