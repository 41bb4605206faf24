"""Rows in and out of files and frames: CSV, JSONL, Parquet, pandas. Only Parquet needs an extra package. No torch here."""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from morphogen import files
from morphogen.codecs.rows import FILES, Rows, of_file
from morphogen.codecs.sources import Listing, Skips, json_lines
from morphogen.codecs.table import values as V
from morphogen.codecs.table.columns import Column, cell
from morphogen.codecs.table.delimited import names_of, open_csv
from morphogen.codecs.table.source import PIECE, Piece, Source, in_pieces
from morphogen.errors import DataError, UsageError, needs

TEXT = (".csv", ".tsv", ".tab")
LINES = (".jsonl", ".ndjson")
KNOWN = (*TEXT, *LINES, *FILES)
SHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # full-width ones run in some editions


def sources(listing: Listing, encoding: str, limit: int, notes: list[str]) -> list[Source]:
    """The tables of a listing, all with the same columns. Raises DataError naming the file when there are none or they differ."""
    if listing.frame is not None:
        found = [(Path("frame"), _of_rows(listing.frame))]
    else:
        chosen = [f for f in listing.files if f.suffix.lower() in KNOWN]
        sheets = [f for f in listing.files if f.suffix.lower() in SHEETS]
        if sheets and not chosen:
            raise DataError("spreadsheet files are not read", where=sheets[0], remedy="save the sheet as CSV (UTF-8) and use that")
        if not chosen:
            where = listing.files[0] if listing.files else listing.root
            raise DataError("no table here", where=where, remedy="give a .csv, .tsv, .jsonl or .parquet file")
        found = [(f, _open(f, encoding, notes)) for f in chosen]
    first = found[0][1]
    for path, source in found:
        if len(source.names) > limit:
            what = f"{len(source.names)} columns, at most {limit} are supported"
            raise DataError(what, where=path, remedy="drop columns or raise max_columns")
        if set(source.names) != set(first.names) or source.typed != first.typed:
            odd = ", ".join(map(repr, sorted(set(source.names) ^ set(first.names))[:3]))
            what = f"its columns differ from those of {found[0][0].name} ({odd})" if odd else "CSV is mixed with typed files"
            raise DataError(what, where=path, remedy="give one kind of table at a time")
    return [_ordered(source, first.names) for _, source in found]


def _ordered(source: Source, names: tuple[str, ...]) -> Source:
    if source.names == names:
        return source
    at = [source.names.index(n) for n in names]

    def pieces(skips: Skips, tell: Callable[[float], None]) -> Iterator[Piece]:
        for numbers, columns in source.pieces(skips, tell):
            yield numbers, [columns[i] for i in at]

    return Source(names, source.typed, pieces, source.place, source.delimiter)


def _open(path: Path, encoding: str, notes: list[str]) -> Source:
    with path.open("rb") as file:
        head = file.read(8192)
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        raise DataError("the file is empty", where=path, remedy="give a table with a header and rows")
    if path.suffix.lower() in FILES:
        return _of_rows(of_file(path))
    kind = {b"PK\x03\x04": "a spreadsheet or zip archive", b"\x1f\x8b": "gzip-compressed", b"PAR1": "Parquet"}
    for magic, what in kind.items():
        if head.startswith(magic):
            raise DataError(f"this is {what}, not {path.suffix}", where=path, remedy="unpack it, or save it as CSV (UTF-8)")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in head:
        raise DataError("this is binary, or UTF-16 without its mark", where=path, remedy="save it as CSV (UTF-8)")
    return _jsonl(path) if path.suffix.lower() in LINES else open_csv(path, encoding, notes)


# ------------------------------------------------------------------- typed sources
def _jsonl(path: Path) -> Source:
    names: dict[str, None] = {}
    count = 0
    for _, row in json_lines(path, Skips()):
        names.update(dict.fromkeys(row))
        count += 1
    if not names and count:
        raise DataError("its objects hold no keys", where=path, remedy="give one object of column: value a line")

    def pieces(skips: Skips, at: Callable[[float], None]) -> Iterator[Piece]:
        yield from in_pieces((number, [V.plain(row.get(n)) for n in names]) for number, row in json_lines(path, skips))

    return Source(tuple(names), True, pieces, lambda number: f"{path}:{number}")


def _of_rows(table: Rows) -> Source:
    """What is in memory, or a Parquet or Arrow file."""

    def pieces(skips: Skips, at: Callable[[float], None]) -> Iterator[Piece]:
        before = 0
        for columns in table.columns():
            for start in range(0, len(columns[0]), PIECE):
                some = [V.plain_all(column[start : start + PIECE]) for column in columns]
                yield np.arange(before + start + 1, before + start + len(some[0]) + 1), some
            before += len(columns[0])

    return Source(names_of(table.names, []), True, pieces, lambda number: table.place(number - 1))


# ------------------------------------------------------------------- writing
def write(columns: Sequence[Column], rows: Iterable[dict[str, Any]], out: Path, delimiter: str) -> Path:
    """Write rows as .csv, .tsv, .jsonl or .parquet, whole or not at all. Raises UsageError for another ending.

    Text is written row by row; Parquet, which stands in columns, when all rows are there.
    """
    suffix = out.suffix.lower()
    if suffix in TEXT:
        lines = csv_lines(columns, rows, "\t" if suffix != ".csv" else delimiter)
    elif suffix in LINES:
        lines = (json.dumps({c.name: _json(r.get(c.name)) for c in columns}, ensure_ascii=False, allow_nan=False) + "\n" for r in rows)
    elif suffix in (".parquet", ".pq"):
        files.write_bytes(out, _parquet_bytes(columns, list(rows)))
        return out
    else:
        raise UsageError(f"tables are not written as '{suffix or out.name}'", where=out, remedy="end the name in .csv, .jsonl or .parquet")
    files.write_lines(out, lines)
    return out


def csv_lines(columns: Sequence[Column], rows: Iterable[dict[str, Any]], delimiter: str) -> Iterator[str]:
    """Rows as lines of CSV; words a spreadsheet would run as a formula get a ' in front (OWASP, CSV injection)."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n")  # so that cells with either of them are quoted

    def line(cells: list[str]) -> str:
        writer.writerow(cells)
        text = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return text[:-2] + "\n"

    yield line([_safe(c.name) for c in columns])
    for row in rows:
        cells = [cell(c, row.get(c.name)) for c in columns]
        yield line([_safe(t) if isinstance(row.get(c.name), str) else t for c, t in zip(columns, cells)])


def _safe(text: str) -> str:
    return "'" + text if text.startswith(FORMULA) else text


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _parquet_bytes(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> bytes:
    arrow = needs("pyarrow", "table", "writing Parquet")
    parquet = needs("pyarrow.parquet", "table", "writing Parquet")
    arrays = {}
    for column in columns:
        values = [r.get(column.name) for r in rows]
        kinds = {type(v) for v in values if v is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:
            values = [None if v is None else str(v) for v in values]
        try:
            arrays[column.name] = arrow.array(values)
        except (arrow.ArrowInvalid, OverflowError):  # whole numbers beyond 64 bits
            arrays[column.name] = arrow.array([None if v is None else float(v) for v in values])
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(arrays), sink)
    return sink.getvalue().to_pybytes()
