"""A push solver for Sokoban: batches of positions as bit sets in numpy, best first. No torch here."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

FLOOR, GOAL, BOX, BOX_ON_GOAL, PLAYER, PLAYER_ON_GOAL, WALL, OUTSIDE = TILES = tuple(" .$*@+#_")
FAR = 1 << 20  # more pushes than any level of ours needs
DIRECTIONS = "udlr"
ONE = np.uint64(1)
FEW, MOST = 128, 4096  # positions looked at together


@dataclass(frozen=True)
class Solution:
    """What the solver found: `moves` as a string of udlr (pushes in capitals) when solved, else None.

    `nodes`: positions looked at. `proven`: there is no solution, all positions were seen.
    """

    moves: str | None
    nodes: int
    proven: bool = False

    @property
    def pushes(self) -> int | None:
        """How many times a box moves by one cell; None when not solved."""
        return None if self.moves is None else sum(c.isupper() for c in self.moves)


@dataclass(frozen=True)
class Board:
    """A level as cells r * width + c of the part the player could walk if no box stood there, framed by walls.

    `origin`: row and column of the level at which the board's first cell lies. `free` (cells,) bool: no wall.
    `distance` (cells,): pushes of a lone box from there to the nearest goal, FAR when none leads.
    """

    width: int
    free: np.ndarray
    boxes: tuple[int, ...]
    goals: tuple[int, ...]
    player: int
    distance: np.ndarray
    origin: tuple[int, int] = (0, 0)

    @property
    def steps(self) -> tuple[int, int, int, int]:
        """What a move adds to a cell's number: up, down, left, right."""
        return (-self.width, self.width, -1, 1)


def board_of(level: Sequence[str]) -> Board:
    """The cells of a level that has one player and is closed by walls (`rules.broken` says whether it is)."""
    rows, columns = len(level), max(map(len, level))
    grid = np.full((rows + 2, columns + 2), WALL)
    for r, row in enumerate(level, 1):
        grid[r, 1 : len(row) + 1] = list(row)
    inside = np.isin(grid, (WALL, OUTSIDE), invert=True)
    reach = np.isin(grid, (PLAYER, PLAYER_ON_GOAL))
    while True:
        wider = (reach | _around(reach)) & inside
        if (wider == reach).all():
            break
        reach = wider
    at = np.argwhere(reach)
    (top, left), (bottom, right) = at.min(0) - 1, at.max(0) + 1
    grid, free = grid[top : bottom + 1, left : right + 1], reach[top : bottom + 1, left : right + 1]
    width, flat, free = grid.shape[1], grid.ravel(), free.ravel()
    where = [np.flatnonzero(np.isin(flat, tiles) & free) for tiles in
             ((BOX, BOX_ON_GOAL), (GOAL, BOX_ON_GOAL, PLAYER_ON_GOAL), (PLAYER, PLAYER_ON_GOAL))]
    boxes, goals = (tuple(int(i) for i in part) for part in where[:2])
    return Board(width, free, boxes, goals, int(where[2][0]), _distances(width, free, goals), (int(top) - 1, int(left) - 1))


def _around(x: np.ndarray) -> np.ndarray:
    out = np.zeros_like(x)
    out[1:] |= x[:-1]
    out[:-1] |= x[1:]
    out[:, 1:] |= x[:, :-1]
    out[:, :-1] |= x[:, 1:]
    return out


def _distances(width: int, free: np.ndarray, goals: Sequence[int]) -> np.ndarray:
    out, edge = np.full(len(free), FAR), list(goals)
    out[edge] = 0
    for i in edge:  # grows while it is walked: breadth first
        for step in (-width, width, -1, 1):
            to = i - step  # the box comes from there, pushed by a player one cell further
            if out[to] == FAR and free[to] and free[to - step]:
                out[to] = out[i] + 1
                edge.append(to)
    return out


