"""Maps of the Tiled editor saved as JSON (.tmj, .json): one tile layer of strict size, every tile a sign. No torch here."""
from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morphogen.codecs.sources import read_utf8, strict_json
from morphogen.errors import DataError, UsageError

LARGEST = 16 << 20  # bytes of a map file
GID = 0x0FFFFFFF  # the upper bits say how a tile is turned
SIGNS = ".#=+*%&$@!ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/<>[]{}()|;:,^'`\""


@dataclass
class Map:
    """A map's layer as rows of tile numbers, and the map around it (no layers) for writing new ones."""

    rows: list[list[int]]
    frame: dict[str, Any]
    layer: str
    notes: list[str]


def is_map(head: str) -> bool:
    """Whether the beginning of a JSON file looks like a Tiled map."""
    return head.lstrip().startswith("{") and ('"tilewidth"' in head or '"tilesets"' in head or '"tiledversion"' in head)


def read_map(path: Path, wanted: str = "") -> Map:
    """A map's layer `wanted`, or its first tile layer. Raises DataError when the file is no such map or sizes contradict."""
    if path.stat().st_size > LARGEST:
        raise DataError(f"the map is larger than {LARGEST >> 20} MiB", remedy="split it into smaller maps")
    try:
        data = strict_json(read_utf8(path))
    except ValueError as error:
        raise DataError(f"not readable as JSON ({error})", remedy="export it from Tiled again") from None
    all_ = data.get("layers") if isinstance(data, dict) else None
    layers = [x for x in all_ if isinstance(x, dict) and x.get("type") == "tilelayer"] if isinstance(all_, list) else []
    if not layers:
        raise DataError("no tile layer in the map", remedy="export a Tiled map with a tile layer as JSON")
    names = [str(x.get("name", "")) for x in layers]
    if wanted and wanted not in names:
        raise DataError(f"no layer '{wanted}' (there are {', '.join(names)})", remedy="name one with --set codec.layer=…")
    layer = layers[names.index(wanted)] if wanted else layers[0]
    if "chunks" in layer or data.get("infinite"):
        raise DataError("an infinite map", remedy="untick Map > Map Properties > Infinite and save again")
    if not isinstance(layer.get("data"), list):
        raise DataError("the layer's tiles are packed", remedy="set Map Properties > Tile Layer Format to CSV and save again")
    rows, turned = _rows(layer)
    notes = [f"layers other than '{layer.get('name', '')}' are not learned"] if len(layers) > 1 else []
    notes += ["turned tiles are taken as unturned"] if turned else []
    frame = {k: v for k, v in data.items() if k not in ("layers", "width", "height", "nextlayerid", "nextobjectid", "properties")}
    return Map(rows, frame, str(layer.get("name", "")), notes)


def _rows(layer: dict[str, Any]) -> tuple[list[list[int]], bool]:
    width, height, data = layer.get("width"), layer.get("height"), layer["data"]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 10_000 for n in (width, height)):
        raise DataError(f"the layer's size is {width!r} × {height!r}", remedy="export it from Tiled again")
    assert isinstance(width, int) and isinstance(height, int)
    if len(data) != width * height:
        what = f"the layer holds {len(data):,} tiles, not {width} × {height} = {width * height:,}"
        raise DataError(what, remedy="export it from Tiled again")
    if not width or not height:
        raise DataError(f"the layer is {width}×{height}", remedy="draw something on it")
    if not all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 1 << 32 for x in data):
        raise DataError("the layer holds something that is no tile number", remedy="export it from Tiled again")
    tiles = [x & GID for x in data]
    return [tiles[i : i + width] for i in range(0, len(tiles), width)], tiles != data


def signs(maps: list[Map], outside: str) -> dict[int, str]:
    """tile number -> sign: no tile is a blank, the others by how often they occur. Raises UsageError when there are too many."""
    counts = Counter(x for found in maps for row in found.rows for x in row if x)
    free = [sign for sign in SIGNS if sign != outside]
    free += [chr(c) for c in range(0x100, 0x100 + max(0, min(len(counts), 400) - len(free)))]
    if len(counts) > len(free):
        raise UsageError(f"{len(counts):,} different tiles", remedy="a level model takes at most 400")
    order = sorted(counts, key=lambda x: (-counts[x], x))
    return {0: " ", **dict(zip(order, free))}


def map_text(level: tuple[str, ...], numbers: dict[str, int], frame: dict[str, Any], layer: str) -> str:
    """A level as a Tiled JSON map, with the tile sets of the maps it was learned from."""
    height, width = len(level), len(level[0])
    data = [numbers.get(sign, 0) for row in level for sign in row]
    one = {"data": data, "height": height, "id": 1, "name": layer or "level", "opacity": 1, "type": "tilelayer", "visible": True,
           "width": width, "x": 0, "y": 0}
    base = {"orientation": "orthogonal", "renderorder": "right-down", "tilewidth": 16, "tileheight": 16, "tilesets": [], **frame}
    return json.dumps({**base, "type": "map", "width": width, "height": height, "infinite": False, "layers": [one],
                       "nextlayerid": 2, "nextobjectid": 1}, ensure_ascii=False) + "\n"
