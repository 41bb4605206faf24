"""Mixes what many contexts say about the next token, bit by bit, and learns while it reads; many rows in lock step.

A token is coded as its binary digits, highest first. For each digit every context order holds an adaptive chance in a hashed
table; the longest earlier match adds a guess, a given distribution (a network's) another. Their log-odds are added with weights
that follow the gradient of the code length (logistic mixing: Mahoney 2005, "Adaptive weighing of context models for lossless data
compression"). All rows share tables and weights and read them before any row writes: so an encoder that knows all and a decoder
that learns it digit by digit go the same way. Whole numbers only: a float64 here always holds one exactly.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np

from morphogen.coding.logistic import COUNTS, LIMIT, NEW_STATE, ONE, counted_states, next_states, squash_table, state_table, stretch

NODES = 16
LONG = 24  # longest match that is told from longer ones
_MIX = np.uint64(0x9E3779B97F4A7C15)
RATE = 15  # how fast weights move; short texts gain most from quick learning
BATCH = 8
MATCH_KINDS = np.array([0] + [1] * 15 + [2] * (LONG - 16) + [3])


class Coder(Protocol):
    """Encoders note the bits they are given, decoders find them."""

    def code(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray: ...


class Counts(NamedTuple):
    """N-grams of one context length: each context's shorter one and oldest token; sorted (context, token) with counts."""

    parents: np.ndarray
    older: np.ndarray
    context: np.ndarray
    token: np.ndarray
    count: np.ndarray


@cache
def constants(n: int, seed: int) -> np.ndarray:
    """n odd 64-bit numbers (splitmix64)."""
    out, x, whole = [], seed, (1 << 64) - 1
    for _ in range(n):
        x = (x + 0x9E3779B97F4A7C15) & whole
        z = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
        out.append((z ^ (z >> 31)) | 1)
    return np.array(out, np.uint64)


