"""Texts in a column of rows: what is in memory, Parquet and Arrow files. No torch here."""
from __future__ import annotations

from collections.abc import Callable

from morphogen.codecs.rows import Rows, column_of, numbered
from morphogen.codecs.sources import Listing, Skips, said_about
from morphogen.codecs.text import passages
from morphogen.codecs.text.tokens import to_bytes
from morphogen.contracts import Item
from morphogen.errors import DataError

NAMES = ("text", "content", "document", "passage", "sentence")
BESIDE = 3  # further columns; more make it a table that has a text in it
SHORT = 20  # mean letters below which a column beside others is a table's word


def text_column(table: Rows) -> str:
    """The column that is running text: one named so, alone or with few beside it; "" without one."""
    column = column_of(table, lambda cell: isinstance(cell, str), NAMES)
    if column.lower() not in NAMES or len(table.names) > 1 + BESIDE:
        return ""
    cells = [cell for cell in table.head(20)[table.names.index(column)] if isinstance(cell, str)]
    return column if len(table.names) == 1 or sum(map(len, cells)) >= SHORT * len(cells) else ""


def read(listing: Listing, skips: Skips, budget: Callable[[int], int]) -> tuple[list[Item], int]:
    """(a text a row, what stands beside it said about it; how many were cut). `budget`: bytes of all -> bytes of one.

    Raises DataError when no column is text, or more than 1 % of the rows hold none.
    """
    tables = listing.tables()
    column = text_column(tables[0])
    if not column:
        raise DataError("no column of texts", where=listing.root, remedy=f"name it {NAMES[0]}")
    found = [(place, row.pop(column, None), row) for place, row in numbered(tables)]
    most = budget(sum(len(to_bytes(text)) for _, text, _ in found if isinstance(text, str)))
    items: list[Item] = []
    cuts = 0
    for i, (place, text, row) in enumerate(found):
        if not isinstance(text, str) or not text.strip():
            skips.add(place, "no text")
            continue
        parts = [text] if len(to_bytes(text)) <= most else passages.packed(text, most)
        cuts += len(parts) > 1
        cond, group = said_about(row)
        group = group or (place if len(parts) > 1 else passages.block("", i, len(found)))
        items += [Item(part, cond, group, place) for part in parts]
    skips.check(len(items) + skips.count)
    return items, cuts
