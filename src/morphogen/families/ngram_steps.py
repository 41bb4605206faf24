"""An n-gram's next-token weights in whole numbers, for many rows in lock step: the same on every machine. numpy only.

`ngram.py` keeps shares and backoffs as float32; here each is one integer, so sums of products have one value everywhere.
Distributions of short contexts are laid out whole, once; what longer contexts add is a few numbers a row.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from morphogen.coding.blend import Counts
from morphogen.spaces import Tokens

ONE = 1 << 30  # the sum of a row's weights, rounded down
_KEEP = 22  # bits of a backoff
WHOLE = 8 << 20  # numbers in the tables of whole distributions


class Tables(NamedTuple):
    """One context length: sorted keys of contexts, backoff each (2^22 parts), first n-gram each, its tokens, shares (2^30 parts)."""

    contexts: np.ndarray
    backoff: np.ndarray
    first: np.ndarray
    tokens: np.ndarray
    share: np.ndarray


class Portable:
    """What lossless coding needs of a fitted n-gram, in whole numbers."""

    def __init__(self, levels: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], space: Tokens) -> None:
        self.levels, self.space = list(levels), space

    def steps(self) -> IntegerNgram:
        """Exact weights of the next token, for whole items."""
        return IntegerNgram(self.levels, self.space)

    def counts(self, seam: int) -> list[Counts]:
        """N-grams as counted, for running texts; see `counts`."""
        return counts(self.levels, self.space, seam)


class IntegerNgram:
    """Rows in lock step: `begin`, then `weights` and `push` in turn."""

    def __init__(self, levels: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], space: Tokens) -> None:
        self.vocab, self.space = space.vocab, space
        self.levels = [_whole_numbers(level, space.vocab) for level in levels]
        self.offsets: list[int] = []
        self.dense = self._dense()
        self.past = np.zeros((0, len(levels)), np.int64)
        self.position = 0

    def _dense(self) -> np.ndarray:
        """(rows, V) int32: distributions with no context known, then of every context of the first levels, while there is room."""
        v, slots = self.vocab, self.space.slots
        if slots:
            ids = np.arange(v)
            legal = np.array([(ids >= low) & (ids < high) for low, high in slots])
            below = np.where(legal, ONE // legal.sum(1, keepdims=True), 0).astype(np.int64)
            parents = self.levels[0].contexts % self.space.length
        else:
            below, parents = np.full((1, v), ONE // v, np.int64), np.zeros(len(self.levels[0].contexts), np.int64)
        parts, size = [below.astype(np.int32)], below.size
        for k, level in enumerate(self.levels):
            if k and (size + len(level.contexts) * v > WHOLE):
                break
            parents = parents if k == 0 else level.contexts // (v + 1)
            here = below[parents] * level.backoff[:, None] >> _KEEP
            here[np.repeat(np.arange(len(here)), np.diff(level.first)), level.tokens] += level.share
            self.offsets.append(size // v)
            parts.append(here.astype(np.int32))
            size, below = size + here.size, here
        return np.concatenate(parts)

    def begin(self, rows: int, middle: bool) -> None:
        """Nothing read yet; `middle`: rows begin somewhere in a text, not at its start."""
        self.past = np.full((rows, len(self.levels)), -1, np.int64)
        self.position = 0
        if not middle:
            self.past[:, 0] = self.vocab

    def push(self, ids: np.ndarray) -> None:
        """(R,) the tokens that came."""
        self.past[:, 1:] = self.past[:, :-1].copy()
        self.past[:, 0] = ids
        self.position += 1

    def weights(self) -> np.ndarray:
        """(R, V) int64, at least 1 for every token that may stand here and 0 for all others."""
        rows, v = len(self.past), self.vocab
        tag = np.full(rows, self.position if self.space.slots else 0, np.int64)
        at, found = np.full(rows, -1), []
        for k, level in enumerate(self.levels):
            if k == 0:
                at = _find(level.contexts, tag)
            else:
                past = self.past[:, k - 1]
                at = np.where((at >= 0) & (past >= 0), _find(level.contexts, at * (v + 1) + past), -1)
            found.append(at)
        base = tag.copy() if self.space.slots else np.zeros(rows, np.int64)
        for offset, at in zip(self.offsets, found, strict=False):
            base = np.where(at >= 0, offset + at, base)
        keep = np.full(rows, 1 << _KEEP, np.int64)
        added: list[tuple[np.ndarray, np.ndarray]] = []
        for k in range(len(self.levels) - 1, len(self.offsets) - 1, -1):
            known = np.flatnonzero(found[k] >= 0)
            if len(known):
                level, at = self.levels[k], found[k][known]
                first, n = level.first[at], level.first[at + 1] - level.first[at]
                entry = np.arange(int(n.sum())) + np.repeat(first - (n.cumsum() - n), n)
                added.append((np.repeat(known * v, n) + level.tokens[entry], level.share[entry] * np.repeat(keep[known], n) >> _KEEP))
                keep[known] = keep[known] * level.backoff[at] >> _KEEP
        out = self.dense[base] * keep[:, None]
        out >>= _KEEP
        flat = out.reshape(-1)
        for where, more in added:
            flat[where] += more
        if self.space.slots:
            low, high = self.space.slots[self.position]
            out[:, low:high] += 1
        else:
            out += 1
        return out


def _whole_numbers(level: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], vocab: int) -> Tables:
    """float32 tables as integers: a product with a power of two is exact, and so is rounding."""
    contexts, backoff, ngrams, share = (np.asarray(part) for part in level)
    scaled = np.rint(share.astype(np.float64) * ONE).astype(np.int64)
    kept = np.rint(backoff.astype(np.float64) * (1 << _KEEP)).astype(np.int64).clip(0, 1 << _KEEP)
    first = np.searchsorted(ngrams, np.arange(len(contexts) + 1) * vocab)
    return Tables(contexts.astype(np.int64), kept, first, (ngrams % vocab).astype(np.int64), scaled)


def _find(table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Rank of each key in a sorted table, -1 where it is missing."""
    if not len(table):
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[at] == keys, at, -1)


