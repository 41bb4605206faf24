"""Items drawn from a model, some at a time and only when they are looked at, so that many need no more memory than few."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

from morphogen.api.common import Watch
from morphogen.api.valid import draw_valid
from morphogen.api.watching import default_cond
from morphogen.errors import UsageError, suggest

AT_ONCE = 1 << 24  # numbers of samples held at a time


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a person asked for. `given`: raw items with unknown parts, taken in turns. `first`: the index of the first item."""

    seed: int = 0
    n: int = 16
    cond: dict[str, Any] = dataclasses.field(default_factory=dict)
    given: Sequence[Any] | None = None
    valid: bool = False
    first: int = 0
    metadata: bool = True


class Drawn(Sequence[Any]):
    """The raw items of a wish, in order; each depends on the seed and its index alone.

    Items are drawn in parts when they are asked for. The last part is kept, an earlier one is drawn again.
    """

    def __init__(self, model: Any, wish: Wish, sampling: Any, *, batch: int = 0, watch: Watch | None = None) -> None:
        from morphogen.sampling import draws

        self.model, self.wish, self.sampling, self.batch, self.watch = model, wish, sampling, batch, watch or Watch()
        self.keys = draws.seeded(wish.seed, wish.n, first=wish.first)
        own = {k: condition_value(model, k, v) for k, v in wish.cond.items() if k in model.conditions}
        self.columns = self._parsed({k: v for k, v in wish.cond.items() if k not in model.conditions})
        # what is known of an item says more than a condition drawn at random, and may contradict it
        free = not wish.given and not self.columns
        self.cond = default_cond(model, self.keys, own) if own or free else None
        self.good: dict[int, bool] = {}
        self._start, self._part = 0, []
        tiles = max(1, AT_ONCE // (_numbers(model.codec.space) * model.tile))
        self.part = min(tiles, 1024) * model.tile

    def _parsed(self, columns: dict[str, Any]) -> dict[str, Any]:
        """A table is conditioned by saying some of its columns: they become known values."""
        names = [c.name for c in getattr(self.model.codec, "columns", [])]
        for name in columns:
            if name not in names:
                known = [*self.model.conditions, *names]
                raise UsageError(
                    f"the model has no condition '{name}'", remedy=suggest(name, known) if known else "train with --cond first"
                )
        return self.model.codec.parse_row(columns) if columns and hasattr(self.model.codec, "parse_row") else columns

    def _given(self, rows: range) -> list[Any] | None:
        given = self.wish.given
        base = [given[(self.wish.first + i) % len(given)] for i in rows] if given else None
        return [{**row, **self.columns} for row in base or ({} for _ in rows)] if self.columns else base

    def _draw(self, rows: range) -> list[Any]:
        keys = self.keys[rows.start : rows.stop]
        cond = None if self.cond is None else {k: v[rows.start : rows.stop] for k, v in self.cond.items()}
        tell = Share(self.watch, rows, len(self))
        if not self.wish.valid:
            done = lambda share: tell.progress("drawing", share)
            raws = self.model.generate(keys, cond=cond, given=self._given(rows), sampling=self.sampling, batch=self.batch, progress=done)
        else:
            raws, good = draw_valid(self.model, keys, cond, self._given(rows), self.sampling, batch=self.batch, watch=tell)
            self.good.update(zip(rows, good, strict=True))
        number = getattr(self.model.codec, "number", None)  # id columns are not learned: fresh ones are counted up
        return number(raws, self.wish.first + rows.start) if number else raws

    def _at(self, i: int) -> Any:
        if not self._start <= i < self._start + len(self._part):
            self._start = i - i % self.part
            self._part = self._draw(range(self._start, min(self._start + self.part, len(self))))
        return self._part[i - self._start]

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> list[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self._at(j) for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self._at(i % len(self))

    def __iter__(self) -> Iterator[Any]:
        return (self._at(i) for i in range(len(self)))

    def __len__(self) -> int:
        return self.wish.n

    def faulty(self) -> int:
        """How many of the items drawn so far still break a rule."""
        return list(self.good.values()).count(False)


class Said(Sequence[dict[str, Any]]):
    """What is known about each drawn item, for metadata: seed and index, and (unless left out) what was asked of it."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn

    def __len__(self) -> int:
        return len(self.drawn)

    @overload
    def __getitem__(self, i: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        wish = self.drawn.wish
        said = {"seed": wish.seed, "index": wish.first + i}
        if wish.metadata:
            said |= {k: v[i] for k, v in (self.drawn.cond or {}).items()}
        if wish.valid:
            if i not in self.drawn.good:
                self.drawn._at(i)
            said["valid"] = self.drawn.good[i]
        return said


class Share(Watch):
    """Tells the progress of a part as progress of the whole."""

    def __init__(self, watch: Watch, rows: range, n: int) -> None:
        self.watch, self.rows, self.n = watch, rows, n

    def progress(self, what: str, share: float, note: str = "") -> None:
        self.watch.progress(what, (self.rows.start + share * len(self.rows)) / self.n, note)


def _numbers(space: Any) -> int:
    """How many numbers a sample has, about."""
    from morphogen.spaces import Array, Record

    if isinstance(space, Record):
        return sum(_numbers(field) for _, field in space.fields)
    return math.prod(n or 64 for n in space.shape) if isinstance(space, Array) else space.length


def condition_value(model: Any, name: str, value: Any) -> Any:
    """A value as the condition's codec wants it; the command line knows only text."""
    codec = model.conditions[name]
    if hasattr(codec, "parse"):
        return codec.parse(value)
    return value


def sampling_of(model: Any, wishes: dict[str, Any]) -> Any:
    """The family's Sampling with the fields that were asked for. Raises UsageError for one the family does not have."""
    from morphogen.config import make

    wishes = {k: v for k, v in wishes.items() if v is not None}
    kind = type(model.family).Sampling
    names = {f.name for f in dataclasses.fields(kind)}
    for name in list(wishes):
        if name in names:
            continue
        if name == "guidance" and wishes[name] == 1:
            del wishes[name]
            continue
        family = type(model.family).__name__.lower()
        raise UsageError(f"{family} has no --{name.replace('_', '-')}", remedy=f"it has {', '.join(sorted(names)) or 'nothing to set'}")
    if wishes.get("guidance", 1) != 1 and not model.conditions:
        raise UsageError("--guidance needs a condition", remedy="train with --cond")
    if "steps" in wishes and not 1 <= wishes["steps"] <= 1000 and wishes["steps"] != kind().steps:
        raise UsageError(f"--steps {wishes['steps']} is out of range", remedy="give 1 to 1000")
    return make(kind, wishes, "sampling.")
