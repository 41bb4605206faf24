"""Rows in and out of files and frames: CSV, JSONL, Parquet, pandas. Only Parquet needs an extra package. No torch here."""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from morphogen import files
from morphogen.codecs.rows import FILES, Rows, of_file
from morphogen.codecs.sources import Listing, Skips, json_lines
from morphogen.codecs.table import values as V
from morphogen.codecs.table.columns import Column, cell
from morphogen.errors import DataError, UsageError, needs

TEXT = (".csv", ".tsv", ".tab")
LINES = (".jsonl", ".ndjson")
KNOWN = (*TEXT, *LINES, *FILES)
SHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods")
DELIMITERS = ",;\t|"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # full-width ones run in some editions


@dataclass(frozen=True)
class Source:
    """A table that can be gone through more than once. `rows(skips)` yields (number, cells in header order).

    `place(number)` says where a row is.
    """

    names: tuple[str, ...]
    typed: bool
    rows: Callable[[Skips], Iterator[tuple[int, Sequence[Any]]]]
    place: Callable[[int], str]
    delimiter: str = ","


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

    def rows(skips: Skips) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, cells in source.rows(skips):
            yield number, [cells[i] for i in at]

    return Source(names, source.typed, rows, source.place, source.delimiter)


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
    return _jsonl(path) if path.suffix.lower() in LINES else _csv(path, encoding, notes)


# ------------------------------------------------------------------- CSV
def sniff(sample: str) -> str:
    """The delimiter under which the most lines have the header's number of cells, more cells winning. (csv.Sniffer guesses letters.)"""
    best, score = ",", 0.0
    for delimiter in DELIMITERS:
        try:
            widths = [len(r) for r, _ in zip(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), range(300)) if r]
        except csv.Error:
            continue
        agree = sum(w == widths[0] for w in widths) / len(widths) if widths else 0.0
        here = agree * (1 + widths[0] / 1e4) if widths and widths[0] > 1 else 0.0
        if here > score:
            best, score = delimiter, here
    return best


def _csv(path: Path, encoding: str, notes: list[str]) -> Source:
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        with path.open(encoding=encoding, newline="") as file:
            sample = file.read(1 << 16)
            whole = len(sample) < 1 << 16
        delimiter = sniff(sample if whole else sample[: sample.rfind("\n") + 1] or sample)
        with path.open(encoding=encoding, newline="") as file:
            header = next((r for r in csv.reader(file, delimiter=delimiter) if r), [])
    except UnicodeDecodeError:
        raise _undecodable(path, encoding) from None
    except csv.Error as error:
        raise DataError(f"the header cannot be read ({error})", where=f"{path}:1", remedy="check its quotes") from None
    except LookupError:
        raise UsageError(f"unknown encoding '{encoding}'", remedy="try utf-8, cp1252 or latin-1") from None
    names = _names(header, notes)
    if len(header) > 1 and all(V.number_style(h.strip()) for h in header):
        notes.append("the first line looks like data; is the header missing?")

    def rows(skips: Skips) -> Iterator[tuple[int, list[str]]]:
        return _csv_rows(path, encoding, delimiter, len(names), skips)

    return Source(names, False, rows, lambda number: f"{path}:{number}", delimiter)


def _names(header: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    uses: dict[str, int] = {}
    for i, raw in enumerate(header):
        base = name = raw.strip() or f"column {i + 1}"
        while name in names:
            uses[base] = uses.get(base, 1) + 1
            name = f"{base} ({uses[base]})"
        if name != raw.strip():
            notes.append(f"column {i + 1} has {'the name of another' if raw.strip() else 'no name'}; it is called '{name}'")
        names[name] = None
    return tuple(names)


def _csv_rows(path: Path, encoding: str, delimiter: str, width: int, skips: Skips) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        seen_header = False
        while True:
            start = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except UnicodeDecodeError:
                raise _undecodable(path, encoding) from None
            except csv.Error as error:
                if "field larger" in str(error) or "end of data" in str(error):
                    where = f"{path}:{start}"
                    raise DataError("a quote is opened and never closed", where=where, remedy="close or double the quote") from None
                skips.add(f"{path}:{start}", str(error))
                continue
            if not row:
                continue
            if not seen_header:
                seen_header = True
            elif len(row) != width:
                skips.add(f"{path}:{start}", f"{len(row)} cells under {width} columns")
            else:
                yield start, row


def _undecodable(path: Path, encoding: str) -> DataError:
    """The line and byte where decoding fails: the text layer itself only knows the place within its chunk."""
    where, offset = str(path), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8" if encoding == "utf-8-sig" else encoding)
            except UnicodeDecodeError as error:
                where = f"{path}:{number} (byte {offset + error.start})"
                break
            offset += len(line)
    remedy = "save it as UTF-8, or set encoding (often cp1252 or latin-1)"
    return DataError(f"not valid {encoding.removesuffix('-sig')}", where=where, remedy=remedy)


# ------------------------------------------------------------------- typed sources
def _jsonl(path: Path) -> Source:
    names: dict[str, None] = {}
    count = 0
    for _, row in json_lines(path, Skips()):
        names.update(dict.fromkeys(row))
        count += 1
    if not names and count:
        raise DataError("its objects hold no keys", where=path, remedy="give one object of column: value a line")

    def rows(skips: Skips) -> Iterator[tuple[int, list[Any]]]:
        for number, row in json_lines(path, skips):
            yield number, [V.plain(row.get(n)) for n in names]

    return Source(tuple(names), True, rows, lambda number: f"{path}:{number}")


def _of_rows(table: Rows) -> Source:
    """What is in memory, or a Parquet or Arrow file."""

    def rows(skips: Skips) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, cells in enumerate(table.cells(), 1):
            yield number, [V.plain(cell) for cell in cells]

    return Source(_names(table.names, []), True, rows, lambda number: table.place(number - 1))


# ------------------------------------------------------------------- writing
def write(columns: Sequence[Column], rows: Iterable[dict[str, Any]], out: Path, delimiter: str) -> Path:
    """Write rows as .csv, .tsv, .jsonl or .parquet, whole or not at all. Raises UsageError for another ending.

    Text is written row by row; Parquet, which stands in columns, when all rows are there.
    """
    suffix = out.suffix.lower()
    if suffix in TEXT:
        lines = _csv_lines(columns, rows, "\t" if suffix != ".csv" else delimiter)
    elif suffix in LINES:
        lines = (json.dumps({c.name: _json(r.get(c.name)) for c in columns}, ensure_ascii=False, allow_nan=False) + "\n" for r in rows)
    elif suffix in (".parquet", ".pq"):
        files.write_bytes(out, _parquet_bytes(columns, list(rows)))
        return out
    else:
        raise UsageError(f"tables are not written as '{suffix or out.name}'", where=out, remedy="end the name in .csv, .jsonl or .parquet")
    files.write_lines(out, lines)
    return out


def csv_text(columns: Sequence[Column], rows: Iterable[dict[str, Any]], delimiter: str) -> str:
    """Rows as CSV text; words a spreadsheet would run as a formula get a ' in front (OWASP, CSV injection)."""
    return "".join(_csv_lines(columns, rows, delimiter))


def _csv_lines(columns: Sequence[Column], rows: Iterable[dict[str, Any]], delimiter: str) -> Iterator[str]:
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