# ------------------------------------------------------------------ counts
Level = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # contexts, backoff, ngrams, share: as `ngram.py` keeps them


def counts(levels: Sequence[Level], space: Tokens, seam: int) -> list[Counts]:
    """How often each token followed each context, about as counted: what shares and backoffs were made from.

    Witten-Bell gives the counts back: share T / backoff, T being the kinds of tokens seen. Kneser-Ney's discounts are taken as
    3/4, and as its shorter contexts count continuations, their counts are added up from the longest. Where an item begins or
    ends, `seam` stands in a running text.
    """
    vocab = space.vocab
    own = [_counted(level, vocab) for level in levels]
    longer = [_shortened(levels[k + 1], own[k + 1], levels[k], vocab) for k in range(len(levels) - 1)]
    # plain counts of longer runs never add up to more than those of shorter ones
    plain = all(above[2].sum() <= 1.01 * here[2].sum() for above, here in zip(own[1:], own, strict=False))
    found = [np.maximum(1, np.rint(c if plain else 0.75 * c + 0.75)).astype(np.int64) for _, _, c in own]
    for k in range(len(levels) - 2, -1, -1) if not plain else ():
        total = _added(longer[k], found[k + 1], len(found[k])).astype(np.int64)
        begun = (levels[k][0] % (vocab + 1) == vocab)[own[k][0]] if k else np.zeros(len(total), bool)
        found[k] = np.maximum(1, np.where(begun, found[k], total))
    out: list[Counts] = []
    kept = levels[0][0] == 0  # of an n-gram with labels, only what was counted without any
    for k, ((contexts, *_), (context, token, _), count) in enumerate(zip(levels, own, found, strict=True)):
        older = contexts % (vocab + 1)
        kept = kept[contexts // (vocab + 1)] if k else kept
        here = kept[context]
        context, token, count = context[here], token[here], count[here]
        token = np.where(token == space.end, seam, token) if space.end is not None else token
        order = np.lexsort((token, context))
        out.append(Counts(contexts // (vocab + 1), np.where(older == vocab, seam, older), context[order], token[order], count[order]))
    return out


def _counted(level: Level, vocab: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each n-gram: its context, its token, share T / backoff."""
    contexts, backoff, ngrams, share = level
    context = ngrams // vocab
    kinds = np.bincount(context, minlength=len(contexts)).astype(np.float64)
    return context, ngrams % vocab, share.astype(np.float64) * (kinds / np.maximum(backoff.astype(np.float64), 1e-12))[context]


def _shortened(level: Level, own: tuple[np.ndarray, np.ndarray, np.ndarray], below: Level, vocab: int) -> np.ndarray:
    """Of each n-gram: its place among those one token shorter."""
    context, token, _ = own
    return np.searchsorted(below[2], (level[0] // (vocab + 1))[context] * vocab + token)


def _added(where: np.ndarray, what: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(where, what, n)
