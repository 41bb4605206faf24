"""A picture file as 8-bit pixels, whatever it holds and whatever its name says. No torch here.

The content decides the format, the header's size is checked before anything is decoded, and only six decoders of
Pillow are ever reached: every other one is attack surface without use.
"""
from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import sys
import warnings
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from morphogen.codecs import rows
from morphogen.codecs.workers import LEAST, each
from morphogen.errors import DataError

# What is wrong with a picture is said once, by the error; without a handler Python would print Pillow's log lines as well.
logging.getLogger("PIL").addHandler(logging.NullHandler())

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
            ".gif": "GIF", ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
REFUSED = {".svg": "svg", ".svgz": "svg", ".heic": "heif", ".heif": "heif", ".avif": "heif"}
MAX_PIXELS = 64_000_000
MAX_BYTES = 240 << 20  # to decode one picture
BAND = 1 << 18  # pixels converted at a time
DENSEST = {"PNG": 8 * 1032, "GIF": 2731}  # most pixels a byte can stand for: deflate with one bit a pixel, LZW's longest string
HEAD = 1024
WHOLE = 4 << 20  # bytes of a file that is read at once
WHY = {
    "empty": ("the file is empty", "copy it again"),
    "svg": ("SVG is a drawing in code, not pixels", "export it as PNG"),
    "heif": ("HEIC and AVIF pictures are not read", "convert them to PNG or JPEG"),
    "lfs": ("a Git LFS pointer, not the picture itself", "run `git lfs pull`"),
    "html": ("a web page under a picture's name", "download the picture again"),
    "": ("not a picture this tool reads", "convert it to PNG"),
}
SPOKEN = {"1": "black-and-white", "P": "palette", "PA": "palette", "LA": "grey with transparency", "La": "grey with transparency",
          "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "Lab", "HSV": "HSV", "F": "floating-point", "I": "32-bit"}
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


def head_of(path: Path | Kept) -> bytes:
    """The first 1,024 bytes. Raises DataError when the file cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise _closed(path, error) from None


def sniff(head: bytes) -> str:
    """The format by content: a name of FORMATS, or a key of WHY ("" = unknown)."""
    if not head:
        return "empty"
    for kind, start in (("PNG", b"\x89PNG\r\n\x1a\n"), ("JPEG", b"\xff\xd8\xff"), ("GIF", b"GIF87a"), ("GIF", b"GIF89a"),
                        ("TIFF", b"II*\0"), ("TIFF", b"MM\0*"), ("lfs", b"version https://git-lfs")):
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and len(head) > 26 and struct.unpack_from("<I", head, 14)[0] in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if head[4:8] == b"ftyp":
        return "heif"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "svg" if text.startswith(b"<") and b"<svg" in text else ""


def looks_like_picture(path: Path) -> bool:
    """Whether the content is of a format read here; False when it cannot be opened."""
    try:
        return sniff(head_of(path)) in FORMATS
    except DataError:
        return False


def header_size(kind: str, head: bytes) -> tuple[int, int] | None:
    """(width, height) as the first bytes claim them; None for JPEG and TIFF, which Pillow opens without decoding."""
    try:
        if kind == "PNG":
            return struct.unpack_from(">II", head, 16)
        if kind == "GIF":
            return struct.unpack_from("<HH", head, 6)
        if kind == "BMP":
            width, height = struct.unpack_from("<HH" if head[14] == 12 else "<ii", head, 18)
            return width, abs(height)
        if kind == "WEBP":
            return _webp_size(head)
    except struct.error:
        return 0, 0
    return None


def _webp_size(head: bytes) -> tuple[int, int]:
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def check_size(size: tuple[int, int], path: object) -> None:
    """Refuse pictures without pixels or with more than 64 million. Raises DataError."""
    width, height = size
    if width < 1 or height < 1:
        raise DataError(f"a picture of {width}×{height} pixels", where=path, remedy="it has no content")
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}×{height} pixels are more than {MAX_PIXELS // 10**6} million", where=path, remedy="scale it down first")


def check_claim(kind: str, head: bytes, size: tuple[int, int], held: int, path: object) -> None:
    """Compare the pixels a header claims with what `held` bytes can hold. Raises DataError."""
    pixels = size[0] * size[1]
    most = DENSEST[kind] * held if kind in DENSEST else pixels
    if kind == "BMP" and head[14] != 12 and head[30:34] in (bytes(4), b"\3\0\0\0"):  # not compressed
        most = 8 * held // max(1, int.from_bytes(head[28:30], "little"))
    if pixels > max(most, 1 << 20):  # a GIF's first frame may cover a corner of a small canvas only
        raise DataError(f"{size[0]}×{size[1]} pixels cannot be in {held:,} bytes", where=path, remedy="the file is damaged: copy it again")


def check_png_data(path: Path | Kept) -> None:
    """Compare the checksums of a PNG's pixel chunks, which Pillow leaves unread. Raises DataError at the first that is wrong."""
    with path.open("rb") as file:
        file.seek(8)
        while len(start := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", start)
            if name != b"IDAT":
                file.seek(length + 4, 1)
                continue
            found = zlib.crc32(name)
            while length and (block := file.read(min(length, 1 << 20))):
                found, length = zlib.crc32(block, found), length - len(block)
            if file.read(4) != found.to_bytes(4, "big"):
                raise DataError("damaged PNG (wrong checksum)", where=path, remedy="copy or convert it again")


class Kept:
    """A file in memory, as far as `read_picture` looks at one; `where` is what messages call it."""

    def __init__(self, data: bytes, where: str, suffix: str = "") -> None:
        self.data, self.where, self.suffix = data, where, suffix

    def open(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)

    def stat(self) -> os.stat_result:
        return os.stat_result((0, 0, 0, 0, 0, 0, len(self.data), 0, 0, 0))

    def __str__(self) -> str:
        return self.where


Read = tuple[np.ndarray, list[str], bytes | None]


def read_each(paths: Sequence[Path], shrink: int = 0, least: int = LEAST) -> Iterator[Read | DataError]:
    """What `read_once` says of each file, or why it cannot be read; on all cores when there are more than `least` files."""
    if len(paths) <= least:
        for path in paths:
            try:
                yield read_once(path, shrink)
            except DataError as error:
                yield error
        return
    for data, *said in each(_read_many, list(map(str, paths)), least=least, chunk=250, shrink=shrink):
        if data is None:
            yield DataError(said[0], remedy=said[1])
        else:
            shape, notes, digest = said
            yield np.frombuffer(b64decode(data), np.uint8).reshape(shape).copy(), notes, bytes.fromhex(digest) or None


def read_once(path: Path, shrink: int = 0) -> Read:
    """`read_picture` of a file, and the SHA-256 of its bytes; a large one is not read whole, and has none. Raises DataError."""
    name = str(path)
    try:
        with open(name, "rb", buffering=0) as file:
            data = file.read(WHOLE + 1)
    except OSError as error:
        raise _closed(path, error) from None
    if len(data) > WHOLE:
        return *read_picture(path, shrink), None
    return *read_picture(Kept(data, name, path.suffix), shrink), sha256(data).digest()


def _read_many(names: Sequence[str], shrink: int) -> list[Any]:
    out: list[Any] = []
    for found in read_each([Path(name) for name in names], shrink, len(names)):
        if isinstance(found, DataError):
            out.append([None, found.what, found.remedy])
        else:
            pixels, notes, digest = found
            out.append([b64encode(pixels.tobytes()).decode(), pixels.shape, notes, digest.hex() if digest else ""])
    return out


def _closed(path: Path | Kept, error: OSError) -> DataError:
    return DataError(f"cannot be read ({error.strerror})", where=path, remedy="check its permissions")


def picture_of(cell: Any, where: str, shrink: int = 0) -> tuple[np.ndarray, list[str]]:
    """`read_picture` of a cell that `rows.is_picture`: pixels, a Pillow image, or a file as bytes. Raises DataError."""
    data = rows.bytes_of(cell)
    if data is not None:
        return read_picture(Kept(data, where), shrink)
    if isinstance(cell, np.ndarray):
        return cell if cell.ndim == 3 else cell[..., None], []
    notes: list[str] = []
    if not isinstance(cell, Image.Image):
        raise DataError("no picture", where=where, remedy="give uint8 pixels, a Pillow image or the bytes of a file")
    check_size(cell.size, where)
    return _upright_pixels(cell.copy(), shrink, notes), list(dict.fromkeys(notes))


def read_picture(path: Path | Kept, shrink: int = 0) -> tuple[np.ndarray, list[str]]:
    """(uint8 (H, W, C) with C in {1, 3, 4}, what was converted) of the first frame, turned upright by its EXIF tag.

    `shrink`: a larger shorter side is reduced to it (0 = never). Raises DataError for all that is not a whole picture.
    """
    head = head_of(path)
    kind = sniff(head)
    if kind not in FORMATS:
        what, remedy = WHY[kind]
        raise DataError(what, where=path, remedy=remedy)
    size = header_size(kind, head)
    if size is not None:
        check_size(size, path)
        check_claim(kind, head, size, path.stat().st_size, path)
    notes = ["16-bit pictures became 8-bit"] if kind == "PNG" and head[24:25] == b"\x10" else []
    if SUFFIXES.get(path.suffix.lower(), kind) != kind:
        notes.append("files are not of the kind their ending says")
    if kind == "PNG":
        check_png_data(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # Pillow only warns of bombs and odd tags; the checks here decide
            warnings.simplefilter("ignore")
            with _hushed() if kind == "TIFF" else contextlib.nullcontext(), Image.open(file, formats=FORMATS) as image:
                check_size(image.size, path)
                return _upright_pixels(image, shrink, notes), list(dict.fromkeys(notes))
    except DataError as error:
        raise DataError(error.what, where=path, remedy=error.remedy) from None
    except Exception as error:  # hostile bytes make decoders raise anything, struct.error and RecursionError included
        raise DataError(f"damaged {kind} ({error})", where=path, remedy="copy or convert it again") from None


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """libtiff writes its complaints to descriptor 2 past everything: they go nowhere, the error says it in one line."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _upright_pixels(image: Image.Image, shrink: int, notes: list[str]) -> np.ndarray:
    if _has_more_frames(image):
        notes.append("animations or several pages: the first was taken")
    hidden = _hidden(image)
    if shrink:
        image.draft(None, (shrink, shrink))  # JPEG decodes straight to 1/2, 1/4 or 1/8: never below what is asked
    factor = max(1, min(image.size) // (2 * shrink)) if shrink else 1
    _check_memory(image, factor, hidden)
    turn = TURNS.get(_orientation(image))  # of a PNG it may stand behind the pixels, and is looked for there
    image.load()
    width, height = image.width / factor, image.height / factor
    image = _in_bands(image, factor, notes)
    if shrink and min(width, height) > shrink:
        scale = shrink / min(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, box=(0, 0, width, height))
    if turn is not None:
        image = image.transpose(turn)
        notes.append("pictures were turned upright by their EXIF tag")
    pixels = np.array(image, np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def _hidden(image: Image.Image) -> int:
    """Bytes a decoder holds beside the pixels: all coefficients of a progressive JPEG, three more copies of a WebP."""
    pixels = image.width * image.height
    if image.format == "WEBP":
        return 12 * pixels
    layers = [layer[1] * layer[2] for layer in getattr(image, "layer", [])]  # sampling, across times down
    return 2 * pixels * sum(layers) // max(layers) if layers and image.info.get("progressive") else 0


def _check_memory(image: Image.Image, factor: int, hidden: int) -> None:
    """Refuse before decoding what would take more than MAX_BYTES, however little of it is kept. Raises DataError."""
    pixels = image.width * image.height
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    if hidden + stored * pixels + 12 * pixels // factor**2 > MAX_BYTES:
        what = f"{image.width}×{image.height} pixels would take more than {MAX_BYTES >> 20} MiB to read"
        raise DataError(what, remedy="scale it down first")


def _in_bands(image: Image.Image, factor: int, notes: list[str]) -> Image.Image:
    """L, RGB or RGBA at 1/factor of the size (box means), converted a band of rows at a time: a second whole copy is never held."""
    mode, convert = _to_eight_bit(image, notes)
    if factor == 1 and mode == image.mode:
        return image
    out = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * max(1, BAND // (factor * image.width))
    for top in range(0, image.height, rows):
        band = convert(image.crop((0, top, image.width, min(image.height, top + rows))))
        out.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
    return out


def _has_more_frames(image: Image.Image) -> bool:
    try:
        if image.format != "TIFF":
            return bool(getattr(image, "is_animated", False))
        image.seek(1)  # counting TIFF pages would walk them all
        image.seek(0)
        return True
    except Exception:  # a later page may be damaged or missing: only the first counts
        if image.format == "TIFF":
            image.seek(0)
        return False


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _to_eight_bit(image: Image.Image, notes: list[str]) -> tuple[str, Callable[[Image.Image], Image.Image]]:
    """(L, RGB or RGBA, what turns a part of the picture into that)."""
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return "L", _deep_grey(image, notes)
    clear = image.has_transparency_data
    target = "RGBA" if clear else "L" if mode in ("1", "L") else "RGB"
    if mode == "P" and not clear and image.getpalette("RGB") is None:
        target = "L"
    if mode in SPOKEN:
        notes.append(f"{SPOKEN[mode]} pictures became {target}")
    return target, lambda part: part if part.mode == target else part.convert(target)


def _deep_grey(image: Image.Image, notes: list[str]) -> Callable[[Image.Image], Image.Image]:
    low, high = (float(v) for v in image.getextrema())  # type: ignore[arg-type]
    scale, shift = 1.0, 0.0
    if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high <= 65535):
        scale = 1 / 257
        notes.append("16-bit pictures became 8-bit")
    else:
        notes.append(f"{SPOKEN[image.mode]} pictures became 8-bit")
        if image.mode == "F" and low >= 0 and high <= 1:
            scale = 255.0
        elif low < 0 or high > 255:
            scale, shift = 255 / max(high - low, 1e-12), low

    def convert(part: Image.Image) -> Image.Image:
        values = np.asarray(part).astype(np.float64)
        if not np.isfinite(values).all():
            raise DataError("holds values that are no numbers", remedy="replace NaN and infinities")
        return Image.fromarray(np.rint((values - shift) * scale).astype(np.uint8))

    return convert
