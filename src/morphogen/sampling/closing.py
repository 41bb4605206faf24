"""A way to the end of an answer that keeps to a grammar, so that a limit on its length does not cut it in two."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

RESERVE = 64  # tokens before the limit from which on every choice must leave room for an end


@dataclass(frozen=True)
class Order:
    """All ids, those first that bring JSON to its end. `quoted`: the same without brackets, which inside a string close nothing."""

    free: Tensor
    quoted: Tensor
    brace: int
    "The id of an opening brace: allowed beside a closing bracket only inside a string; -1 where it is no token."

    def first(self, mask: Tensor) -> int:
        """The first id allowed by (V,) bool."""
        order = self.quoted if self.brace >= 0 and bool(mask[self.brace]) and bool(mask[self.free[0]]) else self.free
        return int(order[mask[order].int().argmax()])


def closers(piece: Callable[[int], bytes], size: int) -> Order:
    """The Order of a vocabulary: brackets and strings that close, then signs, digits, letters, white space."""
    ends = ["".join(c) for n in (1, 4, 3, 2) for c in product("}]", repeat=n)]
    names = [*ends, *('"' + e for e in ends), '"', '":', ":", ",", *"0123456789"]
    rank = {name.encode(): k for k, name in enumerate(names)}
    pieces = [piece(i) for i in range(size)]

    def key(i: int) -> int:
        data = pieces[i]
        other = 1000 if len(data) == 1 and data.isalnum() else 2000 if data and not set(data) & set(b" \t\r\n") else 3000
        return rank.get(data, other)

    free = sorted(range(size), key=key)
    quoted = sorted(range(size), key=lambda i: 4000 if key(i) < len(ends) else key(i))
    return Order(torch.tensor(free), torch.tensor(quoted), pieces.index(b"{") if b"{" in pieces else -1)


def closing(constraint: Any, order: Order, room: int) -> list[int] | None:
    """At most `room` ids after which the answer is whole: what is forced, else the first of `order` that is allowed.

    None where that finds no end; the constraint itself stays as it is.
    """
    state = constraint.copy()
    plan: list[int] = []
    while not state.complete:
        for token in state.forced() or [order.first(state.mask())]:
            if len(plan) == room:
                return None
            state.advance(token)
            plan.append(token)
    return plan
