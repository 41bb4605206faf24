"""From bytes of a file to the passages a model learns: decoding, what kind of text it is, cutting. No torch here."""
from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from morphogen.codecs.text.tokens import to_bytes
from morphogen.errors import DataError, UsageError

MAGIC = {
    b"\x1f\x8b\x08": "a gzip archive", b"PK\x03\x04": "a zip archive (or an office document)", b"%PDF-": "a PDF document",
    b"\x89PNG\r\n": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF87a": "a GIF picture", b"GIF89a": "a GIF picture",
    b"BZh91AY&SY": "a bzip2 archive", b"\xfd7zXZ\x00": "an xz archive", b"(\xb5/\xfd": "a Zstandard archive",
    b"7z\xbc\xaf": "a 7z archive", b"\x7fELF": "a program", b"SQLite format 3\x00": "an SQLite database", b"GGUF": "a GGUF model",
    b"version https://git-lfs": "a git-LFS pointer (the real file was not downloaded)", b"\xd0\xcf\x11\xe0": "an old office document",
    b"OggS": "an Ogg recording", b"ID3": "an MP3 recording", b"PAR1": "a Parquet table",
}
MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\x00\x00", "utf-32-le"), (b"\x00\x00\xfe\xff", "utf-32-be"),
         (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
CONTROLS = bytes(b for b in range(32) if b not in b"\t\n\r\x0b\x0c\x1b")
SENTENCE = (b". ", b"! ", b"? ", "。".encode(), "！".encode(), "？".encode())
BLOCKS = 50
MANY = 20  # fewer lines or paragraphs than this do not show a pattern


def kind_of(data: bytes) -> str:
    """What a file that is not text is ("" = may be text)."""
    for magic, what in MAGIC.items():
        if data.startswith(magic):
            return what
    if data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"WEBP", b"AVI "):
        return f"a {data[8:12].decode().strip()} file"
    return ""


def decode(data: bytes, encoding: str, where: object) -> str:
    """Text of a file with newlines as "\\n"; a byte-order mark wins over `encoding` and is dropped.

    Raises DataError (naming the byte) for what is not text, UsageError for an unknown encoding.
    """
    what = kind_of(data)
    if what:
        raise DataError(f"this is {what}, not text", where=where, remedy="unpack or convert it first")
    for mark, name in MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark):], name
            break
    else:
        _refuse_binary(data, encoding, where)
    try:
        text = data.decode(encoding)
    except LookupError:
        raise UsageError(f"unknown encoding '{encoding}'", remedy="say utf-8, latin-1, cp1252, utf-16-le, shift_jis …") from None
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        remedy = "say --set codec.encoding=latin-1 (or cp1252, shift_jis …), or convert the file to UTF-8"
        raise DataError(f"not valid {encoding} at byte {start:,} (0x{data[start:start + 1].hex()})", where=where, remedy=remedy) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_binary(data: bytes, encoding: str, where: object) -> None:
    """UTF-16 without its mark shows as NUL in every second byte; other files full of control bytes are no text."""
    head = data[:65536]
    if encoding.lower().startswith(("utf-16", "utf_16", "utf-32", "utf_32")) or not head:
        return
    nuls = [head[side::2].count(0) / max(1, len(head[side::2])) for side in (0, 1)]
    if len(head) >= 4 and max(nuls) > 0.3 and min(nuls) < 0.05:
        name = "utf-16-le" if nuls[1] > nuls[0] else "utf-16-be"
        raise DataError("this looks like UTF-16 without a byte-order mark", where=where, remedy=f"say --set codec.encoding={name}")
    controls = len(head) - len(head.translate(None, CONTROLS))
    if controls > 0.02 * len(head):
        raise DataError(f"this is binary data, not text ({controls / len(head):.0%} control bytes)", where=where, remedy="give text files")


