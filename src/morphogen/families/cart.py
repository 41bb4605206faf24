"""Sequential decision trees: one field after another, each drawn from the leaf its row falls into."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, Given, LogProb, Loss, Partial, Phase, Request
from morphogen.families import cart_fit
from morphogen.families.buffers import adopt
from morphogen.families.common import stepwise
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Space, Tokens

CHUNK = 1 << 17  # candidate rows worked on at once
PRIOR = 0.1  # rows of the whole column added to a leaf that weighs candidates: only there so that no weight is zero
SHRINK = 1.0  # the same where a density is asked for: small leaves miss much


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the trees grow."""

    min_leaf: int = 10
    "Fewest training rows in a leaf: 5 follows the data a little closer, 10 stays clear of copying rows."
    smoothing: float = 1.0
    "How far a drawn number may move towards its neighbours in the leaf: 0 repeats training values, 1 half-way."


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a draw can be told."""

    candidates: int = 64
    "Completions weighed per row when a known field comes later than an unknown one."


class Cart(nn.Module):
    """p(x) = prod_j p(x_j | x_<j), each factor a decision tree (Reiter 2005; Nowok, Raab, Dibben 2016, "synthpop").

    A field is drawn from the training values in its leaf; numbers are spread uniformly over the gap to their neighbours
    there, except mass points. Conditions are leading fields, so a missing one is drawn. Known fields are put in; where an
    unknown field comes before a known one, `candidates` completions are drawn, weighted by the leaf probability of each
    known field as it is reached, and resampled (a particle filter per row). Holds training values column by column.
    Accepts a Record of Array((1,)) and Tokens(V, 1); conditions of Tokens(V, 1) or Array((k,)). TypeError for others.
    """

    accepts: ClassVar[tuple[type, ...]] = (Record,)
    Config: ClassVar[type] = Config
    Sampling: ClassVar[type] = Sampling
    infill = "any"
    phases: tuple[Phase, ...] = ()
    keeps_rows = True  # its leaves draw from values of training rows

    def __init__(self, space: Space, conditions: dict[str, Space] | None = None, config: Config | None = None) -> None:
        super().__init__()
        self.space, self.conditions, self.config = space, conditions or {}, config or Config()
        if not isinstance(space, Record) or space.rows != 1:
            raise TypeError(f"sequential trees take a Record of one row, not {space}")
        self.columns = _columns("condition", self.conditions) + _columns("field", dict(space.fields))
        for name, value in cart_fit.empty(self.columns).items():
            self.register_buffer(name, value)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # ------------------------------------------------------------- learning
    def fit(self, batches: Iterable[Batch]) -> None:
        """Grow one tree a field on all rows of weight > 0. Raises ValueError when there are none or a condition is absent."""
        parts = []
        for batch in batches:
            missing = [name for name in self.conditions if name not in batch.cond]
            if missing:
                raise ValueError(f"condition '{missing[0]}' is absent from a batch")
            values, _ = self._table(batch.x, batch.cond, None, len(batch.key))
            parts.append(values[batch.weight > 0].cpu())
        table = torch.cat(parts) if parts else torch.zeros(0, len(self.columns))
        if not len(table):
            raise ValueError("no rows to fit")
        for name, value in cart_fit.grow(table.numpy(), self.columns, self.config.min_leaf, self.config.smoothing).items():
            self.register_buffer(name, value.to(self.get_buffer(name).device))

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Estimated negative log-probability, for evaluation: nothing here is trained by gradients."""
        lp = self.log_prob(batch).total
        return Loss(-(lp * batch.weight).sum(), batch.weight.sum())

    # ------------------------------------------------------------- layout
    def _table(self, x: Any, cond: dict[str, Tensor], given: Given | None, n: int) -> tuple[Tensor, Tensor]:
        """(B, F) values and which are known, of conditions and then fields; numbers and ids alike as float64."""
        device = self.get_buffer("root").device
        values = torch.zeros(n, len(self.columns), dtype=torch.float64, device=device)
        known = torch.zeros(n, len(self.columns), dtype=torch.bool, device=device)
        for j, (kind, name, at, _) in enumerate(self.columns):
            if kind == "condition":
                if name in cond:
                    values[:, j], known[:, j] = cond[name].view(n, -1)[:, at].double(), True
            elif given is not None:
                values[:, j], known[:, j] = given.x[name].view(n, -1)[:, at].double(), given.known[name].view(n, -1)[:, 0]
            elif x is not None:
                values[:, j] = x[name].view(n, -1)[:, at].double()
        return values, known

    def _record(self, values: Tensor) -> dict[str, Tensor]:
        out = {}
        for j, (kind, name, _, vocab) in enumerate(self.columns):
            if kind == "field":
                out[name] = values[:, j : j + 1].long() if vocab else values[:, j : j + 1].float()
        return out

    # ------------------------------------------------------------- one tree
    def _leaf(self, j: int, values: Tensor) -> Tensor:
        """(B,) node number of the leaf of tree j each row falls into."""
        names = ("feature", "threshold", "left", "right", "code", "code_at")
        feature, threshold, left, right, code, code_at = map(self.get_buffer, names)
        rows = values[:, :j].float().double()  # the trees were grown on float32
        for k in range(j):
            if self.columns[k][3]:  # a word is seen as its place in this tree's own order of the words
                rows[:, k] = code[code_at[j, k] + values[:, k].long()].double()
        node = self.get_buffer("root")[j].expand(len(values)).clone()
        active = torch.arange(len(values), device=values.device)
        while len(active):
            at = node[active]
            inner = left[at] >= 0
            active, at = active[inner], at[inner]
            lower = rows[active, feature[at]] <= threshold[at]
            node[active] = torch.where(lower, left[at], right[at])
        return node

    def _draw(self, j: int, leaf: Tensor, key: Tensor) -> Tensor:
        """(B,) a value of the leaf, spread over its cell."""
        start, count = self.get_buffer("start")[leaf], self.get_buffer("count")[leaf]
        at = start + (draws.uniform(key, "leaf", j).double() * count).long().clamp(max=count - 1)
        low, high = self.get_buffer("low")[j, at].double(), self.get_buffer("high")[j, at].double()
        return low + (high - low) * draws.uniform(key, "cell", j).double()

    def _log_leaf(self, j: int, leaf: Tensor, value: Tensor, prior: float) -> tuple[Tensor, Tensor]:
        """(log-probability of a window around each value in its leaf, log width of the window or 0 for words and mass points).

        The window reaches range / (2 sqrt(rows)) of the leaf to either side, or, in a leaf of one value, over 4 % of the
        column. Its share of the leaf is shrunk towards its share of the whole column.
        """
        start, count = self.get_buffer("start")[leaf], self.get_buffer("count")[leaf]
        values, whole = self.get_buffer("value")[j], self.get_buffer("sorted")[j].double()
        if self.columns[j][3]:
            low, high = value - 0.5, value + 0.5
        else:
            grid = self.get_buffer("grid")[j].double()
            at, reach = torch.searchsorted(grid, value.contiguous()).clamp(max=len(grid) - 1), len(grid) // 50
            half = (values[start + count - 1] - values[start]).double() / (2 * count.double().sqrt())
            low = torch.where(half > 0, value - half, torch.minimum(grid[(at - reach).clamp(min=0)], value))
            high = torch.where(half > 0, value + half, torch.maximum(grid[(at + reach).clamp(max=len(grid) - 1)], value))
        overall = (torch.searchsorted(whole, high, right=True) - torch.searchsorted(whole, low)).double() / len(whole)
        inside = _below(values, start, count, high, True) - _below(values, start, count, low, False)
        share = (inside + prior * overall.clamp(min=0.5 / len(whole))) / (count + prior)
        width = torch.zeros_like(value) if self.columns[j][3] else torch.where(high > low, (high - low).clamp(min=1e-30).log(), 0.0)
        return share.log(), width

    # ------------------------------------------------------------- drawing
    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """Draw whole rows; one Partial."""
        n = len(request.key)
        sampling = request.sampling or Sampling()
        values, known = self._table(None, request.cond, request.given, n)
        # rows where something unknown comes before something known need a choice among candidates
        late = (known & ((~known).cumsum(1) > 0)).any(1)
        plain, hard = (~late).nonzero()[:, 0], late.nonzero()[:, 0]
        for part in plain.split(CHUNK):
            values[part] = self._complete(values[part], known[part], request.key[part], 1)
        for part in hard.split(max(1, CHUNK // sampling.candidates)):
            values[part] = self._complete(values[part], known[part], request.key[part], sampling.candidates)
        yield Partial(self._record(values), 0, 1.0, True)

    def _complete(self, values: Tensor, known: Tensor, key: Tensor, candidates: int) -> Tensor:
        """Fill in what is unknown, field by field; with candidates, resample whenever a known field is reached late."""
        n, k = len(values), candidates
        late = known & ((~known).cumsum(1) > 0)
        values, known = (t.repeat_interleave(k, 0) for t in (values, known))
        own = key.repeat_interleave(k)
        if k > 1:
            own = draws.derive(own, "candidate", torch.arange(k, device=key.device).repeat(n))
        for j in range(len(self.columns)):
            leaf = self._leaf(j, values)
            drawn = self._draw(j, leaf, own)
            if k > 1 and bool(late[:, j].any()):
                weight = torch.where(late[:, j : j + 1], self._log_leaf(j, leaf, values[:, j], PRIOR)[0].view(n, k), 0.0)
                cdf = weight.double().softmax(1).cumsum(1)
                # one uniform a row, evenly spread over its candidates: systematic resampling keeps the most different ones
                shift = draws.uniform(key, "resample", j).double()[:, None]
                points = (torch.arange(k, device=key.device) + shift) / k
                pick = torch.searchsorted(cdf, points).clamp(max=k - 1)
                pick = torch.where(late[:, j : j + 1], pick, torch.arange(k, device=key.device))
                at = (pick + torch.arange(n, device=key.device)[:, None] * k).flatten()
                values = values[at]
            values[:, j] = torch.where(known[:, j], values[:, j], drawn)
        if k == 1:
            return values
        one = (draws.uniform(key, "one").double() * k).long().clamp(max=k - 1)
        return values[one + torch.arange(n, device=key.device) * k]

    # ------------------------------------------------------------- probability
    @torch.no_grad()
    def log_prob(self, batch: Batch) -> LogProb:
        """Estimate: words by shrunk leaf shares, numbers by the share of a window divided by its width; `parts` (B, fields)."""
        values, _ = self._table(batch.x, batch.cond, None, len(batch.key))
        parts = []
        for j, (kind, *_) in enumerate(self.columns):
            if kind == "field":
                share, width = self._log_leaf(j, self._leaf(j, values), values[:, j], SHRINK)
                parts.append(share - width)
        stacked = torch.stack(parts, 1).float()
        return LogProb(stacked.sum(1), "estimate", stacked)


def _columns(kind: str, spaces: Mapping[str, Space]) -> list[tuple[str, str, int, int]]:
    """(kind, name, position, vocabulary or 0) of every column. Raises TypeError for a Space that is no number and no word."""
    out = []
    for name, space in spaces.items():
        if isinstance(space, Tokens) and space.length == 1 and space.streams == 1:
            out.append((kind, name, 0, space.vocab))
        elif isinstance(space, Array) and len(space.shape) == 1 and space.shape[0] and (kind == "condition" or space.shape == (1,)):
            out += [(kind, name, i, 0) for i in range(space.shape[0])]
        else:
            raise TypeError(f"{kind} '{name}' is {space}: sequential trees take numbers, Array((1,)), and words, Tokens(V, 1)")
    return out


def _below(sorted_: Tensor, start: Tensor, count: Tensor, value: Tensor, equal: bool) -> Tensor:
    """How many of `sorted_[start : start + count]` lie below each value (or at it, `equal`): a bisection per row, all at once."""
    low, high = torch.zeros_like(count), count.clone()
    for _ in range(int(math.log2(max(1, int(count.max())))) + 1 if len(count) else 0):
        middle = (low + high) // 2
        seen = sorted_[(start + middle).clamp(max=len(sorted_) - 1)].double()
        go = ((seen <= value) if equal else (seen < value)) & (middle < high)
        low, high = torch.where(go, middle + 1, low), torch.where(go, high, middle)
    return low
