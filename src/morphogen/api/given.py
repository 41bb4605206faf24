"""What the verbs about given items share: opening a run with its data, reading items through its codec, stamping what is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch, device_of
from morphogen.api.evaluate import plan_again
from morphogen.contracts import Item
from morphogen.errors import DataError, UsageError
from morphogen.plan import Plan
from morphogen.run import Run

HELD = 2000  # held-out items that a yardstick looks at


class Opened:
    """A run, its model, and (read when first asked for) the data it learned from."""

    def __init__(self, run: Run | str | Path, device: str, watch: Watch) -> None:
        self.folder = run if isinstance(run, Run) else Run.load(run)
        self.model = self.folder.model(device_of(device))
        self.watch = watch
        self._plan: Plan | None = None
        self._yard: Any = None

    @property
    def codec(self) -> Any:
        return self.model.codec

    @property
    def plan(self) -> Plan:
        """Raises DataError when the data are gone."""
        if self._plan is None:
            self.watch.progress("reading the training data", 0.3)
            self._plan = plan_again(self.folder, watch=self.watch)
            self.watch.progress("reading the training data", 1.0)
        return self._plan

    @property
    def train(self) -> Sequence[Item]:
        return self.plan.part(self.plan.train)

    @property
    def held(self) -> Sequence[Item]:
        """At most HELD held-out items, spread over all of them."""
        every = self.plan.part(self.plan.held_out)
        return every[:: -(-len(every) // HELD)] if every else []

    @property
    def yard(self) -> Any:
        """The yardstick of distances."""
        if self._yard is None:
            from morphogen.evaluation.yardstick import Yardstick

            train, held = [item.raw for item in self.train], [item.raw for item in self.held]
            self.watch.progress("measuring the training data", 0.3)
            self._yard = Yardstick(self.codec, train, held, self.plan.seed)
            self.watch.progress("measuring the training data", 1.0)
        return self._yard

    def read(self, data: Any) -> Sequence[Item]:
        """Items of a person's data through the run's codec. Raises DataError, also when there are none."""
        from morphogen.codecs.sources import scan

        listing = scan(data)
        items = list(self.codec.read(listing))
        self.codec.skips.check(len(items) + self.codec.skips.count)
        if not items:
            raise DataError("no usable item", where=listing.root, remedy="give data of the kind the run learned from")
        if self.codec.skips.count:
            self.watch.say(f"{self.codec.skips.count} skipped: " + "; ".join(self.codec.skips.first), "warn")
        return items

    def one(self, what: str | Path | int) -> Item:
        """The item a person means: a number in the run's data, a file, or FILE:NUMBER for one of many in a file."""
        name = str(what)
        path = Path(name).expanduser()
        if path.exists():
            items = self.read(path)
            if len(items) > 1:
                self.watch.say(f"{path.name} holds {len(items):,} items: the first is taken ({path.name}:1 is the second)", "warn")
            return items[0]
        number = re.fullmatch(r"(?:(.+):)?([0-9]{1,9})", name)
        if not number:
            raise UsageError("no such item", where=name, remedy="give a file, FILE:NUMBER, or a number in the run's data")
        items = self.read(number[1]) if number[1] else self.plan.items
        if int(number[2]) >= len(items):
            last = f"they go from 0 to {len(items) - 1:,}"
            raise UsageError(f"there is no item {number[2]}", where=number[1] or "the run's data", remedy=last)
        return items[int(number[2])]

    def cond(self, items: Sequence[Item]) -> dict[str, list[Any]]:
        """What all the items say about the model's conditions, in values it knows."""
        out: dict[str, list[Any]] = {}
        for name, codec in self.model.conditions.items():
            values = [item.cond.get(name) for item in items]
            if all(v is not None for v in values):
                try:
                    for value in values:
                        codec.encode(value)
                except (UsageError, DataError):
                    continue
                out[name] = values
        return out

    def write(self, raws: list[Any], out: Path, meta: list[dict[str, Any]], verb: str, facts: dict[str, Any], force: bool) -> list[Path]:
        """Files people can open, stamped with the verb and what it was given."""
        from morphogen.api.writing import write

        if hasattr(self.codec, "number"):
            raws = self.codec.number(raws)
        return write(self.model, raws, out, meta, {**self.facts(verb, out), **facts, "n": len(raws)}, force=force)

    def facts(self, verb: str, out: Path) -> dict[str, Any]:
        """The beginning of a stamp."""
        from morphogen.api.writing import way_to

        return {
            "verb": verb,
            "run": way_to(self.folder.path, out.resolve().parent),
            "model": self.folder.provenance().get("model"),
            "given": None,
            "tool": "morphogen",
            "version": self.folder.recipe.get("morphogen", ""),
        }


def named(item: Item, i: int) -> str:
    """What a person calls an item: where it was read, else its number."""
    return item.source or str(i)
