"""What kind of thing each column holds, found from its distinct cells, and what a value is in the Space. No torch here."""
from __future__ import annotations

import datetime as dt
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from morphogen.codecs.table import values as V

NUMERIC = ("integer", "number", "date", "datetime")
WORDS = ("category", "boolean")
OTHER = "(other)"
FATES = {
    "id": "all different: not learned, made fresh",
    "constant": "always the same: kept",
    "empty": "no values: kept empty",
    "text": "free text: not learned, left empty",
    "nested": "nested values: not learned, left empty",
}
FEW = 30  # numbers with fewer distinct values remember which ones are legal
LARGE = 1e30  # beyond it float32 would overflow, so the column goes through asinh
MANY = 100_000  # different numbers whose digits are looked at
ID_ROWS = 10  # in fewer rows "all different" says nothing


@dataclass
class Column:
    """One column: what it holds (`kind`), how its cells are written, and what is needed to put a value into the Space and back.

    Kinds: integer, number, date, datetime, category, boolean (learned); id, constant, empty, text, nested (not learned).
    Numbers enter the Space as (v - centre) / scale, times as seconds and dates as days since 1970; `squash` adds an asinh.
    """

    name: str
    kind: str
    missing: float = 0.0
    "Share of empty cells."
    values: list[Any] = field(default_factory=list)
    "Every category, the legal numbers when there are few, or the one value of a constant."
    low: float = 0.0
    high: float = 0.0
    centre: float = 0.0
    scale: float = 1.0
    squash: bool = False
    mean: float = 0.0
    std: float = 1.0
    "Of the number in the Space; used by `features`."
    decimals: int = 0
    step: int = 1
    "Every number is `low` plus a multiple of this, in units of the last decimal."
    fixed: bool = False
    "All cells show the same number of decimals."
    style: str = "plain"
    "How numbers are written: plain, comma (1.234,5) or grouped (1,234.5)."
    forms: list[str] = field(default_factory=list)
    "Date formats, the commonest first; it is the one written."
    words: list[str] = field(default_factory=list)
    "How false and true are written."
    mark: str = ""
    "How a missing cell is written."
    flag: str = ""
    "Kind of personal data it looks like."
    last: int = 0
    "Largest whole-number id seen."
    companion: str = ""
    "Field of the Space that says whether the number is missing."

    @property
    def learned(self) -> bool:
        return self.kind in NUMERIC + WORDS

    def line(self) -> str:
        """The column in one line for `inspect`."""
        text = f"{len(self.values)} values" if self.kind == "category" else FATES.get(self.kind, "")
        if self.kind in NUMERIC:
            low, high = (cell(self, from_number(self, v)) for v in (self.low, self.high))
            text = f"{low} to {high}" + (f", {len(self.values)} legal values" if self.values else "")
        gaps = f"{self.missing:.1%} missing" if self.missing and self.kind != "empty" else ""
        parts = [text, gaps, f"looks like {self.flag}" if self.flag else ""]
        return f"{self.name}: {self.kind}" + "".join(f", {p}" for p in parts if p)


# ---------------------------------------------------------------- finding the kind
def survey(name: str, cells: Counter[Any], typed: bool, counting: bool, limit: int) -> tuple[Column, list[str]]:
    """(column, notes) from how often each distinct cell occurs. `typed`: cells are values, not text of a CSV.

    `counting`: whole numbers going up by one from row to row. `limit`: most categories to keep.
    """
    total = cells.total()
    truths = [c for c in cells if type(c) is tuple]  # (bool, value): a Counter alone would take True for 1
    alone = len(truths) + (None in cells) == len(cells)
    cells = Counter({(c[1] if alone else str(c[1])) if type(c) is tuple else c: n for c, n in cells.items()}) if truths else cells
    gone = Counter({c: n for c, n in cells.items() if (c is None if typed else _blank(c))})
    if not typed and _country_codes(cells):
        gone.pop("NA", None)
    present = Counter({c: n for c, n in cells.items() if c not in gone})
    column = Column(name, "empty", mark=gone.most_common(1)[0][0] if gone and not typed else "")
    notes: list[str] = []
    if present:
        (_typed_kind if typed else _text_kind)(column, present, notes)
        known = Counter({c: n for c, n in present.items() if typed or c not in V.WEAK_MISSING or column.kind == "category"})
        if not typed and len(known) < len(present) and not gone:
            column.mark = max((c for c in present if c not in known), key=lambda c: present[c])
        gone, present = gone + Counter({c: n for c, n in present.items() if c not in known}), known
        _narrow(column, present, gone.total(), counting, limit, notes)
    column.missing = gone.total() / max(total, 1)
    return column, [f"column '{name}': {note}" for note in notes]


