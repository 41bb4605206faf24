"""Rows by the million: read in pieces, counted in bounded memory, and kept column by column. No torch here."""
from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from morphogen.codecs.sources import Skips, group_of
from morphogen.codecs.table import columns as C
from morphogen.codecs.table import values as V
from morphogen.codecs.table.cells import Parser, typed
from morphogen.codecs.table.columns import Column
from morphogen.codecs.table.source import Source
from morphogen.contracts import Item

DISTINCT = 100_000  # different cells of a column that are counted one by one
GONE = V.MISSING | V.WEAK_MISSING
AS_WRITTEN = ("category", "id", "text", "constant")  # a cell of text is its value
EXACT = 2.0**53  # whole numbers up to here are floats as well
LATEST = 2.0**32  # seconds since 1970 that a float holds to the microsecond
DIGITS = b"0123456789+-.eE\n"
ODD = re.compile(r"\n[+-]*0\d+(?=\n)")  # 007 is a code, not a number
FAR = re.compile(r"[eE][+-]?\d{5}")


class Tally:
    """How often each distinct cell of each column occurs, from all rows; from a uniform sample of them in columns of very many.

    A column with more than DISTINCT cells is thinned: each count to a binomial half, and from then on half as many rows are
    looked at. Cells that may mean "missing" are counted throughout, since one of them is enough to matter.
    """

    def __init__(self, width: int, is_typed: bool) -> None:
        self.counts: list[Counter[Any]] = [Counter() for _ in range(width)]
        self.rising, self.last = [True] * width, [None] * width  # going up by one from row to row
        self.share, self.rows, self.typed = [1.0] * width, 0, is_typed
        self._gone: list[Counter[Any]] = [Counter() for _ in range(width)]
        self._random = np.random.default_rng(0)

    def add(self, cells: Sequence[Sequence[Any]]) -> None:
        """Count some rows, given by columns."""
        n = len(cells[0]) if cells else 0
        self.rows += n
        draw = self._random.random(n)
        for j, column in enumerate(cells):
            if self.rising[j]:
                self._rise(j, column)
            if self.share[j] < 1:
                self._gone[j].update(self._gone_among(column))
                column = picked(column, np.flatnonzero(draw < self.share[j]))
            self.counts[j].update(map(_key, column) if self.typed else column)
            while len(self.counts[j]) > DISTINCT:
                self._thin(j)

    def _is_gone(self, cell: Any) -> bool:
        return cell is None if self.typed else cell in GONE

    def _gone_among(self, column: Sequence[Any]) -> dict[Any, int]:
        if self.typed:
            return {None: sum(cell is None for cell in column)}
        return {cell: column.count(cell) for cell in sorted(GONE.intersection(column), key=column.index)}

    def _rise(self, j: int, column: Sequence[Any]) -> None:
        try:
            numbers = list(map(int, column))
            first = numbers[0] if self.last[j] is None else self.last[j] + 1  # type: ignore[operator]
            self.rising[j] = numbers == list(range(first, first + len(numbers)))
            self.last[j] = numbers[-1]  # type: ignore[call-overload]
        except (TypeError, ValueError, OverflowError):
            self.rising[j] = False

    def _thin(self, j: int) -> None:
        count = self.counts[j]
        if self.share[j] == 1:
            self._gone[j] = Counter({c: n for c, n in count.items() if self._is_gone(c)})
        kept = self._random.binomial(np.fromiter(count.values(), np.int64, len(count)), 0.5).tolist()
        self.counts[j], self.share[j] = Counter({c: n for c, n in zip(count, kept) if n}), self.share[j] / 2

    def survey(self, names: Sequence[str], limit: int) -> tuple[list[Column], list[str]]:
        """(columns, notes) of what was counted; `limit`: most categories to keep."""
        columns, notes = [], []
        for j, name in enumerate(names):
            for cell, n in self._gone[j].items():
                self.counts[j][cell] = max(1, round(n * self.share[j]))
            column, said = C.survey(name, self.counts[j], self.typed, self.rising[j], limit)
            if column.kind == "id" and column.last:
                column.last = int(self.last[j] or 0)
            columns.append(column)
            notes += said
        return columns, notes


def _key(cell: Any) -> Any:
    """True would be counted as 1; nested values only need to be told apart from plain ones."""
    return (bool, cell) if type(cell) is bool else cell if cell.__hash__ is not None else type(cell)


