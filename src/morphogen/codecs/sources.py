"""What a person points at, as a list of files: discovery, metadata, class folders, groups and skips. No torch here."""
from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.codecs import rows
from morphogen.errors import DataError, MorphogenError
from morphogen.files import nearby

METADATA = ("metadata.csv", "metadata.jsonl")
CAPTIONS = ("caption", "captions", "text")
GROUPS = ("group", "source")
SPLITS = frozenset({"train", "training", "test", "testing", "valid", "validation", "val", "dev", "eval"})
# What `datasets` writes beside its Arrow files.
ABOUT_ARROW = frozenset({"dataset_info.json", "state.json", "dataset_dict.json"})
LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "__pycache__"})
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?|[+-]?\.[0-9]+", re.ASCII)
DEPTH = 64
Tell = Callable[[str, float, str], None]


def _silent(what: str, share: float, note: str) -> None: ...


@dataclass(frozen=True)
class Listing:
    """The files below `root`, sorted by path, or what is in memory already (`frame`; then `files` is empty).

    `left_out`: what was found and not listed (symlinks that lead outside, devices), one line each. `tell`: hears, while they are
    read, what is done, which share of it, and a remark. `hashes`: the SHA-256 of files that were read whole, as their readers found
    it. `room`: seconds there are to read what is learned from, where a sample of it would do; None: all is wanted.
    """

    root: Path
    files: tuple[Path, ...] = ()
    frame: rows.Rows | None = None
    left_out: tuple[str, ...] = ()
    tell: Tell = field(default=_silent, repr=False, compare=False)
    hashes: dict[Path, bytes] = field(default_factory=dict, repr=False, compare=False)
    room: float | None = None

    @cached_property
    def endings(self) -> tuple[str, ...]:
        """Each file's ending, lower case with the dot ("" = none)."""
        return tuple(file.suffix.lower() for file in self.files)

    def of(self, endings: Container[str]) -> list[Path]:
        """The files with one of these endings."""
        return [file for file, ending in zip(self.files, self.endings) if ending in endings]

    def part(self, what: str, k: int, n: int) -> Callable[[float], None]:
        """What hears the share that is done of part k of n."""
        return lambda share: self.tell(what, (k + share) / n, "")

    def tables(self) -> list[rows.Rows]:
        """What is in memory, or each Parquet and Arrow file. Raises DataError for a damaged one, ResourceError without pyarrow."""
        if self.frame is not None:
            return [self.frame]
        return [rows.of_file(file, self.name_of(file)) for file in self.of(rows.FILES)]

    def look(self) -> rows.Rows | None:
        """The first of `tables`, for claims; None where there is none, other files are more, or it cannot be read."""
        found = self.of(rows.FILES)
        if self.frame is not None or 2 * len(found) <= len(self.files):
            return self.frame
        try:
            return rows.of_file(found[0], self.name_of(found[0]))
        except MorphogenError:
            return None

    def by_suffix(self) -> Counter[str]:
        """How many files have each ending, lower case with the dot ("" = none)."""
        return Counter(self.endings)

    def name_of(self, file: Path) -> str:
        """The path below `root` with forward slashes: what messages and metadata call the file."""
        whole, root = str(file), f"{self.root}{os.sep}"
        if whole.startswith(root):  # 200,000 files are quicker told by their text
            return whole[len(root) :].replace(os.sep, "/")
        try:
            return file.relative_to(self.root).as_posix()
        except ValueError:
            return file.as_posix()


