"""Sokoban levels, split by author set: python -m benchmarks.levels --data sokoban-levels.tgz [--minutes 25 | --steps N] [--families masked]

The archive holds the 1,015 levels of Debian's cavepacker-data (.sok, with solutions .sol). The judges here share no code with
the package: what is well-formed, a breadth-first search by pushes within 200,000 positions, distances to training levels.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import morphogen
from benchmarks.common import WORK, fresh, record

NODES = 200_000
Level = tuple[str, ...]


# ------------------------------------------------------------------ data
def folders(archive: Path, share: float = 0.15) -> tuple[Path, Path]:
    """Training and test folders: whole author sets (the file name without its number) are held out."""
    train, test = WORK / "levels" / "train", WORK / "levels" / "test"
    if test.exists():
        return train, test
    contents: dict[str, list[tuple[str, bytes]]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if member.isfile() and name.endswith((".sok", ".sol")):
                file = tar.extractfile(member)
                assert file is not None
                contents.setdefault(re.sub(r"[_\d]*\d\.so[kl]$", "", name), []).append((name, file.read()))
    total = sum(map(len, contents.values()))
    held = 0
    shutil.rmtree(WORK / "levels", ignore_errors=True)
    for folder in (train, test):
        folder.mkdir(parents=True)
    for name in sorted(contents, key=lambda s: hashlib.sha256(s.encode()).digest()):
        small = len(contents[name]) <= share * total - held
        held += len(contents[name]) * small
        for file, data in contents[name]:
            ((test if small else train) / file).write_bytes(data)
    return train, test


def load(folder: Path, side: int) -> list[Level]:
    """The rows of all levels that fit a square of `side`."""
    out = []
    for path in sorted(folder.glob("*.sok")):
        rows = [line.rstrip() for line in path.read_text().splitlines()]
        rows = [row for row in rows if "#" in row and not set(row) - set("#$.*@+ ")]
        if rows and max(len(rows), *map(len, rows)) <= side:
            out.append(tuple(rows))
    return out


# ------------------------------------------------------------------ judges
class Board:
    """A level as sets of cells; `fine`: one player, boxes = goals >= 1, not solved, all within closed walls."""

    def __init__(self, level: Level) -> None:
        cells = {(r, c): tile for r, row in enumerate(level) for c, tile in enumerate(row)}
        players = [at for at, tile in cells.items() if tile in "@+"]
        self.boxes = frozenset(at for at, tile in cells.items() if tile in "$*")
        self.goals = frozenset(at for at, tile in cells.items() if tile in ".*+")
        height, width = len(level), max(map(len, level), default=0)
        self.inside: set[tuple[int, int]] = set()
        self.fine = len(players) == 1 and len(self.boxes) == len(self.goals) >= 1 and self.boxes != self.goals
        if not self.fine:
            return
        self.player, edge = players[0], [players[0]]
        self.inside = {players[0]}
        for r, c in edge:
            for to in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if not (0 <= to[0] < height and 0 <= to[1] < width) or cells.get(to, "_") == "_":
                    self.fine = False  # one can walk out
                    return
                if cells[to] != "#" and to not in self.inside:
                    self.inside.add(to)
                    edge.append(to)
        self.fine = self.boxes - self.goals <= self.inside and self.goals - self.boxes <= self.inside


def fewest_pushes(level: Level, nodes: int = NODES) -> int | None:
    """Breadth-first search over (boxes, player's area) by pushes; None when there is no solution among `nodes` positions."""
    board = Board(level)
    if not board.fine:
        return None
    width = 64
    number = {at: at[0] * width + at[1] + width + 1 for at in board.inside}
    free = sum(1 << i for i in number.values())
    goals = sum(1 << number[at] for at in board.goals if at in number)
    boxes = sum(1 << number[at] for at in board.boxes if at in number)
    live, edge = goals, [number[at] for at in board.goals if at in number]
    for i in edge:  # cells from which a lone box can be pushed to some goal
        for step in (1, -1, width, -width):
            if free >> (i - step) & 1 and free >> (i - 2 * step) & 1 and not live >> (i - step) & 1:
                live |= 1 << (i - step)
                edge.append(i - step)

    def area(start: int, room: int) -> int:
        last = 0
        while start != last:
            last = start
            start |= (start << 1 | start >> 1 | start << width | start >> width) & room
        return start

    reach = area(1 << number[board.player], free & ~boxes)
    level_, seen, pushes = [(boxes, reach)], {(boxes, reach)}, 0
    while level_:
        following = []
        for boxes, reach in level_:
            if boxes == goals:
                return pushes
            for step, here, ahead in ((1, reach << 1, live >> 1), (-1, reach >> 1, live << 1),
                                      (width, reach << width, live >> width), (-width, reach >> width, live << width)):
                occupied = boxes >> abs(step) if step > 0 else boxes << abs(step)
                movable = boxes & here & ahead & ~occupied
                while movable:
                    bit = movable & -movable
                    movable ^= bit
                    after = boxes ^ bit ^ (bit << step if step > 0 else bit >> -step)
                    state = (after, area(bit, free & ~after))
                    if state not in seen:
                        seen.add(state)
                        following.append(state)
            if len(seen) > nodes:
                return None
        level_, pushes = following, pushes + 1
    return None


def follows(level: Level, moves: str) -> bool:
    """Whether moves (udlr) solve a level."""
    board, cells = Board(level), {(r, c): tile for r, row in enumerate(level) for c, tile in enumerate(row)}
    if not board.fine:
        return False
    boxes, at = set(board.boxes), board.player
    for move in moves.lower():
        down, across = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}[move]
        at = (at[0] + down, at[1] + across)
        beyond = (at[0] + down, at[1] + across)
        if cells.get(at, "#") in "#_" or (at in boxes and (cells.get(beyond, "#") in "#_" or beyond in boxes)):
            return False
        if at in boxes:
            boxes ^= {at, beyond}
    return boxes == board.goals


