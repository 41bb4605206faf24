"""tune: a run goes on learning from other data, by a small adapter or in full, into a run folder of its own."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from morphogen.api.common import Alone, Watch, device_of
from morphogen.api.train import Job, clear, cut_short
from morphogen.api.tuning import lines_of, loss_of, open_base, own_held_out, tuned_plan
from morphogen.config import make
from morphogen.errors import FormatError
from morphogen.files import check_output, lock, read_json, sweep, write_json
from morphogen.plan import Plan
from morphogen.run import Run, config_values

# Measured in benchmarks/lora.py: an adapter takes larger steps than a net in full, whose weights hold what it knows already.
LORA_RATE, FULL_RATE = 2.0, 0.3


def tune(
    base: Run | str | Path,
    data: Any,
    out: str | Path,
    *,
    rank: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    full: bool = False,
    resume: bool = False,
    device: str = "auto",
    options: dict[str, dict[str, Any]] | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Tune a run on `data` by LoRA of `rank` (8), or all of its weights (`full`), and save a whole run at `out`.

    A Hugging Face folder or a GGUF file with a decoder can be the base too: `data` are then JSON lines (messages, prompt and
    completion, or text), `out` is a Hugging Face folder, and without `minutes` and `steps` the data are seen three times.
    Of a run, `data` is read by the base's own codec as it was fitted; what it cannot hold is left out and counted. `out` holds merged
    weights, so every verb takes it as any run, and `adapter/` the adapter alone as PEFT writes it. `options`:
    {"training": {...}, "lora": {...}} override single values. Returns what tune.json holds: held-out losses of base and
    tuned run on the new data and on the base's own. Raises UsageError, DataError, FormatError, ResourceError or Interrupted.
    """
    begun, watch, out = time.monotonic(), watch or Watch(), Path(out)
    from morphogen.language.source import holds_model

    if isinstance(base, str | Path) and holds_model(base):
        from morphogen.language.tuning import tune as tune_language

        asked = {"rank": rank, "full": full, "seed": seed, "minutes": minutes, "steps": steps, "options": options or {}}
        return tune_language(str(base), data, out, {**asked, "resume": resume, "force": force}, (device_of(device), begun, watch))
    fresh = not (resume and (out / "recipe.toml").is_file())
    if not fresh and Run.load(out).finished():
        watch.say("already finished; nothing to resume", "good")
        return {"run": str(out), **read_json(out / "tune.json")}
    source = open_base(base)
    if fresh:
        inputs = (Path(data), source.path) if isinstance(data, str | Path) else (source.path,)
        check_output(out, force=force or (resume and cut_short(out)), inputs=inputs)
    asked = {"rank": rank, "full": full, "seed": seed, "minutes": minutes, "steps": steps, "options": options or {}}
    recorded = {} if fresh else _recorded(Run.load(out), source)
    with lock(out):
        if fresh and force:
            clear(out)
        for folder in (out, out / "state"):
            sweep(folder)
        return _Tuning(source, data, Run(out, recorded), {**asked, **recorded.get("tune", {})}, (device_of(device), begun, watch)).run()


def _recorded(run: Run, source: Run) -> dict[str, Any]:
    """The recipe of a tuning that was cut short. Raises FormatError when the base is another one now."""
    from morphogen.trust.provenance import hash_file

    if "tune" not in run.recipe:
        raise FormatError("this run is not a tuning", where=run.path, remedy="resume it with `morphogen train`")
    if run.recipe["tune"].get("base_model") != hash_file(source.path / "model.safetensors"):
        raise FormatError("the base is not the one this tuning began from", where=source.path, remedy="give the same base, or tune anew")
    return run.recipe