@dataclass
class Skips:
    """Counts what could not be used, remembers the first five and why, and draws the line at 1 %."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: object, why: str) -> None:
        """Note one item left out."""
        self.count += 1
        if len(self.first) < 5:
            line = "".join(c if c.isprintable() else " " for c in f"{where}: {why}")
            self.first.append(line if len(line) <= 240 else f"{line[:180]} … {line[-50:]}")

    def check(self, total: int, limit: float = 0.01) -> None:
        """Raise DataError when more than `limit` of `total` items (and more than one) were skipped, or all of them."""
        if self.count and (self.count >= total or self.count > max(1.0, limit * total)):
            head = "nothing usable" if self.count >= total else f"{self.count} of {total} items cannot be used"
            raise DataError(head, where="; ".join(self.first), remedy="repair or remove them")


# ------------------------------------------------------------------- discovery
def scan(source: Any, tell: Tell = _silent) -> Listing:
    """List a file, a folder (hidden files left out, links followed only inside it), or wrap what is in memory (`rows.of_object`).

    Raises DataError when the path is missing, empty, unreadable or not a regular file or folder.
    """
    if not isinstance(source, str | os.PathLike):
        return _in_memory(source, tell)
    path = Path(source).expanduser()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError("no such file or folder", where=path, remedy=nearby(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be opened ({getattr(error, 'strerror', None) or error})", where=path, remedy="check the path") from None
    if stat.S_ISREG(mode):
        return Listing(path.parent, (path,), tell=tell)
    if not stat.S_ISDIR(mode):
        raise DataError("not a regular file or folder", where=path, remedy="devices and pipes are never read; give a file or a folder")
    files, left_out = _walk(path)
    if any(file.suffix.lower() == ".arrow" for file in files):
        files = [file for file in files if file.name not in ABOUT_ARROW]
    if not files:
        raise DataError("the folder holds no files", where=path, remedy="; ".join(left_out[:3]) or "put the data there")
    return Listing(path, tuple(files), None, tuple(left_out), tell)


def _in_memory(source: Any, tell: Tell) -> Listing:
    found = rows.of_object(source)
    if found is None:
        remedy = "give a path, a data frame, an array, or a list of rows, texts or pictures"
        raise DataError(f"cannot read data from {type(source).__name__}", remedy=remedy)
    return Listing(Path("."), frame=found, tell=tell)


def _walk(root: Path) -> tuple[list[Path], list[str]]:
    files: list[Path] = []
    left_out: list[str] = []
    inside, folders = root.resolve(), [root]
    while folders:  # never enters linked folders, so loops cannot happen
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not _litter(entry.name)]
        except OSError as error:
            left_out.append(f"{error.filename}: {error.strerror}")
            continue
        for entry in entries:
            linked = entry.is_symlink()
            if entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
            elif not linked and entry.is_file():
                files.append(folder / entry.name)
            elif linked and os.path.isdir(entry.path):
                left_out.append(f"{entry.path}: a link to a folder")
            elif why := _refusal(folder / entry.name, inside):
                left_out.append(f"{entry.path}: {why}")
            else:
                files.append(folder / entry.name)
    return sorted(files, key=lambda file: file.parts), sorted(left_out)


def _litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _refusal(path: Path, inside: Path) -> str:
    """Why a folder's entry is not read ("" = it is): checked before anything opens it, since opening a pipe hangs."""
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(inside):
            return "a link that leads outside the folder"
        return "" if stat.S_ISREG(path.stat().st_mode) else "not a regular file"
    except (OSError, RuntimeError):
        return "a broken link"


# ------------------------------------------------------------------- groups
def group_of(content: Any) -> str:
    """A stable 16-digit name of content (bytes, str, array, plain values): exact duplicates share it, on every machine."""
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(content, np.ndarray):
        digest.update(f"{content.dtype.str}{content.shape}".encode())
        digest.update(np.ascontiguousarray(content).tobytes())
    elif isinstance(content, bytes | bytearray | memoryview):
        digest.update(content)
    elif isinstance(content, str):
        digest.update(content.encode("utf-8", "surrogatepass"))
    else:
        digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def class_folders(listing: Listing, files: Iterable[Path]) -> dict[Path, str]:
    """file -> name of the folder it lies in, when at least two class folders exist ({} otherwise); train/test are no classes."""
    root = str(listing.root)
    above = {file: os.path.dirname(file) or "." for file in files}
    classes = {folder: os.path.basename(folder) for folder in set(above.values()) if folder != root}
    classes = {folder: name for folder, name in classes.items() if name.lower() not in SPLITS}
    return {file: classes[folder] for file, folder in above.items() if folder in classes} if len(set(classes.values())) > 1 else {}


