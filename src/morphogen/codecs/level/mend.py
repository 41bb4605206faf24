"""The last resort for a faulty level: the smallest changes by hand that make it playable, the same ones every time. No torch here."""
from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from morphogen.codecs.level.grids import Level, around, array, cropped, level_of, spread
from morphogen.codecs.level.rules import Rules, broken, solution, stranded
from morphogen.codecs.level.sokoban import (
    BOX,
    BOX_ON_GOAL,
    FLOOR,
    GOAL,
    OUTSIDE,
    PLAYER,
    PLAYER_ON_GOAL,
    WALL,
)

PULLS = 400  # positions looked at when boxes are pulled from their goals
NODES = 10_000
LEAST = 9  # cells a level should have to be worth mending
Cell = tuple[int, int]
STEPS: tuple[Cell, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))


def mended(level: Level, rules: Rules, size: tuple[int, int], nodes: int) -> Level | None:
    """A playable level near this one that fits `size`; None when the rules give no hold. What comes back passes `rules.checks`."""
    if rules.kind == "sokoban":
        return _sokoban(level, size, min(nodes, NODES))
    if rules.kind == "reach":
        return _reach(level, rules)
    if rules.kind == "none":
        return _filled(level, rules.outside)
    return None


# ------------------------------------------------------------------ Sokoban
def _sokoban(level: Level, size: tuple[int, int], nodes: int) -> Level | None:
    """Close the walls, drop what is out of reach, extra players and unmatched boxes or goals; if no solution is found, pull
    the boxes from their goals towards where they stood: a level made backwards has a solution.
    """
    grid = _closed(array(level), size)
    if grid is None:
        return None
    inside = np.isin(grid, (WALL, OUTSIDE), invert=True)
    players = [(int(r), int(c)) for r, c in np.argwhere(np.isin(grid, (PLAYER, PLAYER_ON_GOAL)))]
    boxes = {(int(r), int(c)) for r, c in np.argwhere(np.isin(grid, (BOX, BOX_ON_GOAL)))}
    goals = {(int(r), int(c)) for r, c in np.argwhere(np.isin(grid, (GOAL, BOX_ON_GOAL, PLAYER_ON_GOAL)))}
    room = {(int(r), int(c)) for r, c in np.argwhere(inside)}
    live = _live(room, goals)
    # boxes that can come to a goal first, then those near one
    ranked = sorted(boxes, key=lambda b: (b not in live, _nearest(b, goals), b))
    kept = set(ranked[: len(goals)]) if goals else set()
    aims = set(sorted(goals, key=lambda g: (g not in boxes, _nearest(g, boxes), g))[: len(kept)])
    player = next((p for p in players if p not in kept), None)
    for candidate in ([player] if player else sorted(room - kept - aims)[:1]):
        if kept and kept != aims:
            tried = _drawn(grid, kept, aims, candidate)
            if not broken(tried) and not stranded(tried).any() and solution(tried, nodes).moves is not None:
                return tried
    return _backwards(grid, room, boxes or {max(room)}, aims or goals, player, nodes)