def chunks_of(depth: int) -> list[int]:
    """Digits in groups of at most four: a group's nodes lie side by side in memory."""
    groups = -(-depth // 4)
    return [depth // groups + (i < depth % groups) for i in range(groups)]


class Blend:
    """`begin(rows, length)`, then `symbol(coder, given, symbols)` `length` times; tables and weights stay from block to block."""

    def __init__(self, vocab: int, slots: Sequence[int], told: bool) -> None:
        """`slots`: log2 of the table size of context lengths 1, 2, ...; `told`: a distribution comes with every token."""
        self.vocab, self.orders, self.told = vocab, len(slots), told
        self.depth = max(1, (vocab - 1).bit_length())
        self.chunks = chunks_of(self.depth)
        self.places = np.arange(self.depth)[::-1].copy()
        self.distance = constants(self.orders, 1)[:, None]
        self.level = constants(len(self.chunks) + 1, 77)
        self.shift = (64 - np.array(slots)).astype(np.uint64)[:, None]
        sizes = (NODES << np.array(slots)).astype(np.int64)
        self.offset = (sizes.cumsum() - sizes)[:, None]
        self.table = np.full(int(sizes.sum()), NEW_STATE, np.uint16)
        self.inputs = self.orders + 2 + told
        self.weights = np.full((len(self.chunks), (self.orders + 1) * 4, self.inputs), 14000.0)
        self.weights[:, :, -2:] = (20000, 0)
        self.after = np.zeros((len(self.chunks), 16, self.inputs))  # added, by the first digits of the token before
        if told:
            self.weights[:, :, -3] = 50000
        self.near = 5 if self.depth <= 8 else 3  # tokens that find a match
        self.hits = np.stack([2 + np.arange(LONG + 1), np.full(LONG + 1, 2)])
        self.matches = Matches(0, 0, 0, self.near)

    def begin(self, rows: int, length: int, before: int) -> None:
        """Fresh rows of `length` tokens; `before` stands where nothing was."""
        self.rows = rows
        self.matches = Matches(rows, length, before, self.near)

    # -------------------------------------------------------------- contexts
    def _hashes(self) -> np.ndarray:
        """(K, R) one number for each context length."""
        past = self.matches.past(self.orders)[:, ::-1].T.astype(np.uint64) + np.uint64(1)
        return (past * self.distance).cumsum(0)

    def _slot(self, hashes: np.ndarray, chunk: int, prefix: np.ndarray, order: slice = slice(None)) -> np.ndarray:
        """Where in the table the nodes of a context's chunk begin; `prefix`: the digits before, as a number."""
        mixed = (hashes + (prefix.astype(np.uint64) + np.uint64(1)) * self.level[chunk]) * _MIX
        mixed ^= mixed >> np.uint64(29)
        mixed *= self.level[-1]
        return (mixed >> self.shift[order]).astype(np.int64) * NODES + self.offset[order]

    def prime(self, levels: Sequence[Counts]) -> None:
        """Fill the tables from counted n-grams (levels of context length 0, 1, ...) as if they had been read."""
        hashes = np.zeros(1, np.uint64)
        for k, level in enumerate(levels[: self.orders + 1]):
            if k == 0:
                hashes = np.zeros(len(level.parents), np.uint64)
                continue
            hashes = hashes[level.parents] + (level.older.astype(np.uint64) + np.uint64(1)) * self.distance[k - 1]
            left = self.depth
            for c, digits in enumerate(self.chunks):
                top = left
                for d in range(digits):
                    left -= 1
                    key = (level.context << self.depth | level.token) >> (left + 1)
                    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
                    n = np.add.reduceat(level.count, starts)
                    ones = np.add.reduceat(level.count * ((level.token >> left) & 1), starts)
                    token = level.token[starts]
                    node = (1 << d) | ((token >> (left + 1)) & ((1 << d) - 1))
                    base = self._slot(hashes[level.context[starts]], c, token >> top, slice(k - 1, k))[0]
                    self.table[base + node] = counted_states(ones, n)

    # ---------------------------------------------------------------- coding
    def symbol(self, coder: Coder, given: np.ndarray | None, symbols: np.ndarray | None) -> np.ndarray:
        """Code one token of every row. `given` (R, V + 1): running sums of its weights, if told. Returns the tokens (R,)."""
        guess, length = self.matches.look()
        trust = stretch(self.hits[0] * ONE // self.hits.sum(0))
        trust[0] = 0
        places = self.places[:, None]
        digits = (guess >> places) & 1
        turn = Turn(
            digits, (2 * digits - 1) * trust[length].astype(np.float64), MATCH_KINDS[length], guess >= 0,
            None if symbols is None else (symbols >> places) & 1, given,
        )
        turn.last = self.matches.past(1)[:, 0] >> max(0, self.depth - 4)
        hashes, value = self._hashes(), np.zeros(self.rows, np.int64)
        for c, count in enumerate(self.chunks):
            value = self._chunk(coder, hashes, value, c, count, turn)
        agreed, broken = length[guess >= 0], (guess >= 0) & ~turn.alive
        self.hits[0] += np.bincount(agreed, turn.agreed[guess >= 0], LONG + 1).astype(np.int64)
        self.hits[1] += np.bincount(length[broken], minlength=LONG + 1)
        value = np.minimum(value, self.vocab - 1)
        self.matches.push(value, guess)
        return value

    def _chunk(self, coder: Coder, hashes: np.ndarray, value: np.ndarray, c: int, count: int, turn: Turn) -> np.ndarray:
        """Code up to four digits; the weights are chosen at their beginning and moved at their end."""
        k, table, squashed, following, stretched = self.orders, self.table, squash_table(), next_states(), state_table()
        base, node = self._slot(hashes, c, value), 1
        inputs, errors = np.empty((count, self.inputs, self.rows)), np.empty((count, self.rows))
        inputs[:, -1] = 256
        place = base + 1
        old = table.take(place)
        chosen = np.count_nonzero(old & (COUNTS - 1), 0) * 4 + turn.kind * turn.alive
        weights = (self.weights[c].take(chosen, 0) + self.after[c].take(turn.last, 0)).T
        for i in range(count):
            x = inputs[i]
            if i:
                place = base + node
                old = table.take(place)
            stretched.take(old, out=x[:k], mode="clip")
            np.multiply(turn.signed[turn.at], turn.alive, out=x[-2])
            if turn.given is not None:
                x[-3] = _told(turn.given, value, self.depth - 1 - turn.at)
            dot = np.einsum("nr,nr->r", weights, x)
            dot *= 2.0**-16
            dot += LIMIT
            p = squashed.take(dot.astype(np.int64), mode="clip")
            bit = coder.code(p, None if turn.bits is None else turn.bits[turn.at])
            high = bit << 16
            np.subtract(high, p, out=errors[i])
            table[place] = following.take(old + high)
            turn.alive = turn.alive & (bit == turn.digits[turn.at])
            turn.agreed += turn.alive
            turn.at += 1
            value, node = 2 * value + bit, 2 * node + bit
        gradient = np.einsum("cnr,cr->nr", inputs, errors)
        self._learn(self.weights[c], chosen, gradient, count)
        self._learn(self.after[c], turn.last, gradient, count)
        return value

    def _learn(self, weights: np.ndarray, chosen: np.ndarray, gradient: np.ndarray, digits: int) -> None:
        """Move the weights each row used; rows that used the same ones share a step."""
        sets, count = len(weights), len(gradient)
        step = float(1 << RATE) * np.maximum(1, np.bincount(chosen, minlength=sets) * digits // BATCH)
        where = chosen + np.arange(0, count * sets, sets)[:, None]
        weights += np.floor_divide(np.bincount(where.ravel(), gradient.ravel(), count * sets).reshape(count, sets), step).T


class Turn:
    """What one token's coding carries along: the match's guess, how far it is trusted, and whether it held so far."""

    def __init__(
        self, digits: np.ndarray, signed: np.ndarray, kind: np.ndarray, alive: np.ndarray, bits: np.ndarray | None, given: np.ndarray | None
    ) -> None:
        self.digits, self.signed, self.kind, self.alive, self.bits, self.given = digits, signed, kind, alive, bits, given
        self.at, self.last = 0, kind
        self.agreed = np.zeros(len(alive))


class Matches:
    """All rows' tokens so far, and where each row has seen its last few before."""

    def __init__(self, rows: int, length: int, before: int, near: int) -> None:
        self.near = near
        self.at, self.width = LONG, LONG + length
        self.seen = np.full((rows, self.width), before, np.int64)
        self.flat = self.seen.reshape(-1)
        self.first = np.arange(rows) * self.width
        self.pointer = np.full(rows, -1, np.int64)  # where in `flat` the match goes on
        self.length = np.zeros(rows, np.int64)
        bits = max(10, (rows * length).bit_length())
        self.found, self.shift = np.full(1 << bits, -1, np.int64), np.uint64(64 - bits)

    def past(self, n: int) -> np.ndarray:
        """(R, n) the last tokens, newest last."""
        return self.seen[:, self.at - n : self.at]

    def look(self) -> tuple[np.ndarray, np.ndarray]:
        """(R,) the token each row's match foretells (-1: none) and how long the match is, 0 to LONG."""
        if self.at >= LONG + self.near:
            key = ((self.past(self.near).astype(np.uint64) + np.uint64(1)) * constants(self.near, 5)).sum(1) * _MIX
            key = (key >> self.shift).astype(np.int64)
            here = self.first + self.at
            which = np.flatnonzero((self.pointer < 0) & (self.found[key] >= 0))
            if len(which):
                other = self.found[key[which]]
                back = np.arange(1, LONG + 1)
                same = (self.flat[here[which][:, None] - back] == self.flat[other[:, None] - back]).cumprod(1).sum(1)
                good = same >= self.near
                self.pointer[which[good]], self.length[which[good]] = other[good], same[good]
            self.found[key] = here
        alive = self.pointer >= 0
        return np.where(alive, self.flat[self.pointer], -1), np.where(alive, np.minimum(self.length, LONG), 0)

    def push(self, tokens: np.ndarray, guess: np.ndarray) -> None:
        """(R,) the tokens that came, and what was foretold."""
        self.seen[:, self.at] = tokens
        self.at += 1
        kept = tokens == guess
        self.pointer = np.where(kept, self.pointer + 1, -1)
        self.length = np.where(kept, self.length + 1, 0)


def _told(given: np.ndarray, value: np.ndarray, left: int) -> np.ndarray:
    """Log-odds that the next digit is 1, by running sums of weights (R, V + 1)."""
    rows, last = np.arange(len(given)), given.shape[1] - 1
    edges = (value << (left + 1), (2 * value + 1) << left, (value + 1) << (left + 1))
    low, middle, high = (given[rows, np.minimum(edge, last)] for edge in edges)
    total = np.maximum(1, high - low)
    return stretch(np.clip((high - middle) * ONE // total, 0, ONE - 1))
