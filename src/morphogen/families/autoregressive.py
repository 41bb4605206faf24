"""GPT: each token from those before it, with an exact likelihood."""
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
from morphogen.families.common import drop_of, stepwise
from morphogen.families.packing import Packing
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner
from morphogen.nets.transformer import KVCache
from morphogen.sampling.choice import Choice, choice_of, choose_token, legal, until_end
from morphogen.sampling.grammar import Guide, guide_of
from morphogen.sampling.guidance import guided
from morphogen.spaces import Space, Tokens, describe

SPARSE = 1024  # positions whose logits are made at once


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of the network."
    drop: float = 0.1
    "Share of training rows that are told no condition, which guidance needs."


@dataclass(frozen=True, kw_only=True)
class AutoregressiveSampling:
    temperature: float = 1.0
    "Below 1 bolder, above 1 more varied; 0 takes the most likely token."
    top_k: int = 0
    "Only the k most likely tokens; 0 for all."
    top_p: float = 1.0
    "Only the fewest tokens that together reach this share."
    min_p: float = 0.0
    "Only tokens at least this likely relative to the best."
    repetition: float = 1.0
    "Above 1 makes tokens that were used less likely."
    presence: float = 0.0
    "Taken from the logits of tokens that were written."
    frequency: float = 0.0
    "Taken from the logits of tokens that were written, once for each time."
    typical: float = 1.0
    "Only the tokens of the most expected surprise that together reach this share."
    guidance: float = 1.0
    "How strongly the condition is followed: 1 as learned."


def need_tokens(space: Space, family: str) -> Tokens:
    """The space if it is one stream of tokens. Raises UsageError otherwise."""
    if not isinstance(space, Tokens) or space.streams != 1:
        raise UsageError(f"{family} models one stream of tokens, not {describe(space)}",
                         remedy="put a bridge in between, such as bins or serialise")
    return space


def token_rows(logits: Tensor, x: Tensor, counted: Tensor, space: Tokens) -> Tensor:
    """(B, L) minus log-probability of each counted token, 0 elsewhere.

    `where` and not a product: a padding row may hold illegal ids, and infinity times 0 is not 0.
    """
    logits = legal(logits, space, torch.arange(x.shape[1], device=x.device))
    nll = F.cross_entropy(logits.flatten(0, 1).float(), x.flatten(), reduction="none").view_as(x)
    return torch.where(counted, nll, torch.zeros_like(nll))


def what_counts(batch: Batch, space: Tokens) -> Tensor:
    """(B, L) bool: real positions that are not known beforehand, in rows that count."""
    counted = batch.mask if batch.mask is not None else until_end(batch.x, space.end)
    if batch.given is not None:
        counted = counted & ~batch.given.known
    return counted & (batch.weight > 0)[:, None]


def shifted(x: Tensor, start: int) -> Tensor:
    """What a decoder reads: the start symbol, then all but the last token."""
    return F.pad(x, (1, 0), value=start)[:, :-1]


@dataclass
class Writing:
    """A decoder at work: feed ids, get logits. One per stream; holds the cache."""

    net: nn.Module
    cond: Cond | None
    cache: KVCache
    start: int

    def step(self, ids: Tensor) -> Tensor:
        """(B, V) logits of the position after `ids` (B, n); the first call puts the start symbol in front, n may be 0 there."""
        if self.cache.length == 0:
            ids = F.pad(ids, (1, 0), value=self.start)
        return self.net(ids, cond=self.cond, cache=self.cache)[:, -1]


