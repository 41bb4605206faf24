"""Rows of named cells, wherever they are: objects of pandas, pyarrow, numpy, Pillow or plain Python, Parquet and Arrow files.

One view for every codec: names, a first look, and the cells in pieces that may be gone through more than once. Cells are what
their owner had: a table codec wants numbers and words, a picture codec arrays, Pillow images or files' bytes. No torch here.
"""
from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.errors import DataError, needs

PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather")
FILES = (*PARQUET, *ARROW)
PICTURES = ("image", "img", "picture", "pixels", "pixel_values")
MOST_NAMES = 100_000
Piece = list[Sequence[Any]]


@dataclass(frozen=True)
class Rows:
    """A table that can be gone through more than once: `pieces()` yields lists of columns, cells in the order of `names`.

    `where`: the file, or "frame" for what is in memory. `words`: column -> its names, where cells are numbers of classes.
    """

    where: str
    names: tuple[str, ...]
    pieces: Callable[[], Iterator[Piece]]
    words: dict[str, list[str]] = field(default_factory=dict)

    def head(self, most: int) -> Piece:
        """The first cells of each column, at most `most`."""
        piece = next(self.pieces(), [[] for _ in self.names])
        return [list(column[:most]) for column in piece]

    def columns(self) -> Iterator[Piece]:
        """Piece after piece, columns in the order of `names`; numbers of classes are told by their names."""
        told = [self.words.get(name) for name in self.names]
        for piece in self.pieces():
            yield [_told(column, words) if words else column for column, words in zip(piece, told)]

    def cells(self) -> Iterator[Sequence[Any]]:
        """Row after row of what `columns` yields."""
        for piece in self.columns():
            yield from zip(*piece)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Row after row as a dict."""
        return (dict(zip(self.names, cells)) for cells in self.cells())

    def place(self, i: int) -> str:
        """What a person calls row `i`, from 0."""
        return f"row {i + 1}" if self.where == "frame" else f"{self.where} (row {i + 1})"


def _told(column: Sequence[Any], words: list[str]) -> list[Any]:
    return [words[cell] if isinstance(cell, int) and 0 <= cell < len(words) else cell for cell in column]


# ------------------------------------------------------------------- objects
def of_object(source: Any) -> Rows | None:
    """Rows of what a person handed over in Python; None for what holds none. Read, never changed.

    Data frames (pandas, polars), pyarrow tables, `datasets`, a dict of columns, a list of dicts, of strings, of pictures
    (Pillow or uint8 arrays), arrays of pictures (N, H, W[, C]) uint8, of rows (N, D), of strings (N,).
    Raises DataError when it is empty, or when its shape says neither.
    """
    if isinstance(source, Rows):
        return source
    if isinstance(source, dict):
        return _columns(list(source), [_cells(column) for column in source.values()])
    if isinstance(source, list | tuple):
        return _listed(list(source))
    if hasattr(source, "with_format") and hasattr(getattr(source, "data", None), "schema"):
        source = source.data  # `datasets` keeps an Arrow table
    if hasattr(source, "schema") and (hasattr(source, "to_batches") or hasattr(source, "to_pydict")):
        return _arrow_table(source)
    if hasattr(source, "columns"):
        names = list(source.columns)
        columns = [source.iloc[:, i].tolist() if hasattr(source, "iloc") else list(source[n]) for i, n in enumerate(names)]
        return _columns(names, columns)
    if hasattr(source, "__array__") and not hasattr(source, "getexif"):
        return _array(np.asarray(source), source)
    return None


def raws_of(given: Any) -> Sequence[Any]:
    """Raw items with unknown parts, one a row of what was handed over: a list is one already. Raises DataError."""
    if isinstance(given, list | tuple):
        return given
    table = of_object(given)
    if table is None:
        raise DataError(f"cannot read items from {type(given).__name__}", remedy="give a list of items, a data frame or an array")
    alone = table.names in (("image",), ("text",))
    return [row[table.names[0]] if alone else row for row in table]


def _columns(names: Sequence[Any], columns: Sequence[Sequence[Any]]) -> Rows:
    if not names:
        raise DataError("the table has no columns", remedy="give at least one column")
    sizes = {len(column) for column in columns}
    if len(sizes) > 1:
        raise DataError(f"columns of {min(sizes):,} and of {max(sizes):,} cells", remedy="give each column a cell for every row")
    if sizes == {0}:
        raise DataError("the table has no rows", remedy="give at least one row")
    return Rows("frame", tuple(map(str, names)), lambda: iter([list(columns)]))


def _cells(column: Any) -> Sequence[Any]:
    """A column's cells: an array of more than one axis is a list of smaller arrays."""
    if isinstance(column, str | bytes | dict) or not hasattr(column, "__len__"):
        raise DataError(f"a dict of single values, such as {column!r:.60}", remedy="give a list of such dicts, or a list for each key")
    if hasattr(column, "__array__") and not isinstance(column, list | tuple):
        column = np.asarray(column)
        return list(column) if column.ndim > 1 else column.tolist()
    return list(column)


