"""T5: an encoder reads what is said and what is known, a decoder writes the whole sample from left to right."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Cond, Given, LogProb, Loss, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.autoregressive import AutoregressiveSampling, Writing, need_tokens, shifted, token_rows, what_counts, write
from morphogen.families.common import drop_of, stepwise
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner, Text
from morphogen.nets.transformer import KVCache
from morphogen.sampling import draws
from morphogen.sampling.choice import choice_of
from morphogen.sampling.guidance import guided
from morphogen.spaces import Space, Tokens


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of the decoder, and of the encoder of known values."
    spans: float = 0.3
    "Share of training rows in which random spans are shown to the encoder and the rest is asked for; 0: no gaps can be filled."
    drop: float = 0.1
    "Share of training rows that are told no condition, which guidance needs."


class Seq2Seq(nn.Module):
    """log p(x | source) by an encoder and a decoder with cross-attention (Raffel et al. 2020, arXiv 1910.10683).

    The source is the conditions' sequence and, when values are known, the sample itself with id `vocab` where nothing is
    known (span corruption, but the decoder writes every position, so known values stand where they belong).
    """

    recipe: ClassVar[dict[str, Any]] = {"lr": 3e-3, "optimiser": "muon"}  # what the trainer does unless told otherwise
    accepts: ClassVar[tuple[type, ...]] = (Tokens,)
    compiles = False  # it looks at real positions only, as many as there are
    prefills: ClassVar[bool] = True  # a known beginning is read in one pass, so rows of one tile must know equally much

    Config, Sampling = Seq2SeqConfig, AutoregressiveSampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: Seq2SeqConfig) -> None:
        super().__init__()
        self.space = need_tokens(space, "seq2seq")
        if not conditions and config.spans <= 0:
            raise UsageError("seq2seq has nothing to read", remedy="train with a condition (--cond), or with spans above 0")
        source = replace(self.space, vocab=self.space.vocab + 1)
        net = resolve(config.net, source, self.space)
        self.config, self.phases = replace(config, net=net), (Phase(),)
        self.infill = "any" if config.spans > 0 else "none"
        self.conditioner = Conditioner(conditions, net.width)
        self.reader = Text(Tokens(source.vocab, source.length), net.width, net.depth) if config.spans > 0 else None
        reads = self.reader is not None or self.conditioner.has_sequence
        self.net = build_net(net, source, self.space, cond=net.width, sequence=reads, causal=True)

    def _read(self, cond: Cond | None, given: Given | None, n: int, device: torch.device) -> Cond | None:
        """What conditions say and what is known, as one Cond: known values first, so that their place never moves."""
        if self.reader is None:
            return cond
        silent = torch.ones(n, dtype=torch.bool, device=device) if given is None else ~given.known.any(1)
        source = None
        if given is not None:
            more = self.space.length - given.x.shape[1]
            source = F.pad(torch.where(given.known, given.x, self.space.vocab), (0, more), value=self.space.vocab)
        vector, sequence, mask = self.reader(source, silent)
        if cond is None:
            return Cond(vector, sequence, mask)
        if cond.vector is not None:
            vector = vector + cond.vector
        if cond.sequence is not None:
            seen = cond.mask if cond.mask is not None else torch.ones(cond.sequence.shape[:2], dtype=torch.bool, device=device)
            sequence, mask = torch.cat([sequence, cond.sequence], 1), torch.cat([mask, seen], 1)
        return Cond(vector, sequence, mask)

    def _spans(self, batch: Batch) -> Given:
        """Random known spans named by the rows' keys: blocks of 1 to 8 positions, each known with the row's own chance."""
        length = batch.x.shape[1]
        size = 1 + (8 * draws.uniform(batch.key, "span.size")).long()
        shift = (draws.uniform(batch.key, "span.shift") * size).long()
        block = (torch.arange(length, device=batch.x.device) + shift[:, None]) // size[:, None]
        known = draws.uniform(batch.key, "span", 0, (length + 8,)).gather(1, block) < draws.uniform(batch.key, "span.rate")[:, None]
        shown = draws.uniform(batch.key, "span.shown") < self.config.spans
        return Given(batch.x, known & shown[:, None])

    def _rows(self, batch: Batch, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        counted = what_counts(batch, self.space)
        cond = self._read(self.conditioner(batch.cond, len(batch.x), drop, self.config.drop), batch.given, len(batch.x), batch.x.device)
        return token_rows(self.net(shifted(batch.x, self.space.vocab), cond=cond), batch.x, counted, self.space), counted

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Cross entropy in nats, summed over tokens that count; weight counts those tokens."""
        if batch.given is None and self.reader is not None:
            batch = replace(batch, given=self._spans(batch))
        nll, counted = self._rows(batch, drop_of(batch) if self.training else None)
        total = (nll * batch.weight[:, None]).sum()
        return Loss(total, (counted * batch.weight[:, None]).sum(), {"nats": total.detach()})

    def log_prob(self, batch: Batch) -> LogProb:
        """Exact, `parts` (B, L) by token. With known values, of the others given them: sum of log p(x_i | x_<i, known)."""
        nll, _ = self._rows(batch, None)
        return LogProb(-nll.double().sum(1), "exact", -nll)

    def start(self, request: Request) -> Writing:
        """A decoder for `step` that has read the source."""

        def read(cond: dict[str, Tensor], n: int) -> Cond | None:
            return self._read(self.conditioner(cond, n), request.given, n, request.key.device)

        net, cond = guided(self.net, read, request) if self.conditioner.width else (self.net, read(request.cond, len(request.key)))
        return Writing(net, cond, KVCache(self.space.length), self.space.vocab)

    def step(self, state: Writing, ids: Tensor) -> Tensor:
        """(B, V) logits after `ids` (B, n)."""
        return state.step(ids)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """A Partial per token; known values are written where they stand. Raises UsageError when spans were not trained."""
        if request.given is not None and self.reader is None:
            raise UsageError("this seq2seq model was not trained to fill gaps", remedy="train with spans above 0, or family 'masked'")
        yield from write(self.start(request), request, self.space, choice_of(request.sampling))
