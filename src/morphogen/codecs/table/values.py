"""What a cell may be: missing marks, numbers as people write them, truth words, dates, and personal data. No torch here."""
from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

MISSING = frozenset({"", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "<NA>"})
# words that are answers in a column of words, and mean "nothing" in a column of numbers or dates
WEAK_MISSING = frozenset({"None", "none", "-", "--", "?", "."})
TRUTH = {"true": True, "false": False}

# Only ASCII digits: Python's own int() also takes "1_0" and Arabic digits, which no other reader of the file would.
PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
COMMA = re.compile(r"[+-]?\d+(?:\.\d{3})*,\d+", re.ASCII)  # 1.234,5
GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)  # 1,234.5
DOTTED = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+", re.ASCII)  # 1.234 in a column of 1.234,5
PADDED = re.compile(r"0\d+", re.ASCII)  # 00123 is a code, not a number
INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)

DATES = ("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%Y%m%d", "%d %b %Y", "%b %d, %Y",
         "%d %B %Y", "%B %d, %Y")
TIMES = (
    "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%d %H:%M:%S.%f%z",
    "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M",
)
DATELIKE = re.compile(r"(?=.*\d)[A-Za-z0-9 ,:./+-]{6,35}Z?", re.ASCII)
EPOCH = dt.datetime(1970, 1, 1)


def is_missing(value: Any) -> bool:
    """Whether a typed value stands for nothing: None, NaN, and pandas' NA and NaT (told by name: pandas is not imported)."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def plain(value: Any) -> Any:
    """A typed value as one of None, bool, int, float, str, date, datetime; numpy and pandas scalars are unwrapped."""
    if type(value) in (str, int, bool):
        return value
    if is_missing(value):
        return None
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime(warn=False)
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
        return None if is_missing(value) else value
    if type(value).__name__ == "Decimal":
        return float(value)
    return value


def plain_all(cells: Sequence[Any]) -> Sequence[Any]:
    """`plain` of each cell."""
    return cells if set(map(type, cells)) <= {str, int, bool, type(None)} else [plain(cell) for cell in cells]


def number_style(text: str) -> str:
    """How a cell writes a number: "plain", "comma" (1.234,5), "grouped" (1,234.5) or "" for none; infinities are "infinite"."""
    if PLAIN.fullmatch(text):
        return "" if PADDED.fullmatch(text.lstrip("+-")) else "plain"
    if GROUPED.fullmatch(text):
        return "grouped"
    if COMMA.fullmatch(text):
        return "comma"
    return "infinite" if INFINITE.fullmatch(text) else ""


def to_number(text: str, style: str) -> int | float | None:
    """The number a cell means in a column of this style; None when it is none, or too large for a float."""
    own = number_style(text)
    if style == "comma":
        if not (COMMA.fullmatch(text) or DOTTED.fullmatch(text) or (own == "plain" and "." not in text)):
            return None
        text = text.replace(".", "").replace(",", ".")
    elif own == "plain" or (own == "grouped" and style == "grouped"):
        text = text.replace(",", "")
    else:
        return None
    try:
        value: int | float = int(text) if text.lstrip("+-").isdigit() else float(text)
        return value if math.isfinite(float(value)) else None
    except (OverflowError, ValueError):  # ValueError: Python refuses to parse integers of more than 4300 digits
        return None


def decimals_of(value: Any) -> int:
    """How many digits after the point the shortest way of writing a number has."""
    if isinstance(value, int):
        return 0
    mantissa, _, exponent = repr(float(value)).partition("e")
    digits = len(mantissa.partition(".")[2].rstrip("0"))
    return max(0, digits - int(exponent or 0))


def parse_date(text: str, form: str) -> dt.date | dt.datetime | None:
    """A date or time read by one format; None when it does not fit."""
    try:
        value = dt.datetime.strptime(text, form)
    except ValueError:
        return None
    return value if "%H" in form else value.date()


def date_formats(cells: Counter[str]) -> tuple[list[str], bool]:
    """(formats that together read every cell, the commonest first; whether day and month could be swapped). [] = not dates."""
    left, found, unclear = dict(cells), [], False
    if not all(DATELIKE.fullmatch(c) for c in left) or all(PLAIN.fullmatch(c) and len(c) != 8 for c in left):
        return [], False
    if not any(not c.isdigit() for c in left):  # eight bare digits: a date only if every one of them reads as 1900..2099
        years = all(len(c) == 8 and c[:2] in ("19", "20") for c in left)
        return (["%Y%m%d"], False) if years and all(parse_date(c, "%Y%m%d") for c in left) else ([], False)
    while left:
        probe = next(iter(left))
        forms = [f for f in (*DATES, *TIMES) if parse_date(probe, f) is not None]
        if not forms or len(found) == 4:
            return [], False
        scored = {f: [c for c in left if parse_date(c, f) is not None] for f in forms}
        best = max(forms, key=lambda f: sum(left[c] for c in scored[f]))
        other = best.replace("%d", "\0").replace("%m", "%d").replace("\0", "%m")
        same = other != best and len(scored.get(other, ())) == len(scored[best])
        unclear |= same and any(parse_date(c, best) != parse_date(c, other) for c in scored[best])
        found.append((sum(left[c] for c in scored[best]), best))
        for cell in scored[best]:
            del left[cell]
    times = {"%H" in f for _, f in found}
    return ([], False) if len(times) > 1 else ([f for _, f in sorted(found, reverse=True)], unclear)


def date_number(value: dt.date | dt.datetime) -> float:
    """Days since 1970 of a date, seconds since 1970 (UTC) of a time."""
    if isinstance(value, dt.datetime):
        value = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
        return (value - EPOCH).total_seconds()
    return float(value.toordinal() - EPOCH.toordinal())


# ------------------------------------------------------------- personal data
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
PHONE = re.compile(r"(?=(?:\D*\d){7,15}\D*$)\+?[\d ().-]*[ ().+-][\d ().-]*", re.ASCII)
IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", re.ASCII)


def _iban(text: str) -> bool:
    text = text.replace(" ", "")
    return bool(IBAN.fullmatch(text)) and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _card(text: str) -> bool:
    """13 to 19 digits whose Luhn sum is right."""
    digits = [int(c) for c in re.sub(r"[ -]", "", text) if c.isascii() and c.isdigit()]
    if not 13 <= len(digits) <= 19 or not re.fullmatch(r"[\d -]+", text, re.ASCII):
        return False
    return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))) % 10 == 0


def personal(values: list[Any]) -> str:
    """What kind of personal data most of these values look like: "email addresses" ... or "" for none."""
    texts = [str(v).strip() for v in values[:500] if not isinstance(v, float | bool)]
    tests = {"email addresses": EMAIL.fullmatch, "IBAN account numbers": _iban,
             "payment card numbers": _card, "telephone numbers": PHONE.fullmatch}
    for kind, test in tests.items():
        # random digit strings pass a Luhn sum one time in ten, so a card column must pass nearly always
        share = 0.9 if test is _card else 0.5
        if texts and sum(bool(test(t)) for t in texts) >= share * len(texts):
            if kind == "telephone numbers" and date_formats(Counter(texts))[0]:
                continue
            return kind
    return ""
