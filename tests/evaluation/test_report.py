"""Pages are whole, escaped, and need nothing from outside."""
from __future__ import annotations

import io
import math
import re
import wave
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from morphogen.evaluation import svg
from morphogen.evaluation.metric import Interval, Metric, measured
from morphogen.evaluation.page import Command, Copies, Curves, Facts, Lines, Measures, Page, Row, Samples, Strips
from morphogen.evaluation.report import (
    AUDIO,
    card,
    clean,
    data_uri,
    duration,
    picture,
    picture_kind,
    picture_size,
    render,
    render_compare,
    shown,
    singles,
    strip,
)

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>{{ 7 * 191 }}`|"
VOID = {"meta", "img", "br", "line", "path", "circle", "link", "input"}


class Checker(HTMLParser):
    """Balanced tags, and every attribute that could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag in ("script", "iframe", "object", "link") or any(k.startswith("on") for k, _ in attrs)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.scripts == 0
    assert all(re.match(r"data:(image/(png|gif|webp)|audio/wav);base64,", v) for v in checker.loads)
    # the only address is the name space of nothing: no url(), no @import, no http
    assert not re.search(r"url\(|@import|https?://", html)
    return checker


def png(size: int = 8, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((size, size), np.uint8)).save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def wav(samples: int = 800) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes(samples))
    return out.getvalue()


def metrics() -> list[Metric]:
    others = {EVIL: Interval(0.5, 0.45, 0.55)}
    return [
        measured("coverage", Interval(0.9, 0.85, 0.94), floor=Interval(0.96), others=others, n=500, line=EVIL, feature=EVIL),
        Metric(name="c2st", value=0.7, better="near", target=0.5), Metric(name="bits per byte", value=math.inf, better="lower"),
        Metric(name="exact copies", value=0.0, low=0.0, high=0.01, better="lower"), Metric(name=f"tstr:{EVIL}", value=math.nan),
    ]


def whole_page() -> Page:
    images = {"kind": "image", "png": [png(), png(300)]}
    rows = {"kind": "table", "columns": ["a", EVIL], "rows": [[1, EVIL], [None, 2.5]]}
    words = {"kind": "text", "texts": [EVIL, "\u202eright to left\x00"]}
    tunes = {"kind": "image", "png": [png(90, "GIF"), png(60, "WEBP")], "texts": [EVIL, "C major"], "audio": [wav(), b""]}
    return Page(title=EVIL, verdict=f"Good: {EVIL}. And more.\nA second finding.", date="2026-01-01", tone=EVIL, subtitle=EVIL, sections=[
        Lines(title=EVIL, lines=[EVIL, (EVIL, EVIL)]), Samples(title="s", preview=images, captions=[EVIL]),
        Samples(title="a", preview=tunes, captions=[EVIL]), Copies(title="c", generated=tunes, nearest=tunes, distances=[0.1, 0.2]),
        Strips(title="p", steps=[(1, tunes)]),
        Samples(title="t", preview=rows, note=EVIL), Samples(title="w", preview=words, captions=[EVIL, EVIL]),
        Strips(title="p", steps=[(10, images), (20, words)]),
        Measures(title="m", metrics=metrics()), Facts(title="f", facts={EVIL: EVIL, "n": 3}), Command(title="c", command=EVIL),
        Curves(title="c", rows=[{"step": i, "loss": 1 / (i + 1), EVIL: float(i), "bad": math.nan, "note": "text"} for i in range(50)]),
        Copies(title="c", generated=images, nearest=images, distances=[0.0, 0.5]),
        Copies(title="c", generated=rows, nearest=rows, distances=[0.1, 0.2]),
        Copies(title="c", generated=words, nearest=words, distances=[0.1, 0.2])])


def test_a_page_is_self_contained_and_escapes_everything() -> None:
    html = render(whole_page())
    check(html)
    assert "alert(&#39;x&#39;)" in html and "{{ 7 * 191 }}" in html and "1337" not in html
    assert "\x00" not in html and "\u202e" not in html
    assert "prefers-color-scheme: dark" in html and "A second finding." in html


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "lossless"])
def test_kinds_and_sizes_of_pictures_are_read_from_their_bytes(kind: str) -> None:
    data = png(37, "WEBP", lossless=True) if kind == "lossless" else png(37, kind)
    assert picture_kind(data) == ("webp" if kind == "lossless" else kind.lower()) and picture_size(data) == (37, 37)
    assert data_uri(data).startswith(f"data:image/{picture_kind(data)};base64,") and picture_size(data[:20]) == (0, 0)


def test_no_vector_picture_enters_a_page() -> None:
    assert picture_kind(b"<svg xmlns='x' onload='y'/>") == "" and data_uri(b"<svg/>").startswith("data:image/png")


def test_sounds_get_players_and_stay_within_bounds() -> None:
    tune = {"kind": "image", "png": [png(40)] * 3, "texts": ["one", "two"], "audio": [wav(), wav(AUDIO), wav()]}
    items = shown(tune)["items"]
    assert [bool(item["audio"]) for item in items] == [True, False, True] and [item["said"] for item in items] == ["one", "two", ""]
    assert items[0]["audio"].startswith("data:audio/wav;base64,") and items[0]["width"] > shown({**tune, "audio": []})["items"][0]["width"]
    assert [bool(item["audio"]) for item in strip(tune)["items"]] == [True, False, False]
    assert [single["items"][0]["said"] for single in singles(tune)] == ["one", "two", ""]
    html = render(Page(title="t", verdict="", date="", sections=[Samples(title="s", preview=tune)]))
    check(html)
    assert html.count("<audio controls") == 2 and "media-src data:" in html
    assert "> two" in card(Page(title="t", verdict="", date="", sections=[Samples(title="s", preview=tune)]))


def test_the_comparison_page_sets_off_the_winner() -> None:
    rows = [Row(family="flow", metrics=metrics(), seconds=61, preview={"kind": "image", "png": [png()]}, verdict=EVIL),
            Row(family="cart", metrics=[Metric(name="coverage", value=0.95)], seconds=0.4, classical=True),
            Row(family="gan", metrics=[], seconds=5, failed=EVIL)]
    html = render_compare(rows, title=EVIL, date="2026-01-01", recommended="cart", because="because it covers more.",
                          sections=[Lines(title="Next", lines=["x"])])
    check(html)
    assert "Use cart because it covers more." in html and html.count("use this") == 2 and '<b class="best">95%</b>' in html


def test_an_empty_page_and_an_empty_comparison_are_pages() -> None:
    check(render(Page(title="t", verdict="", date="")))
    check(render_compare([], title="t", date="d"))


def test_the_card_is_markdown_that_cannot_be_broken_out_of() -> None:
    text = card(whole_page())
    assert "<script>" not in text.replace(EVIL, "") and text.startswith("# ")
    table = [line for line in text.splitlines() if line.startswith("| Coverage")]
    assert len(table) == 1 and len(re.findall(r"(?<!\\)\|", table[0])) == 7
    assert "````sh\necho ```\n````\n" in card(Page(title="t", verdict="v", date="d", sections=[Command(title="c", command="echo ```")]))


def test_small_pictures_grow_by_whole_factors() -> None:
    assert picture_size(png(8)) == (8, 8) and picture_size(b"no picture") == (0, 0)
    small, large = picture(png(28)), picture(png(300))
    assert small["width"] == 112 and small["crisp"] and not large["crisp"] and large["width"] <= 224


@pytest.mark.parametrize(("seconds", "words"), [(0.44, "0.4 s"), (59, "59 s"), (125, "2 min 05 s"), (4200, "1 h 10 min"), (math.nan, "–")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_curves_survive_hard_series() -> None:
    assert svg.curve([1], [2], "x") == "" and svg.curve([1, 2], [math.nan, math.inf], "x") == ""
    for y in ([1.0, 1.0], [0.0, 1e30], [1e-9, 2e-9], list(range(5000)), [1e6, *[1.0] * 100]):
        drawn = svg.curve(list(range(len(y))), y, "x")
        assert drawn.startswith("<svg") and "nan" not in drawn and "inf" not in drawn and len(drawn) < 20_000


def test_bars_stay_inside_their_frame() -> None:
    for value, low, high, floor in ((0.5, 0.4, 0.6, 0.9), (-3, -4, -2, 1), (1e9, 1e8, 1e10, 0), (0, 0, 0, 0)):
        drawn = svg.interval(Metric(name="m", value=value, low=low, high=high, floor=floor, baseline={"name": "b", "value": 2.0}))
        assert all(0 <= float(x) <= 240 for x in re.findall(r'x[12]="([-\d.e+]+)"', drawn))


def test_clean_cuts_and_keeps_joined_emoji() -> None:
    assert clean("a" * 50, 10) == "a" * 10 + "…" and clean("👩\u200d🔬\x1b[31m", 20) == "👩\u200d🔬[31m"
