"""Streamed Markdown: what stands on the screen in the end is the whole answer rendered, however it came."""
from __future__ import annotations

import io
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from morphogen.cli.terminal import printer as room
from morphogen.cli.terminal.markdown import Renderer, clean
from morphogen.cli.terminal.printer import Markdown, Plain, mended, printer

ANSI = re.compile(r"\x1b\[\??([0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def screen(written: str) -> list[str]:
    """A terminal of endless height: rows as text."""
    rows, at = [""], 0
    for match in ANSI.finditer(written):
        token, number, what = match[0], match[1], match[2]
        if what == "A":
            at = max(0, at - int(number or 1))
        elif what == "J":
            del rows[at:]
            rows.append("")
        elif token == "\n":
            at += 1
            if at == len(rows):
                rows.append("")
        elif what is None and token != "\r":
            assert rows[at] == "", "a row was written over"
            rows[at] = token if not rows[at] else rows[at] + token
    assert rows[-1] == ""
    return rows[:-1]


def console(width: int = 40, height: int = 12) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None, highlight=False)


def shown(pieces: list[str], width: int = 40, height: int = 12) -> list[str]:
    made = Markdown(console(width, height))
    for piece in pieces:
        made.next = 0.0  # draw every time
        made.feed(piece)
    made.finish()
    return [row.rstrip() for row in screen(made.console.file.getvalue())]


def rendered(text: str, width: int = 40) -> list[str]:
    return [line.plain.rstrip() for line in Renderer(console(width)).lines(text)]


LINES = st.sampled_from([
    "", "", "para of words", "# head", "#", "#tag", "- item", "-", "  - inner", "1. one", "2) two", "12. twelve", "* star", "> quote",
    "```python", "```", "~~~", "def f(x):", "    return x", "---", "===", "***", "| a | b |", "|---|--:|", "| 1 | 2 |", "a | b",
    "<div>", "</div>", "<!-- x", "**bold", "it is** so", "`code", "[a]: http://x", "[a] and [b](http://y)", "\ttab",
    "漢字かな交じり文は幅が二つ分あります、長い行", "👩‍👩‍👧 ok", "&#27;[31m &lt;b&gt;", "\\(x\\) \\[y\\]", "line  ",
    "a very long line of prose that has to be wrapped at the width of the screen", "![p](q.png)",
])
TEXTS = st.one_of(st.lists(LINES, max_size=14).map("\n".join), st.text(alphabet="ab \n-*#>`|1.\t[]()<_~=\\&;", max_size=60))


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.integers(1, 9))
@example("para\n#hashtag\n\n- a\n-\n- b", 1)
@example("a\n-\nb", 1)
@example("1. a\n1. b\n\n   c\n\n       code\n1. d\n    - e\n  - f\nlazy\n1. g\n\ntext\n1. h", 3)
@example("   - a\n  - b\n - c\n- d\n    - e\n\n\n1) x\n2. y", 3)
@example("````py\n" + "x = '\n" * 150 + "```\nmore", 700)
@example("| a | b |\n|--|--|\n| 1 | 2 |\nx", 2)
def test_the_end_equals_the_whole_rendered(text: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert shown(pieces) == rendered(text)


def test_finished_blocks_are_never_drawn_again() -> None:
    made = Markdown(console(height=200))
    for c in "first paragraph\n\n" + "- item\n" * 5 + "\n" + "```python\n" + "x = 1\n" * 50 + "```\n\nlast":
        made.next = 0.0
        made.feed(c)
        moved = [int(n or 1) for n in re.findall(r"\x1b\[(\d*)A", made.console.file.getvalue())]
        made.console.file.seek(0)
        made.console.file.truncate()
        assert max(moved, default=0) <= 4, "only the end is drawn again"


def test_long_code_is_coloured_the_same_when_streamed() -> None:
    text = "```python\n" + "".join(f"x_{i} = f('{i}')  # number {i}\n" for i in range(200)) + "```"
    made, whole = Markdown(console(80)), Renderer(console(80)).lines(text)
    got: list = []
    draw = made.live.draw
    made.live.draw = lambda done, live: (got.extend(done), draw(done, live))[1]  # type: ignore[method-assign]
    for i in range(0, len(text), 67):
        made.next = 0.0
        made.feed(text[i : i + 67])
        assert len(made.source) < 5_000
    made.finish()
    assert [(t.plain, t.spans) for t in got] == [(t.plain, t.spans) for t in whole]


def test_a_block_higher_than_the_screen_shows_its_end_and_is_whole_in_the_end() -> None:
    text = "| n | square |\n|---|---|\n" + "".join(f"| {i} | {i * i} |\n" for i in range(40))
    made = Markdown(console(height=10))
    for line in text.splitlines(keepends=True):
        made.next = 0.0
        made.feed(line)
        assert len(made.live.rows) <= 8
    made.finish()
    assert [r.rstrip() for r in screen(made.console.file.getvalue())] == rendered(text)


def test_nothing_a_model_says_is_lost() -> None:
    text = "List<String> and <b>html</b>\n\n<div>\nin html\n</div>\n\n[words](http://address/x)\n\n![alt](picture.png)\n\none\ntwo"
    flat = "\n".join(rendered(text, 80))
    for part in ("List<String>", "<b>html</b>", "<div>", "in html", "words (http://address/x)", "alt", "picture.png", "one\ntwo"):
        assert part in flat


def test_code_is_copied_as_it_is() -> None:
    code = "def f(x):\n    return '" + "long " * 30 + "'\n\n\nf(1)"
    lines = rendered(f"```python\n{code}\n```", 40)
    assert "\n".join(lines[1:-1]) == code and lines[0].startswith("── python ─")


@pytest.mark.parametrize("text", [
    "\x1b[2J\x1b]0;t\x07", "&#13;&#27;", "[x](http://a/%1b%9b)", "```\x1b\ncode\x9b\n```", "\u202eevil", "a\x00b", "\ud800"])
def test_sec_no_control_characters_reach_the_terminal(text: str) -> None:
    made = Markdown(console())
    made.feed(text)
    made.finish()
    out = re.sub(r"\x1b\[(\?2026[hl]|\d*A|J|[0-9;]*m)", "", made.console.file.getvalue())
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\ud800-\udfff]", out), repr(out)
    assert "\x1b" not in clean(text)


