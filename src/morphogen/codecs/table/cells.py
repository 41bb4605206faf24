"""From the cells of a row to its values, and the tally from which the columns are found. No torch here."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from morphogen.codecs.table import values as V
from morphogen.codecs.table.columns import WORDS, Column, parse


class Parser:
    """Cells of one column -> values, each distinct cell parsed once."""

    def __init__(self, column: Column | None) -> None:
        self.column = column
        self.memory: dict[Any, Any] = {}

    def __call__(self, cell: Any) -> Any:
        """The value; `Parser` itself (a value no cell has) when the cell does not fit the column."""
        column = self.column
        if column is None or column.kind in ("empty", "nested") or cell.__hash__ is None:
            return None if column is None or column.kind in ("empty", "nested") else Parser
        key = typed(cell)
        if key not in self.memory:
            if len(self.memory) > 100_000:
                self.memory.clear()
            value = None if _is_gone(column, cell) else parse(column, cell)
            self.memory[key] = Parser if value is None and not _is_gone(column, cell) else value
        return self.memory[key]


def _is_gone(column: Column, cell: Any) -> bool:
    if not isinstance(cell, str):
        return cell is None
    if cell in column.values or (column.kind in WORDS and cell.strip() in column.values):
        return False
    return cell.strip() in V.MISSING or (cell == column.mark and bool(cell)) or (cell in V.WEAK_MISSING and column.kind != "category")


def row_of(names: Sequence[str], parsers: list[Parser], cells: Sequence[Any]) -> tuple[dict[str, Any], str]:
    """(row, why it cannot be used or "")."""
    row = {}
    for name, parser, cell in zip(names, parsers, cells):
        if parser.column is None:
            continue
        value = parser(cell)
        if value is Parser:
            kind = parser.column.kind if parser.column else ""
            return {}, f"'{str(cell)[:40]}' in column '{name}' is no {kind}"
        row[name] = value
    return row, ""


def tally(cells: Sequence[Any], counts: list[Counter[Any]], rising: list[bool], last: list[Any]) -> None:
    """Count a row's cells; `rising[i]` stays true while column i goes up by one from row to row (`last` remembers)."""
    for i, cell in enumerate(cells):
        # True would be counted as 1; nested values only need to be told apart from plain ones
        key = (bool, cell) if type(cell) is bool else cell if cell.__hash__ is not None else type(cell)
        counts[i][key] += 1
        if rising[i]:
            try:
                number = int(cell)
                rising[i] = last[i] is None or number == last[i] + 1
                last[i] = number
            except (TypeError, ValueError, OverflowError):
                rising[i] = False


def typed(value: Any) -> Any:
    """A dictionary key that keeps 1, 1.0 and True apart."""
    return (type(value), value) if not isinstance(value, str) else value


def free_name(name: str, taken: set[str]) -> str:
    """`name`, with question marks added until nobody has it."""
    while name in taken:
        name += "?"
    return name
