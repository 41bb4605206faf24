"""Damaged copies of a file, the same ones for the same seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

NUMBERS = [0, 1, 2, 31, 127, 128, 255, 256, 65535, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 1]  # fmt: skip


def mutants(data: bytes, n: int, seed: int, head: int = 4096) -> Iterator[bytes]:
    """`n` copies of `data` with one to four changes each, four fifths of them in the first `head` bytes, where counts are."""
    rng = random.Random(seed)
    for _ in range(n):
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
                out[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
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
        yield bytes(out)
