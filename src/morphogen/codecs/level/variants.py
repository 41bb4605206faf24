"""Other beginnings of a Sokoban level: boxes are pulled, so that pushing them back leads to what is solvable. No torch here."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from morphogen.codecs.level.grids import Level
from morphogen.codecs.level.sokoban import (
    BOX,
    BOX_ON_GOAL,
    FLOOR,
    GOAL,
    PLAYER,
    PLAYER_ON_GOAL,
    Board,
    board_of,
)

SOLVED = 0.3  # how often it begins with all boxes on goals, else as the level does: levels made by hand leave few there
PULLS = (1, 16)  # pulls a box: few leave it where it was, many turn the level into another
FIRST, FAR = 0.8, 7  # how often a box on a goal is preferred; cells a box is pulled at once, at most one fewer
SHOWN = {(False, False, False): FLOOR, (True, False, False): GOAL, (False, True, False): BOX, (True, True, False): BOX_ON_GOAL,
         (False, False, True): PLAYER, (True, False, True): PLAYER_ON_GOAL}  # of (goal, box, player)


def variants(level: Sequence[str], n: int, seed: int = 0) -> list[Level]:
    """Up to n levels with the same walls and goals, solvable if the level is; fewer where boxes cannot be pulled.

    The level is well-formed. Boxes are pulled at random (Murase et al. 1996 make levels backwards so).
    """
    board, rng = board_of(level), np.random.default_rng(seed)
    if len(board.boxes) != len(board.goals):
        return []
    made = (_pulled(board, rng) for _ in range(n))
    return list(dict.fromkeys(_drawn(level, board, *one) for one in made if one is not None))


def _pulled(board: Board, rng: np.random.Generator) -> tuple[set[int], int] | None:
    """(boxes, player) after some pulls; None when all stand on goals. Sets of cells are the bits of whole numbers."""
    free, goals, boxes, player = _bits(np.flatnonzero(board.free).tolist()), _bits(board.goals), _bits(board.boxes), board.player
    if rng.random() < SOLVED:
        boxes, rooms = goals, _cells(free & ~goals)
        if not rooms:
            return None
        player = _any(rooms, rng)
    reach = _reached(board, free & ~boxes, player)
    for _ in range(int(rng.integers(*PULLS) * len(board.boxes))):
        # the player stands beside a box and steps back: the box follows
        room = free & ~boxes
        ways = {step: boxes & _moved(reach, -step) & _moved(room, -2 * step) for step in board.steps}
        # else the boxes in front wander, and those behind never move
        first = goals if any(way & goals for way in ways.values()) and rng.random() < FIRST else free
        chosen = [(box, step) for step, way in ways.items() for box in _cells(way & first)]
        if not chosen:
            break
        box, step = _any(chosen, rng)
        for _ in range(int(rng.integers(1, FAR))):  # a box goes some way, as in levels made by hand
            if not room >> box + step & room >> box + 2 * step & 1:
                break
            boxes ^= 1 << box | 1 << box + step
            room, box = free & ~boxes, box + step
        reach = _reached(board, room, box + step)
    return None if boxes == goals else (set(_cells(boxes)), _any(_cells(reach), rng))


def _reached(board: Board, room: int, start: int) -> int:
    """The cells the player can walk to."""
    reach, before = 1 << start, 0
    while reach != before:
        before = reach
        reach |= (reach << 1 | reach >> 1 | reach << board.width | reach >> board.width) & room
    return reach


def _moved(cells: int, by: int) -> int:
    return cells << by if by > 0 else cells >> -by


def _bits(cells: Sequence[int]) -> int:
    return sum(1 << i for i in cells)


def _cells(bits: int) -> list[int]:
    return [i for i, digit in enumerate(reversed(f"{bits:b}")) if digit == "1"]


def _any(things: Sequence[Any], rng: np.random.Generator) -> Any:
    return things[int(rng.integers(len(things)))]


def _drawn(level: Sequence[str], board: Board, boxes: set[int], player: int) -> Level:
    """The level with boxes and the player elsewhere; what the player can never walk stays as it is."""
    goals, rows = set(board.goals), [list(row) for row in level]
    top, left = board.origin
    for i in np.flatnonzero(board.free).tolist():
        r, c = divmod(i, board.width)
        rows[r + top][c + left] = SHOWN[i in goals, i in boxes, i == player]
    return tuple("".join(row) for row in rows)
