"""From what a person points at to levels: which files, which game, groups, conditions. No torch here."""
from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from morphogen.codecs.level import grids, tiled
from morphogen.codecs.level.grids import Found, Level
from morphogen.codecs.level.rules import broken
from morphogen.codecs.level.sokoban import OUTSIDE, replayed, unfolded
from morphogen.codecs.sources import METADATA, Listing, Skips, class_folders, read_metadata, read_utf8, said_about
from morphogen.contracts import Claim, Item
from morphogen.errors import DataError

SURE = frozenset({".sok", ".xsb", ".lvl", ".tmj"})
MAYBE = frozenset({".txt", ".json", ""})
MAPS = frozenset({".tmj", ".json"})
XML = frozenset({".tmx", ".tsx"})
BESIDE = frozenset({".sol", ".png", ".gif", ".tsj", ".md", ".stamp"})  # solutions, pictures and notes beside levels
LARGEST = 16 << 20  # bytes
SETS = 4  # fewer sets than this cannot be split between training and what is held out
OUTSIDES = "_~^`|¤"


@dataclass(frozen=True)
class Reading:
    """What was read, each level as it stands; `numbers` maps signs to a Tiled map's tile numbers."""

    levels: list[Item]
    sokoban: bool
    outside: str = OUTSIDE
    frame: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    grid: tuple[int, int] | None = None


def score(listing: Listing) -> Claim:
    """How sure it is that a listing holds levels."""
    if listing.frame is not None or not listing.files:
        return Claim(0.0, "no files")
    rest = [f for f in listing.files if f.suffix.lower() not in BESIDE and not _about_levels(f)]
    looked = {f: f.suffix.lower() in SURE for f in rest}
    maybe = [f for f in rest if f.suffix.lower() in MAYBE]
    for file in maybe[:12]:
        looked[file] = _looks(file)
    sure = sum(looked[f] for f in maybe[:12]) / max(1, min(12, len(maybe)))
    for file in maybe[12:]:
        looked[file] = sure > 0.8
    share = sum(looked.values()) / max(1, len(rest))
    if not share and any(f.suffix.lower() in XML for f in rest):
        return Claim(0.5, "Tiled maps in XML")
    return Claim(0.95 * share, f"{sum(looked.values()):,} of {len(rest):,} files are levels")


def _about_levels(file: Path) -> bool:
    return file.name.lower() in METADATA or "readme" in file.name.lower() or file.name.lower().startswith("licen")