def _blank(cell: str) -> bool:
    return cell.strip() in V.MISSING


def _country_codes(cells: Counter[str]) -> bool:
    """NA among two-letter codes is Namibia, not a missing cell."""
    others = [c for c in cells if c not in ("", "NA")]
    return "NA" in cells and len(others) >= 5 and all(len(c) == 2 and c.isalpha() and c.isupper() for c in others)


def _text_kind(column: Column, present: Counter[str], notes: list[str]) -> None:
    strong = Counter({c.strip(): 0 for c in present if c not in V.WEAK_MISSING})
    for cell_, n in present.items():
        if cell_ not in V.WEAK_MISSING:
            strong[cell_.strip()] += n
    column.kind = "category"
    if not strong:
        return
    styles = {c: V.number_style(c) for c in strong}
    commas = [c for c, s in styles.items() if s in ("comma", "grouped")]
    if commas:
        column.style = "comma" if any(styles[c] == "comma" for c in commas) else "grouped"
    parsed = {c: V.to_number(c, column.style) for c in strong}
    good = sum(n for c, n in strong.items() if parsed[c] is not None)
    padded = any(V.PADDED.fullmatch(c.lstrip("+-")) for c in strong)
    if good and not padded and good >= 0.99 * strong.total():
        whole = all(isinstance(v, int) for v in parsed.values() if v is not None)
        column.kind = "integer" if whole else "number"
        mark = "," if column.style == "comma" else "."
        shown = {len(c.partition(mark)[2]) for c in strong if parsed[c] is not None and "e" not in c.lower()}
        column.fixed = not whole and len(shown) == 1 and not any("e" in c.lower() for c in strong)
        column.decimals = max(shown) if column.fixed else 0
    elif all(c.lower() in V.TRUTH for c in strong):
        column.kind = "boolean"
        column.words = [next((c for c in strong if c.lower() == w), w) for w in ("false", "true")]
        if len(strong) == 1:  # the missing word is written like the one that was seen
            seen = next(iter(strong))
            column.words = [w.upper() if seen.isupper() else w.capitalize() if seen[0].isupper() else w for w in ("false", "true")]
    else:
        _dates(column, strong, notes)


def _dates(column: Column, cells: Counter[str], notes: list[str]) -> None:
    forms, unclear = V.date_formats(cells)
    if forms:
        column.kind, column.forms = ("datetime" if "%H" in forms[0] else "date"), forms
        if len(forms) > 1:
            notes.append(f"dates are written in {len(forms)} ways; new ones are written as {forms[0]}")
        if unclear:
            notes.append(f"day and month cannot be told apart; read as {forms[0]}")


def _typed_kind(column: Column, present: Counter[Any], notes: list[str]) -> None:
    kinds = {type(v) for v in present}
    if kinds == {bool}:
        column.kind, column.words = "boolean", ["False", "True"]
    elif kinds <= {int, float}:
        column.kind = "number" if float in kinds else "integer"
    elif kinds == {dt.date}:
        column.kind, column.forms = "date", ["%Y-%m-%d"]
    elif kinds <= {dt.datetime}:
        zone = any(v.tzinfo for v in present)
        column.kind, column.forms = "datetime", ["%Y-%m-%dT%H:%M:%S" + (".%f" if any(v.microsecond for v in present) else "") + "%z" * zone]
    elif any(not issubclass(k, str | int | float | dt.date) for k in kinds):
        column.kind = "nested"
        notes.append("holds nested or binary values, which are not learned")
    else:
        column.kind = "category"
        if kinds == {str}:
            _dates(column, Counter({c.strip(): n for c, n in present.items()}), notes)
        if len(kinds) > 1:
            notes.append("holds values of several types; each is kept as a category")


