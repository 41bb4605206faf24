"""Tokens -> Array: analog bits."""
from __future__ import annotations

from math import ceil, log2
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.contracts import Given
from morphogen.spaces import Array, Space, Tokens


class AnalogBits(nn.Module):
    """Each id as its binary digits, 0 -> -1 and 1 -> +1, decoded by sign (Chen, Zhang, Hinton 2022, "Analog Bits").

    (B, L) ids -> (B, bits, L), or (B, bits, *grid) on a grid. Ids that do not exist are clipped into the legal ones; after
    the end everything is the end.
    """

    leads = (Tokens, Array)

    def __init__(self, source: Space) -> None:
        super().__init__()
        if not isinstance(source, Tokens) or source.streams != 1:
            raise TypeError(f"analog bits take Tokens of one stream, not {source}")
        self.source = source
        self.bits = max(1, ceil(log2(source.vocab)))
        self.shape = source.grid or (source.length,)
        self.target: Space = Array((self.bits, *self.shape))
        low, high = zip(*(source.slots or ((0, source.vocab),) * source.length))
        self.powers: Tensor
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("powers", torch.arange(self.bits), persistent=False)
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high) - 1, persistent=False)

    def fit(self, x: Any, mask: Tensor | None = None) -> None:
        """Nothing to fit."""

    def encode(self, x: Any, mask: Tensor | None = None) -> tuple[Tensor, None]:
        bits = ((x[:, None] >> self.powers[:, None]) & 1).float() * 2 - 1
        return bits.unflatten(2, self.shape), None

    def decode(self, x: Any, keys: Tensor) -> Tensor:
        ids = ((x.flatten(2) > 0).long() << self.powers[:, None]).sum(1)
        ids = torch.minimum(torch.maximum(ids, self.low), self.high)
        if self.source.end is not None:
            ended = (ids == self.source.end).cumsum(1) > 0
            ids = torch.where(ended, self.source.end, ids)
        return ids

    def given(self, given: Given) -> Given:
        known = given.known[:, None].expand(-1, self.bits, -1).unflatten(2, self.shape)
        return Given(self.encode(given.x)[0], known)

    def parts(self, each: Tensor) -> Tensor:
        """(B, bits, *shape) a number for each bit -> their sum for each token, (B, L)."""
        return each.flatten(2).sum(1)

    def volume(self, x: Any) -> None:
        """None: a density around the corners of a cube is no probability of an id."""
        return None
