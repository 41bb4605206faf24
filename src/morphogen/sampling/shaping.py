"""Logits to logits: what is legal, what was said before, and what is likely enough.

Shares are whole numbers (`draws.weights`), whose sums do not depend on their order or on what has no weight. So the few tokens
`shortlist` finds in a large vocabulary are narrowed to exactly what sorting all of it would leave.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.spaces import Tokens

if TYPE_CHECKING:
    from morphogen.sampling.choice import Choice

BAN = -100.0
BLOCK = 64  # a row is first looked at by the maxima of blocks


def legal(logits: Tensor, space: Tokens, position: Tensor | int) -> Tensor:
    """-inf for ids outside the slot of their position. `logits` (..., V), `position` broadcasts to (...)."""
    if not space.slots:
        return logits
    slots = torch.tensor(space.slots, device=logits.device)
    low, high = slots[torch.as_tensor(position, device=logits.device)].unbind(-1)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill((ids < low[..., None]) | (ids >= high[..., None]), -torch.inf)


def biased(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """(..., V) with a number added to some ids; -100 bans. Raises UsageError for an id the vocabulary does not have."""
    if not bias:
        return logits
    if max(bias) >= logits.shape[-1]:
        raise UsageError(f"option 'logit_bias' names token {max(bias)}", remedy=f"ids go up to {logits.shape[-1] - 1}")
    ids = torch.tensor(list(bias), device=logits.device)
    add = torch.tensor([-torch.inf if v <= BAN else v for v in bias.values()], dtype=logits.dtype, device=logits.device)
    return logits.index_add(-1, ids, add.expand(*logits.shape[:-1], -1))


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits (B, V) of ids in `seen` (B, n) by `penalty`; negative ids are skipped."""
    if penalty == 1 or seen.shape[1] == 0:
        return logits
    wide = F.pad(logits, (0, 1))  # one place more, for what is skipped
    at = torch.where(seen < 0, logits.shape[1], seen)
    had = wide.gather(1, at)
    return wide.scatter(1, at, torch.where(had > 0, had / penalty, had * penalty))[:, :-1]


def discourage(logits: Tensor, written: Tensor, presence: float, frequency: float) -> Tensor:
    """logit - presence [count > 0] - frequency count, counts over `written` (B, n); negative ids are skipped (OpenAI's definition)."""
    if (presence == 0 and frequency == 0) or written.shape[1] == 0:
        return logits
    at = torch.where(written < 0, logits.shape[1], written)
    wide = F.pad(logits, (0, 1))
    ones = torch.ones_like(at, dtype=logits.dtype)
    count = torch.zeros_like(wide).scatter_add_(1, at, ones).gather(1, at)
    return wide.scatter(1, at, wide.gather(1, at) - presence - frequency * count)[:, :-1]


def narrow(logits: Tensor, choice: Choice, rest: int = 0) -> Tensor:
    """(..., V) after temperature (`Choice.heat`) with unlikely tokens at -inf.

    The best token always stays, except under `typical`. `rest`: the weight of tokens that were left out of `logits` beforehand.
    """
    if choice.heat != 1:  # from the best, so that a very low temperature does not overflow
        logits = (logits - logits.amax(-1, keepdim=True)) / choice.heat
    if 0 < choice.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(choice.top_k, -1).values[..., -1:], -torch.inf)
    if choice.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        late = _beyond(draws.weights(ordered), choice.top_p, rest)
        logits = logits.masked_fill(torch.zeros_like(late).scatter(-1, order, late), -torch.inf)
    if choice.min_p > 0:
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(choice.min_p), -torch.inf)
    return logits if choice.typical >= 1 else _typical(logits, choice.typical)


def _beyond(weight: Tensor, share: float, rest: int = 0) -> Tensor:
    """(..., V) True where what comes before already reaches the share."""
    reached = weight.cumsum(-1)
    return reached - weight >= _need(reached[..., -1:] + rest, share)


def _need(total: Tensor, share: float) -> Tensor:
    return (total * share).ceil().clamp(min=1)