# ------------------------------------------------------------------- text, JSON lines, metadata
def read_utf8(path: Path) -> str:
    """A whole text file; UTF-8 (with or without mark) or UTF-16 with its mark. Raises DataError naming the byte offset."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, remedy="check its permissions") from None
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"not valid {encoding.removesuffix('-sig')}"
        raise DataError(what, where=f"{path}: byte {error.start}", remedy="convert it to UTF-8") from None


def strict_json(text: str) -> Any:
    """Parse JSON and raise ValueError for what the standard parser lets pass: NaN, duplicate keys, nesting above 64."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) < len(items):
            raise ValueError("a key appears twice in one object")
        return dict(items)

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH}") from None
    if _depth(value) > DEPTH:
        raise ValueError(f"nested deeper than {DEPTH}")
    return value


def _depth(value: Any) -> int:
    level, depth = [value], 0  # level by level: no recursion, whatever the nesting
    while level := [node for node in level if isinstance(node, dict | list)]:
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
        depth += 1
    return depth


def json_lines(path: Path, skips: Skips) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a JSONL file; blank lines pass, bad ones go to `skips` as file:line."""
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_utf8(path)), 1):  # splitlines would also cut at U+2028
        if not line.strip():
            continue
        try:
            value = strict_json(line)
        except ValueError as error:
            skips.add(f"{path}:{number}", f"not JSON ({error})")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            skips.add(f"{path}:{number}", f"expected an object, found {type(value).__name__}")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(read_utf8(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise DataError("a column name appears twice", where=path, remedy="rename one of them")
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"not readable as CSV ({error})", where=f"{path}:{reader.line_num}", remedy="check its quotes") from None
    text = {*CAPTIONS, *GROUPS, "file_name", "label"}
    columns = {name: [row[i] for _, row in rows if i < len(row) and row[i]] for i, name in enumerate(header)}
    numeric = {name for name, values in columns.items() if name not in text and all(map(NUMBER.fullmatch, values))}
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{len(row)} cells under {len(header)} columns", where=f"{path}:{number}", remedy="check its commas and quotes")
        yield number, {name: _number(cell) if name in numeric else cell for name, cell in zip(header, row) if cell and name}


def _number(cell: str) -> int | float:
    return int(cell) if re.fullmatch(r"[+-]?\d+", cell) else float(cell)


def read_metadata(listing: Listing, skips: Skips) -> dict[Path, dict[str, Any]]:
    """file -> its row of the metadata.csv or metadata.jsonl beside or above it (the `file_name` column names it).

    Raises DataError when the column is missing; rows naming a file that is not listed go to `skips`.
    """
    listed = set(listing.files)
    found: dict[Path, dict[str, Any]] = {}
    for table in (file for file in listing.files if file.name.lower() in METADATA):
        rows = _csv_rows(table) if table.suffix.lower() == ".csv" else json_lines(table, skips)
        for number, row in rows:
            name = row.pop("file_name", None)
            if not isinstance(name, str):
                raise DataError("no `file_name`", where=f"{table}:{number}", remedy="add a file_name column with each file's relative path")
            file = Path(os.path.normpath(table.parent / name.replace("\\", "/")))
            if file not in listed:
                skips.add(f"{table}:{number}", f"there is no file '{name}'")
            else:
                found.setdefault(file, row)
    return found


def said_about(row: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(conditions, group) of a metadata row: caption, captions and text become "caption"; group or source names the group.

    Of several captions the first is taken; empty and nested values are left out.
    """
    cond: dict[str, Any] = {}
    group = ""
    for name, value in row.items():
        if isinstance(value, list) and value and name in CAPTIONS:
            value = value[0]
        if value is None or value == "" or isinstance(value, dict | list):
            continue
        if name in GROUPS:
            group = group or str(value)
        elif name in CAPTIONS:
            cond.setdefault("caption", str(value))
        else:
            cond[name] = value
    return cond, group
