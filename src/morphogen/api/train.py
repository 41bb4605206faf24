"""train: from data to a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.api.common import Alone, Watch, crew_of, seconds
from morphogen.api.watching import Follower, Hook, Previewer
from morphogen.codecs.held import conds_of, part_of
from morphogen.config import SIZES
from morphogen.errors import FormatError, UsageError
from morphogen.files import PART, check_output, lock, sweep, write_bytes, write_json
from morphogen.plan import Plan, make_plan
from morphogen.registry import resolve
from morphogen.run import Run, build_bridges, config_values
from morphogen.worked_out import keep_worked_out, recall_worked_out

START = time.monotonic
CLASSICAL = 200_000  # items a classical family is fitted on at most: trees take about 20 s for them
FITTED = 500_000  # items bridges are fitted on at most


def train(
    data: Any,
    out: str | Path,
    *,
    family: str | None = None,
    size: str | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    cond: Sequence[str] = (),
    bridge: str | Path | None = None,
    recipe: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    parallel: str | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    force: bool = False,
    report: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Learn how `data` (a path, or an object: see `codecs.rows.of_object`) is structured and save a run folder at `out`.

    Without flags the codec, family, size and time are found from the data. `minutes` is wall time from reading the data
    to the saved model; `report` adds an evaluation after it. `options` overrides single values: {"training": {"lr": 1e-3},
    "net": {"width": 96}, ...}. `recipe`: a recipe.toml whose choices hold where no argument says otherwise.
    Raises UsageError, DataError, FormatError, ResourceError or Interrupted.
    """
    begun, watch, out = START(), watch or Watch(), Path(out)
    own = {"family": family, "size": size, "minutes": minutes, "steps": steps, "seed": seed, "cond": tuple(cond), "options": options}
    with crew_of(parallel, device) as crew, contextlib.ExitStack() as locked:
        watch = watch if crew.first else Watch()
        if crew.once(lambda: resume and _finished(out)):
            watch.say("already finished; nothing to resume", "good")
            return Run.load(out)
        fresh = crew.once(lambda: _fresh(data, out, resume, force))
        parent = Run.load(bridge) if bridge else None
        if parent is not None and not parent.finished():
            raise FormatError("the bridge run is not finished", where=bridge, remedy="train it to its end first")
        recorded = {} if fresh else Run.load(out).recipe
        wishes = recorded_wishes(recorded, begun=True) if recorded else _over(recipe, own) if recipe else own
        recall_worked_out(out)
        again = recorded.get("data", {}).get("bridge")
        plan = make_plan(data, **wishes, parent=Run.load(again) if again else parent, tell=watch.progress)
        _say(plan, watch)
        crew.same("data", [plan.family, len(plan.items), [int(i) for i in plan.train], plan.training.steps, plan.seed])
        crew.once(lambda: locked.enter_context(lock(out)))
        if crew.once(lambda: resume and _finished(out)):  # by another process, while this one was reading the data
            return Run.load(out)
        crew.once(lambda: _swept(out, fresh and force))
        run = Job(plan, Run(out, recorded), parent, begun, watch, crew=crew).run(fresh, data, bridge, cond)
    if not isinstance(data, str | Path):
        run.source = data
    if not crew.first:
        return run
    if report and plan.held_out:
        from morphogen.api.evaluate import evaluate

        answer = evaluate(run, device=device, watch=watch)
        watch.say(answer["verdict"], "good")
    return run


def _fresh(data: Any, out: Path, resume: bool, force: bool) -> bool:
    """Whether a run begins; then its place is checked."""
    if resume and (out / "recipe.toml").is_file():
        return False
    inputs = (Path(data),) if isinstance(data, str | Path) else ()
    check_output(out, force=force or (resume and cut_short(out)), inputs=inputs)
    return True


def _say(plan: Plan, watch: Watch) -> None:
    for line in plan.found:
        watch.say("found   " + line)
    for line in plan.picked:
        watch.say("picked  " + line)
    for line in plan.warnings:
        watch.say(line, "warn")


def _swept(out: Path, replaced: bool) -> None:
    if replaced:
        clear(out)
    for folder in (out, out / "state"):
        sweep(folder)


def _over(recipe: str | Path, own: dict[str, Any]) -> dict[str, Any]:
    """A recipe file's choices under a person's own."""
    from morphogen.run import read_recipe

    theirs = recorded_wishes(read_recipe(Path(recipe)))
    if own["steps"] or own["minutes"]:
        theirs.pop("steps", None)
        theirs.pop("minutes", None)
        theirs["options"]["training"].pop("aims", None)
    options = {
        k: {**theirs["options"].get(k, {}), **(own["options"] or {}).get(k, {})} for k in {*theirs["options"], *(own["options"] or {})}
    }
    said = {k: v for k, v in own.items() if v not in (None, ()) and not (k == "seed" and v == 0)}
    return {**theirs, **said, "options": options}


