"""Levels as tuples of rows of equal length: reading text files, what lies outside the walls, the eight orientations. No torch here."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from morphogen.codecs.level.sokoban import FLOOR, OUTSIDE, TILES
from morphogen.errors import DataError

Level = tuple[str, ...]
SPELLINGS = str.maketrans("-_", "  ")  # other spellings of floor in Sokoban files
SOKOBAN = frozenset(TILES) | set("-_")
ABOUT = re.compile(r"\s*([A-Za-z][A-Za-z _-]{1,20}):\s*(.*)")
COMMENT = re.compile(r"\s*(;|//|::)")
WALLED = re.compile(r"\s*[#*].*[#*]\s*")
DELTAS = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}


@dataclass
class Found:
    """A level of a file: its rows as written, the line it begins at, what is said under it; `why` it cannot be used."""

    rows: list[str]
    line: int
    about: dict[str, str] = field(default_factory=dict)
    why: str = ""


def is_sokoban(text: str) -> bool:
    """Whether text holds a Sokoban level: three or more rows of its tiles with walls, among them a player or a box."""
    rows = [line for line in text.split("\n") if "#" in line and set(line.rstrip()) <= SOKOBAN]
    return len(rows) >= 3 and bool(set("".join(rows)) & set("@+")) and bool(set("".join(rows)) & set("$*"))


def is_grid(text: str) -> bool:
    """Whether text looks like a plain tile grid: blocks of three or more rows of one length and few different signs."""
    blocks = [found.rows for found in plain_levels(text[:20_000])]
    blocks = blocks[:-1] if len(text) > 20_000 and len(blocks) > 1 else blocks
    if not blocks or any(len(rows) < 2 for rows in blocks):
        return False
    rows = [row for block in blocks for row in block]
    even = sum(len(row) == max(map(len, block)) for block in blocks for row in block)
    words = sum(bool(re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}", row)) for row in rows)
    varied = len(set("".join(rows)))
    return len(rows) >= 3 and even >= 0.9 * len(rows) and words <= 0.1 * len(rows) and 2 <= varied <= 40 and max(map(len, rows)) >= 3


def sokoban_levels(text: str) -> list[Found]:
    """The levels of a Sokoban file; everything that is no row ends a level, `Name: value` under a level says something about it."""
    out: list[Found] = []
    rows: list[str] = []
    comment = False
    lines = text.split("\n")
    for number, line in enumerate([*lines, ""], 1):
        line = line.rstrip()
        said = ABOUT.fullmatch(line)
        row = bool(line) and not said and not comment and (("#" in line and set(line) <= SOKOBAN | {"\t"}) or
                                                           (rows and len(line) > 2 and bool(WALLED.fullmatch(line))))
        if row:
            rows.append(line)
            continue
        if rows:
            out.append(Found(rows, number - len(rows), {}, _why(rows)))
            rows = []
        if said and out and not comment:
            out[-1].about.setdefault(said[1].strip().lower(), said[2].strip())
        if said and said[1].lower() in ("comment", "comment-end"):
            comment = said[1].lower() == "comment" and not said[2].strip()
        elif not line:
            comment = False
    return out


def plain_levels(text: str) -> list[Found]:
    """The levels of any other tile grid: blocks of lines between blank lines and comments (`;`, `//`, `::`)."""
    out: list[Found] = []
    rows: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip() and not COMMENT.match(line):
            rows.append(line)
        elif rows:
            why = "a tab in a row, whose width nobody knows" if any("\t" in row.rstrip("\t") for row in rows) else ""
            out.append(Found([row.rstrip("\t") for row in rows], number - len(rows), {}, why))
            rows = []
    return out


def _why(rows: list[str]) -> str:
    if any("\t" in row for row in rows):
        return "a tab in a row, whose width nobody knows"
    strange = sorted(set("".join(rows)) - SOKOBAN)
    return f"unknown tile {', '.join(map(repr, strange))} (known: {' '.join(map(repr, TILES[:-1]))})" if strange else ""


def even(rows: Sequence[str], outside: str = OUTSIDE) -> Level:
    """Rows padded to one length."""
    width = max(map(len, rows), default=0)
    return tuple(row.ljust(width, outside) for row in rows)


def framed(rows: Sequence[str]) -> Level:
    """A Sokoban level whose blanks outside the walls are marked as outside: those a walk over blanks joins with the border."""
    level = even([row.translate(SPELLINGS) for row in rows], FLOOR)
    grid = np.pad(array(level), 1, constant_values=FLOOR)
    blank = grid == FLOOR
    reach = np.zeros_like(blank)
    reach[0] = reach[-1] = reach[:, 0] = reach[:, -1] = True
    grid[spread(reach, blank)] = OUTSIDE
    return cropped(level_of(grid[1:-1, 1:-1]))


def spread(start: np.ndarray, room: np.ndarray) -> np.ndarray:
    """What of `room` is connected with `start`, both (H, W) bool."""
    reach = start & room
    while True:
        wider = (reach | around(reach)) & room
        if (wider == reach).all():
            return reach
        reach = wider


def around(x: np.ndarray, corners: bool = False) -> np.ndarray:
    """The four (or eight) neighbours of the cells of a (H, W) mask."""
    out = np.zeros_like(x)
    out[1:] |= x[:-1]
    out[:-1] |= x[1:]
    sides = out | x if corners else x
    out[:, 1:] |= sides[:, :-1]
    out[:, :-1] |= sides[:, 1:]
    return out


def array(level: Sequence[str]) -> np.ndarray:
    """(H, W) array of single characters."""
    return np.array([list(row) for row in level]) if level and level[0] else np.zeros((0, 0), "<U1")


def level_of(grid: np.ndarray) -> Level:
    """The inverse of `array`."""
    return tuple("".join(row) for row in grid.tolist())


def cropped(level: Level, outside: str = OUTSIDE) -> Level:
    """Without the rows and columns that are all outside; nothing but outside is a single such tile."""
    real = array(level) != outside
    if not real.any():
        return (outside,)
    rows, columns = np.flatnonzero(real.any(1)), np.flatnonzero(real.any(0))
    return tuple(row[columns[0] : columns[-1] + 1] for row in level[rows[0] : rows[-1] + 1])


# ------------------------------------------------------------------ orientations
def turned(level: Level, k: int) -> Level:
    """Orientation k of 0..7: bit 2 swaps rows and columns, then bit 0 mirrors left and right, bit 1 up and down."""
    rows = ["".join(column) for column in zip(*level)] if k & 4 else list(level)
    rows = [row[::-1] for row in rows] if k & 1 else rows
    return tuple(rows[::-1] if k & 2 else rows)


def orientations(level: Level) -> list[Level]:
    """The different ones among the eight, the level itself first."""
    return list(dict.fromkeys(turned(level, k) for k in range(8)))


def canonical(level: Level) -> tuple[Level, int]:
    """The smallest orientation, equal for all eight, and which it is."""
    return min((turned(level, k), k) for k in range(8))


def turned_back(moves: str, k: int) -> str:
    """Moves found in orientation k of a level as moves in the level itself (capitals stay)."""
    back = {}
    for name, (down, right) in DELTAS.items():
        down_, right_ = (right, down) if k & 4 else (down, right)
        seen = (-down_ if k & 2 else down_, -right_ if k & 1 else right_)
        there = next(other for other, delta in DELTAS.items() if delta == seen)
        back |= {there: name, there.upper(): name.upper()}
    return "".join(back[c] for c in moves)


def check_rows(level: Sequence[str], what: str = "a level") -> Level:
    """A level from outside this file: text or a sequence of rows. Raises DataError when it is neither or empty."""
    rows = level.replace("\r\n", "\n").strip("\n").split("\n") if isinstance(level, str) else list(level)
    if not rows or not all(isinstance(row, str) for row in rows) or not any(rows):
        raise DataError(f"{what} without rows", remedy="give text, or a list of rows of tiles")
    return tuple(rows)
