"""evaluate: how good a run is, whether a classical baseline is better, and whether it copied; one report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.api.common import Watch, check_count, device_of, seconds
from morphogen.api.train import recorded_wishes
from morphogen.api.watching import default_cond, load_previews
from morphogen.contracts import Item
from morphogen.errors import DataError, MorphogenError
from morphogen.files import check_output, read_json, write_json, write_text
from morphogen.plan import Plan, defaults_of, holdable, make_plan, read
from morphogen.run import Run
from morphogen.worked_out import derive, recall_worked_out

OTHERS = 20_000  # items of other data that are compared with at most


@dataclass
class Judged:
    """What evaluate and compare know about one model."""

    result: Any
    evidence: Any
    raws: list[Any]
    asked: list[dict[str, Any]]
    draw_seconds: float


def evaluate(
    run: Run | str | Path,
    *,
    data: Any = None,
    out: str | Path | None = None,
    n: int | None = None,
    seed: int = 1,
    device: str = "auto",
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Measure a run on its held-out items (or on `data`) and write report.html, card.md and metrics.json to `out` (default: the run).

    Where the data the run learned from are gone, or were handed over in Python, `data` may be these: their held-out part is
    then measured on. Returns {"metrics": [...], "verdict": str, "advice": [...], "report": path}. Raises DataError without them.
    """
    watch = watch or Watch()
    folder = run if isinstance(run, Run) else Run.load(run)
    target = Path(out) if out is not None else folder.path
    if out is not None:
        check_output(target, force=force)
    if n is not None:
        check_count(n)
    model = folder.model(device_of(device))
    try:
        plan = plan_again(folder, watch=watch)
    except DataError:
        if data is None:
            raise
        plan, data = plan_again(folder, data), None
        if _changed(folder, plan):
            what = "the data the run learned from are not there, and those given are others"
            raise DataError(what, where=folder.path, remedy="give these: the report compares with them") from None
    train, held = plan.part(plan.train), plan.part(plan.held_out)
    if data is not None:
        held = _other_data(folder, plan, data, model, watch)
    if not held:
        raise DataError(
            "nothing was held out: there are too few items", where=folder.recipe["data"]["path"], remedy="give other items with --data"
        )
    baselines = baseline_models(folder, plan, watch)
    judged = judge(model, plan, train, held, baselines, n=n, seed=seed, watch=watch)
    page = report_page(folder, plan, judged)
    from morphogen.evaluation.report import card, render

    write_text(target / "report.html", render(page))
    write_text(target / "card.md", card(page))
    answer = {
        "metrics": [m.to_json() for m in judged.result.metrics],
        "verdict": judged.result.verdict,
        "advice": list(judged.result.advice),
    }
    write_json(target / "metrics.json", answer)
    watch.progress("judging", 1.0)
    return {**answer, "report": str(target / "report.html")}


def plan_again(folder: Run, data: Any = None, *, watch: Watch | None = None) -> Plan:
    """The plan of a run, made again from its recipe and its data (or `data`, where these are now).

    Raises DataError when the data are not there; `watch` is warned when they are others than the run learned from.
    """
    source = data if data is not None else folder.source if folder.source is not None else folder.recipe["data"]["path"]
    if isinstance(source, str) and not (source and Path(source).exists()):
        remedy = "put them back" if source else "hand over the Run that `train` returned"
        remedy += "; evaluate also takes them with --data"
        raise DataError("the data the run learned from are not there", where=source or folder.path, remedy=remedy)
    plan = _planned(folder, source)
    if watch is not None and _changed(folder, plan):
        watch.say("the data have changed since the run learned from them: items held out now may be ones it was trained on", "warn")
    return plan


def _changed(folder: Run, plan: Plan) -> bool:
    """Whether a plan's data are others than a run learned from: by their hash, or for objects by how many items they hold."""
    from morphogen.trust.provenance import hash_data

    listing, recorded = plan.listing, folder.provenance().get("data")
    if recorded and listing.files:
        return hash_data(listing.files, listing.root) != recorded
    return len(plan.items) != folder.recipe["data"]["items"]


def _planned(folder: Run, source: Any) -> Plan:
    from morphogen.api.tuning import tuned_plan

    parent = folder.recipe["data"].get("bridge")
    recall_worked_out(folder.path)
    if "tune" in folder.recipe:
        return tuned_plan(folder, source, seed=folder.recipe["data"]["seed"], steps=folder.recipe["training"]["steps"])
    wishes = recorded_wishes(folder.recipe)
    return make_plan(
        source, **wishes, parent=Run(folder.path / "bridges" / "0", Run.load(folder.path / "bridges" / "0").recipe) if parent else None
    )


