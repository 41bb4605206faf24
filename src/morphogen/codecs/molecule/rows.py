"""Where molecules stand in files: which column of a table holds SMILES, lines of .smi, records of .sdf. No chemistry library here."""
from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morphogen.codecs.molecule.spelling import LONGEST, looks_like, looks_like_column
from morphogen.codecs.rows import FILES, Rows, numbered, of_file
from morphogen.codecs.sources import NUMBER, Listing, Skips, json_lines, read_utf8, strict_json
from morphogen.errors import DataError, MorphogenError, UsageError, suggest

TABLES = frozenset({".csv", ".tsv", ".tab"})
LINES = frozenset({".jsonl", ".ndjson"})
PLAIN = frozenset({".smi", ".smiles", ".ism", ".can"})
SDF = frozenset({".sdf", ".sd", ".mol"})
SUFFIXES = TABLES | LINES | frozenset(FILES) | PLAIN | SDF | {".txt"}
NAMED = re.compile(r"smiles|^smi$|^structure$|^mol(ecule)?$", re.IGNORECASE)
BLOCK = 20_000  # lines of one record; 999 atoms and their bonds need two thousand
FEW = 6  # columns beside the SMILES that are not numbers: names and ids. More make it a table that has a SMILES in it
LOOKED = 300


@dataclass(frozen=True)
class Row:
    """One molecule as it was found: `text` a SMILES or a mol block, what else stands beside it, and where."""

    where: str
    text: str
    beside: dict[str, Any]


# ------------------------------------------------------------------- is it for us
def claim_of(listing: Listing) -> tuple[float, str]:
    """(score, why) of a listing; looks at the first lines of the first files."""
    if listing.frame is not None:
        found = _column_of(listing.frame)
        return (1.0, f"SMILES in column '{found}'") if found else (0.0, "")
    files = [f for f in listing.files if f.suffix.lower() in SUFFIXES]
    if not files:
        return 0.0, ""
    whys = [_claim_file(file) for file in files[:5]]
    if not all(whys):
        return 0.0, ""
    surest = 0.94 if files[0].suffix.lower() == ".txt" else 0.98
    return surest * len(files) / len(listing.files), whys[0]


def _claim_file(file: Path) -> str:
    suffix = file.suffix.lower()
    try:
        if suffix in SDF:
            return "structure files" if _is_sdf(file) else ""
        if suffix in FILES:
            found = _column_of(of_file(file))
            return f"SMILES in column '{found}'" if found else ""
        head = _head(file)
        if suffix in PLAIN or suffix == ".txt":
            lines = [line for line in head.splitlines()[:LOOKED] if line.strip()]
            lines = lines[1:] if suffix in PLAIN and not looks_like(lines[0].split()[0]) else lines
            if suffix == ".txt" and any(len(line.split()) > 2 for line in lines):
                return ""
            return "one SMILES a line" if lines and looks_like_column(lines, named=suffix in PLAIN) else ""
        names, columns = _lines_head(head) if suffix in LINES else _table_head(head)
    except (OSError, ValueError, MorphogenError, IndexError, csv.Error):
        return ""
    found = find_column(names, columns)
    return f"SMILES in column '{found}'" if found and _simple(names, columns, found) else ""


def _head(file: Path) -> str:
    with file.open("rb") as handle:
        data = handle.read(1 << 16)
    text = data.decode("utf-8-sig", "replace" if len(data) == 1 << 16 else "strict")
    return text if len(data) < 1 << 16 else text[: text.rfind("\n") + 1] or text


def _is_sdf(file: Path) -> bool:
    with file.open("rb") as handle:
        head = handle.read(1 << 16)
    return b"\0" not in head and (b"V2000" in head or b"V3000" in head or b"$$$$" in head or b"M  END" in head)


def _table_head(head: str) -> tuple[list[str], list[list[str]]]:
    rows = [row for row in itertools.islice(csv.reader(io.StringIO(head, newline=""), delimiter=_delimiter(head)), LOOKED) if row]
    names = [name.strip() for name in rows[0]]
    return names, [[row[i] if i < len(row) else "" for row in rows[1:]] for i in range(len(names))]