def guided(levels: Sequence[Level], nodes: int) -> float:
    """The share of levels that the package's best-first solver solves within `nodes` positions, its moves followed by this judge."""
    from morphogen.codecs.level.sokoban import solve

    moves = [solve(level, nodes).moves if Board(level).fine else None for level in levels]
    return float(np.mean([m is not None and follows(level, m) for level, m in zip(levels, moves, strict=True)]))


def aligned(level: Level, side: int) -> np.ndarray:
    """(side, side) codes of characters, the level at the top left, 0 outside: blanks that a walk from the border reaches."""
    grid = np.zeros((side, side), np.uint8)
    height, width = len(level), max(map(len, level))
    rows = [row.replace("_", " ").ljust(width) for row in level]
    out, edge = set(), [(r, c) for r in range(-1, height + 1) for c in range(-1, width + 1) if not (0 <= r < height and 0 <= c < width)]
    for r, c in edge:
        for to in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            if 0 <= to[0] < height and 0 <= to[1] < width and rows[to[0]][to[1]] == " " and to not in out:
                out.add(to)
                edge.append(to)
    for r in range(min(side, height)):
        for c in range(min(side, width)):
            grid[r, c] = 0 if (r, c) in out else ord(rows[r][c])
    return grid


def differing(levels: Sequence[Level], train: Sequence[Level], side: int) -> np.ndarray:
    """For each level the smallest share of tiles (of both outlines together) in which it differs from a training level, turned or not."""
    known = []
    for level in train:
        for turned in (level, tuple("".join(column) for column in zip(*(row.ljust(max(map(len, level))) for row in level)))):
            wide = tuple(row.ljust(max(map(len, turned))) for row in turned)
            for form in (wide, wide[::-1], tuple(row[::-1] for row in wide), tuple(row[::-1] for row in wide[::-1])):
                known.append(aligned(form, side))
    base = np.stack(known)
    out = []
    for level in levels:
        grid = aligned(level, side)
        union = ((base != 0) | (grid != 0)).sum((1, 2))
        out.append(float(((base != grid).sum((1, 2)) / np.maximum(1, union)).min()))
    return np.array(out)