class _Tuning:
    """One tuning, from a base to a finished folder."""

    def __init__(self, base: Run, data: Any, out: Run, asked: dict[str, Any], around: tuple[str, float, Watch]) -> None:
        self.base, self.data, self.out, self.asked, self.fresh = base, data, out, asked, not out.recipe
        self.device, self.begun, self.watch = around

    def plan(self, model: Any) -> Plan:
        asked, recorded = self.asked, self.out.recipe
        factor = FULL_RATE if asked["full"] else LORA_RATE
        rate = {"lr": float(self.base.recipe.get("training", {}).get("lr", 1e-3)) * factor}
        training = recorded["training"] if recorded else {**rate, **asked["options"].get("training", {})}
        plan = tuned_plan(self.base, self.data, seed=recorded["data"]["seed"] if recorded else asked["seed"], model=model,
                          minutes=asked["minutes"], steps=None if recorded else asked["steps"], training=training)
        for kind, lines in (("found   ", plan.found), ("picked  ", plan.picked)):
            for line in lines:
                self.watch.say(kind + line)
        for line in plan.warnings:
            self.watch.say(line, "warn")
        return plan

    def run(self) -> dict[str, Any]:
        from morphogen.adapt.lora import LoRAConfig, adapt, share
        from morphogen.training.data import Dataset

        model = self.base.model(self.device)
        plan = self.plan(model)
        held = plan.part(plan.held_out)
        own = own_held_out(self.base, model, self.watch)
        answer: dict[str, Any] = {"parameters": model.parameters(), "before": (loss_of(model, held), loss_of(model, own))}
        config = None
        if not self.asked["full"]:
            wishes = {**({"rank": self.asked["rank"]} if self.asked["rank"] else {}), **self.asked["options"].get("lora", {})}
            config = make(LoRAConfig, self.asked.get("lora") or wishes, "lora.")
            adapt(model.family, config, seed=plan.seed)
        answer["trained"] = sum(p.numel() for p in model.family.parameters() if p.requires_grad)
        answer["share"] = share(model.family)
        self.watch.say(f"tuning {answer['trained']:,} numbers, {answer['share']:.1%} of the base's {answer['parameters']:,}")
        dataset = Dataset(model, plan.lessons())
        job = Job(plan, self.out, None, self.begun, self.watch, crew=Alone(self.device), calibrates=False)
        job.sized(model, dataset)
        job.fits(model, dataset)
        if self.fresh:
            self.record(job, model, config)
        facts = job.fit(model, dataset, Dataset(model, held) if held else None, self.fresh)
        model.eval()
        return self.finish(job, model, (held, own), answer, facts)

    def record(self, job: Any, model: Any, config: Any) -> None:
        """The recipe, with where the run comes from, before the first step: what --resume needs."""
        from morphogen.trust.provenance import hash_file

        digest = hash_file(self.base.path / "model.safetensors")
        self.out.recipe["tune"] = {
            "base": str(self.base.path.resolve()), "base_model": digest, "full": bool(self.asked["full"]),
            "minutes": self.asked["minutes"], "lora": config_values(config) if config else None,
        }
        parent = Run(self.base.path / "bridges" / "0", {}) if (self.base.path / "bridges" / "0" / "recipe.toml").is_file() else None
        if parent is not None:
            self.out.adopt_parent(parent)
        job.record(model, self.data, None, (), self.out.recipe)

    def finish(self, job: Any, model: Any, items: tuple[Any, Any], answer: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        from morphogen.adapt.lora import adapter_state
        from morphogen.adapt.merge import merge
        from morphogen.formats.peft import decoder_to_hf, write_peft
        from morphogen.training.data import Dataset

        if not self.asked["full"]:
            import torch

            adapter = dataclasses.replace(adapter_state(model.family), base=str(self.base.path.resolve()))
            write_peft(self.out.path / "adapter", adapter, decoder_to_hf if model.family.infill == "prefix" else lambda name: name)
            some = job.plan.part(job.plan.held_out or job.plan.train)[:32]
            batch = Dataset(model, some).batch(torch.arange(len(some)), torch.arange(len(some)), plain=True)
            merge(model.family, batch)
            answer["merge_difference"] = model.family.merge_difference
        before, (new, own) = answer.pop("before"), (loss_of(model, part) for part in items)
        for key, was, now, part in (("new", before[0], new, items[0]), ("own", before[1], own, items[1])):
            answer[key] = None if was is None or now is None else {"base": was, "tuned": now, "items": min(512, len(part))}
        answer |= {"base": str(self.base.path.resolve()), "method": "full" if self.asked["full"] else "lora", "steps": facts["steps"],
                   "items": len(job.plan.items), "skipped": job.plan.warnings}
        write_json(self.out.path / "tune.json", answer)
        write_json(self.out.path / "provenance.json", {**self.out.provenance(), "parents": [self.out.recipe["tune"]["base_model"]]})
        job.finish(model, facts)
        for line in lines_of(answer):
            self.watch.say(line, "good")
        return {"run": str(self.out.path), **answer}