def picked(cells: Sequence[Any], at: np.ndarray) -> list[Any]:
    """The cells at these positions."""
    return [cells[i] for i in at.tolist()]


# ------------------------------------------------------------------- a column
def plain_numbers(column: Column, cells: Sequence[Any]) -> np.ndarray | None:
    """(N,) float64, NaN = missing, of cells that are all plainly written; None when one of them wants a closer look."""
    if column.kind not in ("integer", "number"):
        return None
    if not all_text(cells):
        if not set(map(type, cells)) <= {type(None), float if column.kind == "number" else int}:
            return None
        try:
            out = np.array(cells, np.float64)
        except OverflowError:
            return None
        bad = np.isinf(out).any()
    else:
        if column.missing or column.mark or cells[0] != cells[0].strip():
            gone = GONE | {column.mark}
            cells = ["" if c in gone else c for c in map(str.strip, cells)]
        line = "\n".join(cells)
        blob = line.encode("ascii", "replace")
        if column.style != "plain" or blob.translate(None, DIGITS):
            return None
        if (column.kind == "integer" and (b"." in blob or b"e" in blob or b"E" in blob)) or ODD.search(f"\n{line}\n") or FAR.search(line):
            return None
        try:
            out = np.array([float(c) if c else np.nan for c in cells])
        except ValueError:
            return None
        bad = np.isinf(out).any() or (np.isnan(out).any() and not (column.missing or column.mark))
    return None if bad or (column.kind == "integer" and (np.abs(out) > EXACT).any()) else out


def parsed(parser: Parser, cells: Sequence[Any]) -> tuple[np.ndarray, list[int]]:
    """(the column as Rows keeps it, which of the cells do not fit)."""
    assert parser.column is not None
    numbers = plain_numbers(parser.column, cells)
    if numbers is not None:
        return numbers, []
    if all_text(cells):
        plain, mark = parser.column.kind in AS_WRITTEN, parser.column.mark
        table = {c: c if plain and c != mark and c.strip() not in GONE else parser(c) for c in set(cells)}
        if Parser not in table.values():  # what is kept of each different cell is looked up, not worked out again
            values = kept(parser.column, list(table.values()))
            known = dict(zip(table, values.tolist()))
            return np.fromiter(map(known.__getitem__, cells), values.dtype, len(cells)), []
    values = [parser(c) for c in cells]
    bad = [i for i, v in enumerate(values) if v is Parser]
    for i in bad:
        values[i] = None
    return kept(parser.column, values), bad


def all_text(cells: Iterable[Any]) -> bool:
    return set(map(type, cells)) <= {str}


def keys_of(cells: Iterable[Any]) -> list[Any]:
    """`typed` of each cell; the cells themselves where those that are equal are of one type."""
    plain: list[Any] = cells.tolist() if isinstance(cells, np.ndarray) else list(cells)
    return plain if len(set(map(type, plain)) - {type(None)}) <= 1 else list(map(typed, plain))


def kept(column: Column, values: list[Any]) -> np.ndarray:
    """Typed values as float64 where that loses nothing (NaN = missing), else as objects."""
    numbers = None
    if column.kind in C.NUMERIC and not (column.kind == "datetime" and any(v is not None and v.tzinfo for v in values)):
        most = LATEST if column.kind == "datetime" else EXACT if column.kind == "integer" else np.inf
        numbers = numbers_of(values)
        numbers = None if (np.abs(numbers) > most).any() else numbers
    if numbers is None:
        numbers = np.empty(len(values), object)
        numbers[:] = values
    return numbers


def numbers_of(cells: Any) -> np.ndarray:
    """(N,) float64 of a column as Rows keeps it, or of its values; NaN = missing."""
    if isinstance(cells, np.ndarray) and cells.dtype != object:
        return cells
    return np.array([np.nan if v is None else C.number_of(v) for v in cells], np.float64)


def value_of(kind: str, cell: Any) -> Any:
    """The typed value of a kept cell."""
    if not isinstance(cell, float | np.floating) or (kind == "number" and cell == cell):
        return float(cell) if kind == "number" and cell is not None else cell
    if cell != cell:
        return None
    if kind == "integer":
        return int(cell)
    if kind == "date":
        return dt.date.fromordinal(int(cell) + V.EPOCH.toordinal())
    return V.EPOCH + dt.timedelta(microseconds=round(float(cell) * 1e6)) if kind == "datetime" else cell


