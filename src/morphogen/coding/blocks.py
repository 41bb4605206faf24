"""Blocks of tokens, coded in lock step: running texts cut into rows, and whole items side by side."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from morphogen.coding.blend import Blend, Coder, Counts
from morphogen.coding.rans import TOTAL, BitDecoder, BitEncoder, SymbolDecoder, SymbolEncoder, damaged, quantise
from morphogen.coding.steps import Steps
from morphogen.spaces import Tokens

ITEM_ROWS = 64
ITEM_LANES = 4


def digest(tokens: np.ndarray) -> str:
    """What a block's tokens are told by."""
    return hashlib.blake2b(np.ascontiguousarray(tokens, "<i4").tobytes(), digest_size=8).hexdigest()


class Alive:
    """A coder for rows of which some have ended: those cost nothing and read 1."""

    def __init__(self, coder: Coder, alive: np.ndarray) -> None:
        self.coder, self.alive = coder, alive

    def code(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        return self.coder.code(np.where(self.alive, p, TOTAL), None if bits is None else np.where(self.alive, bits, 1))


class Running:
    """A running text of tokens. Tables and weights go on from block to block, so blocks are decoded in order.

    With `counts` (an n-gram's) the tables begin filled; with `steps` (a network's) its distribution is one more voice.
    """

    def __init__(
        self, space: Tokens, seam: int, order: np.ndarray | None = None, counts: Sequence[Counts] = (), steps: Steps | None = None,
        expected: int = 1 << 16,
    ) -> None:
        """`order`: all ids, such that neighbours are alike: their digits are then worth learning. `expected`: about how many
        tokens will come. Both ways must be told the same.
        """
        self.steps = steps
        # items end, a running text does not: the end id is left out where it is the last
        self.vocab = space.vocab - (space.end == space.vocab - 1)
        self.order = np.arange(self.vocab) if order is None else order
        self.rank = np.empty(self.vocab, np.int64)
        self.rank[self.order] = np.arange(self.vocab)
        self.seam = int(self.rank[seam])
        self.blend = Blend(self.vocab, table_sizes(counts, self.vocab, expected), steps is not None)
        self.blend.prime([reordered(level, self.rank) for level in counts])

    def rows_for(self, n: int) -> int:
        """Many rows are fast, but each begins without knowing what stands before it."""
        if self.steps is not None:
            return 128 if n >= 32768 else 64 if n >= 8192 else 16 if n >= 512 else 1
        rows = max(1, min(1024, n // (640 if self.blend.depth <= 8 else 320)))
        return rows - rows % 64 if rows >= 64 else rows

    def encode(self, tokens: np.ndarray, rows: int) -> bytes:
        """(n,) tokens in `rows` rows."""
        coder = BitEncoder(_lanes(rows))
        grid = np.zeros((-(-len(tokens) // rows), rows), np.int64)
        for row, piece in enumerate(np.array_split(tokens, rows)):
            grid[: len(piece), row] = self.rank[piece]
        self._code(coder, len(tokens), rows, grid)
        return coder.finish()

    def decode(self, data: bytes, n: int, rows: int) -> np.ndarray:
        """The inverse. Raises FormatError when the data do not fit."""
        coder = BitDecoder(data, _lanes(rows))
        grid = self._code(coder, n, rows, None)
        coder.finish()
        lengths = [n // rows + (row < n % rows) for row in range(rows)]
        return self.order[np.concatenate([grid[:length, row] for row, length in enumerate(lengths)])]

    def _code(self, coder: Coder, n: int, rows: int, grid: np.ndarray | None) -> np.ndarray:
        length = -(-n // rows)
        out = np.zeros((length, rows), np.int64)
        self.blend.begin(rows, length, self.seam)
        if self.steps is not None:
            self.steps.begin(rows, True)
        for i in range(length):
            given = None
            if self.steps is not None:
                weights = self.steps.weights()[:, self.order]
                given = np.concatenate([np.zeros((rows, 1), np.int64), weights.cumsum(1)], 1)
            here = coder if (i + 1) * rows <= n else Alive(coder, np.arange(rows) < n % rows)
            out[i] = self.blend.symbol(here, given, None if grid is None else grid[i])
            if self.steps is not None:
                self.steps.push(self.order[out[i]])
        return out


def reordered(level: Counts, rank: np.ndarray) -> Counts:
    """The same n-grams under other names of the tokens."""
    token = rank[level.token]
    older = rank[np.minimum(level.older, len(rank) - 1)]
    sort = np.lexsort((token, level.context))
    return Counts(level.parents, older, level.context[sort], token[sort], level.count[sort])


def _lanes(rows: int) -> int:
    """A lane costs 3 bytes and more of them are faster; they divide the rows."""
    return rows // 2 if 128 <= rows < 1024 and rows % 2 == 0 else rows


def table_sizes(counts: Sequence[Counts], vocab: int, expected: int) -> list[int]:
    """log2 of the number of slots for context lengths 1, 2, ...: room for what was counted and for the news."""
    orders = 6 if vocab <= 256 else 4
    chunks = max(1, -(-(vocab - 1).bit_length() // 4))
    out = []
    for k in range(1, orders + 1):
        known = len(counts[k].context) if k < len(counts) else 0
        need = min(vocab**k * (1 + 16 * (chunks > 1)), 0.6 * (known + expected) * chunks)
        out.append(min(21, max(8, int(need).bit_length())))
    return out


# -------------------------------------------------------------------- items
def item_rows(count: int, length: int) -> int:
    """Side by side: as many as there are, in few shapes; long items keep fewer, for their caches' sake."""
    most = 256 if count >= 160 and length <= 256 else ITEM_ROWS
    return next((rows for rows in (1, 4, 16, 64) if rows >= count), most)


def encode_items(steps: Steps, space: Tokens, items: Sequence[np.ndarray], rows: int) -> bytes:
    """Whole items (n,) of at most `space.length` tokens, `rows` at a time; lanes are few, since items are short."""
    coder = SymbolEncoder(min(rows, ITEM_LANES))
    for at in range(0, len(items), rows):
        _code_items(coder, steps, space, rows, list(items[at : at + rows]), len(items[at : at + rows]))
    return coder.coder.finish()


def decode_items(steps: Steps, space: Tokens, data: bytes, count: int, rows: int) -> list[np.ndarray]:
    """The inverse. Raises FormatError when the data do not fit."""
    coder = SymbolDecoder(data, min(rows, ITEM_LANES))
    out: list[np.ndarray] = []
    for at in range(0, count, rows):
        out += _code_items(coder, steps, space, rows, None, min(rows, count - at))
    coder.coder.finish()
    return out


def _code_items(coder: Any, steps: Steps, space: Tokens, rows: int, items: list[np.ndarray] | None, count: int) -> list[np.ndarray]:
    """One batch; an item ends with its end id or at the full length, rows beyond `count` from the start."""
    steps.begin(rows, False)
    going, out = np.arange(rows) < count, np.zeros((rows, space.length), np.int64)
    sizes = np.zeros(rows, np.int64)
    for i in range(space.length):
        freqs = quantise(steps.weights())
        freqs[~going] = 0
        freqs[~going, 0] = TOTAL
        told = None if items is None else np.array([int(items[r][i]) if going[r] else 0 for r in range(rows)])
        ids = coder.code(freqs, told)
        out[:, i] = ids
        sizes += going
        if space.end is not None:
            going &= ids != space.end
        if not going.any():
            break
        if i + 1 < space.length:
            steps.push(ids)
    return [out[r, : sizes[r]] for r in range(count)]


def encodable(space: Tokens, item: np.ndarray) -> bool:
    """Whether a row of tokens is one that decoding can end: legal ids, and full length or closed by the only end."""
    if item.ndim != 1 or not 1 <= len(item) <= space.length or (item < 0).any() or (item >= space.vocab).any():
        return False
    if space.slots and any(not low <= v < high for v, (low, high) in zip(item.tolist(), space.slots, strict=False)):
        return False
    ends = np.flatnonzero(item == space.end) if space.end is not None else np.zeros(0, np.int64)
    return (len(ends) == 0 and len(item) == space.length) or (len(ends) > 0 and ends[0] == len(item) - 1)


def check(tokens: Sequence[np.ndarray], wanted: str, what: str) -> None:
    """Raises FormatError unless the block's tokens are those that went in."""
    if digest(np.concatenate(tokens) if len(tokens) else np.zeros(0)) != wanted:
        raise damaged(f"{what} came out different")