def _typical(logits: Tensor, share: float) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy (Meister et al. 2022, arXiv 2202.00666), ties of the last too."""
    weight = draws.weights(logits)
    p = weight / weight.sum(-1, keepdim=True)
    surprise = -p.log()
    # in whole numbers too: a sum of floats would depend on which tokens stand in between
    entropy = (torch.where(weight > 0, p * surprise, 0.0) * 2.0**40).floor().sum(-1, keepdim=True) * 2.0**-40
    far = torch.where(weight > 0, (surprise - entropy).abs(), torch.inf)
    ordered, order = far.sort(dim=-1, stable=True)
    kept = (~_beyond(weight.gather(-1, order), share)).sum(-1, keepdim=True)
    return logits.masked_fill(far > ordered.gather(-1, kept - 1), -torch.inf)


def shortlist(row: Tensor, choice: Choice) -> tuple[Tensor, Tensor, int] | None:
    """Logits and ids of a few of a row (V,) that hold all `narrow` will keep, in rising order of id, and the weight of the others.

    The row is float32 or float64, on the host. None when all must be looked at. What it costs is one pass over the row, two
    if the share of `top_p` has to be known.
    """
    if len(row) % BLOCK:
        row = F.pad(row, (0, -len(row) % BLOCK), value=-torch.inf)
    tops = row.view(-1, BLOCK).amax(1)
    best = float(tops.amax())
    if not best > -math.inf:
        return None
    if choice.top_k:
        found = _top(row, tops, choice.top_k, best)
        return None if found is None else (*found, 0)
    if choice.top_p < 1:
        total = _weights(row, best, choice.heat).sum()
        need = float(_need(total, choice.top_p))
        for k in (64, 1024, 8192):
            found = _top(row, tops, k, best)
            if found is None:
                break
            held = float(_weights(found[0], best, choice.heat).sum())
            if held >= need:
                return (*found, int(total) - int(held))
        return None
    if choice.min_p:
        low = best + choice.heat * math.log(choice.min_p)
        return *_from(row, tops, max(low - _slack(low, best), torch.finfo(row.dtype).min)), 0
    return None


def _weights(logits: Tensor, best: float, heat: float) -> Tensor:
    """The weights that `narrow` will come to."""
    return draws.weights(logits if heat == 1 else (logits - best) / heat)


def _slack(*logits: float) -> float:
    """Rounding in `narrow` may make equal what is that close."""
    return 1e-5 * (1 + max(map(abs, logits)))


def _top(row: Tensor, tops: Tensor, k: int, best: float) -> tuple[Tensor, Tensor] | None:
    """Logits and ids of at least the k largest and all their ties, in rising order of id. None: too many to be worth it.

    The k-th largest of the maxima `tops` of blocks is reached by k entries at least.
    """
    if len(tops) < 4 * k:  # smaller blocks then
        size = BLOCK
        while size > 1 and len(row) < size * 4 * k:
            size //= 2
        if size < 4:
            return None
        tops = row.view(-1, size).amax(1)
    low = float(np.partition(tops.numpy(), len(tops) - k)[len(tops) - k])
    if low == -math.inf:  # fewer than k blocks have a chance
        return _from(row, tops, torch.finfo(row.dtype).min)
    return _from(row, tops, low - _slack(low, best))


def _from(row: Tensor, tops: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """Logits from `low` on and their ids, in rising order of id; only blocks that reach it are looked into."""
    size = len(row) // len(tops)  # numpy from here: its calls on little cost a third of torch's
    some = np.flatnonzero(tops.numpy() >= low)
    inside = row.numpy().reshape(-1, size)[some].ravel()
    at = np.flatnonzero(inside >= low)
    return torch.from_numpy(inside[at]), torch.from_numpy(some[at // size] * size + at % size)


def most_likely(logits: Tensor) -> Tensor:
    """(B,) argmax of (B, V), the first of equals; torch's own takes six times as long for a large vocabulary."""
    if logits.shape[1] % 64 or logits.device.type != "cpu":
        return logits.argmax(-1)
    blocks = logits.reshape(len(logits), -1, 64)
    block = blocks.amax(2).argmax(1)
    return block * 64 + blocks[torch.arange(len(logits)), block].argmax(1)