def _narrow(column: Column, present: Counter[Any], gone: int, counting: bool, limit: int, notes: list[str]) -> None:
    """From the kind of cell to the kind of column: constants, ids, free text, and the vocabulary."""
    rows, distinct = present.total(), len(present)
    column.flag = V.personal(list(present)) if column.kind in ("integer", *WORDS) else ""
    if column.flag:
        notes.append(f"looks like {column.flag}; consider leaving it out")
    if column.kind == "nested":
        return
    if distinct == 1 and column.kind != "boolean":
        value = plain_json(next(iter(present)))
        parsed = parse(column, value)
        if gone:  # present or absent is all there is to learn
            column.kind, column.values = "category", [value]
        else:
            column.values = [value if parsed is None or isinstance(parsed, dt.date) else parsed]
            column.kind = "constant"
        return
    if column.kind == "integer" and counting and not gone and rows >= ID_ROWS:
        column.kind, column.last = "id", max(int(c) for c in present)
        notes.append("counts up row by row: an id, not learned, made fresh")
    elif column.kind == "category" and rows >= ID_ROWS and distinct == rows:
        column.kind = "id"
        notes.append("every value is different: an id, not learned, made fresh")
    elif column.kind == "category" and rows > 2 * ID_ROWS and distinct > rows / 2:
        column.kind = "text"
        notes.append(f"free text ({distinct} different values in {rows} rows) is not learned and stays empty")
    elif column.kind == "boolean":
        column.values = [False, True]
    elif column.kind == "category":
        present = Counter({plain_json(c): n for c, n in present.items()})
        ranked = sorted(present, key=lambda c: (-present[c], str(c)))
        column.values = sorted(ranked[:limit], key=lambda c: (str(c), str(type(c))))
        if distinct > limit:
            column.values = [*sorted(ranked[: limit - 1], key=str), OTHER]
            notes.append(f"{distinct} categories; the {limit - 1} most frequent are kept, the rest are '{OTHER}'")


# ---------------------------------------------------------------- values and the Space
def parse(column: Column, value: Any) -> Any:
    """A cell (text of a CSV, or typed) as this column's typed value, None when it fits no value of the kind."""
    if not isinstance(value, str):
        return _retype(column, value)
    text = value.strip()
    if column.kind in ("integer", "number"):
        return _retype(column, V.to_number(text, column.style))
    if column.kind == "boolean":
        return V.TRUTH.get(text.lower())
    if column.kind in ("date", "datetime"):
        return next((v for v in (V.parse_date(text, f) for f in column.forms) if v is not None), None)
    return value


def _retype(column: Column, value: Any) -> Any:
    if column.kind == "integer":
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        fits = whole and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return int(value) if fits else None
    if column.kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None
    if column.kind == "date":
        return value.date() if isinstance(value, dt.datetime) else value if isinstance(value, dt.date) else None
    if column.kind == "datetime":
        return value if isinstance(value, dt.datetime) else None
    if column.kind == "boolean":
        return value if isinstance(value, bool) else None
    return plain_json(value)


def plain_json(value: Any) -> Any:
    """A category as JSON can hold it and 1 is not taken for True: dates and truths among words become text."""
    return value.isoformat() if isinstance(value, dt.date) else str(value) if isinstance(value, bool) else value


def number_of(value: Any) -> float:
    """A typed value on the number line (see Column)."""
    return V.date_number(value) if isinstance(value, dt.date) else float(value)