def shape_of(text: str) -> str:
    """How a text is organised: "lines" (one entry a line), "paragraphs" (entries between blank lines) or "prose".

    Lines: many short ones, hardly a blank one, neither indented like code nor wrapped at a fixed width like a book.
    Paragraphs: many short ones, not filled line by line like a book's. The rest is prose.
    """
    head = text[:1_000_000]
    lines = head.strip().split("\n")
    full = [line for line in lines if line.strip()]
    blank = len(lines) - len(full)
    if len(full) >= MANY and blank <= 0.02 * len(full):
        lengths = sorted(map(len, full))
        half, most = lengths[len(full) // 2], lengths[int(0.95 * (len(full) - 1))]
        indented = sum(line[0] in " \t" for line in full)
        stops = sum(line.rstrip()[-1] in ".!?\"'”:;}{)>" for line in full)
        wrapped = 50 <= most <= 100 and half >= 0.85 * most and stops < 0.5 * len(full)
        return "lines" if half <= 300 and indented <= 0.1 * len(full) and not wrapped else "prose"
    parts = paragraphs(head)
    if len(parts) >= MANY:
        lengths = sorted(map(len, parts))
        half, most = lengths[len(parts) // 2], lengths[int(0.95 * (len(parts) - 1))]
        if half <= 250 and most <= 1200 and not _flows(parts, half):
            return "paragraphs"
    return "prose"


def _flows(parts: list[str], half: int) -> bool:
    """Whether paragraphs look like a book's: lines filled to one width, or one long line each."""
    inner = sorted(len(line) for part in parts for line in part.split("\n")[:-1])
    if len(inner) < 0.1 * len(parts):
        return half > 150
    width = inner[int(0.95 * (len(inner) - 1))]
    return width >= 50 and sum(n > 0.8 * width for n in inner) > 0.7 * len(inner)


def paragraphs(text: str) -> list[str]:
    """The parts between blank lines."""
    return [part for part in re.split(r"\n(?:[^\S\n]*\n)+", text.strip("\n")) if part.strip()]


def block(name: str, i: int, n: int) -> str:
    """One of some fifty contiguous parts of a file: neighbours share a group, so a split does not leak them."""
    return f"{name}#{i * min(BLOCKS, n) // n:02d}"


def entries(text: str, shape: str, budget: int) -> tuple[list[str], int]:
    """(passages, how many entries had to be cut): one line, one paragraph, or prose packed up to `budget` bytes."""
    if shape == "prose":
        return packed(text, budget), 0
    whole = [line.rstrip() for line in text.split("\n") if line.strip()] if shape == "lines" else paragraphs(text)
    out: list[str] = []
    cuts = 0
    for entry in whole:
        parts = [entry] if len(to_bytes(entry)) <= budget else packed(entry, budget)
        cuts += len(parts) > 1
        out += parts
    return out, cuts


def packed(text: str, budget: int) -> list[str]:
    """Passages of at most `budget` bytes made of whole paragraphs; a longer paragraph of whole lines; a longer line of pieces."""
    out: list[str] = []
    for part in _pack(paragraphs(text), "\n\n", budget):
        if len(to_bytes(part)) <= budget:
            out.append(part)
            continue
        for line in _pack(part.split("\n"), "\n", budget):
            out += [line] if len(to_bytes(line)) <= budget else _cut(line, budget)
    return [part for part in out if part.strip()]


def _pack(parts: Iterable[str], glue: str, budget: int) -> list[str]:
    """Neighbours joined while they fit; a part that is too long alone stays alone."""
    out: list[str] = []
    group: list[str] = []
    size = 0
    for part in parts:
        n = len(to_bytes(part))
        if group and size + len(glue) + n > budget:
            out.append(glue.join(group))
            group, size = [], 0
        size += n + (len(glue) if group else 0)
        group.append(part)
    return [*out, glue.join(group)] if group else out


def _cut(line: str, budget: int) -> list[str]:
    """Pieces of a long line: after a sentence, else after a space, else between characters. Linear in the length."""
    data, out, start = to_bytes(line), [], 0
    while len(data) - start > budget:
        window = data[start: start + budget]
        half = budget // 2  # a piece is at least half full, so there are at most twice as many as needed
        at = max((window.rfind(mark, half) + len(mark) for mark in SENTENCE if window.find(mark, half) >= 0), default=0)
        at = at or window.rfind(b" ", half) + 1
        if not at:
            at = budget
            while at > 1 and data[start + at] & 0xC0 == 0x80:  # not inside a character
                at -= 1
        out.append(data[start: start + at].decode("utf-8", "replace"))
        start += at
    return [*out, data[start:].decode("utf-8", "replace")]


def read_text(path: Path, encoding: str) -> str:
    """A whole text file. Raises DataError naming what is wrong and where."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, remedy="check its permissions") from None
    return decode(data, encoding, path)