# ------------------------------------------------------------------- all of them
class Rows:
    """The rows of some tables by column: what `Held` makes items of. `groups` are hashes of rows without ids: equal for duplicates."""

    def __init__(self, kinds: dict[str, str], columns: dict[str, np.ndarray], places: np.ndarray,
                 starts: Sequence[tuple[int, Callable[[int], str]]]) -> None:
        self.kinds, self.columns, self.places, self.starts = kinds, columns, places, starts
        telling = [column for name, column in columns.items() if kinds[name] not in ("id", "constant", "empty", "nested")]
        self.groups = _hashes(telling, len(places))

    def __len__(self) -> int:
        return len(self.places)

    def cond(self, i: int) -> dict[str, Any]:
        return {}

    def item(self, i: int) -> Item:
        place = next(place for start, place in reversed(self.starts) if start <= i)
        raw = {name: value_of(kind, self.columns[name][i]) for name, kind in self.kinds.items()}
        return Item(raw, {}, f"{int(self.groups[i]):016x}", place(int(self.places[i])))


class Reading:
    """Pieces of a table to Rows."""

    def __init__(self, names: Sequence[str], columns: dict[str, Column], skips: Skips) -> None:
        self.parsers = [Parser(columns.get(name)) for name in names]
        self.names, self.skips, self.n = names, skips, 0
        self.parts: dict[str, list[np.ndarray]] = {name: [] for name in names if name in columns}
        self.places: list[np.ndarray] = []
        self.starts: list[tuple[int, Callable[[int], str]]] = []

    def begin(self, table: Source) -> None:
        """The rows that follow are this table's."""
        self.starts.append((self.n, table.place))

    def add(self, numbers: Any, cells: Sequence[Sequence[Any]]) -> None:
        """Parse a piece (`source.Piece`); rows that do not fit their columns are skipped."""
        misfit: dict[int, str] = {}
        found: dict[str, np.ndarray] = {}
        for name, parser, column in zip(self.names, self.parsers, cells):
            if parser.column is not None:
                found[name], bad = parsed(parser, column)
                for i in bad:
                    misfit.setdefault(i, f"'{str(column[i])[:40]}' in column '{name}' is no {parser.column.kind}")
        for i in sorted(misfit):
            self.skips.add(self.starts[-1][1](numbers[i]), misfit[i])
        good = np.ones(len(numbers), bool)
        good[list(misfit)] = False
        for name, values in found.items():
            self.parts[name].append(values[good])
        self.places.append(np.array(numbers, np.int64)[good])
        self.n += len(self.places[-1])

    def rows(self) -> Rows:
        """All that was read."""
        kinds = {p.column.name: p.column.kind for p in self.parsers if p.column is not None}
        joined = {name: _joined(kinds[name], self.parts.pop(name)) for name in list(self.parts)}
        return Rows(kinds, joined, np.concatenate([np.zeros(0, np.int64), *self.places]), self.starts or [(0, str)])


def _joined(kind: str, parts: list[np.ndarray]) -> np.ndarray:
    if len({part.dtype for part in parts}) > 1:  # a number among the later rows that no float holds
        for k, part in enumerate(parts):
            parts[k] = np.empty(len(part), object)
            parts[k][:] = [value_of(kind, cell) for cell in part]
    return np.concatenate(parts) if parts else np.zeros(0, object)


def _hashes(columns: Sequence[np.ndarray], n: int) -> np.ndarray:
    """(N,) uint64: a hash of each row, by splitmix64 (Steele, Lea, Flood 2014) over its cells; the same on every machine."""
    out = np.zeros(n, np.uint64)
    for j, column in enumerate(columns):
        if column.dtype == object:
            keys = keys_of(column)
            table = {key: int(group_of(f"{type(v).__name__} {v}"), 16) for key, v in dict(zip(keys, column)).items()}
            bits = np.fromiter(map(table.__getitem__, keys), np.uint64, n)
        else:
            bits = np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64)
        out = _mixed(out ^ (bits + np.uint64(0x9E3779B97F4A7C15 * (j + 1) % 2**64)))
    return out


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def coded(cells: Sequence[Any] | np.ndarray, code: Callable[[Any], int], vocab: int) -> np.ndarray:
    """(N,) the id of each word, in the smallest whole numbers that hold `vocab` of them; `code` is asked once for each."""
    keys = keys_of(cells)
    table = {key: code(value) for key, value in dict(zip(keys, cells)).items()}
    return np.fromiter(map(table.__getitem__, keys), np.min_scalar_type(max(vocab - 1, 0)), len(keys))
