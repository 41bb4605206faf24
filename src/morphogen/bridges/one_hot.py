"""Record -> Array: one vector of normal scores and centred one-hot words."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.bridges.buffers import adopt, flat_fields
from morphogen.bridges.standardise import fit_normal, from_normal, to_normal
from morphogen.contracts import Given
from morphogen.spaces import Array, Record, Space

SCALE = 2.0  # a word's own coordinate stands 2 above the others: the two ends of a fair coin are at +1 and -1


class OneHot(nn.Module):
    """Numbers as standard normal scores (`standardise`), a word as SCALE (one_hot - frequency); decoded by the largest.

    Source fields: Array((1,)) and Tokens(V, 1); target Array((D,)). Raises TypeError for other fields.
    """

    leads = (Record, Array)

    def __init__(self, source: Space) -> None:
        super().__init__()
        self.source = source
        self.fields = flat_fields(source)
        self.widths = [vocab or 1 for _, vocab in self.fields]
        self.target: Space = Array((sum(self.widths),))
        self.frequency: Tensor
        self.register_buffer("frequency", torch.zeros(sum(self.widths)))
        for i, (_, vocab) in enumerate(self.fields):
            if not vocab:  # the identity until fitted
                self.register_buffer(f"knots_{i}", torch.tensor([[-1.0, 1.0]] * 3))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def fit(self, x: Any, mask: Tensor | None = None) -> None:
        """Fit the score maps and word frequencies to a large batch of records."""
        for i, ((name, vocab), shares) in enumerate(zip(self.fields, self.frequency.split(self.widths))):
            if vocab:
                shares.copy_(torch.bincount(x[name][:, 0], minlength=vocab).double() / len(x[name]))
            else:
                self.register_buffer(f"knots_{i}", fit_normal(x[name][:, 0]))

    def encode(self, x: Any, mask: Tensor | None = None) -> tuple[Tensor, None]:
        parts = []
        for i, ((name, vocab), shares) in enumerate(zip(self.fields, self.frequency.split(self.widths))):
            value = x[name][:, 0]
            if vocab:
                parts.append(SCALE * (F.one_hot(value, vocab) - shares))
            else:
                parts.append(to_normal(value, self.get_buffer(f"knots_{i}"))[:, None])
        return torch.cat(parts, 1), None

    def decode(self, x: Any, keys: Tensor) -> dict[str, Tensor]:
        out = {}
        for i, ((name, vocab), shares, part) in enumerate(zip(self.fields, self.frequency.split(self.widths), x.split(self.widths, 1))):
            if vocab:
                out[name] = (part.float() / SCALE + shares).argmax(1, keepdim=True)
            else:
                out[name] = from_normal(part[:, 0].float(), self.get_buffer(f"knots_{i}"))[:, None]
        return out

    def given(self, given: Given) -> Given:
        """A known field makes all of its coordinates known."""
        known = [given.known[name].expand(-1, width) for (name, _), width in zip(self.fields, self.widths)]
        return Given(self.encode(given.x)[0], torch.cat(known, 1))

    def parts(self, each: Tensor) -> dict[str, Tensor]:
        """(B, D) a number for each coordinate -> their sum for each field, (B, 1)."""
        return {name: part.sum(1, keepdim=True) for (name, _), part in zip(self.fields, each.split(self.widths, 1))}

    def volume(self, x: Any) -> None:
        """None: a density over one-hot corners and spread mass points is no probability of a row."""
        return None