def _looks(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            text = handle.read(1 << 18).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return False
    if file.suffix.lower() == ".json":
        return tiled.is_map(text)
    return "\0" not in text and (grids.is_sokoban(text) or grids.is_grid(text))


def read_levels(listing: Listing, skips: Skips, notes: list[str], layer: str, known: dict[int, str] | None) -> Reading:
    """All levels of a listing; unusable ones go to `skips`. `known`: signs of a Tiled map's tiles that a model learned.

    Raises DataError when there is none.
    """
    paths = [f for f in listing.files if f.suffix.lower() in SURE | MAYBE | XML and (len(listing.files) == 1 or not _about_levels(f))]
    if paths and all(f.suffix.lower() in XML for f in paths):
        raise DataError("Tiled maps in XML are not read", where=paths[0], remedy="in Tiled: File > Export As… > JSON map files (.tmj)")
    maps = [f for f in paths if f.suffix.lower() in MAPS]
    texts = [f for f in paths if f not in set(maps)]
    if maps and len(maps) >= len(texts):
        found = _maps(listing, maps, skips, notes, layer, known)
    else:
        found = _texts(listing, texts, skips, notes)
    if not found.levels:
        kinds = ", ".join(f"{n} × {k or 'no ending'}" for k, n in listing.by_suffix().most_common(4))
        why = "; ".join(skips.first) or f"expected text grids or Tiled JSON maps; found {kinds}"
        raise DataError("no levels", where=listing.root, remedy=why)
    return found


# ------------------------------------------------------------------ text
def _texts(listing: Listing, paths: list[Path], skips: Skips, notes: list[str]) -> Reading:
    contents: dict[Path, str] = {}
    for path in paths:
        try:
            contents[path] = text_of(path)
        except DataError as error:
            skips.add(listing.name_of(path), error.what)
    sokoban = sum(map(grids.is_sokoban, contents.values())) >= 0.5 * max(1, len(contents))
    parse = grids.sokoban_levels if sokoban else grids.plain_levels
    found = {path: parse(text) for path, text in contents.items()}
    signs = {t for levels in found.values() for level in levels for row in level.rows for t in row}
    outside = OUTSIDE if sokoban else next(t for t in OUTSIDES if t not in signs)
    about = _about(listing, paths, skips)
    out: list[Item] = []
    ragged = 0
    for path, levels in found.items():
        name = listing.name_of(path)
        if not levels:
            skips.add(name, "no level in it (0×0)" if contents[path].strip() else "the file is empty (a 0×0 level)")
        for each in levels:
            level = grids.framed(each.rows) if sokoban and not each.why else grids.even(each.rows, outside)
            why = each.why or _refused(level, sokoban)
            if why:
                skips.add(f"{name}:{each.line}", why)
                continue
            ragged += not sokoban and any(outside in row for row in level)
            cond = _solved(path, level) if sokoban and len(levels) == 1 else {}
            source = f"{name}:{each.line}" if len(levels) > 1 else name
            out.append(Item(level, {**cond, **_cond(each, about[path][0])}, about[path][1] or set_of(name), source))
    if ragged:
        notes.append(f"{ragged:,} levels have rows of unequal length: filled up with outside ({outside})")
    return Reading(_grouped(out, notes), sokoban, outside)


def text_of(path: Path) -> str:
    """A level file's text with plain newlines. Raises DataError when it is too large or not text."""
    if path.stat().st_size > LARGEST:
        raise DataError(f"the file is larger than {LARGEST >> 20} MiB", where=path, remedy="split it")
    text = read_utf8(path).replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise DataError("the file is not text", where=path, remedy="give text grids")
    return text


def rows_of(path: Path) -> list[list[str]]:
    """Blocks of rows of a file as they are written, for levels with unknown tiles."""
    blocks = [found.rows for found in grids.plain_levels(text_of(path))]
    if not blocks:
        raise DataError("no level in it", where=path, remedy="give rows of tiles")
    return blocks


def _refused(level: Level, sokoban: bool) -> str:
    """Why a level cannot be learned from ("" = it can)."""
    size = f"{len(level)}×{len(level[0])}"
    if len(level) < 2 or len(level[0]) < 2 or (sokoban and min(len(level), len(level[0])) < 3):
        return f"a {size} level: too small to hold anything"
    if sokoban:
        return ", ".join(broken(level))
    return "a single tile all over" if len(set("".join(level))) < 2 else ""


def _cond(found: Found, about: dict[str, Any]) -> dict[str, Any]:
    author = found.about.get("author")
    return {**({"author": author} if author else {}), **about}


def _solved(path: Path, level: Level) -> dict[str, Any]:
    """{"difficulty": pushes} of a solution beside a level (NAME.sol) if it holds: better than any search of ours."""
    beside = path.with_suffix(".sol")
    try:
        moves = unfolded(text_of(beside)) if beside.is_file() else None
    except DataError:
        return {}
    pushes = replayed(level, moves) if moves else None
    return {"difficulty": pushes} if pushes else {}


def _about(listing: Listing, paths: list[Path], skips: Skips) -> dict[Path, tuple[dict[str, Any], str]]:
    """path -> (conditions, group) by metadata files and class folders."""
    rows, classes = read_metadata(listing, skips), class_folders(listing, paths)
    out = {}
    for path in paths:
        cond, group = said_about(rows.get(path, {}))
        if path in classes:
            cond.setdefault("label", classes[path])
        out[path] = (cond, group)
    return out


def set_of(name: str) -> str:
    """The set a file belongs to: its name without the last number (microban01_0008.sok -> microban01)."""
    stem = re.sub(r"\.[^./]*$", "", name)
    return re.sub(r"[\s_.#-]*\d+$", "", stem) or stem


def _grouped(levels: list[Item], notes: list[str]) -> list[Item]:
    """Copies (turned ones too) join the group of the first. With hardly any sets each level is a group of its own, for none could
    be held out whole, and a level's orientations stay together in any case.
    """
    sets = len({item.group for item in levels})
    single = sets < SETS
    first: dict[Level, str] = {}
    out = []
    for i, item in enumerate(levels):
        key = grids.canonical(item.raw)[0]
        out.append(replace(item, group=first.setdefault(key, f"{item.group}:{i}" if single else item.group)))
    if not single:
        notes.append(f"{sets} sets by their names: what is held out is whole sets")
    if len(first) < len(levels):
        notes.append(f"{len(levels) - len(first):,} of {len(levels):,} levels are copies of others, turned or not: kept on one side")
    return out


# ------------------------------------------------------------------ Tiled
def _maps(listing: Listing, paths: list[Path], skips: Skips, notes: list[str], layer: str, known: dict[int, str] | None) -> Reading:
    read: dict[Path, tiled.Map] = {}
    for path in paths:
        try:
            read[path] = tiled.read_map(path, layer)
        except DataError as error:
            if len(paths) == 1:
                raise DataError(error.what, where=path, remedy=error.remedy) from None
            skips.add(listing.name_of(path), f"{error.what} ({error.remedy})")
    signs = known or tiled.signs(list(read.values()), OUTSIDE)
    about = _about(listing, paths, skips)
    out: list[Item] = []
    for path, each in read.items():
        strange = sorted({x for row in each.rows for x in row} - set(signs))
        if strange:
            skips.add(listing.name_of(path), f"unknown tile {', '.join(map(str, strange[:5]))}")
            continue
        level = tuple("".join(signs[x] for x in row) for row in each.rows)
        why = _refused(level, False)
        if why:
            skips.add(listing.name_of(path), why)
            continue
        name = listing.name_of(path)
        out.append(Item(level, about[path][0], about[path][1] or set_of(name), name))
    notes += [note for note, _ in Counter(n for each in read.values() for n in each.notes).most_common(3)]
    frame = next(iter(read.values())).frame if read else {}
    return Reading(_grouped(out, notes), False, OUTSIDE, frame, {sign: x for x, sign in signs.items()})
