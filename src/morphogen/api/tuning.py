"""What `tune` and the report of a tuned run share: a plan that takes over all that a base run has fitted, and losses side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.config import make
from morphogen.contracts import Item
from morphogen.errors import DataError, UsageError
from morphogen.plan import Plan, defaults_of, holdable, is_classical, read
from morphogen.run import Run
from morphogen.spaces import Tokens, describe
from morphogen.training.optim import TrainConfig
from morphogen.training.split import split
from morphogen.worked_out import derive

OF_A_RUN = ("steps", "batch", "lanes", "precision", "windows", "keep")  # of a base's training, not taken over


def open_base(path: str | Path | Run) -> Run:
    """What is tuned: a finished run folder. Raises FormatError or UsageError when it cannot be."""
    run = path if isinstance(path, Run) else Run.load(path)
    name = run.recipe["family"]["name"]
    if is_classical(name):
        raise UsageError(f"a {name} run is fitted in one pass and cannot be tuned", where=run.path,
                         remedy="train it again on both data sets together")
    if not run.finished():
        raise UsageError("the base run is not finished", where=run.path, remedy="train it to its end first")
    return run


def reading(codec: Any) -> dict[str, Any]:
    """The codec's options such that `read` cuts new data into pieces the fitted codec can hold."""
    config = {k: v for k, v in dataclasses.asdict(codec.config).items() if k != "first"}
    if hasattr(codec, "tokeniser") and isinstance(codec.space, Tokens) and {"tokens", "length"} <= set(config):
        config["tokens"] = "bytes" if codec.tokeniser.content is None else "bpe"
        config["length"] = config["length"] or codec.space.length
    return config


def tuned_plan(run: Run, data: Any, *, seed: int, model: Any = None, minutes: float | None = None, steps: int | None = None,
               training: dict[str, Any] | None = None) -> Plan:
    """A plan for new data under a run's own codec, conditions and family: nothing is fitted again.

    Items it cannot hold are left out and counted in `warnings`. Raises DataError when none is left.
    """
    model = model or run.build()
    name = run.recipe["codec"]["name"]
    listing, name, _, reader, items = read(data, name, reading(model.codec))
    found = len(items)
    items, skips = holdable(model.codec, derive(model.codec, items, list(model.conditions)), model.conditions)
    if not items:
        raise DataError("the base can hold none of the items", where="; ".join(skips.first[:2]) or data,
                        remedy="its vocabulary and shapes are those of the data it was trained on")
    train, held = split(items, seed)
    config = {k: v for k, v in run.recipe.get("training", {}).items() if k not in OF_A_RUN}
    config |= {"keep": "best" if held else "last", **(training or {}), **({"steps": steps} if steps else {})}
    defaults = defaults_of(name)
    plan = Plan(listing, model.codec, items, train, held, dict(run.recipe.get("conditions", {})), run.recipe["family"]["name"],
                dict(run.recipe["family"].get("config", {})), make(TrainConfig, config, "training."), None, seed, defaults)
    plan.minutes = None if plan.training.steps else minutes or float(defaults["minutes"])
    plan.found = [f"{len(items):,} items for the base's own {name} codec", describe(model.codec.space), *reader.notes]
    answers = sum(item.given is not None for item in items)
    if answers:
        plan.found.append(f"{answers:,} items have a known part: only what follows it is learned")
    side = f"{len(held):,} held out, whole groups" if held else "nothing held out (too few)"
    plan.picked = [f"{len(train):,} items to tune on, {side}"]
    for skipped, what in ((skips, f"{skips.count:,} of {found:,} items do not fit the base"), (reader.skips, "not readable")):
        if skipped.count:
            plan.warnings.append(f"{what}: " + "; ".join(skipped.first))
    return plan


def loss_of(model: Any, items: Sequence[Item]) -> float | None:
    """Mean loss over at most 512 items with fixed draws; None where losses do not compare (two nets against each other)."""
    from morphogen.training.data import Dataset
    from morphogen.training.held_out import compares, held_out_loss

    if not items or not compares(model.family):
        return None
    return held_out_loss(model.family, Dataset(model, items[:512]))


def own_held_out(base: Run, model: Any, watch: Any) -> Sequence[Item]:
    """What the base held out of its own data, if they are still there."""
    from morphogen.api.evaluate import plan_again
    from morphogen.errors import MorphogenError

    try:
        plan = plan_again(base)
    except MorphogenError as error:
        watch.say(f"what is forgotten cannot be measured: {error}", "warn")
        return []
    return holdable(model.codec, plan.part(plan.held_out)[:512], model.conditions)[0]


def lines_of(answer: dict[str, Any]) -> list[str]:
    """What a tuning changed, in words."""
    out = []
    told = {"new": "on the new data", "own": "on the base's own data"}
    if "base_model" in answer:  # a language model from elsewhere: its own data are not here
        told = {"new": "on the new data", "general": "on general text"}
    for key, what in told.items():
        if answer.get(key):
            before, after = answer[key]["base"], answer[key]["tuned"]
            word = "better" if after < before else "worse"
            out.append(f"held-out loss {what}: {before:.4g} before, {after:.4g} after ({abs(after - before):.3g} {word})")
        else:
            out.append(f"held-out loss {what}: not measured")
    out.append(f"trained {answer['trained']:,} numbers, {answer['share']:.1%} of the base's {answer['parameters']:,}")
    if answer.get("merge_difference") is not None:
        out.append(f"merged weights and adapter agree within {answer['merge_difference']:.1g}")
    return out