def _closed(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The part of a level with most to do in it, walls put where it was open; None when hardly a cell is left."""
    rows, columns = grid.shape
    spare = (min(2, size[0] - rows), min(2, size[1] - columns))  # room for walls round it
    pad = [(s // 2 + s % 2, s // 2) for s in spare]
    grid = np.pad(grid, pad, constant_values=OUTSIDE)
    edge = np.zeros(grid.shape, bool)
    edge[0] = edge[-1] = edge[:, 0] = edge[:, -1] = True
    grid[edge & (grid != OUTSIDE)] = WALL
    inside = np.isin(grid, (WALL, OUTSIDE), invert=True)
    best, left = None, inside.copy()
    while left.any():
        seed = np.zeros_like(left)
        seed.flat[left.argmax()] = True
        part = spread(seed, inside)
        left &= ~part
        things = np.isin(grid, (BOX, GOAL)) & part
        peopled = bool((np.isin(grid, (PLAYER, PLAYER_ON_GOAL)) & part).any())
        key = (part.sum() >= LEAST, peopled, int(things.sum()), int(part.sum()))
        if best is None or key > best[0]:
            best = (key, part)
    if best is None or best[1].sum() < 4:
        return None
    part = best[1]
    rest = inside & ~part  # what is out of reach is no room of this level: wall if sealed, else outside
    grid[rest] = WALL
    ring = np.pad(grid == OUTSIDE, 1, constant_values=True)
    loose = rest & spread(around(ring)[1:-1, 1:-1], rest | (grid == OUTSIDE))
    grid[loose] = OUTSIDE
    grid[around(part) & (grid == OUTSIDE)] = WALL
    box = around(part, corners=True)
    grid[~np.logical_and.outer(box.any(1), box.any(0))] = OUTSIDE
    near = box
    while True:  # walls that hang together with the level's own stay, islands of wall go
        wider = (near | around(near, corners=True)) & (grid == WALL)
        if (wider == near & (grid == WALL)).all():
            break
        near = wider
    grid[(grid == WALL) & ~near] = OUTSIDE
    return grid


def _drawn(grid: np.ndarray, boxes: set[Cell], goals: set[Cell], player: Cell) -> Level:
    out = np.where(np.isin(grid, (WALL, OUTSIDE)), grid, FLOOR)
    for cell in goals:
        out[cell] = GOAL
    for cell in boxes:
        out[cell] = BOX_ON_GOAL if cell in goals else BOX
    out[player] = PLAYER_ON_GOAL if player in goals else PLAYER
    return cropped(level_of(out))


def _nearest(cell: Cell, others: set[Cell]) -> int:
    return min((abs(cell[0] - r) + abs(cell[1] - c) for r, c in others), default=0)


def _live(room: set[Cell], goals: set[Cell]) -> set[Cell]:
    """Cells from which a lone box can be pushed to some goal."""
    edge = sorted(goals)
    seen = set(edge)
    for r, c in edge:
        for dr, dc in STEPS:
            to, behind = (r - dr, c - dc), (r - 2 * dr, c - 2 * dc)
            if to not in seen and to in room and behind in room:
                seen.add(to)
                edge.append(to)
    return seen


def _backwards(grid: np.ndarray, room: set[Cell], wanted: set[Cell], goals: set[Cell], player: Cell | None, nodes: int) -> Level | None:
    """A level whose boxes were pulled from the goals to near `wanted`. With fewer goals, then with one elsewhere, if none can move."""
    others = ([cell] for cell in sorted(room, key=lambda cell: (_nearest(cell, goals), cell)))
    for aims in [sorted(goals), sorted(goals)[:1], *others]:
        if not aims:
            continue
        near = player or min(wanted)
        for boxes, area in _pulled(room, frozenset(aims), wanted):
            stand = min(area, key=lambda cell: (abs(cell[0] - near[0]) + abs(cell[1] - near[1]), cell))
            made = _drawn(grid, set(boxes), set(aims), stand)
            if not broken(made) and solution(made, nodes).moves is not None:
                return made
    return None


def _pulled(room: set[Cell], goals: frozenset[Cell], wanted: set[Cell]) -> Iterator[tuple[frozenset[Cell], set[Cell]]]:
    """(boxes, cells the player may stand on) of positions reached by pulling, nearest to `wanted` first, an easy one last."""

    far = {cell: _nearest(cell, wanted) for cell in room}

    def apart(boxes: frozenset[Cell]) -> int:
        return sum(far[b] for b in boxes)

    heap: list[tuple[int, list[Cell], int, Cell]] = []
    met, found, serial = set(), [], 0
    left = room - goals
    while left:  # the game may end with the player in any part of the level
        area = _area(next(iter(sorted(left))), left)
        left = left - area
        heap.append((apart(goals), sorted(goals), serial, min(area)))
        serial += 1
    heapq.heapify(heap)
    while heap and len(met) < PULLS:
        score, listed, _, stand = heapq.heappop(heap)
        boxes = frozenset(listed)
        area = _area(stand, room - boxes)
        if (boxes, min(area)) in met:
            continue
        met.add((boxes, min(area)))
        if boxes != goals:
            found.append((score, len(found), boxes, area))
        for r, c in listed:
            for dr, dc in STEPS:
                to, behind = (r + dr, c + dc), (r + 2 * dr, c + 2 * dc)
                if to in area and behind in room and behind not in boxes:
                    after = boxes - {(r, c)} | {to}
                    serial += 1
                    heapq.heappush(heap, (apart(after), sorted(after), serial, behind))
        if score == 0:
            break
    first = min(found, key=lambda x: x[1], default=None)
    found.sort(key=lambda x: x[:2])
    for _, _, boxes, area in [*found[:3], *([first] if first else [])]:
        yield boxes, area


def _area(start: Cell, room: set[Cell]) -> set[Cell]:
    edge, seen = [start], {start}
    for r, c in edge:
        for dr, dc in STEPS:
            to = (r + dr, c + dc)
            if to in room and to not in seen:
                seen.add(to)
                edge.append(to)
    return seen


# ------------------------------------------------------------------ other games
def _filled(level: Level, outside: str) -> Level | None:
    """Missing tiles become the most frequent one."""
    grid = array(level)
    names, counts = np.unique(grid[grid != outside], return_counts=True)
    if not len(names):
        return None
    return level_of(np.where(grid == outside, names[counts.argmax()], grid))


def _reach(level: Level, rules: Rules) -> Level | None:
    """One start, a goal, and a way between them through as few walls as possible (0-1 breadth first search)."""
    filled = level if rules.ragged else _filled(level, rules.outside)
    if filled is None:
        return None
    grid = array(filled)
    special = [rules.start, rules.goal, *rules.walls, rules.outside]
    names, counts = np.unique(grid[~np.isin(grid, special)], return_counts=True)
    if not len(names):
        return None
    floor = names[counts.argmax()]
    starts = np.argwhere(grid == rules.start)
    grid[grid == rules.start] = floor
    cells = np.argwhere(~np.isin(grid, special)) if not len(starts) else starts
    start = (int(cells[0][0]), int(cells[0][1]))
    if not (grid == rules.goal).any():
        free = [(int(r), int(c)) for r, c in np.argwhere(~np.isin(grid, special)) if (int(r), int(c)) != start]
        if not free:
            return None
        grid[max(free, key=lambda cell: (abs(cell[0] - start[0]) + abs(cell[1] - start[1]), cell))] = rules.goal
    heap, came = [(0, start)], {start: (0, start)}
    while heap:
        cost, at = heapq.heappop(heap)
        if grid[at] == rules.goal:
            while at != start:
                grid[at] = floor if grid[at] in list(rules.walls) else grid[at]
                at = came[at][1]
            break
        for dr, dc in STEPS:
            to = (at[0] + dr, at[1] + dc)
            if 0 <= to[0] < grid.shape[0] and 0 <= to[1] < grid.shape[1] and grid[to] != rules.outside:
                more = cost + int(grid[to] in list(rules.walls))
                if to not in came or more < came[to][0]:
                    came[to] = (more, at)
                    heapq.heappush(heap, (more, to))
    grid[start] = rules.start
    made = level_of(grid)
    return made if all(rules.checks(made, 0).values()) else None