def _listed(source: list[Any]) -> Rows | None:
    if not source:
        raise DataError("the table has no rows", remedy="give at least one row")
    if all(isinstance(row, dict) for row in source):
        names = list(dict.fromkeys(name for row in source for name in row))
        if len(names) > MOST_NAMES:
            raise DataError(f"{len(names):,} different keys", remedy="give rows with the same keys")
        return _columns(names, [[row.get(name) for row in source] for name in names])
    if all(isinstance(one, str) for one in source):
        return _columns(["text"], [source])
    if all(is_picture(one) for one in source):
        return _columns(["image"], [source])
    first = type(source[0]).__name__
    if all(isinstance(one, np.ndarray | list | tuple) for one in source):
        try:
            whole = np.asarray(source)
        except ValueError:
            raise DataError(f"a list of {first} of different sizes", remedy="give dicts, strings or pictures (uint8)") from None
        return _array(whole, source)
    kinds = ", ".join(sorted({type(one).__name__ for one in source})[:3])
    raise DataError(f"a list of {kinds}", remedy="give only dicts, only strings or only pictures")


def _array(x: np.ndarray, source: Any) -> Rows:
    names = getattr(getattr(x, "dtype", None), "names", None)
    if names:
        return _columns(names, [x[name].tolist() for name in names])
    if x.ndim == 0 or not len(x):
        raise DataError("the array has no rows", remedy="give at least one row")
    if x.ndim == 1 and x.dtype.kind in "US":
        return _columns(["text"], [x.astype(str).tolist()])
    if x.ndim == 1 and x.dtype.kind == "O":
        inner = _listed(x.tolist())
        assert inner is not None
        return inner
    if x.ndim == 2:
        return _columns([f"x{i}" for i in range(x.shape[1])], [x[:, i].tolist() for i in range(x.shape[1])])
    if x.dtype == np.uint8 and (x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3, 4))):
        return _columns(["image"], [list(x)])
    what = f"an array {x.dtype} {x.shape}"
    raise DataError(what, remedy="give pictures as uint8 (N, H, W) or (N, H, W, 1, 3 or 4), rows as (N, D)")


def is_picture(cell: Any) -> bool:
    """Whether a cell is pixels (uint8 (H, W[, C])), a Pillow image, or a file of one as bytes."""
    if isinstance(cell, np.ndarray):
        return cell.dtype == np.uint8 and (cell.ndim == 2 or (cell.ndim == 3 and cell.shape[2] in (1, 3, 4)))
    if hasattr(cell, "getexif") and hasattr(cell, "convert"):
        return True
    from morphogen.codecs.pictures import FORMATS, sniff

    data = bytes_of(cell)
    return data is not None and sniff(data[:1024]) in FORMATS


def bytes_of(cell: Any) -> bytes | None:
    """A file kept in a cell: bytes, or {"bytes", "path"} as `datasets` keeps it."""
    if isinstance(cell, dict) and set(cell) <= {"bytes", "path"}:
        cell = cell.get("bytes")
    return bytes(cell) if isinstance(cell, bytes | bytearray | memoryview) else None


