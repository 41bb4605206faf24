"""CSV and its kin, read strictly and a block at a time. No torch here."""
from __future__ import annotations

import csv
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from morphogen.codecs.sources import Skips
from morphogen.codecs.table import values as V
from morphogen.codecs.table.source import Piece, Source, in_pieces
from morphogen.errors import DataError, UsageError

DELIMITERS = ",;\t|"
BLOCK = 1 << 21  # bytes
MARK = b"\xef\xbb\xbf"


def open_csv(path: Path, encoding: str, notes: list[str]) -> Source:
    """A delimited file whose first row names the columns. Raises DataError or UsageError when that cannot be read."""
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
    names = names_of(header, notes)
    if len(header) > 1 and all(V.number_style(h.strip()) for h in header):
        notes.append("the first line looks like data; is the header missing?")

    def pieces(skips: Skips, at: Callable[[float], None]) -> Iterator[Piece]:
        return _Reader(path, encoding, delimiter, len(names), skips).pieces(at)

    return Source(names, False, pieces, lambda number: f"{path}:{number}", delimiter)


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


def names_of(header: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """The columns' names, all different; `notes` hears what had to be called otherwise."""
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


def cut(data: bytes, delimiter: str, width: int) -> list[list[str]] | None:
    """The cells of whole lines, by columns, as `csv` reads them; None where cutting at each delimiter is not enough.

    That is so with quotes, lone carriage returns, empty lines, and lines of another number of cells, or too long for `csv`.
    Raises UnicodeDecodeError.
    """
    data = data.replace(b"\r\n", b"\n")
    if b'"' in data or b"\r" in data or data.startswith(b"\n") or b"\n\n" in data:
        return None
    data += b"" if data.endswith(b"\n") else b"\n"
    letters = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero((letters == ord(delimiter)) | (letters == 10))
    last = ends[width - 1 :: width]  # where each line ends, if all of them have as many cells
    if len(ends) != data.count(b"\n") * width or (letters[last] != 10).any() or np.diff(last, prepend=-1).max() > csv.field_size_limit():
        return None
    cells = data.decode().replace("\n", delimiter).split(delimiter)
    return [cells[j : len(ends) : width] for j in range(width)]


class _Reader:
    """Goes through a file once. Plain blocks of UTF-8 are cut, which is many times faster; the others are read by `csv`."""

    def __init__(self, path: Path, encoding: str, delimiter: str, width: int, skips: Skips) -> None:
        self.path, self.encoding, self.delimiter, self.width, self.skips = path, encoding, delimiter, width, skips
        self.line, self.headed = 0, False  # lines read so far, and whether the header was among them
        self.taken: float = 0  # lines taken from the file so far

    def pieces(self, at: Callable[[float], None]) -> Iterator[Piece]:
        """All rows. Raises DataError for what is not text, or a quote that never ends."""
        try:
            if self.encoding == "utf-8-sig":
                with self.path.open("rb") as file:
                    yield from self._blocks(file, at)
            else:
                self.taken = math.inf
                with self.path.open(encoding=self.encoding, newline="") as text:
                    yield from in_pieces(self._rows(text))
        except UnicodeDecodeError:
            raise _undecodable(self.path, self.encoding) from None

    def _blocks(self, file: BinaryIO, at: Callable[[float], None]) -> Iterator[Piece]:
        size = os.fstat(file.fileno()).st_size
        while block := file.read(BLOCK):
            block += file.readline()
            block = block if self.line else block.removeprefix(MARK)
            columns = cut(block, self.delimiter, self.width)
            if columns is None:
                own = self._taken(block)
                more = (line for block in iter(file.readline, b"") for line in self._taken(block))  # while a quote is open
                yield from in_pieces(self._rows(itertools.chain(own, more)))
            else:
                begin, self.line = self.line + 1, self.line + len(columns[0])
                self.taken = self.line
                if not self.headed:
                    begin, columns, self.headed = begin + 1, [column[1:] for column in columns], True
                if columns[0]:
                    yield np.arange(begin, self.line + 1), columns
            at(file.tell() / size)

    def _taken(self, block: bytes) -> list[str]:
        lines = list(io.StringIO(block.decode(), newline=""))
        self.taken += len(lines)
        return lines

    def _rows(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """(number of its first line, cells) of each row, until no line that was taken is left."""
        reader, before = csv.reader(lines, delimiter=self.delimiter, strict=True), self.line
        while self.line < self.taken:
            start, row = self.line + 1, []
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                where = f"{self.path}:{start}"
                if "field larger" in str(error) or "end of data" in str(error):
                    raise DataError("a quote is opened and never closed", where=where, remedy="close or double the quote") from None
                self.skips.add(where, str(error))
            self.line = before + reader.line_num
            if not row:
                continue
            if not self.headed:
                self.headed = True
            elif len(row) != self.width:
                self.skips.add(f"{self.path}:{start}", f"{len(row)} cells under {self.width} columns")
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
