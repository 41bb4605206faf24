"""Interpolated n-grams over Tokens, by counting: modified Kneser-Ney (Chen and Goodman 1999, "An empirical study of
smoothing techniques for language modeling") and Witten-Bell (Witten and Bell 1991).

Both are p(w | h) = share(h, w) + backoff(h) p(w | h without its oldest token), so what is learned is the two tables; the
kind of smoothing matters to `fit` alone. Contexts form a trie, newest token first: the id of a context one token longer is
the rank of (id, older token) in a sorted table. So every look-up is exact (no hash, no collision) and one searchsorted.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, LogProb, Loss, Partial, Phase, Request
from morphogen.errors import DataError, UsageError
from morphogen.families import smoothing
from morphogen.families.buffers import adopt
from morphogen.families.common import counted, stepwise
from morphogen.families.labels import ignored_names, label_names, said
from morphogen.families.ngram_steps import Portable
from morphogen.sampling import draws
from morphogen.sampling.grammar import guide_of
from morphogen.spaces import Space, Tokens

ORDERS = (3, 4, 5, 6, 7)
SELECTION_TOKENS = 2_000_000  # the order is chosen on at most so many tokens: sorting more would only cost time


@dataclass(frozen=True, kw_only=True)
class NgramConfig:
    """Counts of token runs."""

    order: int = 0
    "Length of the longest run counted (context + 1). 0: the best of 3 to 7 on a held-out tenth."
    smoothing: str = "auto"
    "kneser-ney, witten-bell, or auto: the better one on a held-out tenth."
    label_weight: float = 0.0
    "Share of the counts of the same label, against those of all; 0: chosen on a held-out tenth."


@dataclass(frozen=True, kw_only=True)
class NgramSampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    "Below 1 prefers likely tokens, 0 takes the likeliest."


class Level(NamedTuple):
    """Tables of one context length: `contexts` sorted (parent id, older token), `ngrams` sorted (context id, token)."""

    contexts: Tensor
    backoff: Tensor
    ngrams: Tensor
    share: Tensor


@dataclass
class History:
    """State of the step interface: tokens so far (B, i), and the label code of each row."""

    ids: Tensor
    code: Tensor
    extra: dict[str, Any] = field(default_factory=dict)


class Ngram(nn.Module):
    """Interpolated n-gram counts over Tokens.

    A label condition is a part of every context: p = weight * p(. | label, h) + (1 - weight) * p(. | h); a label never
    seen, or only some of several labels said, falls back to p(. | h). Where the Space has `slots`, positions mean something
    of their own: every context includes the position and the base is uniform over the slot, so illegal ids get exactly 0.
    """

    accepts = (Tokens,)
    Config, Sampling = NgramConfig, NgramSampling
    phases: tuple[Phase, ...] = ()
    keeps_rows = True  # pieces of them: what follows what, as often as it did

    contexts: Tensor
    backoff: Tensor
    ngrams: Tensor
    share: Tensor
    sizes: Tensor
    label_weight: Tensor

    def __init__(self, space: Space, conditions: dict[str, Space], config: NgramConfig) -> None:
        super().__init__()
        if not isinstance(space, Tokens) or space.streams != 1:
            raise UsageError("ngram counts one stream of tokens", remedy="choose another family")
        if config.smoothing not in ("auto", "kneser-ney", "witten-bell"):
            raise UsageError(f"unknown smoothing '{config.smoothing}'", remedy="choose auto, kneser-ney or witten-bell")
        if config.order < 0 or config.order > 12:
            raise UsageError(f"order {config.order} is not between 1 and 12 (0: chosen)", remedy="leave it out")
        self.space, self.config, self.infill = space, config, "prefix"
        self.labels, self.ignored = label_names(conditions), ignored_names(conditions)
        self.radix = tuple(conditions[k].vocab for k in self.labels)  # type: ignore[union-attr]
        for name, dtype in (("contexts", torch.int64), ("backoff", torch.float32), ("ngrams", torch.int64), ("share", torch.float32)):
            self.register_buffer(name, torch.zeros(0, dtype=dtype))
        self.register_buffer("sizes", torch.zeros(0, 2, dtype=torch.int64))  # per level: contexts, ngrams
        self.register_buffer("label_weight", torch.zeros(1))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def order(self) -> int:
        """The longest run counted (0 before fit)."""
        return len(self.sizes)

    def portable(self) -> Portable:
        """The fitted tables in whole numbers, for lossless coding that is the same on every machine."""
        levels = [Level(*(t.detach().cpu() for t in level)) for level in self._levels()]
        return Portable([(a.numpy(), b.numpy(), c.numpy(), d.numpy()) for a, b, c, d in levels], self.space)

    # ------------------------------------------------------------- contexts
    def _code(self, cond: dict[str, Tensor], keys: Tensor) -> Tensor:
        """(B,) all labels of a row in one number; 0 = nothing said (or not all)."""
        labels = said(cond, self.labels, keys)
        code = torch.zeros(len(keys), dtype=torch.int64, device=keys.device)
        for column, radix in enumerate(self.radix):
            code = code * radix + labels[:, column]
        if not self.labels:
            return code
        return torch.where((labels >= 0).all(1), code + 1, 0)

    def _tag(self, code: Tensor, position: Tensor) -> Tensor:
        """Key of a root context: the label code, and the position where positions differ."""
        return code * self.space.length + position if self.space.slots else code

    def _base(self, position: Tensor) -> Tensor:
        """1 / number of legal ids at each position."""
        if not self.space.slots:
            return torch.full(position.shape, 1.0 / self.space.vocab, device=position.device)
        slots = torch.tensor(self.space.slots, device=position.device)
        return 1.0 / (slots[:, 1] - slots[:, 0]).float()[position]

    def _legal(self, position: Tensor) -> Tensor:
        """(N, V) True where an id may stand at a position."""
        ids = torch.arange(self.space.vocab, device=position.device)
        slots = torch.tensor(self.space.slots, device=position.device)[position]
        return (ids >= slots[:, :1]) & (ids < slots[:, 1:])

    def _levels(self) -> list[Level]:
        tables, at = [], [0, 0]
        for contexts, ngrams in self.sizes.tolist():
            a, b = slice(at[0], at[0] + contexts), slice(at[1], at[1] + ngrams)
            tables.append(Level(self.contexts[a], self.backoff[a], self.ngrams[b], self.share[b]))
            at = [a.stop, b.stop]
        return tables

    # ------------------------------------------------------------------ fit
    def fit(self, batches: Iterable[Batch]) -> None:
        """Count; chooses order, smoothing and label weight on a held-out tenth of the rows first. Raises DataError without data."""
        corpus = smoothing.collect(batches, self.space, self._code)
        if not len(corpus.at):
            raise DataError("no tokens to count", remedy="the training set is empty")
        order, kind = self.config.order, self.config.smoothing
        train, held = corpus.split(SELECTION_TOKENS)
        choosing = not order or kind == "auto" or bool(self.labels and not self.config.label_weight)
        if len(train.at) and len(held.at) and choosing:
            orders = [order] if order else [n for n in ORDERS if n <= self.space.length + 1] or [2]
            kinds = ["kneser-ney", "witten-bell"] if kind == "auto" else [kind]
            order, kind = smoothing.select(train, held, orders, kinds, self._tag, self._base)
        else:
            order, kind = order or min(5, self.space.length + 1), "witten-bell" if kind == "auto" else kind
        weight = self.config.label_weight or 0.5
        if self.labels and not self.config.label_weight and len(train.at) and len(held.at):
            self._store(smoothing.tables(train.twice(), order, kind, self._tag))
            weight = self._best_weight(held)
        self._store(smoothing.tables(corpus.twice() if self.labels else corpus, order, kind, self._tag))
        self.label_weight = torch.full_like(self.label_weight, weight if self.labels else 0.0)
        self.config = replace(self.config, order=order, smoothing=kind, label_weight=weight if self.labels else 0.0)

    def _store(self, levels: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
        device = self.share.device
        contexts, backoff, ngrams, share = (torch.cat(part).to(device) for part in zip(*levels, strict=True))
        self.contexts, self.backoff, self.ngrams, self.share = contexts, backoff.float(), ngrams, share.float()
        self.sizes = torch.tensor([[len(c), len(n)] for c, _, n, _ in levels], device=device)

    def _best_weight(self, held: smoothing.Corpus) -> float:
        """The share of the label's own counts under which held-out tokens are likeliest."""
        plain, _ = self._chain(held.flat, held.at, held.depth, held.code * 0)
        own, known = self._chain(held.flat, held.at, held.depth, held.code)
        grid = [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98]
        return max(grid, key=lambda w: float(torch.where(known, w * own + (1 - w) * plain, plain).double().log().sum()))

    # -------------------------------------------------------------- queries
    def _chain(self, flat: Tensor, at: Tensor, depth: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """p(flat[at] | before) and whether the root is known. `depth`: how many tokens stand before, the start symbol included."""
        words, p = flat[at], self._base(depth - 1)
        if self.space.slots:
            p = torch.where(self._inside(words, depth - 1), p, 0.0)
        ids = known = None
        for k, level in enumerate(self._levels()):
            if ids is None:
                ids = smoothing.find(level.contexts, self._tag(code, depth - 1))
                known = ids >= 0
            else:
                key = ids * (self.space.vocab + 1) + flat[(at - k).clamp(min=0)]
                ids = torch.where((ids >= 0) & (depth >= k), smoothing.find(level.contexts, key), -1)
            p = smoothing.interpolate(p, ids, words, self.space.vocab, level)
        return p, torch.zeros_like(words, dtype=torch.bool) if known is None else known

    def _inside(self, words: Tensor, position: Tensor) -> Tensor:
        slots = torch.tensor(self.space.slots, device=words.device)[position]
        return (words >= slots[:, 0]) & (words < slots[:, 1])

    def log_prob(self, batch: Batch) -> LogProb:
        """Exact; `parts` (B, L) are the tokens', 0 where known or padding. -inf for ids outside their slot."""
        n, length = batch.x.shape
        flat = torch.cat([torch.full((n, 1), self.space.vocab, device=batch.x.device), batch.x], 1).flatten()
        depth = torch.arange(1, length + 1, device=batch.x.device).repeat(n)
        at = torch.arange(n * (length + 1), device=batch.x.device).view(n, -1)[:, 1:].flatten()
        code = self._code(batch.cond, batch.key).repeat_interleave(length)
        keep = (counted(batch) > 0).flatten()
        at, depth, code = at[keep], depth[keep], code[keep]
        p, _ = self._chain(flat, at, depth, code * 0)
        if self.labels:
            own, known = self._chain(flat, at, depth, code)
            p = torch.where(known & (code > 0), torch.lerp(p, own, self.label_weight), p)
        parts = torch.zeros(n * length, device=p.device)
        parts[keep] = p.log()
        parts = parts.view(n, length)
        return LogProb(parts.double().sum(1).float(), "exact", parts)

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Negative log-probability of the counted tokens, so that held-out curves can be drawn; there is nothing to descend."""
        parts = self.log_prob(batch).parts
        assert parts is not None
        units = ((counted(batch) > 0) * batch.weight[:, None]).sum()
        return Loss(-(parts * batch.weight[:, None]).sum(), units)

    def _distribution(self, ids: Tensor, code: Tensor) -> Tensor:
        """(B, V) probabilities of the token after `ids` (B, i)."""
        n, i = ids.shape
        position = torch.full((n,), i, device=ids.device)
        start = torch.full((n, 1), self.space.vocab, device=ids.device)
        past = torch.cat([start, ids[:, max(0, i - self.order):]], 1) if i < self.order else ids[:, i - self.order:]

        def chain(code: Tensor) -> tuple[Tensor, Tensor]:
            p = self._base(position)[:, None].expand(n, self.space.vocab)
            p = p * self._legal(position) if self.space.slots else p
            at = known = None
            for k, level in enumerate(self._levels()):
                if at is None:
                    at = smoothing.find(level.contexts, self._tag(code, position))
                    known = at >= 0
                elif k > past.shape[1]:
                    break
                else:
                    at = torch.where(at >= 0, smoothing.find(level.contexts, at * (self.space.vocab + 1) + past[:, -k]), -1)
                p = smoothing.spread(p, at, self.space.vocab, level)
            return p, position < 0 if known is None else known

        p, _ = chain(code * 0)
        if self.labels:
            own, known = chain(code)
            p = torch.where((known & (code > 0))[:, None], torch.lerp(p, own, self.label_weight), p)
        return p

    # ----------------------------------------------------------------- draw
    def start(self, request: Request) -> History:
        """Nothing drawn yet; the first `step` takes the start symbol (id `vocab`)."""
        empty = torch.zeros(len(request.key), 0, dtype=torch.int64, device=request.key.device)
        return History(empty, self._code(request.cond, request.key))

    def step(self, state: History, ids: Tensor) -> Tensor:
        """Append ids (B,) or (B, 1) to the history and return (B, V) log-probabilities of the next token."""
        ids = ids.reshape(len(state.ids), 1)
        if state.ids.shape[1] or bool((ids < self.space.vocab).all()):  # the start symbol itself is implied
            state.ids = torch.cat([state.ids, ids], 1)
        return self._distribution(state.ids, state.code).log()

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """One token a step, named by its position; rows that ended are padded with `end`."""
        if not self.order:
            raise UsageError("this n-gram model has not been fitted", remedy="train it first")
        sampling = request.sampling or NgramSampling()
        n, length, end = len(request.key), min(self.space.length, request.length or self.space.length), self.space.end
        code = self._code(request.cond, request.key)
        out = torch.full((n, self.space.length if end is not None else length), end or 0, dtype=torch.int64, device=request.key.device)
        ended, given = torch.zeros(n, dtype=torch.bool, device=out.device), request.given
        guide = guide_of(request.grammar, n, end)
        for i in range(length):
            logits = self._distribution(out[:, :i], code).log()
            logits = guide.mask(logits, length - i) if guide else logits
            if sampling.temperature > 0:
                token = draws.choose(logits / sampling.temperature, request.key, "token", i)
            else:
                token = logits.argmax(-1)
            if end is not None:
                token = torch.where(ended, end, token)
            if given is not None:
                token = torch.where(given.known[:, i], given.x[:, i], token)
            out[:, i] = token
            if guide:
                guide.advance(token, length - i, self.space.vocab)
            if end is not None:
                ended |= token == end
            last = i + 1 == length or (bool(ended.all()) and not (given is not None and bool(given.known[:, i + 1:].any())))
            yield Partial(out.clone() if last else out[:, : i + 1].clone(), i + 1, (i + 1) / length, last)
            if last:
                return