def _delimiter(head: str) -> str:
    first = next((line for line in head.splitlines() if line.strip()), "")
    return max(",\t;|", key=lambda d: (first.count(d), d == ","))


def _lines_head(head: str) -> tuple[list[str], list[list[str]]]:
    rows = [strict_json(line) for line in head.splitlines()[:LOOKED] if line.strip()]
    rows = [row for row in rows if isinstance(row, dict)]
    names = list(dict.fromkeys(k for row in rows for k in row))
    return names, [[_cell(row.get(name)) for row in rows] for name in names]


def _cell(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def find_column(names: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    """The column that holds SMILES: one named so, else one whose values all look like it; "" when there is none."""
    named = [i for i, name in enumerate(names) if NAMED.search(name) and looks_like_column(columns[i], named=True)]
    if named:  # `smiles` before `scaffold_smiles`
        return names[min(named, key=lambda i: (len(names[i]) if "canonical" not in names[i].lower() else 0, i))]
    return next((name for name, values in zip(names, columns) if looks_like_column(values, named=False)), "")


def _simple(names: Sequence[str], columns: Sequence[Sequence[str]], found: str) -> bool:
    """Whether what stands beside the SMILES is few or numbers."""
    words = [n for n, values in zip(names, columns) if n != found and not all(NUMBER.fullmatch(v.strip()) for v in values if v.strip())]
    return len(words) <= FEW


def _column_of(table: Rows) -> str:
    names, columns = table.names, [[_cell(v) for v in column] for column in table.head(LOOKED)]
    found = find_column(names, columns)
    return found if found and _simple(names, columns, found) else ""


# ------------------------------------------------------------------- rows
def rows_of(listing: Listing, column: str, skips: Skips) -> Iterator[Row]:
    """Every row of every file, as it stands. Raises DataError when a file cannot be read or has no SMILES column."""
    if listing.frame is not None:
        yield from _dicts(list(numbered([listing.frame])), column, "the table")
        return
    chosen = [f for f in listing.files if f.suffix.lower() in SUFFIXES] or list(listing.files)
    for file in chosen:
        suffix, name = file.suffix.lower(), listing.name_of(file)
        if suffix in SDF:
            yield from _records(file, name, skips)
        elif suffix in LINES:
            rows = [(f"{name}:{number}", row) for number, row in json_lines(file, skips)]
            yield from _dicts(rows, column, file)
        elif suffix in FILES:
            yield from _dicts(list(numbered([of_file(file, name)])), column, file)
        elif suffix in TABLES:
            yield from _csv_rows(file, name, column, skips)
        else:
            yield from _plain_rows(file, name)


def _dicts(rows: Sequence[tuple[str, dict[str, Any]]], column: str, where: object) -> Iterator[Row]:
    if not rows:
        raise DataError("there are no rows", where=where, remedy="give at least a few dozen molecules")
    names = list(dict.fromkeys(k for _, row in rows for k in row))
    found = _chosen(names, [[_cell(row.get(n)) for _, row in rows[:LOOKED]] for n in names], column, where)
    for place, row in rows:
        yield Row(place, _first(_cell(row.get(found))), {k: v for k, v in row.items() if k != found})


def _chosen(names: Sequence[str], columns: Sequence[Sequence[str]], column: str, where: object) -> str:
    if column:
        if column not in names:
            raise UsageError(f"no column '{column}'", where=where, remedy=suggest(column, names))
        return column
    found = find_column(names, columns) or next((n for n in names if NAMED.search(n)), "")
    if not found:
        raise DataError("no column of SMILES", where=where, remedy="name it 'smiles', or say which with --set codec.column=NAME")
    return found


def _first(text: str) -> str:
    """A cell without what some programs write behind a SMILES (a name, CXSMILES extensions)."""
    parts = text.split(None, 1)
    return parts[0] if parts else ""


def _csv_rows(file: Path, name: str, column: str, skips: Skips) -> Iterator[Row]:
    text = read_utf8(file)
    if not text.strip():
        raise DataError("the file is empty", where=file, remedy="give a table with a column of SMILES")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text[: 1 << 16]), strict=True)
    rows: list[tuple[str, list[str]]] = []
    try:
        for row in reader:
            if row:
                rows.append((f"{name}:{reader.line_num}", row))
    except csv.Error as error:
        raise DataError(f"not readable as CSV ({error})", where=f"{file}:{reader.line_num}", remedy="check its quotes") from None
    names = [n.strip() for n in rows[0][1]]
    if len(names) == 1 and looks_like(names[0]) and not NAMED.search(names[0]):  # a bare list: the first line is a molecule
        names, rows = ["smiles"], [("", ["smiles"]), *rows]
    at = names.index(_chosen(names, [[r[i] if i < len(r) else "" for _, r in rows[1:LOOKED]] for i in range(len(names))], column, file))
    for place, row in rows[1:]:
        if len(row) != len(names):
            skips.add(place, f"{len(row)} cells under {len(names)} columns")
        else:
            yield Row(place, _first(row[at]), {n: v for i, (n, v) in enumerate(zip(names, row)) if i != at})


