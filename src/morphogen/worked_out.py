"""Conditions that a codec works out of its items: for all of them, or for as many as there is time for."""
from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from morphogen.codecs.in_time import in_rounds
from morphogen.contracts import Derives, Item
from morphogen.files import read_json, write_json

FIRST = 1000  # items that show how long the others will take

# What was worked out in this process, or beside a run: molecules by the hundred thousand take minutes, and a comparison or a report
# plans the same data many times over.
_WORKED_OUT: dict[tuple[str, str], list[Any]] = {}


def derive(codec: Any, items: Sequence[Item], names: Sequence[str]) -> Sequence[Item]:
    """Items with what the codec can work out of them, for names they do not carry themselves.

    A value the data say is believed, also where it is missing in some items.
    """
    return work_out(codec, items, names)[0]


def work_out(
    codec: Any, items: Sequence[Item], names: Sequence[str], room: float | None = None, seed: int = 0
) -> tuple[Sequence[Item], list[str], str]:
    """(items with values, what was done in words, the mark it is kept under).

    `room`: seconds there are for it. When they are too few for all items, a uniform sample gets values and the rest None.
    """
    wanted = [n for n in names if n in getattr(codec, "derived", {}) and not any(item.cond.get(n) is not None for item in items)]
    if not wanted or not isinstance(codec, Derives):
        return items, [], ""
    begun, mark = time.monotonic(), _mark(codec, items)
    missing = [n for n in wanted if len(_WORKED_OUT.get((mark, n), ())) != len(items)]
    tried = len(items)
    if missing:
        found, tried = _found(codec, [item.raw for item in items], missing, room, seed)
        for name in missing:
            _WORKED_OUT[mark, name] = [_plain(one.get(name)) for one in found]
    lines = [f"{n}: {codec.derived[n]}, worked out of {_many(_WORKED_OUT[mark, n])}" for n in wanted]
    if tried < len(items):
        lines[-1] += ": a uniform sample that leaves time to learn; more --minutes, more items"
    if (took := time.monotonic() - begun) > 5:
        lines[-1] += f" ({took:.0f} s)"
    values = [_WORKED_OUT[mark, n] for n in wanted]
    whole = [replace(item, cond={**item.cond, **dict(zip(wanted, own))}) for item, *own in zip(items, *values, strict=True)]
    return whole, lines, mark


def _found(codec: Any, raws: Sequence[Any], names: Sequence[str], room: float | None, seed: int) -> tuple[list[dict[str, Any]], int]:
    """(values of each raw item, {} where there was no time, how many were tried)."""
    found: list[dict[str, Any]] = [{} for _ in raws]
    tried = 0
    for ids in in_rounds(len(raws), room, FIRST, seed):
        for i, one in zip(ids, codec.derive([raws[i] for i in ids], names), strict=True):
            found[i] = one
        tried += len(ids)
    return found, tried


def _mark(codec: Any, items: Sequence[Item]) -> str:
    """A hash of a codec's choices and all raw items."""
    from morphogen.evaluation.copying import fingerprint

    whole = hashlib.blake2b(f"{codec.name} {codec.config}".encode(), digest_size=16)
    for item in items:
        whole.update(fingerprint(item.raw).encode())
    return whole.hexdigest()


def _many(values: list[Any]) -> str:
    known = len(values) - values.count(None)
    return "each item" if known == len(values) else f"{known:,} of {len(values):,} items"


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep_worked_out(mark: str, names: Collection[str], folder: Path) -> None:
    """Write what was worked out of a plan's items into a run folder."""
    rows = [{"mark": m, "name": name, "values": values} for (m, name), values in _WORKED_OUT.items() if m == mark and name in names]
    if rows:
        write_json(folder / "derived.json", {"worked_out": rows})


def recall_worked_out(folder: Path) -> None:
    """Take up what a run folder holds of it, for the next `make_plan` of the same data."""
    if (folder / "derived.json").is_file():
        for row in read_json(folder / "derived.json").get("worked_out", []):
            _WORKED_OUT[row.get("mark", ""), row.get("name", "")] = row.get("values", [])
