"""How the command line shows what a verb does: lines and one progress bar on stderr, results on stdout."""
from __future__ import annotations

import json
import re
import sys
import time
from typing import Annotated, Any

from cyclopts import Parameter, Token

from morphogen.api.common import Watch
from morphogen.errors import UsageError

STYLE = {"info": "", "good": "green", "warn": "yellow", "head": "bold"}


def whole(hint: Any, tokens: Any) -> int:
    """A whole number in plain digits: Python alone would also take 1_0 and other scripts' digits."""
    return int(_matched(tokens, r"[+-]?[0-9]{1,18}", "a whole number"))


def number(hint: Any, tokens: Any) -> float:
    """A finite decimal number in plain digits."""
    return float(_matched(tokens, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", "a number"))


def _matched(tokens: Any, pattern: str, what: str) -> str:
    tokens = tokens if isinstance(tokens, list | tuple) else [tokens]
    value = tokens[-1].value if isinstance(tokens[-1], Token) else str(tokens[-1])
    if not re.fullmatch(pattern, value, re.ASCII):
        raise UsageError(f"'{value}' is not {what}", remedy="write plain digits")
    return value


Whole = Annotated[int, Parameter(converter=whole, accepts_keys=False)]
Number = Annotated[float, Parameter(converter=number, accepts_keys=False)]
# What many verbs take, with what is said of it.
Switch = Annotated[bool, Parameter(negative="")]
Words = Annotated[list[str] | None, Parameter(negative="")]
Settings = Annotated[list[str] | None, Parameter(name="--set", negative="")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda or mps.")]
Force = Annotated[bool, Parameter(negative="", help="Replace outputs that exist.")]
Json = Annotated[bool, Parameter(negative="", help="Print one JSON object on stdout.")]


class Console(Watch):
    """Rich on a terminal, plain lines elsewhere. NO_COLOR and TERM=dumb are honoured by rich."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console as Rich

        self.rich = Rich(stderr=True, highlight=False, soft_wrap=True)
        self.quiet, self.bar, self.task, self.what, self.begun = quiet, None, None, "", 0.0
        self.said = 0.0

    def say(self, line: str, kind: str = "info") -> None:
        if self.quiet and kind != "warn":
            return
        from rich.text import Text

        prefix = "warning " if kind == "warn" else ""
        self.rich.print(Text(prefix + _printable(line), style=STYLE[kind]))

    def progress(self, what: str, share: float, note: str = "") -> None:
        if self.quiet:
            return
        if not self.rich.is_terminal:
            self._plain(what, share, note)
            return
        if self.bar is None or what != self.what:
            self._start(what)
        self.bar.update(self.task, completed=share, note=_printable(note))  # type: ignore[union-attr]
        if share >= 1:
            self.close()

    def _plain(self, what: str, share: float, note: str) -> None:
        """No bar without a terminal: a line now and then, so that a log shows life."""
        now = time.monotonic()
        if what != self.what:
            self.what, self.begun, self.said = what, now, now - 14  # the first line after a second
        if now - self.said > 15 and 0 < share < 1:
            left = (now - self.begun) * (1 - share) / share
            self.rich.print(f"{what} {share:4.0%}  {left:.0f} s left  {note}", markup=False)
            self.said = now

    def _start(self, what: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.close()
        columns = (TextColumn("{task.description:<18}"), BarColumn(32), TextColumn("{task.percentage:>3.0f}%"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self.bar = Progress(*columns, console=self.rich, transient=True)
        self.task = self.bar.add_task(what, total=1.0, note="")
        self.bar.start()
        self.what = what

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def result(value: Any, lines: list[str], as_json: bool) -> int:
    """Print a verb's result on stdout: one JSON object, or lines."""
    if as_json:
        print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))
    else:
        for line in lines:
            print(_printable(line) if sys.stdout.isatty() else line)
    return 0


def _printable(text: str) -> str:
    """Without the control characters a generated text could steer a terminal with."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
