"""Record -> Tokens: a row as a short sentence, each position with its own legal ids."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.bridges.buffers import adopt, atoms, flat_fields
from morphogen.contracts import Given
from morphogen.sampling import draws
from morphogen.spaces import Record, Space, Tokens

COARSE, FINE = 64, 32


class Serialise(nn.Module):
    """A word is one token. A number is two, its quantile bin and its place inside the bin, or one when it is discrete.

    Discrete (fewer than 200 distinct values, each seen twice on average): one token a value, volume 0, so that its
    log-probability is a mass. Otherwise up to 64 quantile bins, where a mass point (0.5 % of the rows) has a bin of its own
    and comes back exactly, with mass; and 32 even places in a bin, decoded uniformly by `draws`, with density
    1 / (width of the place). So volumes are exact, and comparable with any density of the same columns. Numbers beyond the
    fitted range count as the outermost place. `target` is known once fitted or loaded.
    """

    leads = (Record, Tokens)

    def __init__(self, source: Space) -> None:
        super().__init__()
        self.source = source
        self.fields = flat_fields(source)
        for i, (_, vocab) in enumerate(self.fields):
            if not vocab:  # (2, K): lower and upper end of each bin; equal ends are a mass point
                self.register_buffer(f"bins_{i}", torch.tensor([[-1.0], [1.0]]))
        self._retarget()

    def _retarget(self) -> None:
        sizes: list[int] = []
        for i, (_, vocab) in enumerate(self.fields):
            if vocab:
                sizes.append(vocab)
                continue
            low, high = self.get_buffer(f"bins_{i}")
            sizes += [len(low)] if bool((low == high).all()) else [len(low), FINE]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        slots = tuple((a, a + n) for a, n in zip(starts, sizes))
        self.target: Space = Tokens(sum(sizes), len(sizes), slots=slots)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._retarget()

    def fit(self, x: Any, mask: Tensor | None = None) -> None:
        """Fit the bins to a large batch of records."""
        for i, (name, vocab) in enumerate(self.fields):
            if not vocab:
                self.register_buffer(f"bins_{i}", fit_bins(x[name][:, 0].float()))
        self._retarget()

    def _slots(self) -> tuple[tuple[int, int], ...]:
        assert isinstance(self.target, Tokens)
        return self.target.slots

    def _walk(self) -> list[tuple[str, int, Tensor | None, int, bool]]:
        """(name, first position, bins or None for a word, first id, whether a place follows) of each field."""
        out, at = [], 0
        for i, (name, vocab) in enumerate(self.fields):
            bins = None if vocab else self.get_buffer(f"bins_{i}")
            two = bins is not None and bool((bins[0] != bins[1]).any())
            out.append((name, at, bins, self._slots()[at][0], two))
            at += 1 + two
        return out

    def encode(self, x: Any, mask: Tensor | None = None) -> tuple[Tensor, None]:
        out = []
        for name, at, bins, start, two in self._walk():
            value = x[name][:, 0]
            coarse, fine = (value, None) if bins is None else _place(value.contiguous(), bins)
            out.append(start + coarse)
            if two and fine is not None:
                out.append(self._slots()[at + 1][0] + fine)
        return torch.stack(out, 1), None

    def decode(self, x: Any, keys: Tensor) -> dict[str, Tensor]:
        out = {}
        for name, at, bins, start, two in self._walk():
            low, high = self._slots()[at]
            coarse = (x[:, at] - start).clamp(0, high - low - 1)
            if bins is None:
                out[name] = coarse[:, None]
                continue
            value = bins[0][coarse]
            if two:
                fine = (x[:, at + 1] - self._slots()[at + 1][0]).clamp(0, FINE - 1)
                share = (fine + draws.uniform(keys, f"place.{name}")) / FINE
                value = value + (bins[1] - bins[0])[coarse] * share
            out[name] = value[:, None]
        return out

    def given(self, given: Given) -> Given:
        """A known number makes both of its tokens known."""
        known = []
        for name, _, _, _, two in self._walk():
            known += [given.known[name]] * (1 + two)
        return Given(self.encode(given.x)[0], torch.cat(known, 1))

    def parts(self, each: Tensor) -> dict[str, Tensor]:
        """(B, L) a number for each token -> their sum for each field, (B, 1)."""
        return {name: each[:, at : at + 1 + two].sum(1, keepdim=True) for name, at, _, _, two in self._walk()}

    def volume(self, x: Any) -> Tensor:
        """(B,) minus the log width of each number's place; 0 for words and mass points."""
        total = torch.zeros(len(next(iter(x.values()))), device=next(iter(x.values())).device)
        for name, _, bins, _, two in self._walk():
            if bins is not None and two:
                width = (bins[1] - bins[0])[_place(x[name][:, 0].contiguous(), bins)[0]] / FINE
                total = total - torch.where(width > 0, width, 1.0).log()
        return total


def fit_bins(values: Tensor) -> Tensor:
    """(2, K) ascending bins of (N,) numbers: mass points as [v, v], between them quantile bins that touch."""
    distinct, _, mass, discrete = atoms(values)
    if discrete or len(distinct) == 1:
        return torch.stack([distinct, distinct])
    rest = values[~torch.isin(values, distinct[mass])]
    count = max(2, min(COARSE, len(rest) // 20))
    sample = rest.double()[:: len(rest) // 2**22 + 1]  # torch.quantile refuses more than 16 M numbers
    edges = torch.unique(torch.quantile(sample, torch.linspace(0, 1, count + 1, dtype=torch.float64)).float())
    edges[0], edges[-1] = rest.min(), rest.max()
    if len(edges) < 2:
        edges = torch.stack([edges[0], edges[0] + edges[0].abs().clamp(min=1e-6) * 1e-3])
    # A mass point inside a bin keeps the bin whole: no other number falls on it, and its own bin is looked up first.
    low = torch.cat([edges[:-1], distinct[mass]])
    high = torch.cat([edges[1:], distinct[mass]])
    order = torch.argsort(low.double() + high.double(), stable=True)
    return torch.stack([low[order], high[order]])


def _place(value: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """(bin, place inside it) of (B,) numbers."""
    low, high = bins
    points, open_ = (low == high).nonzero()[:, 0], (low != high).nonzero()[:, 0]
    coarse = torch.zeros_like(value, dtype=torch.long)
    share = torch.zeros_like(value)
    if len(open_):
        inside = torch.searchsorted(high[open_][:-1].contiguous(), value, right=True)
        coarse = open_[inside]
        share = (value - low[coarse]) / (high - low)[coarse]
    if len(points):
        order = low[points].argsort()
        points = points[order]
        near = torch.searchsorted(low[points].contiguous(), value).clamp(max=len(points) - 1)
        if not len(open_):  # discrete: the nearest value
            before = (near - 1).clamp(min=0)
            near = torch.where((value - low[points[before]]).abs() < (low[points[near]] - value).abs(), before, near)
            return points[near], torch.zeros_like(coarse)
        hit = low[points[near]] == value
        coarse = torch.where(hit, points[near], coarse)
        share = torch.where(hit, 0.0, share)
    return coarse, (share * FINE).long().clamp(0, FINE - 1)
