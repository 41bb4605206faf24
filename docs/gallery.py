"""The picture in the README, from real outputs: python -m docs.gallery DIGITS EMOJI TABLE.csv TEXT.jsonl (as `generate` wrote them)"""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, GAP, INK, SOFT = 1200, 40, (30, 34, 40), (110, 116, 124)


def grid(folder: Path, columns: int, rows: int, cell: int) -> Image.Image:
    """The first outputs of a folder, side by side on white, enlarged without blur."""
    sheet = Image.new("RGB", (columns * (cell + 4), rows * (cell + 4)), "white")
    for i, file in enumerate(sorted(folder.glob("*.png"))[: columns * rows]):
        picture = Image.open(file).convert("RGBA").resize((cell, cell), Image.Resampling.NEAREST if cell < 40 else Image.Resampling.LANCZOS)
        sheet.paste(picture, ((i % columns) * (cell + 4), (i // columns) * (cell + 4)), picture)
    return sheet


def words(text: str, size: int, columns: int, most: int) -> Image.Image:
    font = ImageFont.load_default(size)
    lines = [part for line in text.splitlines() for part in (textwrap.wrap(line, columns) or [""])][:most]
    sheet = Image.new("RGB", (WIDTH // 2 - GAP, (size + 6) * len(lines) + 4), "white")
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((0, i * (size + 6)), line, INK, font)
    return sheet


def cells(rows: list[list[str]], size: int) -> Image.Image:
    """A table with its columns aligned."""
    font = ImageFont.load_default(size)
    sheet = Image.new("RGB", (WIDTH // 2 - GAP, (size + 10) * len(rows) + 4), "white")
    draw, x = ImageDraw.Draw(sheet), 0.0
    for column in range(len(rows[0])):
        for i, row in enumerate(rows):
            draw.text((x, i * (size + 10)), row[column], SOFT if i == 0 else INK, font)
        x += max(draw.textlength(row[column], font) for row in rows) + 10
    return sheet


def main() -> None:
    digits, emoji, table, text = map(Path, sys.argv[1:5])
    with table.open(newline="") as file:
        rows = list(csv.reader(file))[:9]
    texts = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    parts = [
        ("Digits, 28 by 28, asked for by class", grid(digits, 12, 6, 44)),
        ("Emoji, 32 by 32 with transparency, asked for by category", grid(emoji, 12, 6, 44)),
        ("Penguins: rows of a table", cells(rows, 12)),
        ("Docstrings: a text", words("\n\n".join(texts), 12, 84, 14)),
    ]
    heights = [max(parts[i][1].height, parts[i + 1][1].height) for i in (0, 2)]
    page = Image.new("RGB", (WIDTH, sum(heights) + 3 * GAP + 60), "white")
    draw, y = ImageDraw.Draw(page), GAP // 2
    for row in (0, 2):
        for side in (0, 1):
            title, picture = parts[row + side]
            x = GAP // 2 + side * WIDTH // 2
            draw.text((x, y), title, SOFT, ImageFont.load_default(15))
            page.paste(picture, (x, y + 28))
        y += heights[row // 2] + GAP + 28
    page.quantize(256, dither=Image.Dither.NONE).save(Path(__file__).parent / "gallery.png", optimize=True)


if __name__ == "__main__":
    main()
