"""Pictures <-> Array (C, H, W) in [-1, 1]. No torch here."""
from __future__ import annotations

import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from morphogen import files, spaces
from morphogen.codecs.framing import as_image, channels_of, pooled, resize, snap
from morphogen.codecs.in_time import in_rounds
from morphogen.codecs.pictures import FORMATS, REFUSED, SUFFIXES, Read, looks_like_picture, picture_of, read_each, read_picture
from morphogen.codecs.rows import numbered, picture_column
from morphogen.codecs.sources import METADATA, Listing, Skips, class_folders, group_of, read_metadata, read_utf8, said_about
from morphogen.contracts import Claim, Given, Item
from morphogen.errors import DataError, UsageError, suggest
from morphogen.spaces import Array

SYMMETRIES = ("flip_x", "rot90", "shift")
LARGEST = 1024
FEW_LEVELS = 64
SEEN = 1000
FIRST = 2000  # pictures that show how long the others will take


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How pictures become samples; 0 = found in the data."""

    size: int = 0
    "Height and width in pixels."
    height: int = 0
    "Height where it differs from the width."
    width: int = 0
    "Width where it differs from the height."
    limit: int = 64
    "Longest side chosen when the size is found in the data."
    channels: int = 0
    "1 grey, 3 colour, 4 colour with transparency."
    pictures: int = 0
    "Pictures learned from at most, a uniform sample of more; 0: as many as can be read in 15 % of --minutes."
    symmetry: tuple[str, ...] = ()
    "What leaves a picture as likely as before: flip_x, rot90, shift."


class ImageCodec:
    """Pictures of one size: uint8 (H, W, C) <-> float32 (C, H, W) in [-1, 1].

    With transparency, colours are premultiplied by alpha, so that what nobody can see carries nothing to learn.
    """

    name: ClassVar[str] = "image"
    Config: ClassVar[type] = ImageConfig
    quantised: ClassVar[bool] = True  # grey levels are steps: a density over them is no probability

    def __init__(self, config: ImageConfig | None = None) -> None:
        self.config = config or ImageConfig()
        self.space: spaces.Space = Array((0, 0, 0))
        self.levels: list[list[int]] = [[], []]
        self.skips = Skips()
        self.notes: list[str] = []
        _check(self.config)

    # ---------------------------------------------------------------- files
    @staticmethod
    def claims(listing: Listing) -> Claim:
        """The share of picture files among all but metadata and captions; a column of pictures in rows."""
        if (table := listing.look()) is not None:
            column = picture_column(table)
            return Claim(0.99 if column else 0.0, f"pictures in column '{column}'" if column else "rows without pictures")
        if not listing.files:
            return Claim(0.0, "no files")
        pictures = listing.of({*SUFFIXES, *REFUSED})
        if not pictures:
            pictures = [file for file in listing.files[:20] if not file.suffix and looks_like_picture(file)]
        stems = {file.with_suffix("") for file in pictures} if (texts := listing.of({".txt"})) else set()
        about = listing.of({Path(name).suffix for name in METADATA})
        beside = sum(f.name.lower() in METADATA for f in about) + sum(f.with_suffix("") in stems for f in texts)
        total = len(listing.files) - beside
        return Claim(len(pictures) / max(total, 1), f"{len(pictures):,} of {total:,} files are pictures")

    def read(self, listing: Listing) -> Iterator[Item]:
        """Yield every usable picture with its conditions; the rest goes to `skips`, conversions to `notes`.

        Raises DataError at the end when nothing, or less than 99 %, was usable.
        """
        self.skips, self.notes = Skips(), []
        if listing.look() is not None:
            yield from self._read_rows(listing)
            return
        paths = [file for file, ending in zip(listing.files, listing.endings) if _is_picture(file, ending)]
        if not paths:
            kinds = ", ".join(f"{count} {suffix or 'without ending'}" for suffix, count in listing.by_suffix().most_common(4))
            raise DataError("no pictures", where=listing.root, remedy=f"expected {', '.join(FORMATS)}; found {kinds or 'none'}")
        if listing.left_out:
            self.notes.append(f"{len(listing.left_out):,} entries were not read, first {listing.left_out[0]}")
        unmatched = Skips()
        about = read_metadata(listing, unmatched)
        unmatched.check(len(about) + unmatched.count)
        classes = class_folders(listing, paths)
        texts = set(listing.of({".txt"}))
        found: Counter[str] = Counter()
        read = 0
        for path, picture in self._sampled(paths, listing):
            read += 1
            try:
                if isinstance(picture, DataError):
                    raise picture
                said = read_utf8(path.with_suffix(".txt")).strip() if texts and path.with_suffix(".txt") in texts else ""
            except DataError as error:
                self.skips.add(listing.name_of(path), f"{error.what}: {error.remedy}")
                continue
            raw, notes, digest = picture
            if digest:
                listing.hashes[path] = digest
            found.update(notes)
            cond, group = said_about(about.get(path, {})) if about else ({}, "")
            if classes and path in classes:
                cond.setdefault("label", classes[path])
            if said:
                cond.setdefault("caption", said)
            yield Item(raw, cond, group or group_of(raw), listing.name_of(path))
        self.notes += [f"{count:,} {note}" for note, count in found.items()]
        self.skips.check(read)

    def _sampled(self, paths: list[Path], listing: Listing) -> Iterator[tuple[Path, Read | DataError]]:
        """What is in the files, in order; where the listing leaves little time to read them, in a uniform sample of them."""
        n, most, learnt = len(paths), self.config.pictures, listing.room is not None
        timed = learnt and not most and n > FIRST and listing.room != math.inf
        some = in_rounds(n, listing.room if timed else None, FIRST)
        if learnt and 0 < most < n:
            some = [np.random.default_rng(0).permutation(n)[:most]]  # what `in_rounds` drew when the number was found
        found: dict[int, Read | DataError] = {}
        begun = time.monotonic()
        for ids in some:
            for i, picture in zip(ids.tolist(), read_each([paths[i] for i in ids], self._kept)):
                if len(found) % 64 == 0:
                    rate = len(found) / (time.monotonic() - begun + 1e-9)
                    listing.tell("reading pictures", len(found) / n, f"{len(found):,} of {n:,}, {rate:,.0f} a second")
                found[i] = picture
        if timed:
            self.config = replace(self.config, pictures=len(found))
        if len(found) < n:
            why = "more --minutes, more pictures" if timed else "--set codec.pictures"
            self.notes.append(f"{n:,} pictures, learning from a uniform sample of {len(found):,} ({why})")
        for i in sorted(found):
            yield paths[i], found[i]

    def _read_rows(self, listing: Listing) -> Iterator[Item]:
        """Pictures in a column; what stands beside them is said about them."""
        tables, total, kept = listing.tables(), 0, self._kept
        column = picture_column(tables[0])
        if not column:
            raise DataError("no column of pictures", where=listing.root, remedy="give uint8 pixels, Pillow images or files as bytes")
        found: Counter[str] = Counter()
        for place, row in numbered(tables):
            total += 1
            try:
                raw, notes = picture_of(row.pop(column, None), place, kept)
            except DataError as error:
                self.skips.add(place, f"{error.what}: {error.remedy}")
                continue
            found.update(notes)
            cond, group = said_about(row)
            yield Item(raw, cond, group or group_of(raw), place)
        self.notes += [f"{count:,} {note}" for note, count in found.items()]
        self.skips.check(total)

    @property
    def _kept(self) -> int:
        """The shorter side beyond which a picture is shrunk while it is read."""
        return 2 * (max(self.config.size, self.config.height, self.config.width) or self.config.limit)

    def read_given(self, path: Path) -> list[Path]:
        """The picture files that `generate --given` fills."""
        return [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)

    def write(self, raws: Sequence[np.ndarray], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]:
        """Write the new folder `out`: 00000.png ... and metadata.jsonl (file_name and each one's meta). Returns the pictures."""
        out = Path(out)
        names = [f"{i:05d}.png" for i in range(len(raws))]
        with files.new_folder(out) as folder, (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for i, (raw, name) in enumerate(zip(raws, names)):
                (folder / name).write_bytes(_png(raw))
                row = {"file_name": name, **(meta[i] if i < len(meta) else {})}
                lines.write(json.dumps({key: _plain(value) for key, value in row.items()}, ensure_ascii=False) + "\n")
        return [out / name for name in names]

    # ---------------------------------------------------------------- learning
    def fit(self, items: Sequence[Item]) -> None:
        """Find size, channels and grey levels. Raises DataError when there is nothing, or nothing that varies."""
        raws = [_checked(item.raw) for item in items]
        if not raws:
            raise DataError("no pictures to learn from", remedy="give at least two")
        if len(raws) == 1:
            self.notes.append("a single picture: all that can be learned is to copy it")
        elif all(raw.shape == raws[0].shape and np.array_equal(raw, raws[0]) for raw in raws):
            raise DataError(f"no variation: all {len(raws):,} pictures are identical", remedy="add different ones")
        height, width = self._find_size(raws)
        if "rot90" in self.config.symmetry and height != width:
            raise UsageError(f"symmetry rot90 with {height}×{width} pictures", remedy="choose one size for both sides or leave it out")
        channels = self.config.channels or _find_channels(raws)
        self.space = Array((channels, height, width), tuple(self.config.symmetry))
        if len({raw.shape[:2] for raw in raws} | {(height, width)}) > 1:
            self.notes.append(f"pictures were resized and cropped to {height}×{width}")
        if channels < 4 and any(raw.shape[2] == 4 and raw[..., 3].min() < 255 for raw in raws):
            self.notes.append("transparent pictures were put on white")
        self.levels = self._find_levels(raws)

    def _find_size(self, raws: list[np.ndarray]) -> tuple[int, int]:
        config, sizes = self.config, np.array([raw.shape[:2] for raw in raws])
        height, width = (float(side) for side in np.median(sizes, axis=0))
        equal = bool((sizes == sizes[0]).all())
        longest = max(height, width)
        if not equal or longest > config.limit:
            scale = min(1.0, config.limit / longest)
            height, width = (min(max(8, 8 * round(side * scale / 8)), max(config.limit, 1)) for side in (height, width))
        return config.height or config.size or int(height), config.width or config.size or int(width)

    def _find_levels(self, raws: list[np.ndarray]) -> list[list[int]]:
        """[colour, alpha] values when the data have few ([] = all 256): sketches and old sensors, so outputs have them too."""
        counts = np.zeros((2, 256), np.int64)
        for i in range(0, len(raws), -(-len(raws) // SEEN)):
            pixels = self._framed(raws[i])
            if pixels.shape[2] == 4:
                counts[1] += np.bincount(pixels[..., 3].ravel(), minlength=256)
                pixels = pixels[pixels[..., 3] > 0][:, :3]
            counts[0] += np.bincount(pixels.ravel(), minlength=256)
        found = []
        for count in counts:
            present = np.flatnonzero(count)
            few = 2 <= len(present) <= FEW_LEVELS and count.sum() >= 50 * len(present)  # a few pixels never show all levels
            found.append([int(v) for v in present] if few else [])
        return found

    # ---------------------------------------------------------------- one picture
    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a sample."""
        return self.space.shape  # type: ignore[union-attr, return-value]

    def _framed(self, raw: np.ndarray) -> np.ndarray:
        """At the samples' size and channels, uint8: cropped at the centre to their proportions, then resized."""
        channels, height, width = self.shape
        if raw.shape[2] == 4 and channels < 4:
            alpha = raw[..., 3:].astype(np.float32) / 255
            raw = np.rint(raw[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return channels_of(resize(raw, height, width), channels)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C) of any size -> float32 (C, H, W) in [-1, 1]."""
        return self._scaled(self._framed(_checked(raw)))

    @staticmethod
    def _scaled(pixels: np.ndarray) -> np.ndarray:
        """uint8 (..., H, W, C) -> float32 (..., C, H, W)."""
        x = pixels.astype(np.float32) / 255
        if pixels.shape[-1] == 4:
            x[..., :3] *= x[..., 3:]
        return np.ascontiguousarray(np.moveaxis(x, -1, -3)) * 2 - 1

    def pack(self, items: Sequence[Item]) -> list[np.ndarray]:
        """uint8 (H, W, C) pixels at the samples' size; pictures that have it already are not copied."""
        return [self._framed(_checked(item.raw)) for item in items]

    def unpack(self, packed: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
        """(B, C, H, W) samples of some of what `pack` made."""
        return self._scaled(np.stack([packed[i] for i in ids.tolist()]))

    def decode(self, x: Any) -> np.ndarray:
        """float (C, H, W) -> uint8 (H, W, C) on the grey levels the data have. Raises DataError for NaN."""
        values = np.asarray(x, np.float32).transpose(1, 2, 0) / 2 + 0.5
        if not np.isfinite(values).all():
            raise DataError("the model drew values that are no numbers", remedy="train again with a lower learning rate")
        values = values.clip(0, 1)
        if values.shape[2] == 4:
            alpha = values[..., 3:]
            colour = np.where(alpha > 1e-3, values[..., :3] / np.maximum(alpha, 1e-3), 0)
            solid = snap(alpha, self.levels[1])
            return np.concatenate([snap(colour, self.levels[0]) * (solid > 0), solid], 2)
        return snap(values, self.levels[0])

    def given(self, raw: Any) -> Given:
        """A picture (or its path) whose transparent pixels are unknown: x (C, H, W), known (1, H, W)."""
        channels, height, width = self.shape
        pixels = _checked(read_picture(Path(raw), 4 * max(height, width))[0] if isinstance(raw, str | Path) else raw)
        resized = resize(pixels, height, width)
        known = np.ones((height, width), bool)
        if resized.shape[2] == 4:
            known = resized[..., 3] >= (1 if resized is pixels else 128)  # resizing smears the edge of what is known
            resized = resized if channels == 4 else resized[..., :3]  # not put on white: the colours are what is known
        x = self._scaled(channels_of(resized, channels))
        return Given(np.where(known[None], x, np.float32(0)), known[None])

    # ---------------------------------------------------------------- looking at many
    def preview(self, raws: Sequence[np.ndarray]) -> dict[str, Any]:
        """{"kind": "image", "png": [bytes]}."""
        return {"kind": "image", "png": [_png(raw) for raw in raws]}

    @property
    def feature_name(self) -> str:
        """What `features` are, for reports."""
        return "pixels at up to 16×16 and 4×4 with gradient orientations (no pretrained network)"

    def features(self, raws: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (N, D): area-averaged pixels at two scales and 8 gradient orientations in up to 4×4 cells."""
        if not len(raws):
            raise UsageError("features of no pictures", remedy="give at least one")
        x = np.stack([self.encode(raw) for raw in raws])
        height, width = x.shape[2:]
        grey = x.mean(1)
        down, across = np.gradient(grey, axis=1) if height > 1 else grey * 0, np.gradient(grey, axis=2) if width > 1 else grey * 0
        strength = np.hypot(down, across)
        turn = (np.arctan2(down, across) / (2 * np.pi) + 1) % 1 * 8
        # Each gradient is shared between its two nearest orientations, so that a small rotation changes little.
        shares = [strength * np.maximum(0, 1 - np.minimum((turn - k) % 8, (k - turn) % 8)) for k in range(8)]
        parts = [pooled(x, 16), pooled(x, 4), 4 * pooled(np.stack(shares, 1), 4)]
        return np.concatenate([part.reshape(len(x), -1) for part in parts], 1).astype(np.float32)

    def size_of(self, raw: np.ndarray) -> tuple[int, str]:
        """(numbers in one sample, "dimension"): the unit of bits per dimension."""
        return int(np.prod(self.shape)), "dimension"

    # ---------------------------------------------------------------- saved
    def state(self) -> dict[str, Any]:
        """What `fit` found, as JSON."""
        return {"space": spaces.to_json(self.space), "levels": self.levels}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.space = spaces.from_json(state["space"])
        self.levels = [[int(v) for v in part] for part in state["levels"]]


def _check(config: ImageConfig) -> None:
    for name, least in (("size", 0), ("height", 0), ("width", 0), ("limit", 8)):
        if not least <= getattr(config, name) <= LARGEST:
            raise UsageError(f"image {name} = {getattr(config, name)}", remedy=f"choose {least} to {LARGEST}")
    if config.channels not in (0, 1, 3, 4):
        raise UsageError(f"image channels = {config.channels}", remedy="choose 1 grey, 3 colour, 4 with transparency, or 0 to find out")
    for name in config.symmetry:
        if name not in SYMMETRIES:
            raise UsageError(f"unknown symmetry '{name}'", remedy=suggest(name, SYMMETRIES))


def _is_picture(path: Path, suffix: str) -> bool:
    """By its ending in lower case, or by content when the ending says nothing we know (a text file is not opened)."""
    if suffix in SUFFIXES or suffix in REFUSED:
        return True
    if path.name.lower() in METADATA or suffix in (".txt", ".md", ".csv", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".html", ".py"):
        return False
    return looks_like_picture(path)


def _checked(raw: Any) -> np.ndarray:
    pixels = np.asarray(raw)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise DataError(f"a picture of {pixels.dtype} {pixels.shape}", remedy="expected uint8 (height, width, 1 or 3 or 4)")
    return pixels


def _find_channels(raws: list[np.ndarray]) -> int:
    if any(raw.shape[2] == 4 and raw[..., 3].min() < 255 for raw in raws):
        return 4
    grey = all(raw.shape[2] == 1 or np.array_equal(raw[..., :2], raw[..., 1:3]) for raw in raws)
    return 1 if grey else 3


def _png(raw: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    as_image(_checked(raw)).save(buffer, "PNG")
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """JSON-able: numpy to plain numbers, what is not finite to null, anything else to its text."""
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return None if isinstance(value, float) else str(value)
    return value
