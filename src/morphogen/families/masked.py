"""BERT: any tokens from any others. Fills gaps anywhere and draws in any number of rounds."""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Cond, LogProb, Loss, Oddity, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.autoregressive import need_tokens, token_rows
from morphogen.families.common import drop_of, stepwise
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner
from morphogen.nets.transformer import Transformer
from morphogen.sampling import draws
from morphogen.sampling.choice import Choice, choice_of, choose_token, legal, narrow, until_end
from morphogen.sampling.guidance import guided
from morphogen.spaces import Space, Tokens

WEIGHTINGS, ORDERS, SHORT = ("bound", "even"), ("auto", "random", "confident"), 64
FOLDS = 16  # parts in which a sample is guessed from the rest of it


@dataclass(frozen=True, kw_only=True)
class MaskedConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of the network."
    weighting: str = "bound"
    "bound: trains the likelihood bound itself; even: every hidden token counts the same, so mostly empty contexts."
    draws: int = 16
    "How many hidings a log-probability is averaged over."
    drop: float = 0.1
    "Share of training rows that are told no condition, which guidance needs."


@dataclass(frozen=True, kw_only=True)
class MaskedSampling:
    steps: int = 0
    "Rounds; 0: one token a round up to 64 positions, else 24 rounds. As many as positions or more draws one token at a time."
    order: str = "auto"
    "Which tokens a round keeps: random, confident (the surest first) or auto (random where one token a round is drawn)."
    temperature: float = 1.0
    "Below 1 bolder, above 1 more varied; 0 takes the most likely token."
    top_k: int = 0
    "Only the k most likely tokens; 0 for all."
    top_p: float = 1.0
    "Only the fewest tokens that together reach this share."
    min_p: float = 0.0
    "Only tokens at least this likely relative to the best."
    guidance: float = 1.0
    "How strongly the condition is followed: 1 as learned."
    noise: float = 4.5
    "confident: how much chance enters the order, fading out over the rounds; 0 keeps strictly the surest."