def measure(column: Column, numbers: np.ndarray, legal: Callable[[], Sequence[Any]]) -> None:
    """Fit range, decimals, step, legal values and scale of a numeric column from its training values as numbers.

    `legal`: all different values, ascending; asked for when there are few.
    """
    unique = np.unique(numbers)
    column.low, column.high = float(unique[0]), float(unique[-1])
    column.centre, lower, upper = (float(np.quantile(numbers, q, method="nearest")) for q in (0.5, 0.25, 0.75))
    spread = upper / 2 - lower / 2 or column.high / 2 - column.low / 2 or 0.5  # halves: 1e308 - -1e308 overflows
    column.scale = 2 * min(spread, 1e307)
    column.squash = bool(max(abs(column.high / 2 - column.centre / 2), abs(column.low / 2 - column.centre / 2)) / spread > LARGE)
    some = unique[:: -(-len(unique) // MANY)]
    column.decimals = 0 if column.kind in ("integer", "date") else max(column.decimals, *map(V.decimals_of, some.tolist()))
    few = len(unique) < FEW and len(numbers) >= 2 * len(unique) and column.kind in ("integer", "number")
    column.values = list(legal()) if few else []
    column.step = _step(unique, column.decimals) if len(numbers) >= 20 else 1
    inside = encode_number(column, numbers)
    column.mean, column.std = float(inside.mean()), float(inside.std()) or 1.0


def _step(unique: np.ndarray, decimals: int) -> int:
    if decimals > 12 or len(unique) < 5:
        return 1
    with np.errstate(over="ignore", invalid="ignore"):
        ticks = (unique - unique[0]) * 10.0**decimals
    return int(np.gcd.reduce(np.rint(ticks).astype(np.int64))) if np.all(ticks < 2.0**53) else 1


def encode_number(column: Column, numbers: np.ndarray) -> np.ndarray:
    """(v - centre) / scale, with asinh when the column is `squash`; float64."""
    with np.errstate(over="ignore"):
        x = numbers / column.scale - column.centre / column.scale if column.squash else (numbers - column.centre) / column.scale
    if not column.squash:
        return x
    far = np.sign(numbers) * (np.log(np.maximum(np.abs(numbers), 1e-300)) + math.log(2) - math.log(column.scale))
    return np.where(np.isfinite(x), np.arcsinh(np.where(np.isfinite(x), x, 0)), far)


def encode_scalar(column: Column, number: float) -> float:
    """`encode_number` of one value, without numpy's overhead a cell."""
    return float(encode_number(column, np.array([number]))[0]) if column.squash else (number - column.centre) / column.scale


def from_number(column: Column, number: float) -> Any:
    """The legal typed value nearest to a place on the number line: in range, on the grid of decimals, of the right type."""
    number = min(max(number, column.low), column.high) if not math.isnan(number) else column.centre
    if column.values:
        return min(column.values, key=lambda v: abs(v - number))
    if column.decimals <= 12:
        unit = 10.0**column.decimals
        ticks = (number - column.low) * unit / column.step
        if abs(ticks) < 2.0**53:
            number = column.low + round(ticks) * column.step / unit
        number = round(number, column.decimals)
    if column.kind == "integer":
        return round(number)
    if column.kind == "date":
        return dt.date.fromordinal(dt.date(1970, 1, 1).toordinal() + round(number))
    if column.kind == "datetime":
        value = V.EPOCH + dt.timedelta(seconds=number)
        return value.replace(tzinfo=dt.UTC) if any("%z" in f for f in column.forms) else value
    return number


def decode_number(column: Column, x: float) -> Any:
    """The inverse of `encode_number`, made legal."""
    if column.squash:
        far = abs(x) > 300
        size = min(abs(x) - math.log(2) + math.log(column.scale), 709.78) if far else 0.0  # exp(709.79) overflows
        return from_number(column, math.copysign(math.exp(size), x) if far else math.sinh(x) * column.scale + column.centre)
    return from_number(column, x * column.scale + column.centre)


def cell(column: Column, value: Any) -> str:
    """The text of a value in a CSV, as the column wrote it."""
    if value is None:
        return column.mark
    if column.kind == "boolean" and isinstance(value, bool):
        return column.words[value]
    if isinstance(value, dt.date):
        return value.strftime(column.forms[0]) if column.forms else value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool) and column.kind in ("integer", "number"):
        text = f"{value:.{column.decimals}f}" if column.fixed else repr(value) if column.kind == "integer" else _short(value)
        if column.style == "grouped":
            text = f"{value:,.{column.decimals}f}" if column.fixed or column.kind == "integer" else text
        return text.replace(",", "").replace(".", ",") if column.style == "comma" else text
    return str(value)


def _short(value: float) -> str:
    """39.0 as 39, because a column that mixes 18 and 39.1 writes whole numbers bare; the rest as the shortest exact text."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