def _other_data(folder: Run, plan: Plan, data: Any, model: Any, watch: Watch) -> Sequence[Item]:
    """The items of other data that the model can hold; the others are counted. Raises DataError when it can hold none."""
    name = folder.recipe["codec"]["name"]
    config = {k: v for k, v in folder.recipe["codec"].get("config", {}).items() if k != "first"}
    every = read(data, name, config)[-1]
    items, skips = holdable(model.codec, derive(plan.codec, every[:OTHERS], list(model.conditions)), model.conditions)
    if not items:
        raise DataError("no item fits the run", where=skips.first[0], remedy="give data of the kind the run learned from")
    if skips.count:
        watch.say(f"{skips.count:,} of {len(every):,} items do not fit the run: " + "; ".join(skips.first), "warn")
    if len(every) > OTHERS:
        watch.say(f"the first {OTHERS:,} of {len(every):,} items are looked at", "warn")
    return items


def baseline_models(folder: Run, plan: Plan, watch: Watch, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The classical families that this kind of data is compared with, fitted on the same training items."""
    from morphogen.api.train import fitted_classical

    out = {}
    for i, name in enumerate(names or [b for b in defaults_of(plan.codec.name)["baselines"] if b != plan.family]):
        watch.progress("fitting baselines", (i + 0.1) / 3, name)
        wishes = recorded_wishes(folder.recipe)
        options = {"codec": wishes["options"]["codec"]}
        try:
            own = make_plan(folder.recipe["data"]["path"], family=name, seed=plan.seed, cond=wishes["cond"], options=options, like=plan)
            out[name] = fitted_classical(own)
        except MorphogenError as error:  # a baseline that does not fit this data must not cost the report
            watch.say(f"baseline {name} left out: {error}", "warn")
    return out


def judge(
    model: Any, plan: Plan, train: Sequence[Item], held: Sequence[Item], baselines: dict[str, Any], *,
    n: int | None, seed: int, watch: Watch,
) -> Judged:
    """Draw, score and measure one model beside its baselines."""
    from morphogen.evaluation.evidence import Evidence
    from morphogen.evaluation.suite import evaluate as measure
    from morphogen.sampling import draws

    n = n or int(plan.defaults.get("judge", 500))
    keys = draws.seeded(seed, n)
    cond = default_cond(model, keys)
    begun = time.monotonic()
    raws = model.generate(keys, cond=cond, progress=lambda share: watch.progress("drawing", share))
    took = time.monotonic() - begun
    watch.progress("drawing", 1.0)
    asked = [{k: v[i] for k, v in (cond or {}).items()} for i in range(n)]
    others, scores, kinds = {}, {}, {}
    for name, baseline in baselines.items():
        use = {k: v for k, v in (cond or {}).items() if k in baseline.conditions}
        others[name] = baseline.generate(draws.seeded(seed + 1, n), cond=use or default_cond(baseline, keys))
    held_cond = {k: [item.cond[k] for item in held] for k in model.conditions}
    held_keys = draws.seeded(seed, len(held))
    for name, scored in {"model": model, **baselines}.items():
        watch.progress("scoring", 0.5, name)
        use = {k: v for k, v in held_cond.items() if k in scored.conditions}
        got = scored.log_prob([item.raw for item in held], held_keys, use)
        if got is not None:
            scores[name], kinds[name] = np.asarray(got.total), got.kind
    watch.progress("measuring", 0.6)
    conditions = {k: v for k, v in plan.conditions.items() if k in model.conditions}
    evidence = Evidence(
        codec=plan.codec,
        generated=raws,
        train=train,
        heldout=held,
        asked=asked if conditions else (),
        baselines=others,
        conditions=conditions,
        log_prob=scores,
        kinds=kinds,
        trains=bool(model.family.phases),
        seed=seed,
        tell=lambda line: watch.progress("measuring", 0.7, line),
    )
    result = measure(evidence)
    watch.progress("measuring", 1.0)
    return Judged(result, evidence, raws, asked, took)


def report_page(folder: Run, plan: Plan, judged: Judged) -> Any:
    """The report of a run: samples, how they came, metrics, curves, neighbours, what was found and picked, facts."""
    from morphogen.evaluation.page import Command, Curves, Facts, Lines, Page

    result = judged.result
    sections = [
        *sample_sections(folder, plan, judged),
        Lines(title="What was found, what was picked", lines=[*plan.found, *plan.picked, *plan.warnings]),
        Curves(title="Training", rows=folder.metrics()),
        Facts(title="Model card", facts=facts_of(folder, plan, judged)),
        Command(title="Make it again", command="\n".join(_commands(folder, plan))),
    ]
    if (folder.path / "tune.json").is_file():
        from morphogen.api.tuning import lines_of

        sections.insert(-2, Lines(title="What tuning changed", lines=lines_of(read_json(folder.path / "tune.json"))))
    if result.notes:
        sections.append(Lines(title="Not measured", lines=result.notes))
    source = Path(folder.recipe["data"]["path"]).name
    title, subtitle = folder.path.resolve().name, f"{folder.recipe['family']['name']} on {source}"
    return Page(title=title, subtitle=subtitle, verdict=result.verdict, date=time.strftime("%Y-%m-%d"), tone=result.tone, sections=sections)


def sample_sections(folder: Run, plan: Plan, judged: Judged, shown: int = 48) -> list[Any]:
    """What people look at first: samples beside real items, the strip over training, metrics, nearest training items."""
    from morphogen.evaluation.page import Copies, Lines, Measures, Samples, Strips

    result, codec = judged.result, plan.codec
    first = codec.preview(judged.raws[:1])
    shown = 12 if first.get("audio") else {"image": shown, "table": 12}.get(first["kind"], 6)
    captions = [" ".join(str(v) for v in a.values()) for a in judged.asked[:shown]] if judged.evidence.conditions else []
    held = plan.part(plan.held_out)
    real = [item.raw for item in held[:: max(1, 2 * len(held) // shown)][: shown // 2]]  # spread over the set: classes lie together
    sections: list[Any] = [
        Samples(title="Generated", preview=codec.preview(judged.raws[:shown]), captions=captions, note=source_note(folder))
    ]
    if real:
        sections.append(Samples(title="Real, held out", preview=codec.preview(real), note="What the model never saw."))
    if result.advice:
        sections.append(Lines(title="What to do next", lines=result.advice))
    sections.append(Measures(title="How good it is", metrics=result.metrics))
    strip = load_previews(folder.path / "samples")
    if len(strip) > 1:
        sections.append(Strips(title="Learning", steps=strip, note="The same draws as training went on."))
    if result.pairs:
        pairs = list(result.pairs)[:8]
        sections.append(
            Copies(
                title="Closest to the training data",
                generated=codec.preview([judged.raws[p.generated] for p in pairs]),
                nearest=codec.preview([judged.evidence.train[p.train].raw for p in pairs]),
                distances=[p.distance for p in pairs],
            )
        )
    return sections


def source_note(folder: Run) -> str:
    """One line under the samples: what made them."""
    origin = folder.provenance()
    return f"{folder.recipe['family']['name']}, trained {seconds(origin.get('seconds', 0))}; drawn at random, not picked."


def facts_of(folder: Run, plan: Plan, judged: Judged) -> dict[str, Any]:
    """The model card's keys and values."""
    origin = folder.provenance()
    return {
        "family": folder.recipe["family"]["name"],
        "parameters": f"{origin.get('parameters', 0):,}",
        "training": seconds(origin.get("seconds", 0)),
        "steps": f"{folder.recipe['training'].get('steps', 0):,}",
        "training items": f"{len(plan.train):,}",
        "held out": f"{len(plan.held_out):,}",
        "drawing": f"{len(judged.raws) / max(judged.draw_seconds, 1e-9):.3g} a second",
        "contains training rows": "yes" if origin.get("contains_training_rows") else "no",
        "seed": plan.seed,
        "data hash": origin.get("data") or "-",
        "model hash": origin.get("model") or "-",
        **{k: str(v) for k, v in origin.get("environment", {}).items()},
    }


def _commands(folder: Run, plan: Plan) -> list[str]:
    data, recipe = Path(folder.recipe["data"]["path"]).name, folder.recipe
    cond = "".join(f" --cond {c}" for c in recipe["data"].get("cond", []))
    steps = f" --steps {recipe['training']['steps']}" if recipe["training"].get("steps") else ""
    name = folder.path.name
    return [
        f"morphogen train {data} --out {name} --family {plan.family}{cond}{steps} --seed {plan.seed}",
        f"morphogen generate {name} --n 16 --seed 0 --out out",
        f"morphogen evaluate {name}",
    ]
