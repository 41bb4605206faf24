"""The compressed file: a header, blocks, and a digest of it all, so that not one damaged byte goes unseen.

    magic "MGC1" | u32 header size | header (JSON, xz) | blocks one after another | BLAKE2b-128 of everything before
"""
from __future__ import annotations

import hashlib
import json
import lzma
import struct
from typing import Any

from morphogen.coding.rans import damaged
from morphogen.errors import FormatError

MAGIC = b"MGC1"
VERSION = 1
DIGEST = 16
LARGEST_HEADER = 64 << 20
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
_QUICK = [{"id": lzma.FILTER_LZMA2, "preset": 0}]


def squeeze(data: bytes) -> bytes:
    """xz without its frame (LZMA2, preset 9e): what a block is when no model knows better."""
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=_FILTERS)


def beats(data: bytes, coded: bytes) -> bool:
    """Whether `squeeze` may make data smaller than they were coded: its quickest setting is seldom half as good."""
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=_QUICK)) < 2 * len(coded)


def expand(data: bytes, size: int) -> bytes:
    """The inverse, never more than `size` bytes. Raises FormatError."""
    if size < 0:  # which lzma would take for no limit
        raise damaged("a block has another size")
    try:
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_FILTERS)
        out = decoder.decompress(data, max_length=size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise damaged(f"xz: {error}") from None
    if len(out) != size:
        raise damaged("a block has another size")
    return out


def pack(header: dict[str, Any], blocks: list[bytes]) -> bytes:
    """Header and blocks as one file's bytes."""
    head = json.dumps({"version": VERSION, **header, "sizes": [len(b) for b in blocks]}, separators=(",", ":"), allow_nan=False).encode()
    small = squeeze(head)
    body = b"".join([MAGIC, struct.pack("<II", len(small), len(head)), small, *blocks])
    return body + hashlib.blake2b(body, digest_size=DIGEST).digest()


def unpack(data: bytes, where: object) -> tuple[dict[str, Any], list[bytes]]:
    """Header and blocks. Raises FormatError when it is no such file, damaged, cut short or of a newer version."""
    if data[:3] != MAGIC[:3]:
        raise FormatError("not a file made by morphogen compress", where=where, remedy="give the .mgc file")
    if data[:4] != MAGIC:
        raise FormatError("made by another version of morphogen compress, or damaged", where=where, remedy="update morphogen")
    body = data[:-DIGEST]
    if len(data) < 12 + DIGEST or hashlib.blake2b(body, digest_size=DIGEST).digest() != data[-DIGEST:]:
        raise FormatError("the compressed file is damaged or cut short", where=where, remedy="take an undamaged copy")
    small, large = struct.unpack_from("<II", body, 4)
    if 12 + small > len(body) or large > LARGEST_HEADER:
        raise FormatError("the compressed file contradicts itself", where=where, remedy="take an undamaged copy")
    try:
        header = json.loads(expand(body[12 : 12 + small], large))
        version, sizes = header["version"], header["sizes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError("the compressed file's header cannot be read", where=where, remedy="take an undamaged copy") from None
    if version != VERSION:
        raise FormatError(f"made by another version of morphogen compress ({version})", where=where, remedy="update morphogen")
    if not isinstance(sizes, list) or any(not isinstance(n, int) or n < 0 for n in sizes) or 12 + small + sum(sizes) != len(body):
        raise FormatError("the compressed file contradicts itself", where=where, remedy="take an undamaged copy")
    blocks, at = [], 12 + small
    for n in sizes:
        blocks.append(body[at : at + n])
        at += n
    return header, blocks
