"""What a table is while it is read: some rows at a time, by columns. No torch here."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from morphogen.codecs.sources import Skips

PIECE = 1 << 15  # rows worked on at once
Piece = tuple[Any, Sequence[Sequence[Any]]]  # whole numbers, a list or an array of them; columns of cells


@dataclass(frozen=True)
class Source:
    """A table that can be gone through more than once.

    `pieces(skips, at)` yields (number of each row, columns of cells in header order) of some rows at a time, and tells `at` what
    share of the table is read. `place(number)` says where a row is.
    """

    names: tuple[str, ...]
    typed: bool
    pieces: Callable[[Skips, Callable[[float], None]], Iterator[Piece]]
    place: Callable[[int], str]
    delimiter: str = ","


def in_pieces(rows: Iterable[tuple[int, Sequence[Any]]]) -> Iterator[Piece]:
    """(number, cells) row by row -> pieces."""
    rows = iter(rows)
    while some := list(itertools.islice(rows, PIECE)):
        yield [number for number, _ in some], list(zip(*(cells for _, cells in some)))
