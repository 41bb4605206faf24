"""Game levels <-> Tokens on a grid: text grids (Sokoban and others) and Tiled maps. No torch here."""
from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from morphogen import files, spaces
from morphogen.codecs.level import drawing, grids, tiled
from morphogen.codecs.level.features import pattern_features
from morphogen.codecs.level.grids import Level, check_rows
from morphogen.codecs.level.mend import mended
from morphogen.codecs.level.rules import Rules, broken, find, solution, stranded, verdict
from morphogen.codecs.level.sokoban import OUTSIDE, TILES, lone_pushes
from morphogen.codecs.level.source import Reading, read_levels, score
from morphogen.codecs.level.variants import variants
from morphogen.codecs.sources import Listing, Skips
from morphogen.contracts import Claim, Given, Item
from morphogen.errors import DataError, UsageError
from morphogen.spaces import Tokens

ENDINGS = frozenset({".txt", ".sok", ".xsb", ".lvl"})
PREVIEW_NODES = 10_000
PROOF_NODES, FEW_BOXES = 2_000, 2  # positions looked at in training levels of so few boxes, to find those without a solution
DERIVED_NODES, VARIANT_NODES = 5_000, 100  # positions looked at for the difficulty of a training level, and of its variants
LAST = 2  # from this attempt on a level is mended by hand


@dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """How levels become tokens and what rules they keep; 0, empty and auto = found in the data."""

    size: int = 0
    "Rows and columns of the grid; larger levels are left out. 0: enough for 95 % of the levels, at most `limit`."
    limit: int = 20
    "Most rows and columns when the size is found in the data."
    variants: int = 8
    "Other beginnings of each Sokoban level that are learned too: boxes pulled back from its goals."
    symmetry: str = "auto"
    "all: learn each level in its eight orientations, none, or auto: all for Sokoban."
    rules: str = "auto"
    "auto, sokoban, reach (a way from start to goal), none, or a Python file with check(level) -> {rule: bool}, run in the sandbox."
    start: str = ""
    "The start's tile, for rules reach."
    goal: str = ""
    "The goal's tile, for rules reach."
    walls: str = ""
    "Tiles nobody walks through, for rules reach."
    nodes: int = 20_000
    "Positions the Sokoban solver looks at before it gives up."
    unknown: str = "?"
    "The sign of a tile to be filled in, in levels given to `generate`."
    layer: str = ""
    "The tile layer of Tiled maps; empty: the first."


