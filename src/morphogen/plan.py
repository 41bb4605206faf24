"""Looks at the data and decides: codec, conditions, split, family, size, time. Says what it found, what it picked and why."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphogen.codecs.held import conds_of, given_in, items_of, part_of
from morphogen.config import SIZES, make
from morphogen.contracts import Augments, Item, Pairs
from morphogen.errors import DataError, MorphogenError, UsageError, suggest
from morphogen.files import read_json
from morphogen.registry import PRESETS, entries, resolve, tried, usable
from morphogen.spaces import Record, describe
from morphogen.training.optim import TOKENS, TrainConfig
from morphogen.training.split import split
from morphogen.worked_out import work_out

if TYPE_CHECKING:
    from morphogen.codecs.sources import Skips, Tell

ALIASES = {"labels": "label", "captions": "caption"}
READING, WORKING_OUT = 0.15, 0.2  # shares of the time, for large data and for conditions that are worked out of the items


@dataclass
class Plan:
    """Everything decided before the first tensor. `found` and `picked` are the lines a person reads."""

    listing: Any
    codec: Any
    items: Sequence[Item]
    train: list[int]
    held_out: list[int]
    conditions: dict[str, str]
    family: str
    family_config: dict[str, Any]
    training: TrainConfig
    minutes: float | None
    seed: int
    defaults: dict[str, Any]
    mark: str = ""
    "Names what was worked out of the items, if anything was."
    found: list[str] = field(default_factory=list)
    picked: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def part(self, ids: Sequence[int]) -> Sequence[Item]:
        return part_of(self.items, ids)

    def lessons(self) -> Sequence[Item]:
        """What is trained on: the training part, and what the codec makes of it."""
        items = self.part(self.train)
        if not isinstance(self.codec, Augments):
            return items
        asked = [replace(item, cond={name: item.cond[name] for name in self.conditions}) for item in items]
        return [*asked, *self.codec.augmented(asked)]


def defaults_of(codec: str) -> dict[str, Any]:
    """The `<codec>.toml` beside a codec; a plug-in without one gets neutral values."""
    import importlib.util

    module = entries("codec")[codec].target.partition(":")[0]
    spec = importlib.util.find_spec(module)
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for path in (folder / f"{codec}.toml", folder.parent / f"{codec}.toml"):
        if path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
    return {"default": "autoregressive", "few": "neighbour", "few_items": 0, "compare": [], "baselines": [], "minutes": 4.0, "tile": 16}


def claim(listing: Any) -> tuple[str, str]:
    """(codec name, why) of the codec surest about a listing. Raises DataError when none is."""
    answers = {name: tried("codec", name, partial(kind.claims, listing)) for name, kind in usable("codec")}
    claims = {name: answer for name, answer in answers.items() if answer is not None}
    name = max(claims, key=lambda k: claims[k].score)
    if claims[name].score <= 0:
        kinds = ", ".join(f"{n} × {k or 'no ending'}" for k, n in listing.by_suffix().most_common(4))
        raise DataError(f"no codec knows these files ({kinds})", where=listing.root, remedy="see `morphogen list` for what is read")
    return name, claims[name].why


def read(
    data: Any, codec: str | None = None, config: dict[str, Any] | None = None, cond: Sequence[str] = (), tell: Tell | None = None,
    room: float | None = None,
) -> tuple[Any, str, str, Any, Sequence[Item]]:
    """(listing, codec name, why, codec, items) of a person's data, nothing fitted yet. A codec with fields puts `cond` first.

    `tell` hears how far the reading is. `room`: minutes of the run that will learn from it, which a codec may read a sample for
    (0: its default; infinite: as long as it takes); None: all is wanted.
    """
    from morphogen.codecs.sources import scan

    listing = scan(data, tell) if tell else scan(data)
    name, why = (codec, "as asked") if codec else claim(listing)
    kind = resolve("codec", name)
    own = tuple(c for c in cond if c not in getattr(kind, "derived", {}))
    first = {"first": own} if own and "first" in getattr(kind.Config, "__dataclass_fields__", {}) else {}
    reader = kind(make(kind.Config, {**(config or {}), **first}, "codec."))
    listing = listing if room is None else replace(listing, room=READING * 60 * (room or float(defaults_of(name)["minutes"])))
    items = items_of(reader, listing)
    reader.skips.check(len(items) + reader.skips.count)
    if not items:
        raise DataError("nothing to learn from", where=listing.root, remedy="the data hold no usable item")
    return listing, name, why, reader, items


def make_plan(
    data: Any,
    *,
    family: str | None = None,
    size: str | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    cond: Sequence[str] = (),
    options: dict[str, dict[str, Any]] | None = None,
    parent: Any = None,
    like: Plan | None = None,
    tell: Tell | None = None,
) -> Plan:
    """Decide everything. `options`: {"codec" | "family" | "net" | "training": {field: value}} override what is derived.

    `parent`: the Run whose latent is to be modelled; its codec is used as it is. `like`: a plan of the same data and
    conditions, whose items and split are taken over instead of read again. `tell` hears how far the reading is.
    """
    options = options or {}
    _check_numbers(size, minutes, steps)
    codec_options = dict(options.get("codec", {}))
    if parent is not None:
        codec_options = {**parent.recipe["codec"].get("config", {}), **codec_options}
    if like is not None:
        listing, name, why, codec, items = like.listing, like.codec.name, "as before", like.codec, like.items
    else:
        own, room = parent.recipe["codec"]["name"] if parent else None, math.inf if steps else minutes or 0.0
        listing, name, why, codec, items = read(data, own, codec_options, cond, tell, room)
    defaults = defaults_of(name)
    fields = _own_fields(codec, items, cond)
    if parent is not None:
        codec.load(read_json(parent.path / "codec" / "state.json"))
    elif like is None:
        codec.fit(items)
    if given_in(items):
        items = _that_fit(codec, items)
    asked, time = [ALIASES.get(c, c) for c in cond if c not in fields], 60 * (minutes or float(defaults["minutes"]))
    items, derived, mark = work_out(codec, items, asked, None if steps else WORKING_OUT * time, seed)
    conditions, notes = _conditions(codec, items, asked)
    if conditions:
        said = conds_of(items)
        items = part_of(items, [i for i, cond in enumerate(said) if all(cond.get(k) is not None for k in conditions)])
    train, held = (like.train, like.held_out) if like is not None else split(items, seed)
    picked_family, because = _family(family, defaults, len(items), parent, getattr(codec.space, "size", 0), minutes, steps)
    if picked_family == "ngram" and getattr(codec.config, "tokens", "") == "auto" and parent is None:
        codec = _rebuild(codec, items, {**codec_options, "tokens": "bytes"})  # counts want letters, not word pieces
    kind = resolve("family", picked_family)
    family_options = {**options.get("family", {})}
    if "net" in getattr(kind.Config, "__dataclass_fields__", {}):
        regular = _dropout(codec, defaults, items, minutes, steps) if not options.get("training", {}).get("compile") else {}
        family_options["net"] = {"size": size or _size(codec.space), **regular, **options.get("net", {})}
    training = make(
        TrainConfig, {**getattr(kind, "recipe", {}), **options.get("training", {}), **({"steps": steps} if steps else {})}, "training."
    )
    training = _keep(training, options, len(train), codec.space, bool(held))
    plan = Plan(listing, codec, items, train, held, conditions, picked_family, family_options, training, None, seed, defaults, mark)
    plan.minutes = None if steps else minutes or float(defaults["minutes"])
    _explain(plan, name, why, because, derived + notes, fields)
    return plan


def _check_numbers(size: str | None, minutes: float | None, steps: int | None) -> None:
    if size is not None and size not in SIZES:
        raise UsageError(f"unknown size '{size}'", remedy=suggest(size, SIZES))
    if minutes is not None and steps is not None:
        raise UsageError("--minutes and --steps contradict each other", remedy="give one of them")
    if minutes is not None and not 0 < minutes < 1e5:
        raise UsageError(f"--minutes {minutes} is not a time", remedy="give a number above 0")
    if steps is not None and not 0 < steps < 10**9:
        raise UsageError(f"--steps {steps} is not a number of steps", remedy="give a number from 1")


def _that_fit(codec: Any, items: Sequence[Item]) -> list[Item]:
    """Items with a known part cannot lose their tail: those that are too long are left out and counted."""
    kept, skips = holdable(codec, items, {})
    if not kept:
        raise DataError("no item fits the codec", where=skips.first[0], remedy="give a larger --set codec.length")
    if skips.count:
        codec.notes.append(f"{skips.count:,} of {len(items):,} items with a known part do not fit: {skips.first[0]}")
    return kept


def _rebuild(codec: Any, items: Sequence[Item], config: dict[str, Any]) -> Any:
    fresh = type(codec)(make(type(codec).Config, config, "codec."))
    fresh.notes, fresh.skips = codec.notes, codec.skips
    fresh.fit(items)
    return fresh


def _own_fields(codec: Any, items: Sequence[Item], cond: Sequence[str]) -> tuple[str, ...]:
    """A table's condition is one of its own columns: asking for it makes known values (`Given`), not a condition."""
    if not isinstance(codec.space, Record) or not isinstance(items[0].raw, dict):
        return ()
    elsewhere = {*getattr(codec, "derived", {}), *items[0].cond}
    for name in cond:
        if name not in items[0].raw and name not in elsewhere:
            raise UsageError(f"no column '{name}'", remedy=suggest(name, [*items[0].raw, *elsewhere]))
    return tuple(name for name in cond if name not in elsewhere)


