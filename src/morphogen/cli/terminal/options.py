"""What can be set about the drawing of answers: names, kinds, ranges. Unset options are the model's own."""
from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from morphogen.errors import UsageError, suggest


@dataclass(frozen=True)
class Option:
    """One option: whole or not, its range, what it does."""

    whole: bool
    low: float
    high: float
    what: str


OPTIONS = {
    "temperature": Option(False, 0, 100, "0 always takes the likeliest token, 1 draws as the model says, above is wilder"),
    "top_p": Option(False, 0, 1, "draw among the likeliest tokens that hold this share"),
    "top_k": Option(True, 0, 1_000_000, "draw among this many likeliest tokens"),
    "min_p": Option(False, 0, 1, "leave out tokens below this share of the likeliest"),
    "max_tokens": Option(True, 1, 10_000_000, "the longest answer"),
    "seed": Option(True, 0, 2**53, "the next answer's seed; later answers count on from it"),
}


def parse(name: str, text: str) -> int | float:
    """The value of an option from what was typed. Raises UsageError with the range."""
    name = name.replace("-", "_")
    if name not in OPTIONS:
        raise UsageError(f"no option '{name}'", remedy=suggest(name, OPTIONS))
    option = OPTIONS[name]
    pattern = r"[0-9]{1,18}" if option.whole else r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
    if not re.fullmatch(pattern, text, re.ASCII):
        raise UsageError(f"'{text}' is no value for {name}", remedy="a whole number is needed" if option.whole else "a number is needed")
    return check(name, int(text) if option.whole else float(text))


def check(name: str, value: Any) -> int | float:
    """The value when it is of the option's kind and range. Raises UsageError."""
    if name not in OPTIONS:
        raise UsageError(f"no option '{name}'", remedy=suggest(name, OPTIONS))
    option = OPTIONS[name]
    fits = type(value) is int or (type(value) is float and not option.whole and math.isfinite(value))
    if not fits or not option.low <= value <= option.high:
        raise UsageError(f"{name} {value!r} is out of range", remedy=f"choose {option.low:g} to {option.high:g}")
    return value
