"""From cells to values. No torch here."""
from __future__ import annotations

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


def typed(value: Any) -> Any:
    """A dictionary key that keeps 1, 1.0 and True apart."""
    return (type(value), value) if not isinstance(value, str) else value


def free_name(name: str, taken: set[str]) -> str:
    """`name`, with question marks added until nobody has it."""
    while name in taken:
        name += "?"
    return name
