"""Keys and values of many sequences in slots: a step's rows lie in one line, each knows its slot and its position."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from morphogen.errors import ResourceError
from morphogen.nets.attention import Sight, attention, visible


@dataclass(frozen=True)
class Run:
    """Rows `start` to `stop` of a step: consecutive positions of one slot, from `first` on."""

    start: int
    stop: int
    slot: int
    first: int


class SlotCache:
    """(slots, kv heads, capacity, head width) of keys and of values a layer; capacity doubles up to `limit`.

    A row's attention is computed over its own slot alone, with that slot's own length: what it gives does not depend on
    which other sequences are under way.
    """

    def __init__(self, slots: int, limit: int, dtype: torch.dtype = torch.float32) -> None:
        self.slots, self.limit, self.dtype, self.capacity = slots, limit, dtype, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.runs: list[Run] = []
        self.at = torch.zeros(0, dtype=torch.int64)

    def begin(self, runs: list[Run]) -> None:
        """Say which rows come next. Raises ResourceError past `limit`."""
        end = max(run.first + run.stop - run.start for run in runs)
        if end > self.limit:
            raise ResourceError(f"the text needs {end:,} positions, the model has {self.limit:,}", remedy="shorten it")
        if end > self.capacity:
            self.capacity = min(self.limit, max(end, 2 * self.capacity, 256))
        self.runs = runs
        self.at = torch.cat([torch.arange(run.first, run.first + run.stop - run.start) for run in runs])

    def positions(self, n: int, device: torch.device) -> Tensor:
        return self.at.to(device)

    def extent(self) -> int:
        return self.capacity

    def advance(self, n: int) -> None:
        """Positions are the rows' own: nothing to count."""

    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        return None

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        raise NotImplementedError("slots hold no memory of an encoder")

    def room(self, layer: int, heads: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values (slots, heads, capacity, width) of a layer, grown to what `begin` asked for."""
        held = self.layers.get(layer)
        if held is None or held[0].shape[2] < self.capacity:
            shape = (self.slots, heads, self.capacity, width)
            grown = torch.empty(shape, dtype=self.dtype, device=device), torch.empty(shape, dtype=self.dtype, device=device)
            if held is not None:
                for new, old in zip(grown, held):
                    new[:, :, : old.shape[2]] = old
            self.layers[layer] = held = grown
        return held

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None) -> Tensor:
        """q (1, H, N, d), k and v (1, KV, N, d) of a step's rows -> (1, H, N, d)."""
        keys, values = self.room(layer, k.shape[1], k.shape[3], k.device)
        out = []
        for run in self.runs:
            end = run.first + run.stop - run.start
            low = max(0, run.first + 1 - sight.window) if sight.window else 0  # earlier keys nobody here can see
            own, other = keys[run.slot], values[run.slot]
            own[:, run.first:end] = k[0, :, run.start:run.stop]
            other[:, run.first:end] = v[0, :, run.start:run.stop]
            mine = q[:, :, run.start:run.stop]
            if self.dtype != q.dtype:
                mine = mine.to(self.dtype)
            mask, n = None, run.stop - run.start
            whole = n > 1 and run.first == 0 and (not sight.window or end <= sight.window)
            if n > 1 and not whole:
                mask = visible(torch.arange(run.first, end, device=q.device), torch.arange(low, end, device=q.device), sight)
            y = attention(mine, own[None, :, low:end], other[None, :, low:end], sight, None if mask is None else mask[None, None], whole)
            out.append(y.to(q.dtype))
        return out[0] if len(out) == 1 else torch.cat(out, 2)
