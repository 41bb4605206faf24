"""Tables: CSV, JSONL, Parquet and data frames <-> a Record of numbers and categories. No torch here."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from morphogen.codecs.held import Held
from morphogen.codecs.sources import Listing, Skips
from morphogen.codecs.table import columns as C
from morphogen.codecs.table import files as F
from morphogen.codecs.table.cells import free_name, typed
from morphogen.codecs.table.columns import Column
from morphogen.codecs.table.store import Reading, Rows, Tally, coded, kept, numbers_of, picked, value_of
from morphogen.contracts import Claim, Given, Item
from morphogen.errors import DataError, UsageError, suggest
from morphogen.spaces import Array, Record, Space, Tokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """How tables are read."""

    encoding: str = "utf-8"
    "Encoding of CSV files."
    max_categories: int = 1000
    "Most categories a column keeps; the rarest beyond become '(other)'."
    rows: int = 1_000_000
    "Most rows learned from, drawn uniformly from a larger table; 0 = all."
    max_columns: int = 2000
    "Refuse tables with more columns."
    first: tuple[str, ...] = ()
    "Columns that come first in the Record, so that families that only look back can be asked for them."


class TableCodec:
    """A row (dict column -> value) <-> a Record: Tokens(vocab, 1) for words, Array((1,)) for numbers.

    A number column with empty cells has a companion field "<name>?" in front (1 = empty). Ids, constants, empty columns and
    free text are not in the Space; they come back fresh, the same, or empty. Raw values: None, int, float, str, bool, date, datetime.
    """

    name: ClassVar[str] = "table"
    Config: ClassVar[type] = Config
    feature_name: ClassVar[str] = "standardised numbers and one-hot categories"

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.columns: list[Column] = []
        self.space: Space = Record(())
        self.skips, self.notes = Skips(), []
        self._delimiter = ","
        self._surveyed: list[Column] = []

    # ---------------------------------------------------------------- reading
    @staticmethod
    def claims(listing: Listing) -> Claim:
        """Frames and folders of table files; a JSONL that only holds text is left to the text codec."""
        if listing.frame is not None:
            return Claim(0.9, "rows")
        found = [f for f in listing.files if f.suffix.lower() in (*F.KNOWN, *F.SHEETS)]
        share = len(found) / max(1, len(listing.files))
        if found and found[0].suffix.lower() in F.LINES:
            with found[0].open("rb") as file:
                head = file.readline(1 << 16)
            if head.count(b'":') + head.count(b'" :') < 2 or b'"messages"' in head:
                return Claim(0.3 * share, "JSON lines with one field")
        return Claim(0.95 * share, f"{len(found)} table file{'s' * (len(found) != 1)}") if found else Claim(0.0)

    def read(self, listing: Listing) -> Iterator[Item]:
        """Yield what `hold` reads."""
        yield from self.hold(listing)

    def hold(self, listing: Listing) -> Held:
        """The rows. The first read finds the columns; a fitted codec reads by its own and skips rows that do not fit.

        Raises DataError for files that are no tables, have no rows, or lose more than 1 % of them.
        """
        self.skips = Skips()
        tables = F.sources(listing, self.config.encoding, self.config.max_columns, self.notes)
        first, chosen = not self.columns, None
        if first:
            chosen = self._count(tables, listing)
            self._delimiter = tables[0].delimiter
        columns = self.columns or self._surveyed
        where = listing.files[0] if listing.files else ""
        unknown = {c.name for c in columns if c.learned} - set(tables[0].names)
        if unknown:
            raise DataError(f"column '{min(unknown)}' is missing", where=where, remedy="give a table with the columns of the training data")
        reading = Reading(tables[0].names, {c.name: c for c in columns}, self.skips)
        before = 0
        for k, table in enumerate(tables):
            reading.begin(table)
            for numbers, cells in table.pieces(Skips() if first else self.skips, listing.part("reading rows", k, len(tables))):
                if first and chosen is not None:
                    among = np.flatnonzero(chosen[before : before + len(numbers)])
                    before += len(numbers)
                    numbers, cells = picked(numbers, among), [picked(column, among) for column in cells]
                if len(numbers):
                    reading.add(numbers, cells)
        self.skips.check(reading.n + self.skips.count)
        return Held(reading.rows())

    def _count(self, tables: list[F.Source], listing: Listing) -> np.ndarray | None:
        """Pass one: how often each distinct cell occurs decides what each column is; values are parsed in pass two.

        Returns which rows are wanted, None for all.
        """
        tally = Tally(len(tables[0].names), tables[0].typed)
        for k, table in enumerate(tables):
            for _, cells in table.pieces(self.skips, listing.part("counting cells", k, len(tables))):
                tally.add(cells)
        self.skips.check(tally.rows + self.skips.count)
        if not tally.rows:
            where = listing.files[0] if listing.files else "frame"
            raise DataError("the table has no rows", where=where, remedy="give a header and at least a few dozen rows")
        self._survey(tally, tables[0].names)
        most = self.config.rows
        if not 0 < most < tally.rows:
            return None
        self.notes.append(f"{tally.rows:,} rows, learning from a uniform sample of {most:,}; --set codec.rows=0 takes all")
        chosen = np.zeros(tally.rows, bool)
        chosen[np.random.default_rng(0).choice(tally.rows, most, replace=False)] = True
        return chosen

    def _survey(self, tally: Tally, names: Sequence[str]) -> None:
        self._surveyed, notes = tally.survey(names, self.config.max_categories)
        self.notes += notes

    # ---------------------------------------------------------------- fitting
    def fit(self, items: Sequence[Item]) -> None:
        """Fit ranges and scales to training rows; kinds and vocabularies come from `read`, or from these rows without it.

        Raises DataError when no column is left to learn.
        """
        if not items:
            raise DataError("no rows to learn from", remedy="give at least a few dozen rows")
        if not self._surveyed:
            names = list(dict.fromkeys(k for item in items for k in item.raw))
            tally = Tally(len(names), True)
            tally.add([[C.V.plain(item.raw.get(n)) for item in items] for n in names])
            self._survey(tally, names)
        columns = [C.Column(**asdict(c)) for c in self._surveyed]
        for column in columns:
            if column.kind in C.NUMERIC:
                cells = self._cells(items, column)
                if cells is None:
                    cells = kept(column, [C.parse(column, item.raw.get(column.name)) for item in items])
                numbers = numbers_of(cells)
                present = ~np.isnan(numbers)
                if present.any():
                    C.measure(column, numbers[present], lambda c=column, some=cells[present]: sorted({value_of(c.kind, v) for v in some}))
                else:  # every cell of the training part is empty: there is nothing to learn
                    column.kind = "empty"
        self._adopt(columns)
        if len(items) < 50:
            self.notes.append(f"only {len(items)} rows: whatever is learned from so few may be close to copies of them")

    def _adopt(self, columns: list[Column]) -> None:
        """Build the Space from the columns."""
        taken, fields = {c.name for c in columns}, []
        first = {name: i for i, name in enumerate(self.config.first)}
        for column in sorted((c for c in columns if c.learned), key=lambda c: first.get(c.name, len(first))):
            if column.kind in C.WORDS:
                vocab = len(column.values) + bool(column.missing)
                fields.append((column.name, Tokens(max(vocab, 1), 1)))
                continue
            if column.missing:
                column.companion = column.companion or free_name(column.name + "?", taken)
                taken.add(column.companion)
                fields.append((column.companion, Tokens(2, 1)))
            fields.append((column.name, Array((1,))))
        if not fields:
            raise DataError("no column can be learned", where=", ".join(f"{c.name} is {c.kind}" for c in columns[:5]),
                            remedy="give columns of numbers or repeated categories, and more than one row")
        self.columns, self.space = columns, Record(tuple(fields))
        self._at = {c.name: {typed(v): i for i, v in enumerate(c.values)} for c in columns if c.kind in C.WORDS}
        self._by_name = {c.name: c for c in columns}

    def describe(self) -> list[str]:
        """One line a column: what it holds and how it is treated."""
        return [c.line() for c in self.columns]

    def state(self) -> dict[str, Any]:
        columns = [asdict(c) for c in self.columns]
        return {"config": asdict(self.config), "columns": columns, "delimiter": self._delimiter, "notes": list(self.notes)}

    def load(self, state: dict[str, Any]) -> None:
        self.config = Config(**{**state["config"], "first": tuple(state["config"].get("first", ()))})
        self._delimiter, self.notes = state["delimiter"], list(state["notes"])
        self._adopt([Column(**c) for c in state["columns"]])
        self._surveyed = self.columns

    # ---------------------------------------------------------------- many rows
    @staticmethod
    def _cells(items: Sequence[Item], column: Column) -> np.ndarray | None:
        """A column of items that are held by columns of these kinds."""
        if not isinstance(items, Held) or not isinstance(items.store, Rows) or items.store.kinds.get(column.name) != column.kind:
            return None
        return items.store.columns[column.name][items.ids]

    def pack(self, items: Sequence[Item]) -> dict[str, np.ndarray]:
        """Field -> (N,) float32 of a number, the smallest whole numbers of a word. Raises DataError as `encode` does."""
        out: dict[str, np.ndarray] = {}
        for column in (c for c in self.columns if c.learned):
            cells = self._cells(items, column)
            if cells is None:
                cells = [item.raw.get(column.name) for item in items]
            if column.kind in C.WORDS:
                out[column.name] = coded(cells, lambda value, c=column: self._word(c, value), len(column.values) + 1)
                continue
            numbers = np.array([self._number(column, cell) for cell in cells]) if isinstance(cells, list) else numbers_of(cells)
            missing = np.isnan(numbers)
            if column.companion:
                out[column.companion] = missing.astype(np.uint8)
            elif missing.any():
                raise _empty(column)
            x = C.encode_number(column, np.where(missing, column.centre, numbers))
            out[column.name] = np.where(missing, 0.0, x).clip(-3e38, 3e38).astype(np.float32)
        return {name: out[name] for name, _ in self.space.fields} if isinstance(self.space, Record) else out

    def unpack(self, packed: dict[str, np.ndarray], ids: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of what `pack` made, each field (B, 1)."""
        return {k: v[ids][:, None].astype(np.float32 if v.dtype == np.float32 else np.int64) for k, v in packed.items()}

    # ---------------------------------------------------------------- rows
    def encode(self, raw: dict[str, Any]) -> dict[str, np.ndarray]:
        """A row as a sample of the Space. Raises DataError for a value the column cannot hold."""
        out: dict[str, np.ndarray] = {}
        for column in self.columns:
            if column.learned:
                self._put(out, column, raw.get(column.name))
        if self.config.first:
            assert isinstance(self.space, Record)
            out = {name: out[name] for name, _ in self.space.fields}
        return out

    def _put(self, out: dict[str, np.ndarray], column: Column, value: Any) -> None:
        if column.kind in C.WORDS:
            out[column.name] = np.array([self._word(column, value)], np.int64)
            return
        number = self._number(column, value)
        missing = math.isnan(number)
        if column.companion:
            out[column.companion] = np.array([missing], np.int64)
        elif missing:
            raise _empty(column)
        x = 0.0 if missing else C.encode_scalar(column, number)
        out[column.name] = np.array([min(max(x, -3e38), 3e38)], np.float32)

    @staticmethod
    def _number(column: Column, value: Any) -> float:
        """A cell on the number line, NaN = missing."""
        if C.V.is_missing(value):
            return math.nan
        parsed = C.parse(column, value)
        if parsed is None:
            raise DataError(f"'{value}' is no {column.kind}", where=f"column '{column.name}'", remedy="write it as in the data")
        return C.number_of(parsed)

    def _word(self, column: Column, value: Any) -> int:
        """The id of a category; empty is the last id."""
        if C.V.is_missing(value):
            if column.missing:
                return len(column.values)
            raise _empty(column)
        at = self._at[column.name]
        found = at.get(typed(C.parse(column, value)), at.get(C.OTHER))
        if found is None:
            raise DataError(f"'{value}' is not among the values of column '{column.name}'", remedy=suggest(str(value), column.values))
        return found

    def decode(self, x: dict[str, np.ndarray]) -> dict[str, Any]:
        """A sample as a legal row: right type and decimals, inside the seen range. Ids are None until `write` or `number`."""
        row: dict[str, Any] = {}
        for column in self.columns:
            value = column.values[0] if column.kind == "constant" else None
            if column.kind in C.WORDS:
                i = int(x[column.name][0])
                value = column.values[i] if 0 <= i < len(column.values) else None
            elif column.learned and not (column.companion and int(x[column.companion][0]) == 1):
                value = C.decode_number(column, float(x[column.name][0]))
            row[column.name] = value
        return row

    def given(self, raw: dict[str, Any]) -> Given:
        """A row with empty cells (None, blank, absent) as what is known. Columns that are not learned are passed over.

        Raises UsageError for an unknown column, DataError for a value outside what was seen.
        """
        for name in raw:
            if name not in self._by_name:
                raise UsageError(f"unknown column '{name}'", remedy=suggest(name, self._by_name))
        x: dict[str, np.ndarray] = {}
        known: dict[str, np.ndarray] = {}
        for column in (c for c in self.columns if c.learned):
            value = raw.get(column.name)
            seen = not C.V.is_missing(value) and not (isinstance(value, str) and not value.strip())
            if seen:
                self._put(x, column, value)
                self._check_range(column, value)
            elif column.kind in C.WORDS:
                x[column.name] = np.zeros(1, np.int64)
            else:
                x[column.name] = np.zeros(1, np.float32)
                if column.companion:
                    x[column.companion] = np.zeros(1, np.int64)
            for name in (column.companion, column.name):
                if name:
                    known[name] = np.array([seen])
        return Given(x, known)

    def _check_range(self, column: Column, value: Any) -> None:
        if column.kind not in C.NUMERIC or self._legal(column, C.parse(column, value)):
            return
        low, high = (C.cell(column, C.from_number(column, v)) for v in (column.low, column.high))
        remedy = f"choose a value from {low} to {high}, written like the data"
        if column.values:
            remedy = "choose one of " + ", ".join(map(str, column.values))
        raise DataError(f"{column.name} = {value} was never seen in the data", remedy=remedy)

    def _legal(self, column: Column, value: Any) -> bool:
        if value is None:
            return bool(column.missing) or column.kind not in (*C.NUMERIC, *C.WORDS, "constant")
        if column.kind in C.WORDS:
            return typed(value) in self._at[column.name]
        if column.kind == "constant":
            return bool(value == column.values[0])
        if column.kind not in C.NUMERIC:
            return True
        parsed = C.parse(column, value)
        if parsed is None:
            return False
        number = C.number_of(parsed)
        off = abs(C.number_of(C.from_number(column, number)) - number)
        return column.low <= number <= column.high and off <= 1e-9 * max(1.0, abs(number))

    def checks(self, raw: dict[str, Any], cond: dict[str, Any]) -> dict[str, bool]:
        """column -> whether its value is one the data could hold: type, range, decimals, legal set, vocabulary, emptiness."""
        return {c.name: self._legal(c, raw.get(c.name)) for c in self.columns if c.learned or c.kind == "constant"}

    # ---------------------------------------------------------------- out
    def number(self, raws: Sequence[dict[str, Any]], first: int = 0) -> list[dict[str, Any]]:
        """Copies of the rows with fresh ids: whole numbers go on after the largest seen, words are "<column>-1" and so on.

        `first`: how many rows come before these.
        """
        return list(self._numbered(raws, first))

    def _numbered(self, raws: Iterable[dict[str, Any]], first: int = 0) -> Iterator[dict[str, Any]]:
        ids = [column for column in self.columns if column.kind == "id"]
        for i, raw in enumerate(raws, first + 1):
            fresh = {c.name: c.last + i if c.last else f"{c.name}-{i}" for c in ids if raw.get(c.name) is None}
            yield {**raw, **fresh}

    def write(self, raws: Sequence[dict[str, Any]], out: Path, meta: Sequence[dict[str, Any]] = ()) -> list[Path]:
        """Write rows to one .csv, .tsv, .jsonl or .parquet file in the original column order and formats."""
        return [F.write(self.columns, self._numbered(raws), Path(out), self._delimiter)]

    def preview(self, raws: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Rows as the cells a CSV would show."""
        rows = [[C.cell(c, row.get(c.name)) for c in self.columns] for row in self.number(raws)]
        return {"kind": "table", "columns": [c.name for c in self.columns], "rows": rows}

    def features(self, raws: Sequence[dict[str, Any]]) -> np.ndarray:
        """(N, D) float32: standardised numbers (empty = 0 and a mark), one-hot categories / sqrt 2, so that two rows that
        differ in a category lie 1 apart."""
        parts: list[np.ndarray] = []
        samples = [self.encode(raw) for raw in raws]
        for name, space in self.space.fields if isinstance(self.space, Record) else ():
            x = np.array([s[name][0] for s in samples])
            if isinstance(space, Tokens):
                parts.append((x[:, None] == np.arange(space.vocab)).astype(np.float32) * 0.5**0.5)
            else:
                column = self._by_name[name]
                there = np.array([s[column.companion][0] == 0 for s in samples]) if column.companion else np.ones(len(x), bool)
                parts.append((np.where(there, x - column.mean, 0.0) / column.std)[:, None])
        return np.concatenate(parts, 1).astype(np.float32)

    def explain(self, raw: dict[str, Any], parts: dict[str, Any]) -> list[tuple[str, float]]:
        """("column = value", sum over its fields)."""
        each = {name: float(np.sum(part)) for name, part in parts.items()}
        learned = [c for c in self.columns if c.learned]
        return [(f"{c.name} = {C.cell(c, raw.get(c.name))}", each.get(c.name, 0.0) + each.get(c.companion or "", 0.0)) for c in learned]

    def size_of(self, raw: dict[str, Any]) -> tuple[int, str]:
        """(learned columns, "column")."""
        return sum(c.learned for c in self.columns), "column"


def _empty(column: Column) -> DataError:
    return DataError("an empty cell where the training data have none", where=f"column '{column.name}'", remedy="fill it or drop the row")