class LevelCodec:
    """Levels as grids of tiles, row by row from the top left; what lies outside a level is a tile of its own.

    Raw: a tuple of rows of equal length. Sokoban tiles are numbered so that each binary digit means something (a goal, a box,
    a player), for families that draw digits.
    """

    name: ClassVar[str] = "level"
    Config: ClassVar[type] = LevelConfig
    feature_name: ClassVar[str] = "shares of tiles and of 2×2 patterns up to symmetry, and the size"
    derived: ClassVar[dict[str, str]] = {
        "difficulty": "pushes of the solution found (Sokoban), or steps from start to goal",
        "distance": "pushes that the boxes need at least, each alone on its way to the nearest goal (Sokoban; quick)",
        "boxes": "how many boxes a Sokoban level has",
        "size": "cells inside a level's outline",
        "floor": "share of those cells that are no walls",
    }

    def __init__(self, config: LevelConfig | None = None) -> None:
        self.config = config or LevelConfig()
        self.space: spaces.Space = Tokens(len(TILES), 0, grid=(0, 0))
        self.tiles: tuple[str, ...] = TILES
        self.outside, self.unknown = OUTSIDE, self.config.unknown
        self.rules, self.frame, self.numbers = Rules(), {}, {}
        self.skips, self.notes = Skips(), []
        self._reading: Reading | None = None
        self._mended: set[Level] = set()
        _check(self.config)

    # ---------------------------------------------------------------- files
    @staticmethod
    def claims(listing: Listing) -> Claim:
        """The share of level files: by their ending, and for .txt and .json by what is in them."""
        return score(listing)

    def read(self, listing: Listing) -> Iterator[Item]:
        """Yield levels; what cannot be used goes to `skips`.

        Levels larger than the grid are left out and counted in `notes`. Raises DataError when there is no level at all.
        """
        self.skips, self.notes = Skips(), []
        limit = self.space.grid if isinstance(self.space, Tokens) and self.space.length else None
        found = read_levels(listing, self.skips, self.notes, self.config.layer, {v: k for k, v in self.numbers.items()} or None)
        turn = self._turning(found.sokoban)
        sizes = np.array([(len(item.raw), len(item.raw[0])) for item in found.levels])
        grid = limit or self._grid(sizes, turn)
        kept = [x for x in found.levels if len(x.raw) <= grid[0] and len(x.raw[0]) <= grid[1]]
        if len(kept) < len(found.levels):
            left_out = f"{len(found.levels) - len(kept):,} of {len(found.levels):,} levels are larger than {grid[0]}×{grid[1]}"
            self.notes.append(f"{left_out} and left out (--set codec.size={int(sizes.max())} takes all)")
        if limit is None:
            self._reading = replace(found, grid=grid)
        yield from kept

    def augmented(self, items: Sequence[Item]) -> list[Item]:
        """Other beginnings and the other orientations of levels, where these are as good: more to train on, never to judge by."""
        if self._reading is None:
            return []
        more = [item for i, one in enumerate(items) for item in self._beginnings(one, i)] if self._reading.sokoban else []
        turned = [*items, *more] if self._turning(self._reading.sokoban) else []
        return more + [replace(item, raw=form, cond=dict(item.cond)) for item in turned for form in grids.orientations(item.raw)[1:]]

    def _beginnings(self, item: Item, seed: int) -> list[Item]:
        """Variants of a level; what can be worked out of it is worked out anew, None where that would take long."""
        level = tuple(item.raw)
        if not self.config.variants or broken(level):
            return []
        asked = [name for name in item.cond if name in self.derived]
        return [replace(item, raw=raw, cond={**item.cond, **{name: self._derived(raw, name, VARIANT_NODES) for name in asked}})
                for raw in variants(level, self.config.variants, seed)]

    def _turning(self, sokoban: bool) -> bool:
        return self.config.symmetry == "all" or (self.config.symmetry == "auto" and sokoban)

    def _grid(self, sizes: np.ndarray, turn: bool) -> tuple[int, int]:
        if self.config.size:
            return self.config.size, self.config.size
        if turn:  # a turned level must fit as well
            sizes = np.repeat(sizes.max(1, keepdims=True), 2, axis=1)
        usual = np.sort(sizes, axis=0)[int(np.ceil(0.95 * len(sizes))) - 1]
        rows, columns = (min(int(n), self.config.limit) for n in usual)
        return rows, columns

    def read_given(self, path: Path) -> list[Level]:
        """The levels of a file with unknown tiles, for `generate --given`."""
        from morphogen.codecs.level.source import rows_of

        return [tuple(rows) for rows in rows_of(path)]

    # ---------------------------------------------------------------- learning
    def fit(self, items: Sequence[Item]) -> None:
        """Find tiles, grid and rules. Raises DataError when there is nothing, or nothing that varies."""
        levels = list(dict.fromkeys(grids.canonical(check_rows(item.raw))[0] for item in items))
        if not levels:
            raise DataError("no levels to learn from", remedy="give at least two")
        if len(levels) == 1 and len(items) > 8:
            self.notes.append("all items are the same level: a model can only repeat it")
        reading = self._reading
        counts = Counter(tile for item in items for row in item.raw for tile in row)
        like = reading.sokoban if reading else set(counts) <= set(TILES)
        self.outside = reading.outside if reading else OUTSIDE
        if reading is not None:
            self.frame, self.numbers = reading.frame, reading.numbers
        by_count = [tile for tile, _ in counts.most_common() if tile != self.outside]
        self.tiles = TILES if like else (*by_count, self.outside)
        self.unknown = next(t for t in (self.config.unknown, *"?%&~^") if t not in self.tiles)
        own = (self.config.size,) * 2 if self.config.size else np.max([(len(x.raw), len(x.raw[0])) for x in items], axis=0)
        rows, columns = reading.grid if reading and reading.grid else own
        self.space = Tokens(len(self.tiles), int(rows * columns), grid=(int(rows), int(columns)))
        config = self.config
        raws = list(dict.fromkeys(item.raw for item in items))
        self.rules, said = find(config.rules, raws, (config.start, config.goal, config.walls), like, self.outside)
        self.notes += [*said, *self._unplayable(levels)]

    def _unplayable(self, levels: Sequence[Level]) -> list[str]:
        """Training levels that break the rules, as far as a short look tells."""
        if self.rules.kind == "sokoban":
            bad = [x for x in levels if not broken(x) and (stranded(x).any() or lone_pushes(x) is None or self._lost(x))]
        elif self.rules.kind == "reach":
            bad = [x for x in levels if self.rules.path(x) is None]
        else:
            bad = []
        return [f"{len(bad):,} of {len(levels):,} levels cannot be solved: they are learned as they are"] if bad else []

    @staticmethod
    def _lost(level: Level) -> bool:
        """Whether a short search sees all positions and no solution; with many boxes it never does."""
        boxes = sum(row.count("$") + row.count("*") for row in level)
        return boxes <= FEW_BOXES and solution(level, PROOF_NODES).proven

    def describe(self) -> list[str]:
        """What was decided, one line each."""
        assert isinstance(self.space, Tokens)
        shown = " ".join("blank" if t == " " else t for t in self.tiles if t != self.outside)
        lines = [f"grid {self.space.grid[0]}×{self.space.grid[1]}, {len(self.tiles) - 1} tiles ({shown}) and outside ({self.outside})"]
        if self.unknown != self.config.unknown:
            lines.append(f"'{self.config.unknown}' is a tile here: '{self.unknown}' stands for tiles to be filled in")
        return lines

    # ---------------------------------------------------------------- one level
    def encode(self, raw: Sequence[str]) -> np.ndarray:
        """(H * W,) int64, row by row; outside where the level is smaller. Raises DataError for unknown tiles or sizes."""
        return self._placed(check_rows(raw), {})[0]

    def _placed(self, level: Level, extra: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """(ids, where the level's own cells are), both (H * W,)."""
        assert isinstance(self.space, Tokens)
        (rows, columns), number = self.space.grid, {tile: i for i, tile in enumerate(self.tiles)} | extra
        if len(level) > rows or max(map(len, level)) > columns:
            raise DataError(f"a level of {len(level)}×{max(map(len, level))} tiles", remedy=f"the model's grid is {rows}×{columns}")
        strange = sorted({tile for row in level for tile in row} - set(number))
        if strange:
            known = " ".join(map(repr, self.tiles))
            raise DataError(f"unknown tile {', '.join(map(repr, strange))}", remedy=f"the model knows {known}")
        x, own = np.full((rows, columns), number[self.outside], np.int64), np.zeros((rows, columns), bool)
        for r, row in enumerate(level):
            x[r, : len(row)] = [number[tile] for tile in row]
            own[r, : len(row)] = True
        return x.ravel(), own.ravel()

    def decode(self, x: Any) -> Level:
        """Rows of tiles without what is all outside round them."""
        assert isinstance(self.space, Tokens)
        signs = np.array(self.tiles)[np.asarray(x).reshape(self.space.grid)]
        return grids.cropped(grids.level_of(signs), self.outside)

    def given(self, raw: Sequence[str] | str) -> Given:
        """A level whose unknown tiles (`?`) are to be filled, at its own size; what lies round it is outside.

        When only `?` follow the first `?`, everything after it is open, the size too: a beginning to be continued.
        """
        level = check_rows(raw)
        if self.tiles == TILES and not any(OUTSIDE in row for row in level):
            level = grids.framed(level)
        x, own = self._placed(level, {self.unknown: -1})
        known = x >= 0
        first = int(np.argmin(known)) if not known.all() else len(x)
        if not known[own & (np.arange(len(x)) >= first)].any():
            known[first:] = False
        return Given(np.where(known, x, self.tiles.index(self.outside)), known)

    # ---------------------------------------------------------------- rules
    def checks(self, raw: Level, cond: dict[str, Any]) -> dict[str, bool]:
        """Rule -> kept. For Sokoban `well-formed` and `solvable` (found by the solver within `nodes` positions)."""
        return self.rules.checks(tuple(raw), self.config.nodes)

    def faults(self, raw: Level, attempt: int) -> Given | None:
        """What to keep of a faulty level: all but a window round the cells at fault that grows with the attempts.

        From attempt 2 on the level was mended by hand (`mend`) and all of it is known. None: nothing wrong, or nothing to hold on to.
        """
        level = tuple(raw)
        cells = self.rules.suspects(level, self.config.nodes)
        if cells is None:
            return None
        made = self.mend(level) if attempt >= LAST else None
        if made is not None:
            x = self.encode(made)
            return Given(x, np.ones(len(x), bool))
        if not cells.any():
            return None
        for _ in range(1 + 2 * attempt):
            cells = cells | grids.around(cells, corners=True)
        assert isinstance(self.space, Tokens)
        x, _ = self._placed(level, {})
        redraw = np.zeros(self.space.grid, bool)
        redraw[: cells.shape[0], : cells.shape[1]] = cells
        return Given(x, ~redraw.ravel())

    def mend(self, raw: Level) -> Level | None:
        """The last resort without a model: a playable level near this one, None when the rules give no hold."""
        assert isinstance(self.space, Tokens)
        made = mended(tuple(raw), self.rules, (self.space.grid[0], self.space.grid[1]), self.config.nodes)
        if made is not None:
            self._mended.add(made)
        return made

    def derive(self, raws: Sequence[Level], names: Sequence[str]) -> list[dict[str, Any]]:
        """What `derived` lists; None where a level has no such thing, or no solution was found."""
        return [{name: self._derived(tuple(raw), name) for name in names} for raw in raws]

    def _derived(self, level: Level, name: str, nodes: int = DERIVED_NODES) -> float | int | None:
        tiles = "".join(level)
        inside = len(tiles) - tiles.count(self.outside)
        if name == "difficulty":
            if self.rules.kind == "sokoban":
                fine = not broken(level) and not stranded(level).any()
                return solution(level, min(self.config.nodes, nodes)).pushes if fine else None
            return self.rules.path(level) if self.rules.kind == "reach" else None
        if name == "distance":
            return lone_pushes(level) if self.rules.kind == "sokoban" and not broken(level) else None
        if name == "boxes":
            return tiles.count("$") + tiles.count("*") if self.rules.kind == "sokoban" else None
        if name == "size":
            return inside
        if name == "floor":
            walls = self.rules.walls or "#"
            return (inside - sum(tiles.count(w) for w in walls)) / max(1, inside)
        raise UsageError(f"levels have no '{name}'", remedy="choose one of " + ", ".join(self.derived))

    # ---------------------------------------------------------------- looking at many
    def preview(self, raws: Sequence[Level]) -> dict[str, Any]:
        """{"kind": "image", "png": [a PNG, or the solution as an animated GIF], "texts": [what the checker says]}."""
        shown = [self._shown(tuple(raw)) for raw in raws]
        return {"kind": "image", "png": [film or still for still, film, _ in shown], "texts": [text for _, _, text in shown]}

    def _shown(self, level: Level) -> tuple[bytes, bytes | None, str]:
        """(PNG, GIF of the solution if there is one, a line in words)."""
        plain = self.tiles != TILES
        still = drawing.png(drawing.picture(level, self.tiles if plain else (), self.outside, self.rules.walls))
        if self.rules.kind == "reach":
            steps = self.rules.path(level)
            return still, None, "the goal cannot be reached" if steps is None else f"the goal is {steps} steps away"
        if self.rules.kind != "sokoban":
            return still, None, f"{len(level)}×{len(level[0])}"
        found, text = verdict(level, min(self.config.nodes, PREVIEW_NODES))
        return still, drawing.film(level, found.moves) if found and found.moves else None, text

    def features(self, raws: Sequence[Level]) -> np.ndarray:
        """(N, D) float32; equal for all orientations of a level of equal sides."""
        return pattern_features(raws, self.tiles, self.outside)

    def identity(self, raw: Level) -> str:
        """The same for all orientations of a level."""
        return "\n".join(grids.canonical(tuple(raw))[0])

    def size_of(self, raw: Level) -> tuple[int, str]:
        """(cells of the grid, "tile"): the unit of bits per tile."""
        assert isinstance(self.space, Tokens)
        return self.space.length, "tile"

    # ---------------------------------------------------------------- outputs
    def write(self, raws: Sequence[Level], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]:
        """One file for .txt, .sok, .xsb, .lvl; else a new folder: per level 00000.txt, 00000.png and, when solved, 00000.gif
        (00000.tmj for Tiled maps), and metadata.jsonl: what holds and was worked out of each, `asked` what was asked for.
        Returns the pictures, or the file.
        """
        out, meta = Path(out), meta or [{}] * len(raws)
        if out.suffix.lower() in ENDINGS:
            parts = [f"; {i}" + "".join(f" {k}={v}" for k, v in more.items() if k != "index") + "\n" + self._text(tuple(raw))
                     for i, (raw, more) in enumerate(zip(raws, meta, strict=True))]
            files.write_text(out, "\n".join(parts))
            return [out]
        rows, made = [], []
        with files.new_folder(out) as folder:
            for i, (raw, more) in enumerate(zip(raws, meta, strict=True)):
                level, name = tuple(raw), f"{i:05d}"
                still, film, text = self._shown(level)
                (folder / f"{name}.png").write_bytes(still)
                if film:
                    (folder / f"{name}.gif").write_bytes(film)
                (folder / f"{name}.txt").write_text(self._text(level), encoding="utf-8")
                if self.numbers:
                    text_ = tiled.map_text(level, self.numbers, self.frame, self.config.layer)
                    (folder / f"{name}.tmj").write_text(text_, encoding="utf-8")
                made.append(out / f"{name}.png")
                facts = {k: v for k, v in self._facts(level).items() if v is not None}
                by_hand = {"repaired": "by hand"} if level in self._mended else {}
                asked = {k: v for k, v in more.items() if k in self.derived}  # beside what came of it
                rest = {k: v for k, v in more.items() if k not in asked} | ({"asked": asked} if asked else {})
                rows.append({"file_name": f"{name}.png", "level": f"{name}.txt", "said": text, **facts, **by_hand, **rest})
            lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
            (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        return made

    def _facts(self, level: Level) -> dict[str, Any]:
        return {**self.checks(level, {}), **self.derive([level], list(self.derived))[0]}

    def _text(self, level: Level) -> str:
        blank = " " if self.tiles == TILES or " " not in self.tiles else self.outside
        return "".join(re.sub(f"{re.escape(blank)}+$", "", row.replace(self.outside, blank)) + "\n" for row in level)

    # ---------------------------------------------------------------- saved
    def state(self) -> dict[str, Any]:
        """All that `load` needs, as JSON."""
        return {"space": spaces.to_json(self.space), "tiles": list(self.tiles), "outside": self.outside, "unknown": self.unknown,
                "rules": self.rules.state(), "frame": self.frame, "numbers": self.numbers}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.space, self.tiles = spaces.from_json(state["space"]), tuple(state["tiles"])
        self.outside, self.unknown, self.rules = state["outside"], state["unknown"], Rules(**state["rules"])
        self.frame, self.numbers = state["frame"], {k: int(v) for k, v in state["numbers"].items()}


def _check(config: LevelConfig) -> None:
    if config.size and not 3 <= config.size <= 60:
        raise UsageError(f"codec.size = {config.size}", remedy="choose 3 to 60, or 0 to find out")
    if not 3 <= config.limit <= 60:
        raise UsageError(f"codec.limit = {config.limit}", remedy="choose 3 to 60")
    if config.symmetry not in ("auto", "all", "none"):
        raise UsageError(f"unknown symmetry '{config.symmetry}'", remedy="choose auto, all or none")
    if not 1 <= config.nodes <= 10_000_000:
        raise UsageError(f"codec.nodes = {config.nodes}", remedy="choose 1 to 10,000,000")
    if len(config.unknown) != 1 or len(config.start) > 1 or len(config.goal) > 1:
        raise UsageError("codec.unknown, start and goal are single signs", remedy="give one character each")
