"""Counting and smoothing of n-grams: the tables of `ngram.py` from a flat corpus."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from morphogen.contracts import Batch
from morphogen.families.common import counted
from morphogen.sampling import draws
from morphogen.spaces import Tokens

Table = tuple[Tensor, Tensor, Tensor, Tensor]  # contexts, backoff, ngrams, share
Tag = Callable[[Tensor, Tensor], Tensor]


class Tables(Protocol):
    """What a look-up needs of a level."""

    @property
    def contexts(self) -> Tensor: ...
    @property
    def backoff(self) -> Tensor: ...
    @property
    def ngrams(self) -> Tensor: ...
    @property
    def share(self) -> Tensor: ...


@dataclass
class Corpus:
    """All rows in one line, each after a start symbol (id `vocab`).

    `at`: where the counted tokens stand; `depth`: tokens before each, the start symbol included; `code`: its row's labels;
    `held`: whether its row belongs to the held-out tenth.
    """

    flat: Tensor
    at: Tensor
    depth: Tensor
    code: Tensor
    held: Tensor
    vocab: int

    def take(self, keep: Tensor) -> Corpus:
        """The same line with fewer counted tokens."""
        return Corpus(self.flat, self.at[keep], self.depth[keep], self.code[keep], self.held[keep], self.vocab)

    def split(self, limit: int) -> tuple[Corpus, Corpus]:
        """The first `limit` tokens as nine tenths to count and one tenth of the rows to choose by."""
        part = self.take(torch.arange(len(self.at)) < limit)
        return part.take(~part.held), part.take(part.held)

    def twice(self) -> Corpus:
        """Every token once with its labels and once with none said."""
        both = self.take(torch.arange(len(self.at)).repeat(2))
        half = torch.arange(len(both.at)) < len(self.at)
        both.code = torch.where(half, 0, both.code)
        return both.take(half | (both.code > 0))


def collect(batches: Iterable[Batch], space: Tokens, code_of: Callable[[dict[str, Tensor], Tensor], Tensor]) -> Corpus:
    """Put batches into one line on the CPU; padding, rows of weight 0 and known tokens are not counted."""
    parts: list[tuple[Tensor, ...]] = []
    offset = 0
    for batch in batches:
        rows = batch.weight > 0
        code, held = code_of(batch.cond, batch.key)[rows].cpu(), (draws.uniform(batch.key, "held out") < 0.1)[rows].cpu()
        x, keep = batch.x[rows].cpu(), (counted(batch) > 0)[rows].cpu()
        real = torch.ones_like(x, dtype=torch.bool) if batch.mask is None else batch.mask[rows].cpu()
        if space.slots:
            slots = torch.tensor(space.slots)
            keep = keep & (x >= slots[:, 0]) & (x < slots[:, 1])
        n, length = x.shape
        real = torch.cat([torch.ones(n, 1, dtype=torch.bool), real], 1)
        line = torch.cat([torch.full((n, 1), space.vocab), x], 1)
        depth = torch.arange(length + 1).expand(n, -1)
        keep = torch.cat([torch.zeros(n, 1, dtype=torch.bool), keep], 1) & real
        place = (real.flatten().cumsum(0) - 1).view(n, -1) + offset
        spread = lambda v, keep=keep: v[:, None].expand(keep.shape)[keep]
        parts.append((line[real], place[keep], depth[keep], spread(code), spread(held)))
        offset += int(real.sum())
    if not parts:
        empty = torch.zeros(0, dtype=torch.int64)
        return Corpus(empty, empty, empty, empty, empty.bool(), space.vocab)
    flat, at, depth, code, held = (torch.cat(p) for p in zip(*parts, strict=True))
    return Corpus(flat, at, depth, code, held, space.vocab)


# ------------------------------------------------------------------- look-up
def find(table: Tensor, keys: Tensor) -> Tensor:
    """Rank of each key in a sorted table, -1 where it is missing."""
    if not len(table):
        return torch.full_like(keys, -1)
    at = torch.searchsorted(table, keys).clamp(max=len(table) - 1)
    return torch.where(table[at] == keys, at, -1)


def interpolate(p: Tensor, ids: Tensor, words: Tensor, vocab: int, level: Tables) -> Tensor:
    """share + backoff * p where the context is known, else p."""
    if not len(level.contexts):
        return p
    pair = torch.where(ids >= 0, find(level.ngrams, ids * vocab + words), -1)
    share = torch.where(pair >= 0, level.share[pair.clamp(min=0)], 0.0)
    return torch.where(ids >= 0, share + level.backoff[ids.clamp(min=0)] * p, p)


def spread(p: Tensor, ids: Tensor, vocab: int, level: Tables) -> Tensor:
    """`interpolate` for all words at once: p (B, V), ids (B,). Cost: the number of words seen after these contexts."""
    if not len(level.contexts):
        return p
    known = ids >= 0
    bounds = torch.searchsorted(level.ngrams, torch.stack([ids.clamp(min=0), ids.clamp(min=0) + 1]) * vocab)
    counts = torch.where(known, bounds[1] - bounds[0], 0)
    row = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), counts)
    entry = torch.arange(len(row), device=ids.device) - (counts.cumsum(0) - counts)[row] + bounds[0][row]
    out = p * torch.where(known, level.backoff[ids.clamp(min=0)], 1.0)[:, None]
    return out.index_put((row, level.ngrams[entry] % vocab), level.share[entry], accumulate=True)


# ------------------------------------------------------------------ counting
def _unique(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted distinct keys and how often each occurs."""
    return torch.unique_consecutive(keys.sort().values, return_counts=True)


