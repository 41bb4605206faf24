"""Small Sokoban levels made for the tests, and a plain tile game."""

from __future__ import annotations

CORRIDOR = ("#######", "#@ $ .#", "#######")  # two pushes
ROOM = ("#######", "#     #", "# $.  #", "#  @  #", "#######")
TWO = ("########", "#  .   #", "# $$ @ #", "#  .   #", "########")
NOTCHED = ("__####__", "###  ###", "# $  . #", "# @    #", "###  ###", "__####__")
CORNER = ("######", "#$  .#", "# @  #", "######")  # a box in a corner: no solution
BURIED = ("#########", "#@  #$  #", "#  .#   #", "#   #####", "#########")  # the box is out of reach

MAZE = """\
#####
#S..#
#.#.#
#..G#
#####
"""


def sokoban_text(levels, mark: str = "_") -> str:
    """Levels in one file, outside as blanks."""
    return "\n\n".join(f"; {i}\n" + "\n".join(row.replace(mark, " ").rstrip() for row in level) for i, level in enumerate(levels)) + "\n"


def rooms(n: int) -> list[tuple[str, ...]]:
    """n different solvable levels."""
    out = []
    for i in range(n):
        width, height = 6 + i % 5, 5 + (i // 5) % 4
        rows = ["#" * width, *["#" + " " * (width - 2) + "#"] * (height - 2), "#" * width]
        grid = [list(row) for row in rows]
        grid[1][1] = "."
        grid[2][1 + (i // 20) % 2] = "$"
        grid[height - 2][width - 2] = "@"
        out.append(tuple("".join(row) for row in grid))
    return out
