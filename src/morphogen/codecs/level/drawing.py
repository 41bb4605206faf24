"""Levels as pictures: plain tiles drawn here, and a solution as a short film. No torch here."""
from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from morphogen.codecs.level.grids import Level, array, even
from morphogen.codecs.level.sokoban import BOX, BOX_ON_GOAL, FLOOR, GOAL, OUTSIDE, PLAYER, PLAYER_ON_GOAL, WALL

TILE = 16
FRAMES = 120
COLOURS = ((250, 249, 246), (233, 226, 212), (74, 85, 104), (96, 109, 132), (205, 133, 63), (152, 92, 36), (232, 172, 104), (42, 157, 143),
           (38, 124, 114), (47, 96, 178), (24, 60, 122), (150, 190, 240), (217, 209, 192), (231, 111, 81), (144, 190, 109), (140, 100, 170),
           (249, 199, 79), (87, 117, 144), (200, 120, 160), (30, 30, 34))
PAPER, SAND, SLATE, BRICK, WOOD, BARK, LIGHT, TEAL, SEA, BLUE, NIGHT, SKY, GRAIN = range(13)
OTHERS, INK = (13, 14, 15, 16, 17, 18), 19
MOVES = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}
AFTER = {FLOOR: (PLAYER, BOX), GOAL: (PLAYER_ON_GOAL, BOX_ON_GOAL)}
UNDER = {PLAYER: FLOOR, BOX: FLOOR, PLAYER_ON_GOAL: GOAL, BOX_ON_GOAL: GOAL}


@cache
def _tile(what: str) -> np.ndarray:
    """(16, 16) uint8 numbers of colours."""
    image = Image.new("P", (TILE, TILE), PAPER if what == OUTSIDE else SLATE if what == WALL else SAND)
    draw = ImageDraw.Draw(image)
    if what == WALL:
        for y in (0, 8):
            draw.line((0, y, 15, y), BRICK)
            x = 4 if y else 11
            draw.line((x, y, x, y + 7), BRICK)
    elif what != OUTSIDE:
        draw.point([(2, 13), (13, 3)], GRAIN)
    if what in (GOAL, PLAYER_ON_GOAL):
        draw.ellipse((4, 4, 11, 11), None, TEAL, 2)
    if what in (BOX, BOX_ON_GOAL):
        fill, edge, shine = (WOOD, BARK, LIGHT) if what == BOX else (TEAL, SEA, SKY)
        draw.rectangle((1, 1, 14, 14), fill, edge)
        draw.line((3, 3, 12, 12), edge)
        draw.line((3, 12, 12, 3), edge)
        draw.line((2, 2, 13, 2), shine)
    if what in (PLAYER, PLAYER_ON_GOAL):
        draw.ellipse((3, 3, 12, 12), BLUE, NIGHT)
        draw.rectangle((5, 5, 6, 6), SKY)
    return np.asarray(image)


@cache
def _sign(what: str, colour: int) -> np.ndarray:
    """A tile of another game: a coloured square with its sign."""
    image = Image.new("P", (TILE, TILE), colour)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    if what.strip():
        draw.text((5, 2), what, fill=PAPER if colour in (SLATE, INK) else INK)
    return np.asarray(image)


def picture(level: Level, tiles: Sequence[str] = (), outside: str = OUTSIDE, walls: str = "") -> Image.Image:
    """A level as a palette image, 16 pixels a tile. `tiles`: those of another game than Sokoban, the most frequent first."""
    grid = array(even(level, outside))
    if not grid.size:
        grid = np.array([[outside]])
    if tiles:
        colour = {outside: PAPER, **dict.fromkeys(walls, SLATE)}
        plain = next((t for t in tiles if t not in colour), "")
        rest = [t for t in tiles if t not in colour and t != plain]
        colour |= {plain: SAND, **{t: OTHERS[i % len(OTHERS)] for i, t in enumerate(rest)}}
        drawn = {t: _sign("" if colour.get(t, INK) in (PAPER, SAND) else t, colour.get(t, INK)) for t in np.unique(grid).tolist()}
    else:
        drawn = {t: _tile(t) for t in np.unique(grid).tolist()}
    pixels = np.concatenate([np.concatenate([drawn[t] for t in row], 1) for row in grid.tolist()], 0)
    image = Image.frombytes("P", (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())
    image.putpalette([value for colour_ in COLOURS for value in colour_])
    return image


def png(image: Image.Image) -> bytes:
    """A picture's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def positions(level: Level, moves: str) -> list[Level]:
    """A Sokoban level before and after each move. Raises ValueError when a move is not possible."""
    grid = array(level)
    at = tuple(int(i) for i in np.argwhere(np.isin(grid, (PLAYER, PLAYER_ON_GOAL)))[0])
    out = [level]
    for move in moves:
        dr, dc = MOVES[move.lower()]
        to, ahead = (at[0] + dr, at[1] + dc), (at[0] + 2 * dr, at[1] + 2 * dc)
        if grid[to] in (BOX, BOX_ON_GOAL):
            grid[ahead] = AFTER[str(grid[ahead])][1] if grid[ahead] in AFTER else _stop(move)
            grid[to] = UNDER[str(grid[to])]
        grid[to] = AFTER[str(grid[to])][0] if grid[to] in AFTER else _stop(move)
        grid[at] = UNDER[str(grid[at])]
        at = to
        out.append(tuple("".join(row) for row in grid.tolist()))
    return out


def _stop(move: str) -> str:
    raise ValueError(f"the way is blocked at a move {move}")


def film(level: Level, moves: str, frames: int = FRAMES) -> bytes:
    """A solution as an animated GIF: every move, or every few of them so that there are at most `frames`."""
    steps = positions(level, moves)
    every = -(-(len(steps) - 1) // max(1, frames - 1)) or 1
    chosen = [*steps[:-1:every], steps[-1]]
    images = [picture(step) for step in chosen]
    times = [700, *[110] * (len(images) - 2), 1600][-len(images):]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    return buffer.getvalue()