def column_of(rows: Rows, good: Callable[[Any], bool], named: Sequence[str] = ()) -> str:
    """The first column whose first cells are all `good` (empty ones aside), those of `named` before others; "" without one."""
    head = dict(zip(rows.names, rows.head(20)))
    order = sorted(rows.names, key=lambda name: name.lower() not in named)
    for name in order:
        cells = [cell for cell in head[name] if cell is not None]
        if cells and all(good(cell) for cell in cells):
            return name
    return ""


def picture_column(rows: Rows) -> str:
    """The column that holds pictures, "" when none does."""
    return column_of(rows, is_picture, PICTURES)


# ------------------------------------------------------------------- files
def of_file(path: Path, where: str = "") -> Rows:
    """Rows of a Parquet or Arrow file, read in pieces. Raises DataError when it is damaged, ResourceError without pyarrow."""
    arrow: Any = needs("pyarrow", "table", f"reading {path.suffix}")
    kind = _parquet if path.suffix.lower() in PARQUET else _ipc
    with _readable(path, arrow):
        schema, batches = kind(path)

    def pieces() -> Iterator[Piece]:
        with _readable(path, arrow):
            for batch in batches():
                yield [column.to_pylist() for column in batch.columns]

    return Rows(where or str(path), tuple(schema.names), pieces, _class_names(schema))


class _readable:
    """What pyarrow says of a damaged file, in one line."""

    def __init__(self, path: Path, arrow: Any) -> None:
        self.path, self.arrow = path, arrow

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None and isinstance(error, self.arrow.ArrowException | OSError | ValueError | OverflowError):
            said = (str(error).splitlines() or [""])[0][:120]
            name = "Parquet" if self.path.suffix.lower() in PARQUET else "Arrow"
            raise DataError(f"not readable as {name} ({said})", where=self.path, remedy="the file is damaged; export it again") from None


def _parquet(path: Path) -> tuple[Any, Callable[[], Iterator[Any]]]:
    parquet: Any = needs("pyarrow.parquet", "table", "reading Parquet")
    return parquet.ParquetFile(path).schema_arrow, lambda: parquet.ParquetFile(path).iter_batches(batch_size=4096)


def _ipc(path: Path) -> tuple[Any, Callable[[], Iterator[Any]]]:
    """An Arrow file, or the stream that `datasets` saves."""
    ipc: Any = needs("pyarrow.ipc", "table", "reading Arrow")
    with path.open("rb") as file:
        whole = file.read(6) == b"ARROW1"

    def batches() -> Iterator[Any]:
        with path.open("rb") as file:
            reader = ipc.open_file(file) if whole else ipc.open_stream(file)
            yield from map(reader.get_batch, range(reader.num_record_batches)) if whole else reader

    with path.open("rb") as file:
        return (ipc.open_file(file) if whole else ipc.open_stream(file)).schema, batches


def _arrow_table(table: Any) -> Rows:
    """A pyarrow table or record batch."""
    if not table.num_rows:
        raise DataError("the table has no rows", remedy="give at least one row")
    batches: Callable[[], Any] = partial(table.to_batches, max_chunksize=4096) if hasattr(table, "to_batches") else lambda: [table]
    pieces = lambda: ([column.to_pylist() for column in batch.columns] for batch in batches())
    return Rows("frame", tuple(table.schema.names), pieces, _class_names(table.schema))


def _class_names(schema: Any) -> dict[str, list[str]]:
    """column -> names of its classes, as `datasets` writes them beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: about["names"] for name, about in features.items() if isinstance(about, dict) and about.get("_type") == "ClassLabel"}
        return {name: words for name, words in found.items() if isinstance(words, list) and all(isinstance(w, str) for w in words)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def numbered(tables: Sequence[Rows]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of all tables, one after the other."""
    for table in tables:
        for i, row in zip(itertools.count(), table):
            yield table.place(i), row
