"""Modules that stand where a frozen one stood and add to it what an adapter has learned; and the switch that says which adapter acts."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.errors import UsageError, suggest
from morphogen.nets.dropout import drop

Acting: TypeAlias = "int | Tensor"
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Adapters:
    """The adapters of a family by name and number (0 = none), and which of them acts: owned by the family, read by all its wrappers.

    `current` holds for the whole family. In one thread, `here` (a name) or `rows` (numbers, one a row) win over it, so that
    requests for different adapters can be drawn side by side.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.configs: dict[str, Any] = {}
        self.current = 0
        self._thread = threading.local()

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapters:
        out = Adapters()  # a copied family (a lane, an average) has a switch of its own
        out.numbers, out.configs, out.current = dict(self.numbers), dict(self.configs), self.current
        memo[id(self)] = out
        return out

    def number(self, name: str | None) -> int:
        """The number of a name; None is 0. Raises UsageError for an unknown one."""
        if name is None:
            return 0
        if name not in self.numbers:
            known = suggest(name, self.numbers) if self.numbers else "none is loaded"
            raise UsageError(f"no adapter '{name[:60]}'", remedy=known)
        return self.numbers[name]

    def name(self) -> str | None:
        """The name that acts everywhere."""
        return next((k for k, v in self.numbers.items() if v == self.current), None)

    @property
    def acting(self) -> tuple[Acting, frozenset[int]]:
        """(a number, or numbers (N,) one a row; which of them occur) for the calling thread."""
        own = getattr(self._thread, "acting", None)
        return own if own is not None else (self.current, frozenset({self.current}))

    @contextmanager
    def _held(self, acting: Acting, present: frozenset[int]) -> Iterator[None]:
        before = getattr(self._thread, "acting", None)
        self._thread.acting = (acting, present)
        try:
            yield
        finally:
            self._thread.acting = before

    @contextmanager
    def here(self, name: str | None) -> Iterator[None]:
        """One adapter by name for what this thread computes inside the block. Raises UsageError for an unknown name."""
        number = self.number(name)
        with self._held(number, frozenset({number})):
            yield

    @contextmanager
    def rows(self, numbers: Tensor) -> Iterator[None]:
        """(N,) int64: the adapter of each row (axis 0 of what the net is given) for what this thread computes inside the block.

        Raises UsageError for a number nobody has.
        """
        present = frozenset(numbers.tolist())
        if present - {0, *self.numbers.values()}:
            wrong = min(present - {0, *self.numbers.values()})
            raise UsageError(f"no adapter has number {wrong}", remedy=f"there are 0 to {len(self.numbers)}")
        with self._held(numbers, present):
            yield


def rows_for(numbers: Tensor, y: Tensor) -> Tensor:
    """(N,) spread over y's axis 0, which may be a multiple of N (guidance stacks two copies), shaped to select from y."""
    copies, rest = divmod(len(y), len(numbers))
    if rest:
        raise ValueError(f"{len(numbers)} adapter numbers for {len(y)} rows")
    return numbers.to(y.device).repeat(copies).view(-1, *[1] * (y.ndim - 1))


class Pair(nn.Module):
    """s B A (Hu et al. 2021, "LoRA", arXiv 2106.09685): A (r, in, *kernel) and B (out, r); B starts at zero."""

    edge = True  # tall and thin: AdamW's, not Muon's

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(a), nn.Parameter(b)
        self.scale, self.dropout = scale, dropout

    def delta(self) -> Tensor:
        """s B A in the shape of the weight it is added to."""
        return self.scale * (self.B @ self.A.flatten(1)).view(len(self.B), *self.A.shape[1:])

    def forward(self, x: Tensor, base: Any) -> Tensor:
        x = drop(x.to(self.A.dtype), self.dropout, self.training)
        if isinstance(base, nn.Linear):
            return self.scale * F.linear(F.linear(x, self.A), self.B)
        inner = base._conv_forward(x, self.A, None)  # the base's own stride, padding and dilation
        return self.scale * torch.einsum("or,br...->bo...", self.B, inner)


class LowRank(nn.Module):
    """A frozen Linear or convolution and the pairs of adapters beside it: y = base(x) + s B A x of the adapter that acts.

    Rows of different adapters may come in one call: every adapter that occurs is computed for all rows, so that shapes, and with
    them a row's numbers, do not depend on who is beside it.
    """

    def __init__(self, base: nn.Module, adapters: Adapters) -> None:
        super().__init__()
        self.base, self.pairs, self.adapters = base.requires_grad_(False), nn.ModuleDict(), adapters
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        acting, present = self.adapters.acting
        if isinstance(acting, int):
            return y + self.pairs[str(acting)](x, self.base).to(y.dtype) if str(acting) in self.pairs else y
        rows = rows_for(acting, y)
        for number in sorted(present):
            if str(number) in self.pairs:
                y = torch.where(rows == number, y + self.pairs[str(number)](x, self.base).to(y.dtype), y)
        return y

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self.__dict__.get("_modules", {}).get("base")
            if base is None or name in ("weight", "bias"):  # who takes the weight by itself would miss what is added to it
                raise
            return getattr(base, name)


class Whole(nn.Module):
    """A frozen module and copies of it that adapters train as a whole (PEFT's modules_to_save), such as an embedding with new rows."""

    def __init__(self, base: nn.Module, adapters: Adapters) -> None:
        super().__init__()
        self.base, self.copies, self.adapters = base.requires_grad_(False), nn.ModuleDict(), adapters
        self.train(base.training)

    def add(self, number: int) -> nn.Module:
        """A trainable copy for an adapter, equal to the base."""
        self.copies[str(number)] = copy.deepcopy(self.base).requires_grad_(True)
        return self.copies[str(number)]

    def acts(self) -> nn.Module:
        """The module that a single acting adapter means."""
        acting, _ = self.adapters.acting
        return self.copies[str(acting)] if isinstance(acting, int) and str(acting) in self.copies else self.base

    def forward(self, *args: Any, **options: Any) -> Any:
        acting, present = self.adapters.acting
        if isinstance(acting, int):
            return self.acts()(*args, **options)
        y = self.base(*args, **options)
        rows = rows_for(acting, y)
        for number in sorted(present):
            if str(number) in self.copies:
                y = torch.where(rows == number, self.copies[str(number)](*args, **options), y)
        return y

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "base" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.acts(), name)