class _Bits:
    """Bit sets over a board's cells, (words, n) uint64: cell i is bit i % 64 of word i // 64."""

    def __init__(self, board: Board) -> None:
        self.cells, self.width = len(board.free), board.width
        self.words = -(-self.cells // 64)

    def of(self, mask: np.ndarray) -> np.ndarray:
        """(words, 1) of a (cells,) bool mask."""
        packed = np.packbits(np.pad(mask, (0, self.words * 64 - self.cells)), bitorder="little")
        return packed.view("<u8").astype(np.uint64)[:, None]

    def moved(self, x: np.ndarray, step: int) -> np.ndarray:
        """Every cell's bit moved by `step` cells."""
        far, rest = np.uint64(abs(step) % 64), np.uint64(63 - abs(step) % 64)
        if abs(step) >= 64:
            x = self._words(x, 1 if step > 0 else -1)
        if step > 0:
            out = x << far
            out[1:] |= (x[:-1] >> ONE) >> rest
        else:
            out = x >> far
            out[:-1] |= (x[1:] << ONE) << rest
        return out

    def _words(self, x: np.ndarray, by: int) -> np.ndarray:
        out = np.zeros_like(x)
        if by > 0:
            out[1:] = x[:-1]
        else:
            out[:-1] = x[1:]
        return out

    def flood(self, start: np.ndarray, room: np.ndarray) -> np.ndarray:
        """What of `room` is connected with `start`, each (words, n)."""
        reach, w = start, self.width
        while True:
            wider = self.moved(reach, 1)
            wider |= self.moved(reach, -1)
            wider |= self.moved(reach, w)
            wider |= self.moved(reach, -w)
            wider &= room
            wider |= reach
            if np.array_equal(wider, reach):
                return reach
            reach = wider

    def flip(self, x: np.ndarray, cells: np.ndarray) -> None:
        """Toggle one cell in each column, in place."""
        x[cells >> 6, np.arange(x.shape[1])] ^= ONE << (cells & 63).astype(np.uint64)

    def single(self, cells: np.ndarray) -> np.ndarray:
        """One cell a column."""
        out = np.zeros((self.words, len(cells)), np.uint64)
        self.flip(out, cells)
        return out

    def has(self, x: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Whether each column holds its cell, (n,) bool."""
        return (x[cells >> 6, np.arange(x.shape[1])] >> (cells & 63).astype(np.uint64)) & ONE != 0

    def places(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(columns, cells) of all bits that are set."""
        bits = np.unpackbits(np.ascontiguousarray(x.T).view(np.uint8).ravel(), bitorder="little")
        column, cell = np.divmod(np.flatnonzero(bits.view(bool)), 64 * self.words)
        return column, cell

    def first(self, x: np.ndarray) -> np.ndarray:
        """The lowest cell of each column."""
        return np.unpackbits(np.ascontiguousarray(x.T).view(np.uint8), axis=1, bitorder="little").argmax(1)


class _Search:
    """Best-first search. A position is a row of `table` and a column of `boxes`; `open` holds rows by their score."""

    def __init__(self, board: Board, weight: int) -> None:
        self.board, self.weight, self.bits = board, weight, _Bits(board)
        distance = board.distance
        dead, wall = distance >= FAR, ~board.free
        self.free, self.alive = self.bits.of(board.free), self.bits.of(board.free & ~dead)
        # a position's name is the exclusive or of its parts' names (Zobrist 1970)
        self.box_name, self.player_name = np.random.default_rng(0).integers(1, 1 << 63, (2, len(distance)), np.int64)
        self.blocked = {step: np.roll(wall, step) | np.roll(wall, -step) for step in (1, board.width)}
        self.goal = np.zeros(len(distance), bool)
        self.goal[list(board.goals)] = True
        mask = np.zeros(len(distance), bool)
        mask[list(board.boxes)] = True
        guess, name = int(distance[mask].sum()), np.bitwise_xor.reduce(self.box_name[mask])
        self.boxes, self.size = np.repeat(self.bits.of(mask), 1024, axis=1), 1
        self.table = np.zeros((7, 1024), np.int64)
        self.table[:, 0] = board.player, 0, guess, name, -1, 0, 0
        self.open: dict[int, list[np.ndarray]] = {weight * guess: [np.zeros(1, np.int64)]}
        self.closed: set[int] = set()
        self.met: set[int] = set()

    def pop(self, most: int) -> np.ndarray:
        """Up to `most` rows of the best scores; whole buckets are joined until there are a few to work on."""
        parts, count = [], 0
        while self.open and count < FEW:
            best = min(self.open)
            rows = np.concatenate(self.open.pop(best))
            left = rows[: max(0, len(rows) - (most - count))]  # the latest are the deepest
            if len(left):
                self.open[best] = [left]
                rows = rows[len(left):]
            parts.append(rows)
            count += len(rows)
        return np.concatenate(parts)

    def new(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those rows not looked at before, and what the player reaches there."""
        reach = self.bits.flood(self.bits.single(self.table[0, rows]), self.free & ~self.boxes[:, rows])
        names = (self.table[3, rows] ^ self.player_name[self.bits.first(reach)]).tolist()
        fresh = []
        for j, name in enumerate(names):
            if name not in self.closed:
                self.closed.add(name)
                fresh.append(j)
        return rows[fresh], reach[:, fresh]

    def expand(self, rows: np.ndarray, reach: np.ndarray) -> None:
        """All pushes from rows at once; positions that cannot be solved any more are dropped."""
        boxes = self.boxes[:, rows]
        room = self.alive & ~boxes
        found = []
        for step in self.board.steps:
            column, at = self.bits.places(boxes & self.bits.moved(reach, step) & self.bits.moved(room, -step))
            found.append((column, at, np.full(len(at), step)))
        column, at, step = (np.concatenate(part) for part in zip(*found))
        if not len(at):
            return
        to, parent = at + step, rows[column]
        name = self.table[3, parent] ^ self.box_name[at] ^ self.box_name[to]
        keys, first = np.unique(name ^ self.player_name[at], return_index=True)  # the player stands where the box was
        listed = keys.tolist()
        keep = first[[key not in self.met for key in listed]]
        self.met.update(listed)
        column, at, step, to, parent, name = (x[keep] for x in (column, at, step, to, parent, name))
        after = boxes[:, column]
        self.bits.flip(after, at)
        self.bits.flip(after, to)
        fine = ~self.stuck(after, to)
        distance = self.board.distance
        guess = self.table[2, parent] + distance[to] - distance[at]
        rows = np.stack([at, self.table[1, parent] + 1, guess, name, parent, at, step])[:, fine]
        self.add(after[:, fine], rows)

    def add(self, boxes: np.ndarray, rows: np.ndarray) -> None:
        """Append positions and put them among the open ones by pushes + weight * guess."""
        first, self.size = self.size, self.size + rows.shape[1]
        while self.size > self.table.shape[1]:
            self.table, self.boxes = (np.concatenate([x, np.zeros_like(x)], 1) for x in (self.table, self.boxes))
        self.table[:, first : self.size], self.boxes[:, first : self.size] = rows, boxes
        score = rows[1] + self.weight * rows[2]
        for value in np.unique(score).tolist():
            self.open.setdefault(value, []).append(first + np.flatnonzero(score == value))

    def stuck(self, boxes: np.ndarray, to: np.ndarray) -> np.ndarray:
        """Whether the box just pushed to `to` stands in a square of boxes and walls, or shares a wall with a neighbour, off a goal."""
        w, bits = self.board.width, self.bits
        held = {d: bits.has(boxes, to + d) for d in (-w - 1, -w, -w + 1, -1, 1, w - 1, w, w + 1)}
        wall = {d: ~self.board.free[to + d] for d in held}
        loose = {d: held[d] & ~self.goal[to + d] for d in held}
        own, out = ~self.goal[to], np.zeros(len(to), bool)
        for v in (-w, w):
            for h in (-1, 1):
                full = np.logical_and.reduce([held[d] | wall[d] for d in (v, h, v + h)])
                out |= full & (own | loose[v] | loose[h] | loose[v + h])
        for along, across in ((1, w), (w, 1)):  # blocked by walls on both, leaning on each other
            for d in (-along, along):
                pair = held[d] & self.blocked[across][to] & self.blocked[across][to + d]
                out |= pair & (own | loose[d])
        return out

    def way(self, row: int) -> list[tuple[int, int]]:
        """(cell a box was pushed from, step) of every push from the start to a row."""
        out = []
        while self.table[4, row] >= 0:
            out.append((int(self.table[5, row]), int(self.table[6, row])))
            row = int(self.table[4, row])
        return out[::-1]


def solve(level: Sequence[str], nodes: int = 200_000, seconds: float = 30.0, weight: int = 2) -> Solution:
    """Look for a solution among at most `nodes` positions (places of the boxes and the part the player can reach).

    Best first by pushes + weight * sum over boxes of the lone pushes to the nearest goal (Pohl 1970): weight 1 finds fewest
    pushes but for positions looked at together, more finds some solution sooner. The level has one player and is closed.
    """
    board = board_of(level)
    if not board.boxes or len(board.boxes) != len(board.goals) or (board.distance[list(board.boxes)] >= FAR).any():
        return Solution(None, 0, True)
    search, count, until = _Search(board, weight), 0, monotonic() + seconds
    while search.open and count < nodes and monotonic() < until:
        rows, reach = search.new(search.pop(min(MOST, max(FEW, count // 4))))
        count += len(rows)
        solved = rows[search.table[2, rows] == 0]
        if len(solved):
            best = solved[search.table[1, solved].argmin()]
            return Solution(_moves(board, search.way(int(best))), count)
        search.expand(rows, reach)
    return Solution(None, count, not search.open)


def replayed(level: Sequence[str], moves: str) -> int | None:
    """How many pushes moves (udlr) make; None when they are not possible or do not solve the level."""
    width = max(map(len, level)) + 1
    cells = "".join(row.ljust(width, OUTSIDE) for row in level)
    walls = {i for i, tile in enumerate(cells) if tile in (WALL, OUTSIDE)}
    boxes = {i for i, tile in enumerate(cells) if tile in (BOX, BOX_ON_GOAL)}
    goals = {i for i, tile in enumerate(cells) if tile in (GOAL, BOX_ON_GOAL, PLAYER_ON_GOAL)}
    at = next((i for i, tile in enumerate(cells) if tile in (PLAYER, PLAYER_ON_GOAL)), -1)
    steps, pushes = {"u": -width, "d": width, "l": -1, "r": 1}, 0
    for move in moves.lower():
        step = steps.get(move, 0)
        to = at + step
        if not step or at < 0 or to in walls or not 0 <= to < len(cells):
            return None
        if to in boxes:
            if to + step in walls or to + step in boxes or not 0 <= to + step < len(cells):
                return None
            boxes ^= {to, to + step}
            pushes += 1
        at = to
    return pushes if boxes == goals else None


def unfolded(text: str, most: int = 100_000) -> str | None:
    """Moves written with counts and groups, `2(dull)3r` for dulldullrrr, in full; None when they are not, or longer than `most`."""
    stack: list[tuple[list[str], int]] = [([], 1)]
    count = ""
    for c in text:
        if c.isspace():
            continue
        if c in "0123456789":
            count += c
            if len(count) > 6:
                return None
        elif c == "(":
            stack.append(([], int(count or 1)))
            count = ""
        else:
            if c == ")":
                if len(stack) == 1 or count:
                    return None
                inner, times = stack.pop()
                part = "".join(inner)
            else:
                part, times = c, int(count or 1)
                count = ""
            if len(part) * times > most or len(stack) > 64:
                return None
            stack[-1][0].append(part * times)
    moves = "".join(stack[0][0])
    return moves if len(stack) == 1 and not count and len(moves) <= most and set(moves.lower()) <= set(DIRECTIONS) else None


def lone_pushes(level: Sequence[str]) -> int | None:
    """The sum over boxes of the pushes to the nearest goal, were each alone; None when some box cannot get to any."""
    board = board_of(level)
    total = int(board.distance[list(board.boxes)].sum())
    return None if total >= FAR else total


def _moves(board: Board, pushes: list[tuple[int, int]]) -> str:
    out, boxes, player = [], set(board.boxes), board.player
    for at, step in pushes:
        out.append(_walk(board, boxes, player, at - step))
        out.append(DIRECTIONS[board.steps.index(step)].upper())
        boxes ^= {at, at + step}
        player = at
    return "".join(out)


def _walk(board: Board, boxes: set[int], start: int, end: int) -> str:
    """A shortest walk between two cells round the boxes."""
    came, edge = {start: (-1, 0)}, [start]
    for i in edge:
        if i == end:
            break
        for k, step in enumerate(board.steps):
            to = i + step
            if to not in came and board.free[to] and to not in boxes:
                came[to] = (i, k)
                edge.append(to)
    out = []
    while came[end][0] >= 0:
        end, k = came[end]
        out.append(DIRECTIONS[k])
    return "".join(reversed(out))