def test_wide_characters_stay_within_the_width() -> None:
    from rich.cells import cell_len

    text = "漢字" * 40 + "\n\n- " + "かな" * 30 + "\n\n| 表 | b |\n|---|---|\n| " + "長い" * 20 + " | x |"
    for line in Renderer(console(30)).lines(text):
        assert cell_len(line.plain) <= 30


def test_tables_align_and_numbers_of_lists_count() -> None:
    lines = rendered("| name | n |\n|---|--:|\n| a | 1 |\n| b | 100 |\n\n9. x\n10. y", 60)
    assert lines[3].endswith("│   1 │") and lines[4].endswith("│ 100 │")
    assert lines[-2:] == [" 9. x", "10. y"]


@pytest.mark.parametrize("given, wanted", [
    ("some **bold", "some **bold**"), ("some **bo*", "some **bo**"), ("a `code", "a `code`"), ("text\n-", "text\n"),
    ("- it\n- **b", "- it\n- **b**"), ("```py\na**b", "```py\na**b"), ("done.", "done."),
])
def test_what_is_open_is_closed_for_display(given: str, wanted: str) -> None:
    assert mended(given) == wanted


def test_pipes_get_plain_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    made = printer()
    assert isinstance(made, Plain)
    made.feed("**raw** \x1b")
    made.finish()
    assert capsys.readouterr().out == "**raw** \x1b\n"


def test_notes_go_away() -> None:
    made = Markdown(console())
    made.note("reading 100 tokens")
    made.note("reading 100 tokens 50 %")
    made.feed("hello")
    made.finish()
    assert screen(made.console.file.getvalue()) == ["hello"]
    assert room.BEGIN in made.console.file.getvalue()


def test_a_window_that_changes_loses_and_doubles_nothing() -> None:
    text = "- " + "word " * 12 + "\n- " + "more " * 12 + "\n- " + "last " * 12 + "\n\nend"
    made = Markdown(console(60))
    for i, c in enumerate(text):
        made.console.width = 30 if i > 100 else 60
        made.live.width = made.console.width  # a terminal that does not fold what stands there anew
        made.next = 0.0
        made.feed(c)
    made.finish()
    assert " ".join(screen(made.console.file.getvalue())).replace("•", "-").split() == text.split()


def test_a_narrower_window_leaves_nothing_behind() -> None:
    made = Markdown(console(40))
    made.feed("word " * 7)
    made.next = 0.0
    made.console.width = 20  # the old row of 34 cells now takes two
    made.feed("more words")
    made.finish()
    assert re.findall(r"\x1b\[(\d+)A", made.console.file.getvalue())[0] == "2"
