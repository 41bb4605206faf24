"""Latent classes over Tokens: a mixture of products of categoricals by EM (Lazarsfeld 1950; Goodman 1974)."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, Given, LogProb, Loss, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.buffers import adopt
from morphogen.families.common import counted, paste, stepwise
from morphogen.families.labels import ignored_names, label_names, said
from morphogen.families.rows import collect
from morphogen.sampling import draws
from morphogen.sampling.choice import until_end
from morphogen.spaces import Space, Tokens

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STRENGTHS = (4.0, 12.0, 36.0)
ROUNDS = 12
MOST_ROWS = 20_000
MOST_NUMBERS = 1 << 24  # in the table of all classes
OWN = 1.0  # how many tokens a position's own shares count in a class


@dataclass(frozen=True, kw_only=True)
class LatentClassConfig:
    """How many classes, and how little each is trusted."""

    classes: int = 0
    "Classes; 0: the best of 1 to 256 on a held-out tenth."
    strength: float = 0.0
    "Tokens that what is known of similar tokens counts for in a class; 0: the best of a few on a held-out tenth."


@dataclass(frozen=True, kw_only=True)
class LatentClassSampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    "Below 1 prefers likely tokens within a class, 0 takes the likeliest."


class Fitted(NamedTuple):
    """log w (M,), log p(token | place, class) (L, V, M), log p(label | class) (C, M) of all labels in a line."""

    weight: Tensor
    token: Tensor
    label: Tensor


@dataclass
class Reading:
    """State of the step interface: log w_j + log p(tokens so far | j) (B, M), and how many tokens there are."""

    log: Tensor
    position: int = 0


class LatentClass(nn.Module):
    """p(x) = sum_j w_j prod_i p_ij(x_i), exact in every way: likelihood, next token, known values anywhere.

    A class of few rows has seen few of the tokens it may hold. Its shares p_ij = (n_ij + s m_ij) / (n_i + s) lean on
    m_ij = (T n_ij + own_i) / (n_i + 1): T(u -> v), how often rows of one class hold v where another holds u, is learned over
    all classes and places. So grey levels are smoothed towards levels that are alike, and nobody need say that they are
    ordered. Where the Space has `slots` ids differ in meaning, and m is the place's own share. A label is one more token
    of each row, read first when it is said. What follows the first end is not drawn and does not count.
    """

    accepts = (Tokens,)
    Config, Sampling = LatentClassConfig, LatentClassSampling
    phases: tuple[Phase, ...] = ()
    keeps_rows = False

    weight: Tensor
    token: Tensor
    label: Tensor

    def __init__(self, space: Space, conditions: dict[str, Space], config: LatentClassConfig) -> None:
        super().__init__()
        if not isinstance(space, Tokens) or space.streams != 1:
            raise UsageError("latent classes model one stream of tokens", remedy="choose another family")
        if config.classes < 0 or not (config.strength >= 0 and math.isfinite(config.strength)):
            raise UsageError("classes and strength are not negative", remedy="0 means: chosen")
        self.space, self.config, self.infill = space, config, "any"
        self.labels, self.ignored = label_names(conditions), ignored_names(conditions)
        self.sizes = tuple(conditions[k].vocab for k in self.labels)  # type: ignore[union-attr]
        for name in ("weight", "token", "label"):
            self.register_buffer(name, torch.zeros(0))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # ------------------------------------------------------------------ fit
    def fit(self, batches: Iterable[Batch]) -> None:
        """EM; how many classes and how strong a prior is chosen on a held-out tenth first. Raises DataError without rows."""
        data = collect(batches, self.labels)
        some = draws.uniform(data.keys, "subset").argsort()[:MOST_ROWS]
        x, labels, keys = data.x[some].long(), data.labels[some], data.keys[some]
        held = draws.uniform(keys, "held out") < 0.1
        counts = (self.config.classes,) if self.config.classes else COUNTS
        strengths = (self.config.strength,) if self.config.strength else STRENGTHS
        best, best_score, failures = (counts[0], strengths[-1]), -math.inf, 0
        if len(counts) * len(strengths) > 1 and held.any() and not held.all():
            for count in counts:
                if count > 1 and (count * 2 > len(x) or count * self.space.vocab * self.space.length > MOST_NUMBERS):
                    break
                found = {s: self._em(x[~held], labels[~held], keys[~held], count, s) for s in strengths}
                scores = {s: float(_chances(fit.weight, fit.token, x[held]).logsumexp(1).mean()) for s, fit in found.items()}
                strength = max(scores, key=lambda s: scores[s])
                failures = 0 if scores[strength] > best_score else failures + 1
                if scores[strength] > best_score:
                    best, best_score = (count, strength), scores[strength]
                if failures == 2:
                    break
        fitted = self._em(x, labels, keys, *best)
        self.weight, self.token, self.label = (part.float().to(self.weight.device) for part in fitted)
        self.config = replace(self.config, classes=best[0], strength=best[1])

    def _em(self, x: Tensor, labels: Tensor, keys: Tensor, count: int, strength: float) -> Fitted:
        """`count` classes of rows x (N, L) with labels (N, c). They begin as the rows most like one chosen row each, twice:
        the second time it is known which tokens are alike.
        """
        own, first = self._shares(x), x[draws.uniform(keys, "first").argsort()[:count]]
        alike = torch.eye(self.space.vocab, dtype=torch.float64) + 1e-6
        fitted = Fitted(torch.zeros(0), torch.zeros(0), torch.zeros(0))
        for _ in range(2 if count > 1 and not self.space.slots else 1):
            near = _chances(torch.zeros(()).double(), alike.log()[first].permute(1, 2, 0), x)
            share = nn.functional.one_hot(near.argmax(1), len(first)).double()
            for _ in range(ROUNDS if count > 1 else 1):
                token, alike = self._token_shares(x, share, own, alike, strength)
                weight = ((share.sum(0) + 1) / (len(x) + len(first))).log()
                fitted = Fitted(weight, token, self._label_shares(labels, share))
                share = (_chances(weight, token, x) + _said(fitted.label, labels, self.sizes)).softmax(1)
        return fitted

    def _token_shares(self, x: Tensor, share: Tensor, own: Tensor, alike: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """(log p(token | place, class) (L, V, M), which tokens are alike (V, V)) of rows that belong to classes by `share` (N, M)."""
        total, mean = share.sum(0), own[..., None]
        seen = torch.stack([torch.zeros(self.space.vocab, len(total), dtype=share.dtype).index_add_(0, column, share) for column in x.mT])
        if not self.space.slots:
            alike = torch.einsum("ium,ivm->uv", seen / total.clamp(min=1e-9), seen) + 1e-3
            alike = alike / alike.sum(1, keepdim=True)
            mean = (torch.einsum("ium,uv->ivm", seen, alike) + OWN * mean) / (total + OWN)
        return ((seen + strength * mean) / (total + strength)).log(), alike

    def _shares(self, x: Tensor) -> Tensor:
        """(L, V) how often each legal token stands at each place, half a time more than seen; 0 for others."""
        v, slots = self.space.vocab, self.space.slots
        out = torch.stack([torch.bincount(column, minlength=v) for column in x.mT]).double() + 0.5
        if slots:
            ids = torch.arange(v)
            out = out * torch.stack([(ids >= low) & (ids < high) for low, high in slots])
        return out / out.sum(1, keepdim=True)

    def _label_shares(self, labels: Tensor, share: Tensor) -> Tensor:
        """(C, M) log p(label | class), the labels of all conditions one after another, each smoothed by its share in all rows."""
        parts = []
        for column, size in zip(labels.mT, self.sizes, strict=True):
            real = column >= 0
            seen = torch.zeros(size, share.shape[1], dtype=share.dtype).index_add_(0, column[real], share[real])
            prior = (seen.sum(1, keepdim=True) + 1e-3) / (seen.sum() + 1e-3 * size)
            parts.append(((seen + prior) / (seen.sum(0) + 1)).log())
        return torch.cat(parts) if parts else torch.zeros(0, share.shape[1], dtype=share.dtype)

    # -------------------------------------------------------------- queries
    def _prior(self, cond: dict[str, Tensor], keys: Tensor) -> Tensor:
        """(B, M) log p(class | labels said)."""
        if not len(self.weight):
            raise UsageError("these latent classes have not been fitted", remedy="train first")
        return (self.weight.double() + _said(self.label.double(), said(cond, self.labels, keys), self.sizes)).log_softmax(1)

    def _given(self, prior: Tensor, given: Given | None) -> Tensor:
        """The classes' log-chances with what is known taken in."""
        if given is None:
            return prior
        return (prior + _chances(torch.zeros(()).double(), self.token.double(), given.x, given.known)).log_softmax(1)

    def log_prob(self, batch: Batch) -> LogProb:
        """Exact; `parts` (B, L) by the chain rule, 0 where known or padding. -inf for ids outside their slot."""
        log, token = self._given(self._prior(batch.cond, batch.key), batch.given), self.token.double()
        parts = torch.zeros(batch.x.shape, dtype=torch.float64, device=batch.x.device)
        keep = counted(batch) > 0
        for i, column in enumerate(batch.x.mT):
            before, log = log, torch.where(keep[:, i, None], log + token[i][column], log)
            parts[:, i] = (log.logsumexp(1) - before.logsumexp(1)).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        return LogProb(parts.sum(1).float(), "exact", parts.float())

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Negative log-probability, so that held-out curves can be drawn; there is nothing to descend."""
        total = -(self.log_prob(batch).total * batch.weight).sum()
        return Loss(total, (counted(batch) * batch.weight[:, None]).sum())

    # ----------------------------------------------------------------- draw
    def start(self, request: Request) -> Reading:
        """Nothing read yet."""
        return Reading(self._prior(request.cond, request.key))

    def step(self, state: Reading, ids: Tensor) -> Tensor:
        """(B, V) log-probabilities of the token after `ids` (B, n), which follow what was read; n may be 0 at first."""
        for column in ids.mT:
            state.log = (state.log + self.token[state.position].double()[column]).log_softmax(1)
            state.position += 1
        return (state.log.exp() @ self.token[state.position].double().exp().mT).log()

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """A class by what is said and known, then all its tokens at once."""
        keys, length = request.key, self.space.length
        heat = (request.sampling or LatentClassSampling()).temperature
        log = self._given(self._prior(request.cond, keys), request.given)
        table = self.token.permute(2, 0, 1)[draws.choose(log, keys, "class")]  # (B, L, V)
        if heat > 0:
            place = torch.arange(length, device=keys.device).repeat(len(keys))
            x = draws.choose((table / heat).flatten(0, 1), keys.repeat_interleave(length), "token", place).view(-1, length)
        else:
            x = table.argmax(-1)
        x = paste(x, request.given)
        if self.space.end is not None:
            x = paste(torch.where(until_end(x, self.space.end), x, self.space.end), request.given)
        yield Partial(x, length, 1.0, True)


def _chances(prior: Tensor, token: Tensor, x: Tensor, known: Tensor | None = None) -> Tensor:
    """(B, M) prior + log p(x | class), of known places only where told."""
    out = prior.expand(len(x), token.shape[2]).clone()
    for i, column in enumerate(x.mT):
        here = token[i][column]
        out += here if known is None else torch.where(known[:, i, None], here, 0.0)
    return out


def _said(table: Tensor, labels: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(B, M) log p(labels said | class); nothing for -1."""
    out, first = torch.zeros(len(labels), table.shape[1], dtype=table.dtype, device=table.device), 0
    for column, size in zip(labels.mT, sizes, strict=True):
        out += torch.where(column[:, None] >= 0, table[first + column.clamp(min=0)], 0.0)
        first += size
    return out
