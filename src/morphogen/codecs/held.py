"""Items that are made when they are asked for, so that millions of them fit. No torch here."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy as np

from morphogen.contracts import Holds, Item


class Store(Protocol):
    """What items are made of. `groups` (one an item): names, or whole numbers whose 16 hexadecimal digits are the name."""

    groups: Any

    def __len__(self) -> int: ...
    def item(self, i: int) -> Item: ...
    def cond(self, i: int) -> dict[str, Any]: ...


class Held(Sequence[Item]):
    """Some of the items of a store, in order. None of them has a part given beforehand."""

    def __init__(self, store: Any, ids: Any = None) -> None:
        self.store = store
        self.ids: np.ndarray = np.arange(len(store)) if ids is None else np.asarray(ids, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, i: int) -> Item: ...
    @overload
    def __getitem__(self, i: slice) -> Held: ...
    def __getitem__(self, i: int | slice) -> Item | Held:
        return Held(self.store, self.ids[i]) if isinstance(i, slice) else self.store.item(int(self.ids[i]))


class Said(Sequence[dict[str, Any]]):
    """What is said about held items, made when it is asked for."""

    def __init__(self, items: Held) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: Any) -> Any:
        return Said(self.items[i]) if isinstance(i, slice) else self.items.store.cond(int(self.items.ids[i]))


def items_of(codec: Any, listing: Any) -> Sequence[Item]:
    """All that a codec reads in a listing, held where it can."""
    return codec.hold(listing) if isinstance(codec, Holds) else list(codec.read(listing))


def part_of(items: Sequence[Item], ids: Any) -> Sequence[Item]:
    """The items at these positions."""
    return Held(items.store, items.ids[np.asarray(ids, np.int64)]) if isinstance(items, Held) else [items[i] for i in ids]


def conds_of(items: Sequence[Item]) -> Sequence[dict[str, Any]]:
    """What is said about each item; none of them is made for it."""
    return Said(items) if isinstance(items, Held) else [item.cond for item in items]


def given_in(items: Sequence[Item]) -> bool:
    """Whether any item has a part that is known beforehand."""
    return not isinstance(items, Held) and any(item.given is not None for item in items)


def groups_of(items: Sequence[Item]) -> tuple[list[str], np.ndarray]:
    """(distinct names of groups, number of each item's group). An item without a group is one of its own, named by its position."""
    groups: Any = [item.group for item in items] if not isinstance(items, Held) else items.store.groups
    if isinstance(items, Held) and isinstance(groups, np.ndarray):
        distinct, of = np.unique(groups[items.ids], return_inverse=True)
        return [f"{name:016x}" for name in distinct.tolist()], of
    chosen = range(len(items)) if not isinstance(items, Held) else items.ids.tolist()
    at: dict[str, int] = {}
    numbers = np.fromiter((at.setdefault(groups[i] or str(k), len(at)) for k, i in enumerate(chosen)), np.int64, len(items))
    return list(at), numbers
