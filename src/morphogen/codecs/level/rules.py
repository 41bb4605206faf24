"""What makes a level playable, which cells are at fault, and the checkers: Sokoban, reachability, a user's file. No torch here."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.codecs.level import sokoban
from morphogen.codecs.level.grids import Level, around, array, canonical, spread, turned_back
from morphogen.codecs.level.sokoban import (
    BOX,
    BOX_ON_GOAL,
    GOAL,
    OUTSIDE,
    PLAYER,
    PLAYER_ON_GOAL,
    WALL,
    Solution,
)
from morphogen.errors import DataError, UsageError

STARTS, GOALS, WALLS = "S@P", "GEF>", "#XW"
KINDS = ("auto", "sokoban", "reach", "none")


@lru_cache(maxsize=65536)
def _solved(level: Level, nodes: int) -> Solution:
    return sokoban.solve(level, nodes)


def solution(level: Level, nodes: int) -> Solution:
    """The solver's answer to a well-formed level; the eight orientations share one search."""
    smallest, k = canonical(level)
    found = _solved(smallest, nodes)
    return found if found.moves is None else Solution(turned_back(found.moves, k), found.nodes)


# ------------------------------------------------------------------ Sokoban
def broken(level: Level) -> dict[str, np.ndarray]:
    """What is wrong with the form of a Sokoban level: words -> (H, W) bool of the cells concerned; {} when well-formed.

    One player; as many boxes as goals and at least one of each; no way to walk (were there no boxes) out of the level.
    """
    grid = array(level)
    players = np.isin(grid, (PLAYER, PLAYER_ON_GOAL))
    inside = np.isin(grid, (WALL, OUTSIDE), invert=True)
    boxes, goals = np.isin(grid, (BOX, BOX_ON_GOAL)), np.isin(grid, (GOAL, BOX_ON_GOAL, PLAYER_ON_GOAL))
    out: dict[str, np.ndarray] = {}
    if not players.any():
        out["no player"] = inside
    elif players.sum() > 1:
        out[f"{players.sum()} players"] = players
    if not boxes.any() and not goals.any():
        out["no box and no goal"] = inside
    elif boxes.sum() != goals.sum():
        more = boxes & ~goals if boxes.sum() > goals.sum() else goals & ~boxes
        out[f"{boxes.sum()} boxes, {goals.sum()} goals"] = more if more.any() else boxes | goals
    elif not np.isin(grid, (BOX, GOAL, PLAYER_ON_GOAL)).any():
        out["solved before it begins"] = boxes
    reach = spread(players if players.any() else inside, inside)
    ring = np.pad(grid == OUTSIDE, 1, constant_values=True)
    leaks = reach & around(ring)[1:-1, 1:-1]
    if leaks.any():
        out["open walls"] = leaks | (around(leaks) & ~inside)
    return out


def stranded(level: Level) -> np.ndarray:
    """(H, W) boxes off the goals and goals without a box where the player cannot come even if no box stood in the way."""
    grid = array(level)
    reach = spread(np.isin(grid, (PLAYER, PLAYER_ON_GOAL)), np.isin(grid, (WALL, OUTSIDE), invert=True))
    return np.isin(grid, (BOX, GOAL)) & ~reach


def verdict(level: Level, nodes: int) -> tuple[Solution | None, str]:
    """(the solver's answer, a line in words) about a Sokoban level."""
    wrong = broken(level)
    if wrong:
        return None, "not well-formed: " + ", ".join(wrong)
    if stranded(level).any():
        return None, "no solution: a box or goal is out of reach"
    found = solution(level, nodes)
    if found.moves is None:
        return found, "no solution" if found.proven else f"no solution within {nodes:,} positions"
    return found, f"solved in {found.pushes} pushes, {len(found.moves)} moves"


