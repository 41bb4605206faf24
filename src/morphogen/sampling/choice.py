"""From logits to a token: what the caller wishes, and the draw itself, named by key and position."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.sampling.shaping import biased, discourage, legal, most_likely, narrow, penalise, shortlist

__all__ = ["Choice", "biased", "choice_of", "choose_token", "discourage", "legal", "logprobs", "narrow", "penalise", "shaped", "until_end"]

LARGE = 2048  # vocabularies from here on are not sorted as a whole where a few tokens will do


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a token is chosen. Applied in the order of the fields below; `transformers` has the same order where it has the same thing."""

    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    "Numbers from -100 to 100 added to the logits of ids; -100 bans an id."
    repetition: float = 1.0
    "Above 1 makes tokens that were read or written less likely (Keskar et al. 2019)."
    presence: float = 0.0
    "Taken from the logits of tokens that were written."
    frequency: float = 0.0
    "Taken from the logits of tokens that were written, once for each time."
    temperature: float = 1.0
    "Below 1 bolder, above 1 more varied; 0 takes the most likely token."
    top_k: int = 0
    "Only the k most likely tokens (and ties of the last); 0 for all."
    top_p: float = 1.0
    "Only the fewest tokens that together reach this share (Holtzman et al. 2020)."
    min_p: float = 0.0
    "Only tokens at least this likely relative to the best (Nguyen et al. 2024)."
    typical: float = 1.0
    "Only the tokens of the most expected surprise that together reach this share (Meister et al. 2022)."

    def __post_init__(self) -> None:
        for name, good, want in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "from 0 and below 1"),
            ("typical", 0 < self.typical <= 1, "above 0 and at most 1"),
            ("repetition", 0 < self.repetition < float("inf"), "above 0; 1 is off"),
            ("presence", math.isfinite(self.presence), "a number; 0 is off"),
            ("frequency", math.isfinite(self.frequency), "a number; 0 is off"),
            ("logit_bias", all(isinstance(i, int) and i >= 0 and -100 <= v <= 100 for i, v in self.logit_bias.items()),
             "ids and numbers from -100 to 100"),
        ):
            if not good:
                raise UsageError(f"option '{name}' = {getattr(self, name)!r} is not valid", remedy=f"give {want}")

    @property
    def heat(self) -> float:
        """What logits are divided by: the temperature, 1 for 0, kept where single precision is neither 0 nor infinite."""
        return min(max(self.temperature, 1e-38), 1e38) if self.temperature else 1.0

    @property
    def looks_back(self) -> bool:
        """Whether `seen` or `written` matter."""
        return self.repetition != 1 or self.presence != 0 or self.frequency != 0


def choice_of(sampling: object) -> Choice:
    """The Choice in any Sampling dataclass that has some of its fields."""
    return Choice(**{f: getattr(sampling, f) for f in Choice.__dataclass_fields__ if hasattr(sampling, f)})


def shaped(logits: Tensor, choice: Choice, seen: Tensor | None = None, written: Tensor | None = None) -> Tensor:
    """Logits (B, V) after bias and penalties. `seen` (B, n): ids read and written, `written` (B, m): those written; -1 is no id."""
    logits = biased(logits, choice.logit_bias)
    if seen is not None:
        logits = penalise(logits, seen, choice.repetition)
    if written is not None:
        logits = discourage(logits, written, choice.presence, choice.frequency)
    return logits


def choose_token(
    logits: Tensor, keys: Tensor, position: Tensor | int, choice: Choice, seen: Tensor | None = None, written: Tensor | None = None,
) -> Tensor:
    """(B,) ids from logits (B, V): the token at position i is draws.choose(narrowed logits, key, "token", i).

    `seen` and `written` as in `shaped`. Raises UsageError when the bias leaves a row without a token.
    """
    logits = shaped(logits if logits.dtype == torch.float64 else logits.float(), choice, seen, written)
    if choice.logit_bias and bool((logits.amax(-1) == -torch.inf).any()):
        raise UsageError("no token may be chosen: all are ruled out", remedy="ban fewer tokens in option 'logit_bias'")
    if choice.temperature == 0:
        return most_likely(logits)
    if logits.shape[1] < LARGE or logits.device.type != "cpu" or len(logits) == 0:
        return draws.choose(narrow(logits, choice), keys, "token", position)
    at = torch.as_tensor(position).expand(len(logits))
    return torch.cat([_one(logits[i], keys[i:i + 1], at[i:i + 1], choice) for i in range(len(logits))])


def _one(row: Tensor, key: Tensor, at: Tensor, choice: Choice) -> Tensor:
    """(1,) the same id from a row (V,), without sorting all of it."""
    short = shortlist(row.detach(), choice)
    if short is None:
        return draws.choose(narrow(row[None], choice), key, "token", at)
    values, ids, rest = short
    return ids[draws.choose(narrow(values[None], choice, rest), key, "token", at)]


def logprobs(logits: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of chosen ids (...) under logits (..., V), and ids and log-probabilities (..., k) of the k most likely tokens.

    Natural logarithm; best first, equals in rising order of id.
    """
    logits = logits.float()
    total = logits.logsumexp(-1, keepdim=True)
    _, best = logits.topk(min(k, logits.shape[-1]), -1)
    best = best.sort(-1).values
    values, order = logits.gather(-1, best).sort(dim=-1, descending=True, stable=True)
    return (logits.gather(-1, ids[..., None]) - total)[..., 0], best.gather(-1, order), values - total


def until_end(x: Tensor, end: int | None) -> Tensor:
    """(B, L) True up to and including the first `end`; everywhere when there is no end."""
    if end is None:
        return torch.ones_like(x, dtype=torch.bool)
    ended = (x == end).long()
    return ended.cumsum(1) - ended == 0