# ------------------------------------------------------------------ figures
def wilson(hits: int, n: int) -> tuple[float, float]:
    p, z = hits / max(1, n), 1.96
    middle, half = (p + z * z / 2 / n) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def spread(fn: Callable[..., float], *columns: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap over rows."""
    rng, n = np.random.default_rng(0), len(columns[0])
    draws = [fn(*(c[i] for c in columns)) for i in (rng.integers(n, size=n) for _ in range(500))]
    sound = [d for d in draws if math.isfinite(d)] or [math.nan]
    return float(np.percentile(sound, 2.5)), float(np.percentile(sound, 97.5))


def ranks(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic) if len(set(x)) > 1 and len(set(y)) > 1 else math.nan


def judged(levels: Sequence[Level], jobs: int, nodes: int) -> dict[str, Any]:
    """Shares of well-formed and of solved levels with intervals, and the fewest pushes of each (None = not solved)."""
    fine = sum(Board(level).fine for level in levels)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        pushes = pool.starmap(fewest_pushes, [(level, nodes) for level in levels], chunksize=1)
    solved = sum(p is not None for p in pushes)
    n = len(levels)
    return {"well-formed": fine / n, "well-formed interval": wilson(fine, n), "solved": solved / n, "solved interval": wilson(solved, n),
            "pushes": pushes}


def shown(prefix: str, found: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix} {name}": value for name, value in found.items() if name != "pushes"}


def baseline(train: Sequence[Level], n: int) -> list[Level]:
    """Outlines of training levels filled with independent tiles at the training frequencies."""
    rng = np.random.default_rng(0)
    tiles = np.array(list("".join("".join(level) for level in train)))
    return [tuple("".join(rng.choice(tiles, len(row))) for row in train[i]) for i in rng.integers(len(train), size=n)]


def one_family(family: str, a: argparse.Namespace, train: Path, known: list[Level]) -> dict[str, Any]:
    """Train, draw raw, draw with repair, ask for difficulties, and judge it all."""
    options: dict[str, Any] = {"codec": {"size": a.size, "symmetry": a.symmetry}}
    if a.net:
        options["net"] = {"size": a.net}
    length = {"steps": a.steps} if a.steps else {"minutes": a.minutes}
    run = morphogen.train(train, fresh(WORK / "levels" / family), family=family, cond=(a.cond,), options=options, **length)
    begun = time.monotonic()
    raw = [tuple(level) for level in morphogen.generate(run, n=a.n, seed=1)]
    drawing = time.monotonic() - begun
    begun = time.monotonic()
    repaired = [tuple(level) for level in morphogen.generate(run, n=a.n, seed=1, valid=True)]
    mending = time.monotonic() - begun
    found, mended = judged(raw, a.jobs, a.nodes), judged(repaired, a.jobs, a.nodes)
    apart = differing(raw, known, a.size)
    solved = differing([x for x, p in zip(raw, found["pushes"]) if p is not None] or raw, known, a.size)
    return {**shown("raw", found), **shown("repaired", mended),
            "raw solved best first": guided(raw, a.nodes), "repaired solved best first": guided(repaired, a.nodes),
            "changed by repair": float(np.mean([r != m for r, m in zip(raw, repaired)])),
            "tiles apart": float(apart.mean()), "tiles apart interval": spread(np.mean, apart),
            "tiles apart 5th": float(np.percentile(apart, 5)),
            "tiles apart, solved": float(solved.mean()), "exact copies": float((apart == 0).mean()),
            **obeyed(run, a, train, valid=False), **obeyed(run, a, train, valid=True),
            "seconds to draw": drawing, "seconds to draw with repair": mending, "train seconds": run.provenance()["seconds"]}


def obeyed(run: Any, a: argparse.Namespace, train: Path, *, valid: bool) -> dict[str, Any]:
    """Rank correlation of asked difficulty with the fewest pushes of what came and could be solved, raw or with repair."""
    asked, got = [], []
    for value in np.quantile(wishes(train, a.cond, a.size), np.linspace(0.1, 0.9, 8)):
        levels = [tuple(x) for x in morphogen.generate(run, n=max(1, a.n // 8), seed=2, cond={a.cond: float(value)}, valid=valid)]
        for pushes in judged(levels, a.jobs, a.nodes)["pushes"]:
            if pushes is not None:
                asked.append(float(value))
                got.append(float(pushes))
    x, y, name = np.array(asked), np.array(got), "difficulty, repaired" if valid else "difficulty, raw"
    return {f"{name}: rank correlation": ranks(x, y), f"{name}: interval": spread(ranks, x, y) if len(x) > 2 else None,
            f"{name}: solved": len(x)}


def wishes(train: Path, cond: str, side: int) -> list[float]:
    """What training levels have of a condition: what may be asked for."""
    from morphogen.codecs.level import LevelCodec, LevelConfig
    from morphogen.codecs.sources import scan

    codec = LevelCodec(LevelConfig(symmetry="none", size=side))
    items = list(codec.read(scan(train)))
    if not any(cond in item.cond for item in items):
        codec.fit(items)
        return [v[cond] for v in codec.derive([item.raw for item in items], [cond]) if v[cond] is not None]
    return [item.cond[cond] for item in items if cond in item.cond]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="the archive of levels")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--steps", type=int, help="train so many steps instead of minutes, for machines that are busy")
    parser.add_argument("--families", default="autoregressive,masked,diffusion")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--size", type=int, default=16, help="rows and columns of the grid; larger levels are left out")
    parser.add_argument("--symmetry", default="all")
    parser.add_argument("--cond", default="difficulty", help="difficulty (pushes of the solutions beside the levels), distance ...")
    parser.add_argument("--net", default="", help="tiny, small, base")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--jobs", type=int, default=2)
    a = parser.parse_args()
    train, test = folders(a.data)
    known, held = load(train, a.size), load(test, a.size)
    facts = {"minutes": None if a.steps else a.minutes, "steps": a.steps, "n": a.n, "size": a.size, "symmetry": a.symmetry,
             "nodes": a.nodes, "training levels": len(known), "held-out levels": len(held)}
    plain = baseline(known, a.n)
    apart = differing(held, known, a.size)
    record("levels-yardstick", {**shown("held-out", judged(held[: a.n], a.jobs, a.nodes)), "held-out tiles apart": float(apart.mean()),
                                "held-out tiles apart 5th": float(np.percentile(apart, 5)),
                                **shown("independent tiles", judged(plain, a.jobs, a.nodes))}, **facts)
    for family in a.families.split(","):
        record(f"levels-{family}", one_family(family, a, train, known), **facts, data=a.data.name)


if __name__ == "__main__":
    main()
