"""Matrices that a file holds in 4 bits, drawn with as they are: nothing is rounded a second time.

w = codes * scale + offset, a scale and an offset for each 32 columns of a row: GGML's Q4_0, Q4_1 and Q4_K all are of this form,
and stock torch has the product (`_weight_int4pack_mm_for_cpu`). Vectors go in and out in bfloat16, as do scales and offsets.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GROUP = 32


@dataclass(frozen=True)
class Grid:
    """(N, K) numbers as codes (N, K) uint8 or int8, scale and offset (N, K / 32) float32. Rows and slices of rows, as of a tensor."""

    codes: Tensor
    scale: Tensor
    offset: Tensor | None

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def four(self) -> bool:
        """Whether `Int4` takes it."""
        return self.codes.dtype == torch.uint8 and self.offset is not None and self.shape[0] % 16 == 0 and available()

    def __len__(self) -> int:
        return len(self.codes)

    def each(self, change: Callable[[Tensor], Tensor]) -> Grid:
        """The same change of rows to all parts."""
        return Grid(change(self.codes), change(self.scale), None if self.offset is None else change(self.offset))

    def __getitem__(self, rows: slice | Tensor) -> Grid:
        return self.each(lambda part: part[rows])

    def split(self, sizes: Sequence[int]) -> list[Grid]:
        """Consecutive rows."""
        return [self[end - size : end] for size, end in zip(sizes, itertools.accumulate(sizes))]

    def float(self) -> Tensor:
        """(N, K) float32."""
        out = self.codes.float().view(len(self), -1, GROUP)
        out *= self.scale[..., None]
        if self.offset is not None:
            out += self.offset[..., None]
        return out.view(self.shape)

    def to(self, dtype: torch.dtype) -> Tensor:
        """(N, K) in another type."""
        return self.float().to(dtype)


class Int4(nn.Module):
    """(N, K) -> (N, rows) bfloat16: x W' + b for grids that are `four`, stacked."""

    def __init__(self, parts: Sequence[Grid], bias: Tensor | None) -> None:
        super().__init__()
        codes = torch.cat([part.codes for part in parts]).int()
        scale = torch.cat([part.scale for part in parts])
        offset = torch.cat([part.offset for part in parts if part.offset is not None])
        self.biased = bias is not None
        self.register_buffer("packed", torch._convert_weight_to_int4pack_for_cpu(codes, 1))  # type: ignore[attr-defined]
        # the routine counts codes from 8
        self.register_buffer("scales", torch.stack([scale, offset + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16())
        self.register_buffer("bias", torch.zeros(1) if bias is None else bias.float())

    def forward(self, x: Tensor) -> Tensor:
        y = torch._weight_int4pack_mm_for_cpu(x.to(torch.bfloat16), self.packed, 32, self.scales)  # type: ignore[arg-type]
        return y + self.bias if self.biased else y  # type: ignore[operator]


@functools.cache
def available() -> bool:
    """Whether this build has the routine and it computes what it should; tried once on a small matrix."""
    try:
        codes = (torch.arange(48 * 64) * 7 % 16).to(torch.uint8).view(48, 64)
        scale = torch.linspace(0.5, 1.5, 96).view(48, 2)
        grid, x = Grid(codes, scale, -7 * scale), torch.linspace(-3, 5, 3 * 64).cos().view(3, 64)
        with torch.inference_mode():
            error = (Int4([grid], None)(x) - x @ grid.float().t()).norm() / (x @ grid.float().t()).norm()
        return bool(error < 0.02)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