def write(state: Writing, request: Request, space: Tokens, choice: Choice) -> Iterator[Partial]:
    """Token by token, left to right. Known values are put in where they stand; what all rows know in front is read in one pass.

    Rows that ended are padded with `end`; when all have, writing stops. The last Partial has the space's full length.
    """
    keys, end = request.key, space.end
    limit, given = _limit(request, space)
    known = torch.zeros(len(keys), limit, dtype=torch.bool, device=keys.device) if given is None else given.known[:, :limit]
    fixed = int(known.long().cumprod(1).sum(1).min()) if len(keys) else 0
    x = torch.zeros(len(keys), limit, dtype=torch.int64, device=keys.device)
    if given is not None:
        x = torch.where(known, given.x[:, :limit], x)
    ended = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
    open_until = (known & (x != end)) * torch.arange(1, limit + 1, device=keys.device) if end is not None else known.long()
    open_until = open_until.amax(1)  # a sample cannot end before what is known of it
    if end is not None:
        ended = (x[:, :fixed] == end).any(1)
    guide = guide_of(request.grammar, len(keys), end)
    for i in range(fixed if guide else 0):
        guide.advance(x[:, i], limit - i, space.vocab)  # type: ignore[union-attr]
    at, feed = fixed, x[:, :fixed]
    while at < limit and not (end is not None and bool(ended.all())):
        logits = _allowed(legal(state.step(feed), space, at), guide, limit - at, end, (open_until > at, known[:, at]))
        seen = x[:, :at] if choice.looks_back else None
        token = choose_token(logits, keys, at, choice, seen, None if seen is None else torch.where(known[:, :at], -1, seen))
        if end is not None:
            token = torch.where(ended, end, token)
        x[:, at] = token = torch.where(known[:, at], x[:, at], token)
        if guide:
            guide.advance(token, limit - at, space.vocab)
        if end is not None:
            ended = ended | (token == end)
        feed, at = token[:, None], at + 1
        if at < limit and not (end is not None and bool(ended.all())):
            yield Partial(x[:, :at].clone(), at, at / limit, False)
    if end is not None:
        x[:, at:] = end
        x = F.pad(x, (0, space.length - limit), value=end)
    yield Partial(x, x.shape[1], 1.0, True)


def _allowed(logits: Tensor, guide: Guide | None, left: int, end: int | None, ahead: tuple[Tensor, Tensor]) -> Tensor:
    """Logits (B, V) under the grammar, without `end` in rows that know more. `ahead`: (something known follows, known here).

    What is known outranks the grammar: a row that could only end although more of it is known is let go.
    """
    out = logits if guide is None else guide.mask(logits, left)
    if end is None:
        return out
    more, here = ahead
    is_end = torch.arange(out.shape[1], device=out.device) == end
    shut = out.masked_fill(more[:, None] & is_end, -torch.inf)
    stuck = more & ~here & ~(shut > -torch.inf).any(1)
    if guide is not None and bool(stuck.any()):
        guide.release(stuck)
        shut = torch.where(stuck[:, None], logits.masked_fill(is_end, -torch.inf), shut)
    return shut


def _limit(request: Request, space: Tokens) -> tuple[int, Given | None]:
    """How many positions are written, and the known values cut or padded to the space's length. Raises UsageError."""
    limit, given = space.length if request.length is None else min(request.length, space.length), request.given
    if limit < 1:
        raise UsageError(f"length {request.length} asks for nothing", remedy="ask for 1 or more")
    if given is not None:
        known = given.known[:, : space.length]
        more = space.length - known.shape[1]
        given = Given(F.pad(given.x[:, : space.length], (0, more)), F.pad(known, (0, more), value=False))
        here = given.known & until_end(torch.where(given.known, given.x, -1), space.end)  # ends that only pad ask for no room
        limit = max(limit, int((here.any(0) * torch.arange(1, space.length + 1, device=here.device)).amax()))
    return limit, given


def check_prefix(given: Given | None, family: str) -> None:
    """Raises UsageError when known positions follow an unknown one."""
    if given is None:
        return
    gap = given.known & (given.known.long().cumprod(1) == 0)
    if bool(gap.any()):
        row = int(gap.any(1).nonzero()[0])
        where = gap[row].nonzero().flatten()
        first = int((~given.known[row]).nonzero()[0])
        places = f"{int(where[0])}-{int(where[-1])}" if len(where) > 1 else str(int(where[0]))
        raise UsageError(f"{family} cannot fill the middle: known positions {places} follow a gap at {first}", where=f"row {row}",
                         remedy="use family 'masked' or 'seq2seq', or give a prefix")


