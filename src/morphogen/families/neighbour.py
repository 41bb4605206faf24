"""Blends of neighbouring training rows (SMOTE: Chawla et al. 2002, "SMOTE: synthetic minority over-sampling technique")."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, Loss, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.buffers import adopt
from morphogen.families.common import paste, stepwise
from morphogen.families.labels import ignored_names, label_names, matching, said
from morphogen.families.rows import collect, square_distances
from morphogen.sampling import draws
from morphogen.spaces import Array, Space


@dataclass(frozen=True, kw_only=True)
class NeighbourConfig:
    """Who counts as a neighbour."""

    neighbours: int = 5
    "The partner is one of so many nearest rows."


@dataclass(frozen=True, kw_only=True)
class NeighbourSampling:
    """How samples are drawn."""

    blend: float = 1.0
    "How far towards the neighbour a blend may go; 0 gives training rows as they are."


class Neighbour(nn.Module):
    """x = (1 - a) r + a r', r a training row, r' one of its nearest with the same labels, a uniform in (0, blend).

    The yardstick of copying: samples lie between training rows, look excellent, and invent nothing. With known values r is
    one of the rows nearest to them. The model holds the training rows and has no likelihood.
    """

    accepts = (Array,)
    Config, Sampling = NeighbourConfig, NeighbourSampling
    phases: tuple[Phase, ...] = ()
    keeps_rows = True

    rows: Tensor
    owners: Tensor

    def __init__(self, space: Space, conditions: dict[str, Space], config: NeighbourConfig) -> None:
        super().__init__()
        if not isinstance(space, Array) or None in space.shape:
            raise UsageError("neighbours blend arrays of one fixed shape", remedy="choose another family")
        if config.neighbours < 1:
            raise UsageError(f"{config.neighbours} neighbours are too few", remedy="give 1 or more")
        self.space, self.config, self.infill = space, config, "any"
        self.shape = tuple(int(n or 1) for n in space.shape)
        self.labels, self.ignored = label_names(conditions), ignored_names(conditions)
        self.register_buffer("rows", torch.zeros(0, *self.shape))
        self.register_buffer("owners", torch.zeros(0, len(self.labels), dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Keep the rows. Raises DataError when there are none."""
        data = collect(batches, self.labels)
        self.rows, self.owners = data.x.to(self.rows.device), data.labels.to(self.owners.device)

    def _nearest(self, square: Tensor, allowed: Tensor, keys: Tensor, name: str) -> Tensor:
        """(B,) one of the `neighbours` nearest allowed rows, each as likely; -1 where none is allowed."""
        k = min(self.config.neighbours, len(self.rows))
        near = square.masked_fill(~allowed, torch.inf).topk(k, largest=False)
        usable = torch.isfinite(near.values)
        count = usable.sum(1)
        rank = (draws.uniform(keys, name).double() * count).long().clamp(max=k - 1)
        return torch.where(count > 0, near.indices.gather(1, rank[:, None])[:, 0], -1)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """A row, a neighbour, a blend: one step."""
        if not len(self.rows):
            raise UsageError("there are no rows yet", remedy="train it first")
        keys, given = request.key, request.given
        allowed = matching(said(request.cond, self.labels, keys), self.owners)
        if given is None:
            first = draws.choose(torch.where(allowed, 0.0, -torch.inf), keys, "row")
        else:
            square = square_distances(given.x, self.rows, given.known.expand_as(given.x).flatten(1))
            first = self._nearest(square, allowed, keys, "row")
        others = (self.owners[first][:, None] == self.owners[None]).all(-1)
        others[torch.arange(len(keys), device=keys.device), first] = False
        second = self._nearest(square_distances(self.rows[first], self.rows), others, keys, "neighbour")
        second = torch.where(second < 0, first, second)  # the only row of its label stands alone
        reach = (request.sampling or NeighbourSampling()).blend
        a = (draws.uniform(keys, "blend") * reach).view(-1, *[1] * len(self.shape))
        yield Partial(paste(torch.lerp(self.rows[first], self.rows[second], a), given), 0, 1.0, True)

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Squared distance to the nearest training row per number; there is nothing to descend."""
        nearest = square_distances(batch.x, self.rows).min(1).values.float()
        return Loss((nearest * batch.weight).sum(), batch.weight.sum() * self.rows[0].numel())
