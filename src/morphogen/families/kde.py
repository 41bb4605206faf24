"""Kernel density (Rosenblatt 1956, Parzen 1962): a training row plus Gaussian noise, the width found by leave-one-out likelihood."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, LogProb, Loss, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.buffers import adopt
from morphogen.families.common import paste, stepwise
from morphogen.families.labels import ignored_names, label_names, matching, said
from morphogen.families.rows import Rows, collect, square_distances
from morphogen.sampling import draws
from morphogen.spaces import Array, Space

LOG_2PI = math.log(2 * math.pi)
PAIRS = 2**24  # distances looked at to find the width


@dataclass(frozen=True, kw_only=True)
class KDEConfig:
    """Width of the kernel."""

    bandwidth: float = 0.0
    "Standard deviation of the noise around each training row; 0: the likeliest on rows left out one by one."


@dataclass(frozen=True, kw_only=True)
class KDESampling:
    """How samples are drawn."""

    temperature: float = 1.0
    "Multiplies the width of the noise."


class KDE(nn.Module):
    """p(x) = mean over training rows r of N(x; r, bandwidth^2 I), over rows with the same labels where labels are said.

    Known values weigh the rows by how well they explain them: exact conditioning. The model holds the training rows.
    """

    accepts = (Array,)
    Config, Sampling = KDEConfig, KDESampling
    phases: tuple[Phase, ...] = ()
    keeps_rows = True

    rows: Tensor
    owners: Tensor
    bandwidth: Tensor

    def __init__(self, space: Space, conditions: dict[str, Space], config: KDEConfig) -> None:
        super().__init__()
        if not isinstance(space, Array) or None in space.shape:
            raise UsageError("kernel density models arrays of one fixed shape", remedy="choose another family")
        if not (config.bandwidth >= 0 and math.isfinite(config.bandwidth)):
            raise UsageError(f"a bandwidth of {config.bandwidth} is not a width", remedy="0 means: chosen")
        self.space, self.config, self.infill = space, config, "any"
        self.shape = tuple(int(n or 1) for n in space.shape)
        self.labels, self.ignored = label_names(conditions), ignored_names(conditions)
        self.register_buffer("rows", torch.zeros(0, *self.shape))
        self.register_buffer("owners", torch.zeros(0, len(self.labels), dtype=torch.int64))
        self.register_buffer("bandwidth", torch.zeros(1))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Keep the rows; find the bandwidth. Raises DataError without rows."""
        data = collect(batches, self.labels)
        width = self.config.bandwidth or _best_width(data)
        self.rows, self.owners = data.x.to(self.rows.device), data.labels.to(self.owners.device)
        self.bandwidth = torch.full_like(self.bandwidth, width)
        self.config = replace(self.config, bandwidth=width)

    def _prior(self, cond: dict[str, Tensor], keys: Tensor) -> Tensor:
        """(B, N) log share of each row: uniform over those that match what is said."""
        match = matching(said(cond, self.labels, keys), self.owners)
        return torch.where(match, 0.0, -torch.inf).double() - match.sum(1, keepdim=True).double().log()

    def _density(self, x: Tensor, known: Tensor | None, prior: Tensor) -> Tensor:
        """(B, N) log N(known part of x; row, bandwidth^2 I) + log share."""
        h = self.bandwidth.double()
        flat = None if known is None else known.expand_as(x).flatten(1)
        n = self.rows[0].numel() if flat is None else flat.sum(1, keepdim=True)
        return -square_distances(x, self.rows, flat) / (2 * h.square()) - n * (h.log() + 0.5 * LOG_2PI) + prior

    def log_prob(self, batch: Batch) -> LogProb:
        """Exact, of what is not known given what is."""
        prior = self._prior(batch.cond, batch.key)
        total = self._density(batch.x, None, prior).logsumexp(1)
        if batch.given is not None:
            total = total - self._density(batch.given.x, batch.given.known, prior).logsumexp(1)
        return LogProb(total.float(), "exact")

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Negative log-probability per number, so that held-out curves can be drawn; there is nothing to descend."""
        total = -(self.log_prob(batch).total * batch.weight).sum()
        return Loss(total, batch.weight.sum() * self.rows[0].numel())

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """A row (likelier where it agrees with what is known) plus noise: one step."""
        if not len(self.rows):
            raise UsageError("this kernel density has not been fitted", remedy="train it first")
        keys, given = request.key, request.given
        logits = self._prior(request.cond, keys)
        if given is not None:
            logits = self._density(given.x, given.known, logits)
        width = self.bandwidth * (request.sampling or KDESampling()).temperature
        x = self.rows[draws.choose(logits, keys, "row")] + width * draws.normal(keys, "noise", 0, self.shape)
        yield Partial(paste(x, given), 0, 1.0, True)


def _best_width(data: Rows) -> float:
    """The bandwidth under which rows are likeliest when each is left out of its own density, by a grid and a finer one.

    Exact copies of a row are left out with it: they would drive the width to zero.
    """
    n, size = len(data.x), data.x[0].numel()
    some = draws.uniform(data.keys, "width").argsort()[: max(2, min(n, PAIRS // n))]
    square = square_distances(data.x[some], data.x)
    tiny = 1e-12 * float(square.max())
    square = square.masked_fill((square <= tiny) | ~matching(data.labels[some], data.labels), torch.inf)
    usable = torch.isfinite(square).any(1)
    if not bool(usable.any()):
        return 1e-3
    square = square[usable]
    near = math.sqrt(float(square.min(1).values.median()) / size)

    def score(width: float) -> float:
        return float((-square / (2 * width**2)).logsumexp(1).mean()) - size * math.log(width)

    grid = [near * 10 ** (e / 8) for e in range(-8, 12)]
    best = max(grid, key=score)
    return max((best * 10 ** (e / 80) for e in range(-9, 10)), key=score)
