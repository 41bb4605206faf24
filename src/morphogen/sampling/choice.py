"""From logits to a token: what is legal, what is likely enough, and the draw itself, named by key and position."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.spaces import Tokens


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a token is chosen. Applied in this order: repetition, temperature, top_k, top_p, min_p."""

    temperature: float = 1.0
    "Below 1 bolder, above 1 more varied; 0 takes the most likely token."
    top_k: int = 0
    "Only the k most likely tokens (and ties of the last); 0 for all."
    top_p: float = 1.0
    "Only the fewest tokens that together reach this share (Holtzman et al. 2020)."
    min_p: float = 0.0
    "Only tokens at least this likely relative to the best (Nguyen et al. 2024)."
    repetition: float = 1.0
    "Above 1 makes tokens that were used less likely (Keskar et al. 2019)."

    def __post_init__(self) -> None:
        for name, good, want in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "from 0 and below 1"),
            ("repetition", 0 < self.repetition < float("inf"), "above 0; 1 is off"),
        ):
            if not good:
                raise UsageError(f"option '{name}' = {getattr(self, name)!r} is not valid", remedy=f"give {want}")


def choice_of(sampling: object) -> Choice:
    """The Choice in any Sampling dataclass that has some of its fields."""
    return Choice(**{f: getattr(sampling, f) for f in Choice.__dataclass_fields__ if hasattr(sampling, f)})


def legal(logits: Tensor, space: Tokens, position: Tensor | int) -> Tensor:
    """-inf for ids outside the slot of their position. `logits` (..., V), `position` broadcasts to (...)."""
    if not space.slots:
        return logits
    slots = torch.tensor(space.slots, device=logits.device)
    low, high = slots[torch.as_tensor(position, device=logits.device)].unbind(-1)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill((ids < low[..., None]) | (ids >= high[..., None]), -torch.inf)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits (B, V) of ids in `seen` (B, n) by `penalty`; negative ids are skipped."""
    if penalty == 1 or seen.shape[1] == 0:
        return logits
    used = torch.zeros(len(logits), logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    used.scatter_(1, torch.where(seen < 0, logits.shape[1], seen), True)
    return torch.where(used[:, :-1], torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def narrow(logits: Tensor, choice: Choice) -> Tensor:
    """(..., V) after temperature with unlikely tokens at -inf; the best token always stays. Temperature 0 is taken as 1."""
    if choice.temperature not in (0, 1):
        logits = logits / choice.temperature
    if 0 < choice.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(choice.top_k, -1).values[..., -1:], -torch.inf)
    if choice.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        share = ordered.softmax(-1)
        late = share.cumsum(-1) - share >= choice.top_p  # what comes before already reaches the share
        logits = logits.masked_fill(torch.zeros_like(late).scatter(-1, order, late), -torch.inf)
    if choice.min_p > 0:
        floor = logits.max(-1, keepdim=True).values + torch.tensor(choice.min_p).log().item()
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return logits


def choose_token(logits: Tensor, keys: Tensor, position: Tensor | int, choice: Choice, seen: Tensor | None = None) -> Tensor:
    """(B,) ids from logits (B, V): the token at position i is draws.choose(narrowed logits, key, "token", i)."""
    if seen is not None:
        logits = penalise(logits, seen, choice.repetition)
    if choice.temperature == 0:
        return logits.argmax(-1)
    return draws.choose(narrow(logits, choice), keys, "token", position)


def until_end(x: Tensor, end: int | None) -> Tensor:
    """(B, L) True up to and including the first `end`; everywhere when there is no end."""
    if end is None:
        return torch.ones_like(x, dtype=torch.bool)
    ended = (x == end).long()
    return ended.cumsum(1) - ended == 0