def recorded_wishes(recipe: dict[str, Any], begun: bool = False) -> dict[str, Any]:
    """The wishes that lead to the same plan again: what was derived is now given. Missing sections wish for nothing.

    `begun`: of a run that goes on; if its recipe names no precision, there was no choice when it began.
    """
    training, family, data = recipe.get("training", {}), recipe.get("family", {}), recipe.get("data", {})
    config = dict(family.get("config", {}))
    net = config.pop("net", {})
    options = {
        "codec": recipe.get("codec", {}).get("config", {}),
        "family": config,
        "training": {**({"precision": "float32"} if begun else {}), **{k: v for k, v in training.items() if k != "steps"}},
    }
    if net:
        options["net"] = net
    wishes = {"family": family.get("name"), "seed": data.get("seed", 0), "cond": tuple(data.get("cond", ())), "options": options}
    return {**wishes, **({"steps": training["steps"]} if training.get("steps") else {"minutes": data.get("minutes")})}


def _finished(out: Path) -> bool:
    """Whether a run is at its end; checkpoints that a killed process left then go."""
    done = (out / "recipe.toml").is_file() and Run.load(out).finished()
    if done and (out / "state").is_dir():
        shutil.rmtree(out / "state", ignore_errors=True)
    return done


BEGINNINGS = {"codec", "conditions", "bridges", "samples", "derived.json", "provenance.json"}


def cut_short(out: Path) -> bool:
    """Whether a folder holds nothing but the beginnings of a run that was killed before its recipe was written."""
    return out.is_dir() and all(p.name in BEGINNINGS or p.name == ".lock" or p.name.endswith(PART) for p in out.iterdir())


def clear(out: Path) -> None:
    """--force replaces a run, whose lock is held; anything that is not one stays and is refused."""
    old = [p for p in out.iterdir() if p.name != ".lock"]
    if old and not (out / "recipe.toml").is_file() and not cut_short(out):
        raise UsageError("the folder is not a run; it is not overwritten", where=out, remedy="choose another name")
    (out / "recipe.toml").unlink(missing_ok=True)  # first: a run half removed is none
    for path in old:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def build_model(plan: Plan, parent: Run | None = None, device: str = "cpu") -> Any:
    """An untrained model of a plan: conditions and bridges fitted, weights as the current torch seed gives them."""
    from morphogen.config import make
    from morphogen.model import Model
    from morphogen.training.data import sampled, samples

    kind, conditions = resolve("family", plan.family), {}
    for name, what in plan.conditions.items():
        conditions[name] = resolve("condition", what)()
        conditions[name].fit([cond[name] for cond in conds_of(plan.items)])
    bridges = build_bridges(plan.codec.space, kind.accepts, parent.model() if parent else None)
    x, mask = samples(plan.codec, part_of(plan.part(plan.train), sampled(len(plan.train), FITTED, plan.seed))) if bridges else (None, None)
    for i, bridge in enumerate(bridges):
        bridge.fit(x, mask)
        if i + 1 < len(bridges):
            x, mask = bridge.encode(x, mask)
    space = bridges[-1].target if bridges else plan.codec.space
    family = kind(space, {k: c.space for k, c in conditions.items()}, make(kind.Config, plan.family_config, "family."))
    return Model(plan.codec, family, bridges, conditions, int(plan.defaults["tile"])).to(device)


def fitted_classical(plan: Plan) -> Any:
    """A classical family fitted on a plan's training items, in memory: on themselves, not on what a codec makes of them."""
    import torch

    from morphogen.training.data import Dataset

    model = build_model(plan)
    with torch.no_grad():
        model.family.fit(Dataset(model, plan.part(plan.train)).batches(4096, plan.seed, CLASSICAL))
    return model.eval()