def _contexts(corpus: Corpus, order: int, tag: Tag) -> tuple[list[Tensor], list[Tensor]]:
    """Per level the sorted context keys, and each counted token's context id (-1: its row starts later)."""
    tables, ids = [], []
    key = tag(corpus.code, corpus.depth - 1)
    valid = torch.ones_like(key, dtype=torch.bool)
    for k in range(order):
        if k:
            valid = corpus.depth >= k
            key = ids[-1] * (corpus.vocab + 1) + corpus.flat[(corpus.at - k).clamp(min=0)]
        table, inverse = torch.unique(key[valid], return_inverse=True)
        here = torch.full_like(key, -1)
        here[valid] = inverse
        tables.append(table)
        ids.append(here)
    return tables, ids


def counts(corpus: Corpus, order: int, tag: Tag) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Contexts, and per level (n-gram keys, counts) raw and of continuations.

    The continuation count of (h, w) is the number of distinct tokens seen before it. A context that begins with the start
    symbol has nothing before it and keeps its raw count.
    """
    tables, ids = _contexts(corpus, order, tag)
    words, vocab = corpus.flat[corpus.at], corpus.vocab
    raw = [_unique((here * vocab + words)[here >= 0]) for here in ids]
    continued: list[tuple[Tensor, Tensor]] = []
    for k in range(order - 1):
        longer = raw[k + 1][0]
        parent = tables[k + 1][longer // vocab] // (vocab + 1)
        begun = corpus.depth == k
        both = torch.cat([parent * vocab + longer % vocab, (ids[k] * vocab + words)[begun]])
        continued.append(_unique(both))
    continued.append(raw[-1])
    return tables, raw, continued


def _discounts(n: Tensor) -> Tensor:
    """D(0..3): Chen and Goodman's estimates from the counts of counts n[1..4], kept inside (0, count]."""
    n1, n2, n3, n4 = (float(v) for v in n[1:5])
    y = n1 / (n1 + 2 * n2) if n1 else 0.5
    d1 = 1 - 2 * y * n2 / n1 if n1 else 0.5
    d2 = 2 - 3 * y * n3 / n2 if n2 else d1
    d3 = 3 - 4 * y * n4 / n3 if n3 else d2
    return torch.tensor([0.0, min(max(d1, 0.1), 1.0), min(max(d2, 0.1), 2.0), min(max(d3, 0.1), 3.0)], dtype=torch.float64)


def smooth(contexts: Tensor, grams: tuple[Tensor, Tensor], vocab: int, kind: str) -> Table:
    """Backoff per context and share per n-gram of one level.

    Kneser-Ney: share = (c - D(c)) / c(h), backoff = sum of D / c(h). Witten-Bell, T(h) distinct words after h:
    share = c / (c(h) + T(h)), backoff = T(h) / (c(h) + T(h)).
    """
    keys, c = grams
    context, c = keys // vocab, c.double()
    total = torch.zeros(len(contexts), dtype=torch.float64).index_add_(0, context, c)
    if kind == "kneser-ney":
        d = _discounts(torch.bincount(grams[1].clamp(max=5), minlength=6))[grams[1].clamp(max=3)]
        lost = torch.zeros_like(total).index_add_(0, context, d)
        return contexts, lost / total, keys, (c - d) / total[context]
    kinds = torch.bincount(context, minlength=len(contexts)).double()
    return contexts, kinds / (total + kinds), keys, c / (total + kinds)[context]


def tables(corpus: Corpus, order: int, kind: str, tag: Tag) -> list[Table]:
    """The tables of all levels. Kneser-Ney counts continuations below the top."""
    contexts, raw, continued = counts(corpus, order, tag)
    grams = continued if kind == "kneser-ney" else raw
    return [smooth(c, g, corpus.vocab, kind) for c, g in zip(contexts, grams, strict=True)]


@dataclass
class _Level:
    contexts: Tensor
    backoff: Tensor
    ngrams: Tensor
    share: Tensor


def select(
    train: Corpus, held: Corpus, orders: list[int], kinds: list[str], tag: Tag, base: Callable[[Tensor], Tensor],
) -> tuple[int, str]:
    """The (order, kind) under which held-out tokens are likeliest; labels are left aside. One count serves all candidates."""
    train, held = (Corpus(c.flat, c.at, c.depth, c.code * 0, c.held, c.vocab) for c in (train, held))
    contexts, raw, continued = counts(train, max(orders), tag)
    words, ids = held.flat[held.at], None
    lower = {kind: base(held.depth - 1).double() for kind in kinds}
    best: tuple[float, int, str] = (-torch.inf, orders[0], kinds[0])
    for k, table in enumerate(contexts):
        if ids is None:
            ids = find(table, tag(held.code, held.depth - 1))
        else:
            key = ids * (held.vocab + 1) + held.flat[(held.at - k).clamp(min=0)]
            ids = torch.where((ids >= 0) & (held.depth >= k), find(table, key), -1)
        for kind in kinds:
            top = interpolate(lower[kind], ids, words, held.vocab, _Level(*smooth(table, raw[k], held.vocab, kind)))
            score = float(top.log().sum())
            if k + 1 in orders and score > best[0]:
                best = (score, k + 1, kind)
            if kind == "kneser-ney":
                below = _Level(*smooth(table, continued[k], held.vocab, kind))
                lower[kind] = interpolate(lower[kind], ids, words, held.vocab, below)
            else:
                lower[kind] = top
    return best[1], best[2]