class Masked(nn.Module):
    """An order-agnostic model: of n tokens m are hidden, m uniform in 1..n, and guessed from the rest.

    -log p(x) <= E_m (n / m) sum over hidden i of -log p(x_i | the visible) (Uria et al. 2014; Hoogeboom et al. 2022, ARDM,
    arXiv 2110.02037; the absorbing diffusion of Austin et al. 2021, arXiv 2107.03006). Hidden tokens read id `vocab`.

    Ragged samples: positions after `end` hold `end` too and are modelled like all others over the space's full length, so
    lengths are learned and the bound is one on the whole sample. Once an `end` is visible they cost nothing. The log
    divides by the real positions only, so its numbers compare with those of other families.
    """

    recipe: ClassVar[dict[str, Any]] = {"lr": 3e-3, "optimiser": "muon"}  # what the trainer does unless told otherwise
    accepts: ClassVar[tuple[type, ...]] = (Tokens,)
    compiles = False  # it looks at the hidden positions only, as many as there are

    Config, Sampling = MaskedConfig, MaskedSampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: MaskedConfig) -> None:
        super().__init__()
        self.space = need_tokens(space, "masked")
        if config.weighting not in WEIGHTINGS:
            raise UsageError(f"option 'weighting' = {config.weighting!r} is not valid", remedy="choose " + " or ".join(WEIGHTINGS))
        source = replace(self.space, vocab=self.space.vocab + 1)
        net = resolve(config.net, source, self.space)
        self.config, self.infill, self.phases = replace(config, net=net), "any", (Phase(),)
        self.conditioner = Conditioner(conditions, net.width)
        self.net = build_net(net, source, self.space, cond=self.conditioner.width, sequence=self.conditioner.has_sequence)

    def _layout(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """x at full length, what may be hidden, what the net sees at all, and the real positions that are not known."""
        x, real = batch.x, batch.mask if batch.mask is not None else until_end(batch.x, self.space.end)
        more = self.space.length - x.shape[1] if self.space.end is not None else 0
        known = torch.zeros_like(real) if batch.given is None else batch.given.known.bool()
        if more > 0:
            x, real, known = F.pad(x, (0, more), value=self.space.end or 0), F.pad(real, (0, more)), F.pad(known, (0, more))
        if self.space.end is not None:
            return x, ~known, None, real & ~known
        return x, real & ~known, batch.mask, real & ~known

    def _nll(self, batch: Batch, u: Tensor, step: int, drop: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """((B, L) minus log-probability of hidden tokens, hidden, (B,) factor of the bound) for hiding rates u (B,)."""
        x, free, visible, _ = self._layout(batch)
        free = free & (batch.weight > 0)[:, None]
        n = free.sum(1)
        m = 1 + (u * n).floor().clamp(max=(n - 1).clamp(min=0))
        score = draws.uniform(batch.key, "hide", step, (x.shape[1],)) + 2.0 * ~free
        hidden = (score.argsort(1).argsort(1) < m[:, None]) & free
        cond = self.conditioner(batch.cond, len(x), drop, self.config.drop)
        logits = self.net(torch.where(hidden, self.space.vocab, x), cond=cond, mask=visible)
        return token_rows(logits, x, hidden, self.space), hidden, n / m

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """The bound in nats over one hiding a row, summed; weight counts real tokens (weighting "even": hidden ones)."""
        nll, hidden, factor = self._nll(batch, draws.uniform(batch.key, "rate"), 0, drop_of(batch) if self.training else None)
        if self.config.weighting == "even":
            rows, units = nll.sum(1), hidden.sum(1)
        else:
            rows, units = nll.sum(1) * factor, self._layout(batch)[3].sum(1)
        total = (rows * batch.weight).sum()
        return Loss(total, (units * batch.weight).sum(), {"nats": total.detach()})

    def log_prob(self, batch: Batch) -> LogProb:
        """A lower bound, averaged over `draws` hidings whose sizes are spread evenly over 1..n. Known values are conditions."""
        k = self.config.draws
        total = torch.zeros(len(batch.x), dtype=torch.float64, device=batch.x.device)
        for i in range(k):
            u = (i + draws.uniform(batch.key, "rate", i)) / k
            nll, _, factor = self._nll(batch, u, i, None)
            total -= (nll.sum(1) * factor).double() / k
        return LogProb(total, "bound")

    def oddity(self, batch: Batch) -> Oddity:
        """Views: minus the bound, and how badly each token is guessed from the others (`parts`, a share of them hidden at a time)."""
        x, _, visible, real = self._layout(replace(batch, given=None))
        n = x.shape[1]
        folds = min(n, FOLDS)
        turn = draws.permutation(batch.key, "fold", n) % folds
        cond, nll = self.conditioner(batch.cond, len(x)), torch.zeros(x.shape, device=x.device)
        for fold in range(folds):
            hidden = (turn == fold) & real
            nll += token_rows(self.net(torch.where(hidden, self.space.vocab, x), cond=cond, mask=visible), x, hidden, self.space)
        views = torch.stack([-self.log_prob(batch).total, nll.double().sum(1)], 1)
        size = None if self.space.end is None else real.sum(1)
        return Oddity(views, "bound", nll[:, : batch.x.shape[1]], size)

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) mean of the last hidden states over real positions, nothing hidden."""
        x, _, visible, _ = self._layout(replace(batch, given=None))
        real = F.pad(until_end(batch.x, self.space.end) if batch.mask is None else batch.mask, (0, x.shape[1] - batch.x.shape[1]))
        h = self.net(x, cond=self.conditioner(batch.cond, len(x)), mask=visible, hidden=True)
        return (h * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """Fill hidden positions round by round; known ones never change. `x` of an unfinished Partial holds id `vocab` where hidden."""
        s: MaskedSampling = request.sampling or MaskedSampling()
        if s.order not in ORDERS:
            raise UsageError(f"option 'order' = {s.order!r} is not valid", remedy="choose " + ", ".join(ORDERS))
        net, cond = guided(self.net, self.conditioner, request)
        canvas = Canvas(self.space, request)
        steps = s.steps or (canvas.length if canvas.length <= SHORT else 24)
        if steps >= canvas.length and s.order != "confident":
            rounds = _one_by_one(net, cond, canvas, choice_of(s))
        else:
            rounds = _rounds(net, cond, canvas, s, min(steps, canvas.length))
        for progress in rounds:
            if progress < 1:
                yield Partial(canvas.x.clone(), 0, progress, False)
        yield Partial(canvas.finished(), canvas.space.length, 1.0, True)


class Canvas:
    """The sample while it is drawn: `x` holds id `vocab` where hidden, `hidden` says where."""

    def __init__(self, space: Tokens, request: Request) -> None:
        self.space, self.keys, self.given = space, request.key, request.given
        cap = space.length if request.length is None else min(request.length, space.length)
        if cap < 1:
            raise UsageError(f"length {request.length} asks for nothing", remedy="ask for 1 or more")
        self.length = space.length if space.end is not None else cap
        shape, device = (len(self.keys), self.length), self.keys.device
        self.hidden = torch.ones(shape, dtype=torch.bool, device=device)
        self.x = torch.full(shape, space.vocab, device=device)
        self.where = torch.arange(self.length, device=device)
        if self.given is not None:
            n = min(self.length, self.given.x.shape[1])
            self.hidden[:, :n] = ~self.given.known[:, :n]
            self.x[:, :n] = torch.where(self.hidden[:, :n], space.vocab, self.given.x[:, :n])
        if space.end is not None and cap < self.length:  # a length limit is an end that is known
            late = self.hidden & (self.where >= cap)
            self.x = torch.where(late, space.end, self.x)
            self.hidden = self.hidden & ~late

    def allowed(self, logits: Tensor, at: Tensor) -> Tensor:
        """Logits (B, K, V) of positions `at` (B, K): slots; only `end` after an end, no `end` before something else."""
        logits, end = legal(logits, self.space, at), self.space.end
        if end is None:
            return logits
        shown = ~self.hidden
        first_end = torch.where(shown & (self.x == end), self.where, self.length).amin(1, keepdim=True)
        last_other = torch.where(shown & (self.x != end), self.where, -1).amax(1, keepdim=True)
        is_end = torch.arange(logits.shape[-1], device=logits.device) == end
        after, before = ((at > first_end) & (at > last_other))[..., None], (at < last_other)[..., None]
        return logits.masked_fill((after & ~is_end) | (before & is_end & ~after), -torch.inf)

    def finished(self) -> Tensor:
        """(B, L) with `end` after the first end that nothing known follows."""
        end = self.space.end
        if end is None:
            return self.x
        done = ~until_end(self.x, end)
        if self.given is not None:
            n = min(self.length, self.given.x.shape[1])
            keep = F.pad(self.given.known[:, :n] & (self.given.x[:, :n] != end), (0, self.length - n))
            done = done & (torch.where(keep, self.where, -1).amax(1, keepdim=True) < self.where)
        return torch.where(done, end, self.x)


def _one_by_one(net: nn.Module, cond: Cond | None, canvas: Canvas, choice: Choice) -> Iterator[float]:
    """One position a row and round, in an order named by the row's key: exact draws of the learned conditionals."""
    x, hidden, rows = canvas.x, canvas.hidden, torch.arange(len(canvas.keys), device=canvas.keys.device)
    order = (draws.uniform(canvas.keys, "order", 0, (canvas.length,)) + 2.0 * ~hidden).argsort(1)
    rounds = int(hidden.sum(1).amax()) if len(rows) else 0
    for i in range(rounds):
        at = order[:, i:i + 1]
        if isinstance(net, Transformer):  # the last block and the vocabulary only where they are asked for
            logits = net(x, cond=cond, at=at)
        else:
            logits = net(x, cond=cond)[rows[:, None], at]
        token = choose_token(canvas.allowed(logits, at)[:, 0], canvas.keys, at[:, 0], choice)
        free = hidden[rows, at[:, 0]]
        x[rows, at[:, 0]] = torch.where(free, token, x[rows, at[:, 0]])
        hidden[rows, at[:, 0]] = False
        yield (i + 1) / rounds


def _rounds(net: nn.Module, cond: Cond | None, canvas: Canvas, s: MaskedSampling, steps: int) -> Iterator[float]:
    """MaskGIT (Chang et al. 2022, arXiv 2202.04200): guess all that is hidden, keep some, a cosine schedule says how many.

    Of n hidden at the start, floor(n cos(pi/2 t)) are still hidden at time t. order "random" keeps what the key's order says.
    """
    x, hidden, keys, choice = canvas.x, canvas.hidden, canvas.keys, choice_of(s)
    length, n = canvas.length, hidden.sum(1)
    flat, positions = keys.repeat_interleave(length), canvas.where.repeat(len(keys))
    chance = draws.uniform(keys, "order", 0, (length,))
    for i in range(steps):
        t = (i + 1) / steps
        logits = canvas.allowed(net(x, cond=cond), canvas.where[None])
        token = choose_token(logits.flatten(0, 1), flat, positions + length * i, choice).view(x.shape)
        if s.order == "random":
            score = chance
        else:
            sure = narrow(logits, replace(choice, top_k=0, top_p=1.0, min_p=0.0)).log_softmax(-1).gather(2, token[..., None])[..., 0]
            u = draws.uniform(keys, "confidence", i, (length,))
            score = sure - s.noise * (1 - t) * torch.log(-torch.log(u))
        left = (n * math.cos(math.pi / 2 * t)).floor() if i < steps - 1 else torch.zeros_like(n)
        reveal = (hidden.sum(1) - left).clamp(min=0)
        rank = score.masked_fill(~hidden, -torch.inf).argsort(1, descending=True).argsort(1)
        show = hidden & (rank < reveal[:, None])
        x[show], hidden[show] = token[show], False
        yield t