def _plain_rows(file: Path, name: str) -> Iterator[Row]:
    lines = [(i, line) for i, line in enumerate(read_utf8(file).splitlines(), 1) if line.strip() and not line.startswith("#")]
    if lines and not looks_like(_first(lines[0][1])) and len(lines) > 1 and looks_like(_first(lines[1][1])):
        lines = lines[1:]  # a header such as "SMILES Name"
    if not lines:
        raise DataError("the file is empty", where=file, remedy="give one SMILES a line")
    yield from (Row(f"{name}:{number}", _first(line), {}) for number, line in lines)


def _records(file: Path, name: str, skips: Skips) -> Iterator[Row]:
    """Mol blocks and their data fields. Nothing a record claims about its size is believed; it ends at $$$$."""
    with file.open(encoding="utf-8", errors="replace", newline=None) as handle:
        lines: list[str] = []
        index = long = 0
        for line in itertools.chain(handle, ("$$$$",)):
            if not line.startswith("$$$$"):
                long += 1
                if long <= BLOCK:
                    lines.append(line[:LONGEST].rstrip("\n"))
                continue
            if any(text.strip() for text in lines):
                index += 1
                where = f"{name} (record {index})"
                if long > BLOCK:
                    skips.add(where, f"more than {BLOCK:,} lines")
                else:
                    yield _record(where, lines)
            lines, long = [], 0


def _record(where: str, lines: list[str]) -> Row:
    ends = next((i for i, line in enumerate(lines) if line.startswith("M  END")), len(lines) - 1)
    beside: dict[str, Any] = {}
    field = ""
    for line in lines[ends + 1 :]:
        match = re.match(r">.*<([^<>]+)>", line)
        if match:
            field = match.group(1)
        elif field and line.strip():
            beside.setdefault(field, line.strip())
        else:
            field = ""
    return Row(where, "\n".join(lines[: ends + 1]) + "\n", beside)


# ------------------------------------------------------------------- what stands beside a molecule
def conditions(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Numbers, and words that repeat, of each row: columns of numbers become numbers; ids, names and free text are left out."""
    kinds: dict[str, str] = {}
    for name in dict.fromkeys(k for row in rows for k in row.beside):
        values = [v for v in (_cell(row.beside.get(name)).strip() for row in rows) if v]
        if not values:
            continue
        if all(NUMBER.fullmatch(v) for v in values):
            kinds[name] = "number"
        elif len(set(values)) <= min(200, len(values) // 3):
            kinds[name] = "word"
    out = []
    for row in rows:
        said: dict[str, Any] = {}
        for name, kind in kinds.items():
            value = _cell(row.beside.get(name)).strip()
            if value:
                said[name] = (int(value) if re.fullmatch(r"[+-]?\d{1,15}", value) else float(value)) if kind == "number" else value
        out.append(said)
    return out