class Job:
    """One training run, from a plan to a finished folder.

    `crew`: the processes that do it; the first one writes. `calibrates`: data-dependent buffers are set first.
    """

    def __init__(
        self, plan: Plan, run: Run, parent: Run | None, begun: float, watch: Watch, *, crew: Any, calibrates: bool = True
    ) -> None:
        self.plan, self.folder, self.parent, self.begun, self.watch = plan, run, parent, begun, watch
        self.crew, self.device, self.calibrates = crew, crew.device, calibrates

    def run(self, fresh: bool, data: Any, bridge: Any, cond: Sequence[str]) -> Run:
        import torch

        from morphogen.training import generated
        from morphogen.training.data import FINISHING, Dataset

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed)  # initial weights; every other draw is named by keys
            model = build_model(self.plan, self.parent, self.device)
        dataset = Dataset(model, self.plan.lessons())
        self.sized(model, dataset)
        if model.family.phases:
            if self.plan.training.compile:
                generated.check(model.family, self.plan.training, self.crew.world)
            self.crew.once(lambda: self.fits(model, dataset, self.plan.family_config.get("net")))
        held = Dataset(model, self.plan.part(self.plan.held_out)) if self.plan.held_out else None
        if fresh:
            self.crew.once(lambda: self.record(model, data, bridge, cond))
        watched = self.fit(model, dataset, held, fresh) if model.family.phases else self.classical(model, dataset)
        model.eval()
        if not self.crew.first:
            return self.folder
        if hasattr(model.family, "finish"):
            with torch.no_grad():
                model.family.finish(dataset.batches(512, most=FINISHING))
        self.finish(model, watched)
        return self.folder

    def sized(self, model: Any, dataset: Any) -> None:
        """Fill in the batch, the lanes and the precision where nobody said them."""
        from morphogen.training.lanes import lanes_for
        from morphogen.training.optim import TOKENS, batch_size
        from morphogen.training.precision import has_units, precision_for

        if not self.plan.training.batch:
            length = None if dataset.lengths is None else float(dataset.lengths.double().mean())
            tokens = TOKENS[self.device.partition(":")[0]]
            self.plan.training = dataclasses.replace(self.plan.training, batch=batch_size(model.family.space, length, tokens))
        lanes = self.plan.training.lanes or (lanes_for(self.device) if self.crew.world == 1 else 1)
        precision = self.plan.training.precision or self.crew.once(lambda: precision_for(model.family, self.device))
        if precision == "bfloat16" and not has_units(self.device.partition(":")[0]):
            self.watch.say("products in bfloat16 are slow on this machine; --set training.precision=float32 is not", "warn")
        self.plan.training = dataclasses.replace(self.plan.training, lanes=lanes, precision=precision)

    def fits(self, model: Any, dataset: Any, net: dict[str, Any] | None = None) -> None:
        """Say how much memory training takes. Raises ResourceError with the smallest change that fits when there is less.

        `net`: its config, where a smaller one could be chosen.
        """
        from morphogen.training import estimate

        smaller = SIZES[max(0, SIZES.index(net["size"]) - 1)] if net else ""
        other = f"--size {smaller} is the next smaller net" if net and smaller != net["size"] else ""
        estimate.fits(model.family, dataset, self.plan.training, self.watch.say, other)

    def record(self, model: Any, data: Any, bridge: Any, cond: Sequence[str], more: dict[str, Any] | None = None) -> None:
        """The recipe (with `more` sections) and the small files, before the first step: what --resume needs."""
        from morphogen.trust.provenance import environment, hash_data, hash_file

        plan, run = self.plan, self.folder
        run.path.mkdir(parents=True, exist_ok=True)
        listing = plan.listing
        source = str(Path(data).expanduser().resolve()) if isinstance(data, str | Path) else ""
        run.recipe = {
            "data": {
                "path": source,
                "seed": plan.seed,
                "items": len(plan.items),
                "train": len(plan.train),
                "held_out": len(plan.held_out),
                "cond": list(cond),
                "bridge": str(Path(bridge).resolve()) if bridge else None,
                "minutes": plan.minutes,
            },
            "codec": {"name": plan.codec.name, "config": config_values(plan.codec.config)},
            "conditions": plan.conditions,
            "family": {"name": plan.family, "config": config_values(model.family.config)},
            "training": config_values(plan.training),
            "generation": {"tile": model.tile},
            **(more or {}),
        }
        run.save_parts(model)
        keep_worked_out(plan.mark, plan.conditions, run.path)
        run.save_bridges(model)
        if self.parent:
            run.adopt_parent(self.parent)
        write_json(
            run.path / "provenance.json",
            {
                "data": hash_data(listing.files, listing.root, listing.hashes) if listing.files else None,
                "parents": [hash_file(self.parent.path / "model.safetensors")] if self.parent else [],
                "seed": plan.seed,
                "environment": environment(),
            },
        )
        run.save_recipe()  # last: with it, all that --resume needs is there

    # ---------------------------------------------------------------- networks
    def fit(self, model: Any, dataset: Any, held: Any, fresh: bool) -> dict[str, Any]:
        from morphogen.training.trainer import Trainer

        plan, run, crew = self.plan, self.folder, self.crew
        several = None if isinstance(crew, Alone) else crew
        trainer = Trainer(model, dataset, plan.training, seed=plan.seed, held_out=held, crew=several)
        if self.calibrates:
            trainer.calibrate()
        preview, pace = Previewer(model, run, plan, self.watch), None
        if plan.training.steps == 0:
            pace = self.timed(trainer, preview)
        if not fresh:
            for line in trainer.load(run.path / "state") or []:
                self.watch.say(line, "warn")
            crew.once(lambda: run.cut_log(trainer.steps))
            self.watch.say(f"resumed at step {trainer.steps} of {trainer.config.steps}")
        how = f"{model.parameters():,} parameters" + (", products in bfloat16" if trainer.config.precision == "bfloat16" else "")
        self.watch.say(f"training {trainer.config.steps:,} steps of {trainer.config.batch} items, {how}", "head")
        hook = Hook(run, preview, self.watch, pace) if crew.first else Follower(paced=plan.training.steps == 0)
        trainer.run(hook, save_to=run.path / "state", warn=lambda line: self.watch.say(line, "warn"))
        model.family.load_state_dict(trainer.final())
        model.to(self.device)
        facts = {"skipped": trainer.guard.skipped, "roll_backs": trainer.guard.roll_backs, "steps": trainer.steps}
        if trainer.overfits():
            facts["overfits"] = trainer.overfits()
        return {**facts, **({"processes": crew.world, "parallel": crew.kind} if several else {})}

    def timed(self, trainer: Any, preview: Previewer) -> Any:
        """--minutes becomes steps after measuring a step, a preview, a check and what comes at the end; a Pace mends them on the way."""
        from morphogen.training.held_out import CHECKED
        from morphogen.training.pace import Pace, closing

        budget = (self.plan.minutes or 1) * 60
        spent = time.monotonic() - self.begun
        if spent > budget / 2:
            remedy = f"--minutes {math.ceil((spent + budget) / 30) / 2:g} would leave time to learn"
            self.watch.say(f"reading the data took {seconds(spent)} of {seconds(budget)}: {remedy}", "warn")
        begun = time.monotonic()
        with trainer.drawn() as module:
            if self.crew.first:
                preview.draw(0, module)
        one_preview = time.monotonic() - begun
        pace = Pace(self.begun + budget - closing(trainer))
        step = trainer.seconds_per_step(min(20.0, max(1.0, 0.03 * budget)))
        config = trainer.config
        # without gradients an item costs about a third; few minutes may have room for few checks, or for none
        one_check = 0.0 if trainer.held_out is None else step / 3 * min(CHECKED, trainer.held_out.n) / config.batch
        previews = min(config.previews, int(0.08 * budget / max(one_preview, 1e-9)))
        checks = min(config.checks, int(0.08 * budget / max(one_check, 1e-9)))
        left = pace.deadline - time.monotonic() - previews * one_preview - checks * one_check
        steps, previews, checks = self.crew.once(lambda: [max(3, int(left / step)), previews, checks])
        trainer.config = dataclasses.replace(config, steps=steps, previews=previews, checks=checks)
        pace.start({"preview": one_preview, "check": one_check})
        self.folder.recipe["training"] = config_values(trainer.config)
        self.crew.once(self.folder.save_recipe)
        return pace

    def classical(self, model: Any, dataset: Any) -> dict[str, Any]:
        import torch

        if not self.crew.first:
            return {}
        some = f" on a uniform sample of {CLASSICAL:,} of {dataset.n:,} items" if dataset.n > CLASSICAL else ""
        self.watch.say(f"fitting{some} (classical: seconds, not minutes)", "head")
        with torch.no_grad():
            model.family.fit(dataset.batches(4096, self.plan.seed, CLASSICAL))
        return {}

    def finish(self, model: Any, facts: dict[str, Any]) -> None:
        run, took = self.folder, time.monotonic() - self.begun
        blob, digest = run.packed(model, model.family.state_dict())
        provenance = run.provenance() | {"model": digest, "parameters": model.parameters(), "seconds": round(took, 1), **facts}
        provenance["contains_training_rows"] = bool(getattr(model.family, "keeps_rows", not model.family.phases))
        write_json(run.path / "provenance.json", provenance)
        write_bytes(run.path / "model.safetensors", blob)  # last: with it the run is finished
        shutil.rmtree(run.path / "state", ignore_errors=True)
        self.watch.progress("training", 1.0)
        self.watch.say(f"saved {run.path} after {seconds(took)}", "good")