def holdable(codec: Any, items: Sequence[Item], conditions: dict[str, Any]) -> tuple[list[Item], Skips]:
    """The items that a fitted codec and its conditions can encode, and a count of the others with reasons."""
    from morphogen.codecs.sources import Skips

    kept, skips, pairs = [], Skips(), isinstance(codec, Pairs)
    for i, item in enumerate(items):
        try:
            missing = next((name for name in conditions if item.cond.get(name) is None), None)
            if missing is not None:
                raise DataError(f"no '{missing}'")
            if item.given is None or not pairs:
                codec.encode(item.raw)
            else:
                codec.pair(item.given, item.raw)
            for name, condition in conditions.items():
                condition.encode(item.cond[name])
            kept.append(item)
        except MorphogenError as error:
            skips.add(item.source or f"item {i + 1}", error.what)
    return kept, skips


def _conditions(codec: Any, items: Sequence[Item], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """name -> kind of each condition. Without a wish, class labels are used when nearly every item has one."""
    names, said = list(names), conds_of(items)
    if not names and items and "label" in said[0]:
        labels = [cond.get("label") for cond in said]
        if 2 <= len(set(labels)) <= min(1000, len(items) // 2) and labels.count(None) <= 0.01 * len(items):
            names = ["label"]
    out, notes = {}, []
    for name in names:
        values = [cond[name] for cond in said if cond.get(name) is not None]
        known = sorted({k for cond in said[:1000] for k in cond} | set(getattr(codec, "derived", {})))
        if not values:
            no = f"'{name}' could be worked out of no item" if name in getattr(codec, "derived", {}) else f"the data have no '{name}'"
            remedy = suggest(name, [k for k in known if k != name]) if known else "they carry no labels or captions"
            raise UsageError(no + " to condition on", remedy=remedy)
        if len(values) < len(items):
            notes.append(f"{len(items) - len(values)} items without '{name}' are left out")
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and len(set(values)) > 20:
            out[name] = "number"
        else:
            out[name] = "caption" if name == "caption" or len(set(map(str, values))) > max(200, len(values) // 3) else "label"
    return out, notes


def _family(
    asked: str | None, defaults: dict[str, Any], n: int, parent: Any, elements: int, minutes: float | None, steps: int | None
) -> tuple[str, str]:
    if asked:
        name = PRESETS.get(asked, asked)
        resolve("family", name)
        return name, "as asked"
    if parent is not None:
        from morphogen.spaces import Tokens

        latent = parent.build().family.latent
        return ("autoregressive", "the latent is tokens") if isinstance(latent, Tokens) else ("diffusion", "the latent is an array")
    if n < defaults["few_items"]:
        return defaults["few"], f"{n} items are few for a network; --family {defaults['default']} overrides"
    time = minutes or float(defaults["minutes"])
    if steps is None and elements > defaults.get("large", elements) and time < defaults["large_minutes"]:
        slow, enough = defaults["default"], defaults["large_minutes"]
        why = f"{slow} wants {enough:g} min or more for data of this size; --family {slow} --minutes {2 * enough:g} is sharper"
        return defaults["quick"], why
    return defaults["default"], "the usual best for this kind of data; `morphogen compare` tells for yours"


def _size(space: Any) -> str:
    """The smallest net that is not the bottleneck on a laptop. A bigger one is one flag away."""
    return "tiny" if isinstance(space, Record) else "small"


MINUTE = 700_000  # tokens a small network reads in a minute of two cores
OFTEN = 5  # so many times read, 0.9 MB of prose began to be learned by heart


def _dropout(codec: Any, defaults: dict[str, Any], items: Sequence[Item], minutes: float | None, steps: int | None) -> dict[str, float]:
    """The codec's drop-out where the time is enough to read every text often; before that it would only slow learning down."""
    left = (TOKENS["cpu"] * steps if steps else MINUTE * (minutes or float(defaults["minutes"]))) / OFTEN
    for item in items if "dropout" in defaults else ():  # a large corpus is not gone through
        left -= len(codec.encode(item.raw)) if isinstance(item.raw, str) else math.inf
        if left < 0:
            return {}
    return {"dropout": float(defaults["dropout"])} if "dropout" in defaults else {}


def _keep(training: TrainConfig, options: dict[str, Any], n: int, space: Any, held: bool) -> TrainConfig:
    """On few items a network overfits before the time is up: keep the average with the lowest held-out loss."""
    if "keep" in options.get("training", {}) or not held:
        return training
    few = n < 20000 and not hasattr(space, "size")
    return replace(training, keep="best") if few else training


def _explain(plan: Plan, name: str, why: str, because: str, notes: list[str], fields: tuple[str, ...]) -> None:
    codec = plan.codec
    plan.found = [f"{len(plan.items):,} items for the {name} codec ({why})", describe(codec.space)]
    if hasattr(codec, "describe"):
        plan.found += list(codec.describe())
    plan.found += [*codec.notes, *notes]
    if codec.skips.count:
        plan.warnings.append(f"{codec.skips.count} skipped: " + "; ".join(codec.skips.first))
    plan.picked.append(f"family {plan.family}: {because}")
    if plan.conditions or fields:
        names = ", ".join(plan.conditions) or ", ".join(fields)
        plan.picked.append(f"conditions: {names} (generate with --cond {next(iter(plan.conditions or fields))}=…)")
    elif getattr(codec, "derived", {}):
        plan.picked.append("no conditions; --cond NAME works out and learns " + ", ".join(codec.derived))
    side = f"{len(plan.held_out):,} held out, whole groups" if plan.held_out else "nothing held out (too few): no honest yardstick"
    plan.picked.append(f"{len(plan.train):,} items to train on, {side}")
    if plan.family_config.get("net"):
        plan.picked.append(f"size {plan.family_config['net']['size']}; --size {'|'.join(SIZES)} changes it")
        if rate := plan.family_config["net"].get("dropout"):
            plan.picked.append(f"drop-out of {rate:g}, as there is time to learn items by heart; --set net.dropout=0 is without")
    if plan.minutes is not None and not is_classical(plan.family):
        plan.picked.append(f"about {plan.minutes:g} min of training; --minutes changes it")
    if len(plan.items) < 100:
        plan.warnings.append(
            f"only {len(plan.items)} items: expect copies or blur; collect a few hundred, or use `--family neighbour` for blends"
        )


def is_classical(family: str) -> bool:
    """Whether a family fits in seconds instead of training. Ours say so in the registry, a plug-in's class by having no phases."""
    entry = entries("family")[family]
    return not getattr(resolve("family", family), "phases", True) if entry.dist else entry.line.startswith("classical")