# ------------------------------------------------------------------ checkers
@dataclass
class Rules:
    """The rules of a set of levels. `kind`: sokoban, reach, none, or the path of a user's checker file."""

    kind: str = "none"
    start: str = ""
    goal: str = ""
    walls: str = ""
    ragged: bool = False
    "Whether training levels had tiles missing at their edges."
    outside: str = OUTSIDE
    seen: dict[Level, dict[str, bool]] = field(default_factory=dict, repr=False)

    def checks(self, level: Level, nodes: int) -> dict[str, bool]:
        """Rule -> whether a level keeps it. A level that is not well-formed is not solvable either."""
        if self.kind == "sokoban":
            fine = not broken(level)
            return {"well-formed": fine, "solvable": fine and not stranded(level).any() and solution(level, nodes).moves is not None}
        out = {"well-formed": self.ragged or not any(self.outside in row for row in level)}
        if self.kind == "reach":
            grid = array(level)
            out["one start and a goal"] = bool((grid == self.start).sum() == 1 and (grid == self.goal).any())
            out["goal reachable"] = out["one start and a goal"] and self.path(level) is not None
        elif self.kind != "none":
            if level not in self.seen:
                self.seen[level] = asked(Path(self.kind), level)
            out |= self.seen[level]
        return out

    def path(self, level: Level) -> int | None:
        """Fewest steps from start to goal, walls and outside in the way; None when there is no way."""
        grid = array(level)
        room = np.isin(grid, [*self.walls, self.outside], invert=True)
        reach, goals, steps = grid == self.start, grid == self.goal, 0
        while not (reach & goals).any():
            wider = (reach | around(reach)) & room
            if (wider == reach).all():
                return None
            reach, steps = wider, steps + 1
        return steps

    def suspects(self, level: Level, nodes: int) -> np.ndarray | None:
        """(H, W) bool of cells at fault; None when nothing is wrong, no cell when nobody knows which."""
        if all(self.checks(level, nodes).values()):
            return None
        grid = array(level)
        if self.kind == "sokoban":
            cells = broken(level)
            if cells:
                return np.logical_or.reduce(list(cells.values()))
            alone = stranded(level)
            return alone if alone.any() else np.isin(grid, (BOX, GOAL, PLAYER_ON_GOAL))
        if self.kind == "reach":
            starts, goals = grid == self.start, grid == self.goal
            if starts.sum() != 1 or not goals.any():
                return starts if starts.sum() > 1 else np.ones_like(starts)
            reach = spread(starts, np.isin(grid, [*self.walls, self.outside], invert=True))
            return around(reach) & np.isin(grid, list(self.walls))
        return np.zeros(grid.shape, bool)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {k: getattr(self, k) for k in ("kind", "start", "goal", "walls", "ragged", "outside")}


def asked(file: Path, level: Level) -> dict[str, bool]:
    """What a user's `check(level: list[str]) -> dict` says, run in the sandbox. Raises NotPermitted, UsageError, ResourceError."""
    from morphogen import sandbox

    found = sandbox.call(file, "check", [list(level)])
    if not isinstance(found, dict) or not all(isinstance(v, bool) for v in found.values()):
        raise UsageError("check(level) must return a dict of rule -> True or False", where=file, remedy=f"it returned {str(found)[:80]}")
    return {str(k): v for k, v in found.items()}


def find(kind: str, levels: Sequence[Level], given: tuple[str, str, str], sokoban_like: bool, outside: str) -> tuple[Rules, list[str]]:
    """The rules of levels and what to tell about them. `given`: start, goal and walls where a person said them.

    Raises UsageError when asked for rules that the tiles do not allow, or a checker file that is not there.
    """
    ragged = any(outside in row for level in levels for row in level)
    if kind not in KINDS:
        if not Path(kind).is_file():
            raise UsageError(f"unknown rules '{kind}'", remedy="say auto, sokoban, reach, none or name a Python file with check(level)")
        return Rules(str(Path(kind).resolve()), ragged=ragged, outside=outside), [f"levels are checked by {kind} in the sandbox"]
    if kind == "sokoban" or (kind == "auto" and sokoban_like):
        if not sokoban_like:
            raise UsageError("these are no Sokoban levels", remedy="its tiles are # wall, $ box, . goal, @ player, * and + on goals")
        return Rules("sokoban", ragged=True), ["rules: Sokoban (one player, boxes = goals, closed walls, a solver must find a solution)"]
    if kind == "none":
        return Rules(ragged=ragged, outside=outside), []
    rules = _reach(levels, given, ragged, outside)
    sure = rules is not None and sum(rules.path(level) is not None for level in levels) >= 0.9 * len(levels)
    if rules is not None and (sure or kind == "reach"):
        return rules, [f"rules: a way from {rules.start!r} to {rules.goal!r} past walls {rules.walls!r}"]
    if kind == "reach":
        raise DataError("no tile is clearly the start, the goal or a wall",
                        remedy="say them: --set codec.start=S --set codec.goal=G --set codec.walls=#")
    return Rules(ragged=ragged, outside=outside), ["no rules found in these levels; --set codec.rules=reach or a checker file gives some"]


def _reach(levels: Sequence[Level], given: tuple[str, str, str], ragged: bool, outside: str) -> Rules | None:
    counts = [Counter("".join(level)) for level in levels]

    def once(tile: str) -> bool:
        return sum(count[tile] == 1 for count in counts) >= 0.95 * len(counts)

    start = given[0] or next((t for t in STARTS if once(t)), "")
    goal = given[1] or next((t for t in GOALS if t != start and once(t)), "")
    walls = given[2] or next((t for t in WALLS if any(count[t] for count in counts)), "")
    return Rules("reach", start, goal, walls, ragged, outside) if start and goal and walls else None
