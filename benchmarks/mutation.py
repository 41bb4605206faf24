"""Damaged copies of a file, the same ones for the same seed: bytes of any format, words of text, values of JSON."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator

NUMBERS = [0, 1, 2, 31, 127, 128, 255, 256, 65535, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 1]  # fmt: skip
WORDS = [b"", b"0", b"-1", b"1e999", b"nan", b"NaN", b"inf", b"-", b"99999999999999999999999", b"1_0", b"null", b"true", b'""', b'"', b"'",
         b"{", b"}", b"[", b"]", b"[" * 200, b'{"a":' * 100, b"(" * 300, b")", b"\\ud800", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\0",
         b"\x1b[2J", b"\r", b"\n", b"\r\n", b"\n\n", b"\t", b",", b",,,", b";", b"|", b":", b"=cmd|' /C calc'!A0", b"../../etc/passwd",
         b"<|im_end|>", b"\xe2\x80\xae", b"e\xcc\x81" * 50, b"\xf0\x9f\x98\x80", b"x" * 5000, b"#" * 500, b"9" * 400, b" " * 300,
         b"__class__", b"!!python/object", b"1e308", b"2024-02-30", b"\xd9\xa1\xd9\xa2"]  # fmt: skip
VALUES = [None, -1, 0, 2**70, 1.5, 1e308, "", "x", "x" * 3000, [], {}, True, [[]], {"__class__": "os.system"}, [0] * 300, "../../x", 10**12]


def mutants(data: bytes, n: int, seed: int, head: int = 4096) -> Iterator[bytes]:
    """`n` copies of `data` with one to four changes each, four fifths of them in the first `head` bytes, where counts are."""
    rng = random.Random(seed)
    for _ in range(n):
        yield binary(data, rng, head)


def binary(data: bytes, rng: random.Random, head: int = 4096) -> bytes:
    """Changed bits, counts, pieces and lengths."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(max(1, min(head, len(out)) if rng.random() < 0.8 else len(out)))
        change = rng.randrange(9)
        if change == 0:
            out[at : at + 1] = bytes([out[at] ^ 1 << rng.randrange(8)]) if out else b""
        elif change == 1:
            out[at : at + 1] = bytes([rng.choice([0, 1, 9, 34, 44, 45, 57, 91, 93, 123, 125, 127, 128, 255])])
        elif change == 2:
            out[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif change == 3:
            out[at : at + 4] = struct.pack("<I" if rng.random() < 0.5 else ">I", rng.choice(NUMBERS) & 0xFFFFFFFF)
        elif change == 4:
            out[at : at + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(40))
        elif change == 5:
            del out[at : at + rng.choice([1, 2, 8, 64])]
        elif change == 6:
            out[at:at] = out[at : at + rng.choice([1, 8, 64])]
        elif change == 7:
            del out[at:]
        else:
            other = rng.randrange(max(1, min(head, len(out))))
            out[at : at + 16] = out[other : other + 16]
    return bytes(out)


def written(data: bytes, rng: random.Random) -> bytes:
    """Text with words put in, lines doubled, moved, joined or cut; now and then as bytes."""
    if rng.random() < 0.2:
        return binary(data, rng)
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(len(out) + 1)
        change = rng.randrange(6)
        if change <= 1:
            out[at : at + rng.choice([0, 0, 1, 1, 3, 20])] = rng.choice(WORDS)
        elif change == 2:
            del out[at : at + rng.choice([1, 2, 5, 30, 200])]
        elif change == 3:
            lines = bytes(out).split(b"\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            out = bytearray(b"\n".join(lines))
        elif change == 4:
            out[at : at + 1] = out[at : at + rng.choice([2, 10, 100])] * rng.choice([1, 2, 50])
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def structured(data: bytes, rng: random.Random) -> bytes:
    """JSON with values exchanged or keys gone; a third as text. What is no JSON is treated as text."""
    if rng.random() < 0.33:
        return written(data, rng)
    try:
        spec = json.loads(data)
    except ValueError:
        return written(data, rng)
    for _ in range(rng.choice([1, 1, 2])):
        _exchange(spec, rng)
    return json.dumps(spec).encode()


def _exchange(node: object, rng: random.Random) -> None:
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        child = node[key]  # type: ignore[index]
        if isinstance(child, dict | list) and child and rng.random() < 0.75:
            node = child
        elif rng.random() < 0.2:
            del node[key]  # type: ignore[arg-type]
            return
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))  # type: ignore[index]
            return
