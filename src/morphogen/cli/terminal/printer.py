"""Streaming Markdown to a terminal: what is finished is printed once and scrolls away, only the block in progress is drawn again."""
from __future__ import annotations

import re
import sys
import time
from typing import IO, Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from morphogen.cli.terminal.markdown import CHUNK, Renderer, clean, join, plain

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"  # synchronised update: terminals that know it show a frame at once, others ignore it
# A line that may yet become anything: drawing it would flash a heading or a rule that never was.
_UNDECIDED = re.compile(r"\s{0,3}([-=+*#>|`~_\s]+|\d{1,9}[.)]?)$")


class Printer(Protocol):
    """Takes an answer piece by piece."""

    def feed(self, text: str) -> None:
        """More of the answer."""
        ...

    def note(self, line: str) -> None:
        """A line that goes away by itself: what is being waited for."""
        ...

    def finish(self) -> None:
        """The answer is whole."""
        ...


class Plain:
    """Text as it comes, for pipes, files and terminals that cannot move their cursor."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.last = file, "\n"
        self.safe = file.isatty()

    def feed(self, text: str) -> None:
        """Write and flush; a terminal gets no control characters."""
        text = clean(text) if self.safe else text.encode("utf-8", "replace").decode("utf-8")
        if text:
            self.file.write(text)
            self.file.flush()
            self.last = text[-1]

    def note(self, line: str) -> None:
        """Nothing: a log wants no spinner."""

    def finish(self) -> None:
        """End the last line."""
        if self.last != "\n":
            self.feed("\n")
        self.file.flush()


class Live:
    """Rows at the end of the screen that can be drawn again; those above them are never touched."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[str] = []  # as they stand on the screen, the cursor in the row below
        self.cells: list[int] = []
        self.width = console.width

    def draw(self, done: list[Text], live: list[Text]) -> None:
        """Print `done` for good and show `live` below it, in one write."""
        width, height = self.console.size
        folded = [part for line in live for part in fold(self.console, line, width)][-max(1, height - 2) :]
        fresh = self._ansi(done)
        rows = self._ansi(folded)
        up, same = len(self.rows), 0
        if width != self.width:  # terminals fold their old rows anew
            up = sum(max(1, -(-cells // width)) for cells in self.cells)
            self.width = width
        else:
            wanted = fresh + rows
            while same < min(len(self.rows), len(wanted)) and self.rows[same] == wanted[same]:
                same += 1
            up -= same
        if not (up or len(fresh) + len(rows) > same):
            self.rows, self.cells = rows, [cell_len(t.plain) for t in folded]
            return
        out = BEGIN + (f"\x1b[{up}A\r\x1b[J" if up else "") + "".join(f"{row}\n" for row in (fresh + rows)[same:]) + END
        self.console.file.write(out)
        self.console.file.flush()
        self.rows, self.cells = rows, [cell_len(t.plain) for t in folded]

    def _ansi(self, lines: list[Text]) -> list[str]:
        out = []
        for line in lines:
            with self.console.capture() as got:
                self.console.print(line, end="", soft_wrap=True, highlight=False)
            out.append(got.get())
        return out


def fold(console: Console, line: Text, width: int) -> list[Text]:
    """A line as the rows a terminal makes of it."""
    if cell_len(line.plain) < width:
        return [line]
    parts, used = [], 0
    for i, c in enumerate(line.plain):
        size = cell_len(c)
        if used + size > width - 1:
            parts.append(i)
            used = 0
        used += size
    return list(line.divide(parts))


class Markdown:
    """Streams Markdown to a terminal.

    What stands on the screen in the end is `Renderer.lines` of the whole answer, whatever pieces it came in (tested).
    """

    def __init__(self, console: Console, *, language: str = "") -> None:
        self.console, self.language = console, language
        self.live = Live(console)
        self.source = f"```{language}\n" if language else ""  # from the first line that may still change
        self.complete = -1  # length of the source at the last look for finished blocks
        self.printed = 0  # lines of `source` that are on the screen for good
        self.number: int | None = None  # of the list item that `source` begins with
        self.next, self.message, self.waiting = 0.0, "", False
        self.width = 0

    def feed(self, text: str) -> None:
        """Add a piece; the screen follows a few dozen times a second at most."""
        if not text:
            return
        self.message = ""
        self.source += clean(text)
        now, self.waiting = time.monotonic(), True
        if now >= self.next:
            self._draw()
            took = time.monotonic() - now
            self.next = now + took + max(0.03, 6 * took)  # drawing takes at most a seventh of the time

    def note(self, line: str) -> None:
        """Show a passing line under what has been said so far; also draws what waits to be drawn."""
        if line != self.message or self.waiting:
            self.message = line
            self._draw()

    def finish(self) -> None:
        """Print what is left for good."""
        self.message = ""
        if self.language and not self.source.endswith("\n"):
            self.source += "\n"
        lines = join([b.lines for b in self._renderer().blocks(self.source, self.number)])
        self.live.draw(lines[self.printed :], [])
        self.source, self.printed, self.number = "", 0, None

    def _renderer(self) -> Renderer:
        """At the width of the window now, or at that of the block's beginning when some of its lines are printed: they are counted."""
        if not (self.printed and self.width):
            self.width = self.console.width - 1
        return Renderer(self.console, self.width)

    def _draw(self) -> None:
        renderer, self.waiting = self._renderer(), False
        done = self._settle(renderer)
        lines = join([b.lines for b in renderer.blocks(mended(self.source), self.number)])
        rest = lines[self.printed :]
        if self.message:
            rest.append(Text(self.message, "bright_black", no_wrap=True, overflow="ellipsis"))
        self.live.draw(done, rest)

    def _settle(self, renderer: Renderer) -> list[Text]:
        """Lines that no later text can change: decided on whole source lines, because half a line may be any block.

        What is printed leaves the source, inside lists and code too, so that a frame's cost does not grow with the answer.
        """
        end = self.source.rfind("\n") + 1
        if end == self.complete or not end:
            return []
        self.complete = end
        blocks = renderer.blocks(self.source[:end], self.number)
        if not blocks:
            return []
        last = blocks[-1]
        whole = join([b.lines for b in blocks])
        settled = len(whole) - len(last.lines) + last.stable
        done = whole[self.printed : settled]
        self.printed = max(self.printed, settled) if len(blocks) == 1 else last.stable
        self.number = self.number if len(blocks) == 1 else None
        rows = self.source.split("\n")[last.start :]
        if last.item and last.stable:
            rows, self.printed, self.number = rows[last.item :], 0, last.number
        elif last.fence and last.stable > 2 * CHUNK:
            cut = (last.stable // CHUNK - 1) * CHUNK  # whole chunks: those that stay are coloured as before
            cut = min(cut, (self.printed - 1) // CHUNK * CHUNK)
            rows, self.printed = rows[:1] + rows[1 + cut :], self.printed - cut
        self.source = "\n".join(rows)
        self.complete = self.source.rfind("\n") + 1
        return done


def mended(source: str) -> str:
    """The source as it most likely goes on: an undecided last line waits, open emphasis and code are closed, for display only."""
    begin = source.rfind("\n") + 1
    last = source[begin:]
    if _UNDECIDED.match(last):
        return source[:begin]
    if source.count("```") % 2 or source.count("~~~") % 2:
        return source
    at = source.rfind("\n\n") + 1
    tail = re.sub(r"(?<!\\)[*_`~]+$", "", source[at:])
    spans = re.sub(r"`[^`\n]*`", "", tail)
    if "`" in spans:
        return source[:at] + tail + "`"
    spans = re.sub(r"^\s*[*+-] ", "", spans, flags=re.MULTILINE)
    for mark in ("**", "~~"):
        if spans.count(mark) % 2:
            tail = tail.rstrip() + mark
    return source[:at] + tail


def printer(file: IO[str] | None = None, *, language: str = "") -> Printer:
    """The best printer for where the text goes: Markdown on a terminal that can move its cursor, plain text elsewhere.

    `language` shows the whole answer as code (json under a schema).
    """
    where: IO[str] = file if file is not None else sys.stdout  # type: ignore[assignment]
    console = Console(file=where, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal and where.isatty():
        return Markdown(console, language=language)
    return Plain(where)


__all__ = ["Live", "Markdown", "Plain", "Printer", "clean", "fold", "plain", "printer"]