class Autoregressive(nn.Module):
    """log p(x) = sum_i log p(x_i | x_<i, condition), position 0 read from a start symbol (id = vocab).

    `net`: a decoder that exists already, used as it is; with `start` the first position is read from that id of its own
    vocabulary, and logits are made only where they count, since vocabularies from elsewhere are large.
    """

    recipe: ClassVar[dict[str, Any]] = {"lr": 6e-3, "optimiser": "muon"}  # what the trainer does unless told otherwise
    accepts: ClassVar[tuple[type, ...]] = (Tokens,)
    prefills: ClassVar[bool] = True  # a known beginning is read in one pass, so rows of one tile must know equally much

    Config, Sampling = AutoregressiveConfig, AutoregressiveSampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: AutoregressiveConfig, net: nn.Module | None = None,
                 start: int = -1) -> None:
        super().__init__()
        self.space = need_tokens(space, "autoregressive")
        self.first, self.sparse = start if start >= 0 else self.space.vocab, net is not None
        if net is not None:
            self.config, self.infill, self.phases = config, "prefix", (Phase(),)
            self.conditioner, self.net = Conditioner({}, 0), net
            return
        source = replace(self.space, vocab=self.space.vocab + 1)
        size = resolve(config.net, source, self.space)
        self.config, self.infill, self.phases = replace(config, net=size), "prefix", (Phase(),)
        self.conditioner = Conditioner(conditions, size.width)
        self.net = build_net(size, source, self.space, cond=self.conditioner.width, sequence=self.conditioner.has_sequence, causal=True)

    def _rows(self, batch: Batch, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, L) minus log-probabilities and what counts; columns that no row needs are not computed."""
        counted = what_counts(batch, self.space)
        last = int((counted.any(0) * torch.arange(1, counted.shape[1] + 1, device=counted.device)).amax())
        n = min(batch.x.shape[1], max(16, -(-last // 16) * 16))  # few distinct shapes
        x = batch.x[:, :n]
        cond = self.conditioner(batch.cond, len(x), drop, self.config.drop)
        if self.sparse:
            nll = self._sparse_rows(x, counted[:, :n], cond)
        else:
            nll = token_rows(self.net(shifted(x, self.first), cond=cond), x, counted[:, :n], self.space)
        return F.pad(nll, (0, batch.x.shape[1] - n)), counted

    def _sparse_rows(self, x: Tensor, counted: Tensor, cond: Cond | None) -> Tensor:
        """`token_rows` with logits at counted positions only, a few at a time; rows stand in one line where the net allows it."""
        net: Any = self.net
        ids, nll = shifted(x, self.first), torch.zeros(x.shape, device=x.device)
        if not bool(counted.any()):
            return nll
        if net.distance is None:
            lengths = (counted * torch.arange(1, x.shape[1] + 1, device=x.device)).amax(1).clamp(min=1)
            packing = Packing(ids, lengths)
            h = net(packing.line, cache=packing, at=packing.places[counted][None], hidden=True)[0]
        else:
            h = net(ids, cond=cond, hidden=True)[counted]
        h = h if net.head is None else net.head(h)
        parts = [F.cross_entropy(net.vocabulary(part, logits=True).float(), ids, reduction="none")
                 for part, ids in zip(h.split(SPARSE), x[counted].split(SPARSE))]
        nll[counted] = torch.cat(parts)
        return nll

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Cross entropy in nats, summed over tokens that count; weight counts those tokens."""
        nll, counted = self._rows(batch, drop_of(batch) if self.training else None)
        total = (nll * batch.weight[:, None]).sum()
        return Loss(total, (counted * batch.weight[:, None]).sum(), {"nats": total.detach()})

    def log_prob(self, batch: Batch) -> LogProb:
        """Exact, up to and including the first end; `parts` (B, L) by token. Known values are conditions, not counted."""
        nll, _ = self._rows(batch, None)
        return LogProb(-nll.double().sum(1), "exact", -nll)

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) mean of the last hidden states over real positions."""
        real = batch.mask if batch.mask is not None else until_end(batch.x, self.space.end)
        h = self.net(shifted(batch.x, self.first), cond=self.conditioner(batch.cond, len(batch.x)), hidden=True)
        return (h * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)

    def start(self, request: Request) -> Writing:
        """A decoder for `step`; nothing has been read yet."""
        net, cond = guided(self.net, self.conditioner, request)
        return Writing(net, cond, KVCache(self.space.length), self.first)

    def step(self, state: Writing, ids: Tensor) -> Tensor:
        """(B, V) logits after `ids` (B, n)."""
        return state.step(ids)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """A Partial per token. Raises UsageError when known positions follow a gap."""
        check_prefix(request.given, "autoregressive")
        yield from write(self.start(request), request, self.space, choice_of(request.sampling))
