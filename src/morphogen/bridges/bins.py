"""Array -> Tokens: one token a number."""
from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.bridges.buffers import adopt
from morphogen.contracts import Given
from morphogen.sampling import draws
from morphogen.spaces import Array, Space, Tokens

LEVELS = 256


class Bins(nn.Module):
    """Numbers as the nearest of up to 256 levels: the data's own when there are so few, else even bins from least to largest.

    (B, C, *space) -> (B, L), channels last, so one place's channels are neighbours; grid (*space) or (*space, C). A vector
    (B, D) has levels per coordinate, anything with space shares them. Even bins are drawn from uniformly on the way back,
    own levels come back exactly. `volume` divides by each bin's width, own levels counting as cells that reach half-way to
    their neighbours: log-probabilities are densities, comparable with a continuous model of uniformly dequantised data.
    Raises TypeError for ragged Arrays.
    """

    leads = (Array, Tokens)

    def __init__(self, source: Space) -> None:
        super().__init__()
        if not isinstance(source, Array) or None in source.shape:
            raise TypeError(f"bins take an Array of one fixed shape, not {source}")
        self.source = source
        self.shape = tuple(n for n in source.shape if n is not None)
        self.channels, self.space = self.shape[0], self.shape[1:]
        self.groups = 1 if self.space else self.channels
        self.edges: Tensor
        self.levels: Tensor
        even = torch.linspace(-1, 1, LEVELS + 1).expand(self.groups, -1)
        self.register_buffer("edges", even.clone())
        self.register_buffer("levels", torch.zeros(self.groups, 0))
        self._retarget()

    def _retarget(self) -> None:
        grid = (*self.space, self.channels) if self.channels > 1 else self.space
        counts = self._counts()[:, 0].tolist()
        slots = () if self.space or len(set(counts)) == 1 else tuple((0, n) for n in counts)
        self.target: Space = Tokens(max(counts), prod(self.shape), grid=grid if self.space else (), slots=slots)

    def _counts(self) -> Tensor:
        """(groups, 1) how many levels each group has."""
        return (self.edges.isfinite().sum(1, keepdim=True) - 1).clamp(min=1)

    @property
    def exact(self) -> bool:
        """Whether each token is one of the data's own levels, so that its probability is that of the value itself."""
        return self.levels.shape[1] > 0

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._retarget()

    def fit(self, x: Any, mask: Tensor | None = None) -> None:
        """Find the levels, or the range, of a large batch (B, C, *space)."""
        values = x.detach().float().reshape(1, -1) if self.space else x.detach().float().T
        own = [torch.unique(v) for v in values]
        if max(map(len, own)) <= LEVELS:
            size = max(2, max(map(len, own)))
            edges = torch.stack([_cells(v, size) for v in own])
            levels = torch.stack([torch.cat([v, v[-1:].expand(size - len(v))]) for v in own])
        else:
            low, high = values.min(1).values, values.max(1).values
            share = torch.linspace(0, 1, LEVELS + 1, device=values.device)
            edges = low[:, None] + (high - low).clamp(min=1e-6)[:, None] * share
            levels = edges.new_zeros(self.groups, 0)
        self.edges, self.levels = edges.contiguous(), levels.contiguous()
        self._retarget()

    def _flat(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).flatten(1)

    def _ids(self, x: Any) -> Tensor:
        flat = self._flat(x).float()
        columns = flat.reshape(1, -1) if self.space else flat.T.contiguous()
        ids = torch.searchsorted(self.edges[:, 1:-1].contiguous(), columns, right=True)
        ids = torch.minimum(ids, self._counts() - 1)
        return ids.view(flat.shape) if self.space else ids.T.contiguous()

    def _take(self, table: Tensor, ids: Tensor) -> Tensor:
        """table[group of the position, id] for (B, L) ids."""
        return table[0][ids] if self.space else table.gather(1, ids.T).T

    def encode(self, x: Any, mask: Tensor | None = None) -> tuple[Tensor, None]:
        return self._ids(x), None

    def decode(self, x: Any, keys: Tensor) -> Tensor:
        ids = x.clamp(0, self.edges.shape[1] - 2)
        if self.levels.shape[1]:
            flat = self._take(self.levels, ids)
        else:
            low, high = self._take(self.edges[:, :-1], ids), self._take(self.edges[:, 1:], ids)
            flat = low + (high - low) * draws.uniform(keys, "bins", 0, (ids.shape[1],))
        return flat.view(-1, *self.space, self.channels).movedim(-1, 1)

    def given(self, given: Given) -> Given:
        known = given.known.expand(-1, *self.shape)
        return Given(self._ids(given.x), self._flat(known))

    def parts(self, each: Tensor) -> Tensor:
        """(B, L) a number for each token -> the same for each number of the sample."""
        return each.view(-1, *self.space, self.channels).movedim(-1, 1)

    def volume(self, x: Any) -> Tensor:
        """(B,) minus the log widths of the bins; a coordinate with one level counts as certain (0)."""
        width = self.edges[:, 1:] - self.edges[:, :-1]
        log = torch.where(width.isfinite() & (width > 0), width, 1.0).log()
        return -self._take(log, self._ids(x)).sum(1)


def _cells(levels: Tensor, size: int) -> Tensor:
    """(size + 1,) edges half-way between levels; the outer cells are as wide as their inner half says. Unused ones are at infinity."""
    if len(levels) == 1:
        edges = levels.new_tensor([-torch.inf, torch.inf])
    else:
        middle = (levels[1:] + levels[:-1]) / 2
        edges = torch.cat([(2 * levels[:1] - middle[:1]), middle, (2 * levels[-1:] - middle[-1:])])
    return torch.cat([edges, edges.new_full((size + 1 - len(edges),), torch.inf)])
