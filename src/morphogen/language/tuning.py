"""Tuning a language model from elsewhere: LoRA on its frozen weights, then a folder that everyone can load."""
from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from morphogen.adapt.lora import LoRAConfig, adapt, adapter_state
from morphogen.adapt.merge import merge
from morphogen.config import make
from morphogen.contracts import Item
from morphogen.errors import FormatError, UsageError
from morphogen.families.autoregressive import Autoregressive, AutoregressiveConfig
from morphogen.files import check_output, lock, read_json, sweep, write_json
from morphogen.formats.hf import Foreign
from morphogen.formats.peft import write_peft
from morphogen.language.adapters import fused, layout
from morphogen.language.export import export
from morphogen.language.lessons import Ids, Lesson, Lessons, prepare, read_lessons
from morphogen.language.model import LanguageModel
from morphogen.language.source import Source, open_source
from morphogen.model import Model
from morphogen.samples import docstrings
from morphogen.training.data import Dataset
from morphogen.training.estimate import fits
from morphogen.training.held_out import held_out_loss
from morphogen.training.lanes import lanes_for
from morphogen.training.optim import TrainConfig
from morphogen.training.pace import Pace
from morphogen.training.precision import precision_for
from morphogen.training.split import split
from morphogen.training.trainer import Trainer
from morphogen.trust.provenance import hash_file

SETTINGS, REPORT = "settings.json", "tune.json"
PASSES, MOST_PASSES = 3, 10  # over the data, when neither minutes nor steps say otherwise; and at most, within minutes
TOKENS = 1024  # of a step
CHECKED, MEASURED = 64, 256  # held-out rows looked at while training, and before and after
GENERAL = 8_000  # characters of general text, by which forgetting is measured
CLOSING = 3.0, 1e-7  # seconds for merging, writing and reading back: at least, and for every parameter


class Watch(Protocol):
    """Hears what is done."""

    def say(self, line: str, kind: str = "info") -> None: ...
    def progress(self, what: str, share: float, note: str = "") -> None: ...


def tune(base: str | Path, data: Any, out: Path, asked: dict[str, Any], around: tuple[str, float, Watch]) -> dict[str, Any]:
    """Tune `base` on `data` (JSON lines) and save a Hugging Face folder at `out`, its adapter and tune.json beside the weights.

    `asked`: rank, minutes, steps, seed, full, options, resume, force. `around`: device, when it began, who hears of it.
    Raises UsageError, DataError, FormatError, ResourceError or Interrupted.
    """
    source = open_source(base)
    if source.role != "decoder" or source.foreign is None:
        raise UsageError(f"a {source.role} cannot be tuned here", where=source.path, remedy="give a decoder, or a run")
    recorded = asked["resume"] and (out / "state" / SETTINGS).is_file()
    if asked["resume"] and (out / REPORT).is_file():
        around[2].say("already finished; nothing to resume", "good")
        return {"run": str(out), **read_json(out / REPORT)}
    if not recorded:
        check_output(out, force=asked["force"], inputs=(source.path, *((Path(data),) if isinstance(data, str | Path) else ())))
        ours = (out / REPORT).is_file() or (out / "state" / SETTINGS).is_file()
        if out.is_dir() and any(out.iterdir()) and not ours:
            raise UsageError("the folder is no tuned model; it is not overwritten", where=out, remedy="choose another name")
    tuning = Tuning(source, data, out, asked, around)
    with lock(out):
        if not recorded:
            for path in [p for p in out.iterdir() if p.name != ".lock"]:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        sweep(out / "state")
        return tuning.run(read_json(out / "state" / SETTINGS) if recorded else {})


class Tuning:
    """One tuning, from a base to a finished folder."""

    def __init__(self, source: Source, data: Any, out: Path, asked: dict[str, Any], around: tuple[str, float, Watch]) -> None:
        assert source.foreign is not None
        self.source, self.out, self.asked = source, out, asked
        self.foreign: Foreign = source.foreign
        self.device, self.begun, self.watch = around
        found, skips = read_lessons(source, data)
        self.lessons = prepare(found, source, self.foreign.vocab)
        if skips.count:
            self.lessons.warnings.insert(0, f"{skips.count:,} rows are not usable: " + "; ".join(skips.first[:2]))
        self.digest = hash_file(source.path if source.path.is_file() else _weights(source.path))

    def run(self, settings: dict[str, Any]) -> dict[str, Any]:
        if settings and settings["base_model"] != self.digest:
            raise FormatError("the base is not the one this tuning began from", where=self.source.path, remedy="give the same base")
        self.asked = {**self.asked, **settings.get("asked", {})}
        full, seed = bool(self.asked["full"]), int(self.asked["seed"])
        lessons = self.lessons
        train, held = split(lessons.items, seed)
        self._introduce(lessons, train, held)
        family = Autoregressive(lessons.space, {}, AutoregressiveConfig(drop=0.0), self.source.net(), lessons.start)
        model = Model(Ids(lessons.space), family).to(self.device)
        tests = self._tests(model, lessons, held)
        self.watch.progress("measuring the base", 0.0)
        measuring = time.monotonic()
        before = {name: _loss(data) for name, data in tests.items()}
        measuring = time.monotonic() - measuring
        answer = {**self._open(family, full, seed), "skipped": lessons.warnings}
        lessons_in = [lessons.items[i] for i in train]
        trainer = self._trainer(model, Dataset(model, lessons_in), [lessons.items[i] for i in held], settings)
        closing = measuring + CLOSING[0] + CLOSING[1] * answer["parameters"]
        self._fit(trainer, closing, fresh=not settings)
        family.load_state_dict(trainer.final())
        family.eval()
        self.watch.progress("merging", 1.0)
        if not full:
            answer["merge_difference"] = self._merge(model, lessons_in)
        for name, data in tests.items():
            answer[name] = {"base": before[name], "tuned": _loss(data), "items": min(MEASURED, data.n)}
        answer |= {"base": str(self.source.path.resolve()), "base_model": self.digest, "method": "full" if full else "lora",
                   "steps": trainer.steps, "items": len(lessons.items), "held_out": len(held), "chat": self.source.template is not None,
                   "seconds": round(time.monotonic() - self.begun, 1)}
        return self._save(family.net, answer)

    # ---------------------------------------------------------------- before
    def _introduce(self, lessons: Lessons, train: list[int], held: list[int]) -> None:
        learned = sum(len(item.given) - sum(item.given) for item in lessons.items)
        total = sum(len(item.raw) - 1 for item in lessons.items)
        side = f"{len(held):,} held out, whole groups" if held else "nothing held out (too few)"
        count = len(lessons.items)
        self.watch.say(f"found   {count:,} rows of {total / count:.0f} tokens, {learned / total:.0%} of them learned")
        self.watch.say(f"picked  {len(train):,} rows to tune on, {side}")
        for line in lessons.warnings:
            self.watch.say(line, "warn")

    def _tests(self, model: Model, lessons: Lessons, held: list[int]) -> dict[str, Dataset]:
        """What is measured before and after: the held-out rows, and general text for what is forgotten."""
        out: dict[str, Dataset] = {}
        if held:
            out["new"] = Dataset(model, _by_length([lessons.items[i] for i in held[:MEASURED]]))
        width = min(256, self.source.context - 1)
        ids = self.source.tokenizer.encode("\n\n".join(docstrings(GENERAL)))
        parts = [ids[i : i + width] for i in range(0, len(ids), width)]
        texts = [Lesson(part, [False] * len(part), whole=True) for part in parts if part]
        general = prepare(texts, self.source, self.foreign.vocab, lessons.start)
        out["general"] = Dataset(Model(Ids(general.space), model.family).to(self.device), _by_length(general.items))
        return out

    def _trainer(self, model: Model, data: Dataset, held_items: list[Item], settings: dict[str, Any]) -> Trainer:
        full, asked = bool(self.asked["full"]), self.asked
        held = Dataset(model, _by_length(held_items[:CHECKED])) if held_items else None
        if settings:
            config = make(TrainConfig, settings["training"], "training.")
        else:
            assert data.lengths is not None
            length = float(data.lengths.double().mean())
            rate = min(1e-3, 0.6 / self.foreign.architecture.width)  # wider nets want smaller steps; weights that know much already, too
            defaults = {"lr": rate / 10 if full else rate, "checks": 3, "previews": 0, "keep": "best" if held else "last",
                        "batch": min(data.n, max(8, min(64, round(TOKENS / length)))), "lanes": lanes_for(self.device)}
            config = make(TrainConfig, {**defaults, **asked["options"].get("training", {})}, "training.")
            if asked["steps"]:
                config = dataclasses.replace(config, steps=asked["steps"])
            elif not config.steps and not asked["minutes"]:
                config = dataclasses.replace(config, steps=PASSES * -(-data.n // config.batch))
            config = dataclasses.replace(config, precision=config.precision or precision_for(model.family, self.device))
        fits(model.family, data, config, self.watch.say)
        return Trainer(model, data, config, seed=int(asked["seed"]), held_out=held)

    def _open(self, family: Autoregressive, full: bool, seed: int) -> dict[str, Any]:
        """Say what of the net is trained, and count it."""
        parameters = sum(p.numel() for p in family.parameters())
        if full:
            family.requires_grad_(True)
        else:
            wishes = {**({"rank": self.asked["rank"]} if self.asked["rank"] else {}), **self.asked["options"].get("lora", {})}
            adapt(family, make(LoRAConfig, wishes, "lora."), seed=seed)
        trained = sum(p.numel() for p in family.parameters() if p.requires_grad)
        self.watch.say(f"tuning {trained:,} numbers, {trained / parameters:.1%} of the base's {parameters:,}")
        return {"parameters": parameters, "trained": trained, "share": trained / parameters}

    # ---------------------------------------------------------------- training
    def _fit(self, trainer: Trainer, closing: float, *, fresh: bool) -> None:
        """`closing`: seconds that what follows takes."""
        state, pace = self.out / "state", None
        if trainer.config.steps == 0:
            pace = Pace(self.begun + 60 * float(self.asked["minutes"]) - closing, most=self._most(trainer))
            self._timed(trainer, pace)
        if fresh:
            self._record(trainer)
        else:
            for line in trainer.load(state) or []:
                self.watch.say(line, "warn")
            self.watch.say(f"resumed at step {trainer.steps} of {trainer.config.steps}")
        config = trainer.config
        passes = config.steps * config.batch / trainer.data.n
        self.watch.say(f"training {config.steps:,} steps of {config.batch} rows, {passes:.1f} times over the data", "head")

        def hook(trainer: Trainer, log: dict[str, Any]) -> None:
            if "held_out" in log:
                self.watch.say(f"step {log['step']:,}: held-out loss {log['held_out']:.4g}")
            self.watch.progress("tuning", log["step"] / trainer.config.steps, f"loss {log['main']:.3g}")
            if pace is None:
                return
            pace.stepped("check" if "held_out" in log else "")
            config, done = trainer.config, trainer.steps
            steps = pace.steps_in_all(done, config.steps, {"check": config.checks - config.checks * done // config.steps})
            if steps != config.steps and done < config.steps:
                trainer.retarget(steps)
                self._record(trainer)

        trainer.run(hook, save_to=state, warn=lambda line: self.watch.say(line, "warn"))

    def _most(self, trainer: Trainer) -> int:
        return max(10, MOST_PASSES * -(-trainer.data.n // trainer.config.batch))

    def _timed(self, trainer: Trainer, pace: Pace) -> None:
        """--minutes becomes steps after measuring a step and a check; at most so many passes over the data."""
        begun = time.monotonic()
        trainer.check()
        check = time.monotonic() - begun
        trainer.best, trainer.best_loss = {}, float("inf")
        step = trainer.seconds_per_step(min(20.0, 0.05 * (pace.deadline - begun)))
        left = pace.deadline - time.monotonic() - trainer.config.checks * check
        trainer.config = dataclasses.replace(trainer.config, steps=max(3, min(int(left / step), pace.most)))
        pace.start({"check": check})

    def _record(self, trainer: Trainer) -> None:
        """What --resume needs, before the first step."""
        asked = {k: self.asked[k] for k in ("rank", "seed", "full", "options")}
        write_json(self.out / "state" / SETTINGS, {"base": str(self.source.path.resolve()), "base_model": self.digest, "asked": asked,
                                                  "training": dataclasses.asdict(trainer.config)})

    # ---------------------------------------------------------------- after
    def _merge(self, model: Model, items: list[Item]) -> float:
        """Write the adapter, then merge it; refused when what the net says changes."""
        state = adapter_state(model.family).renamed(lambda path: path.removeprefix("net."))
        adapter = fused(state, layout(self.foreign.table, model.family.net))
        write_peft(self.out / "adapter", dataclasses.replace(adapter, base=str(self.source.path.resolve())), task="CAUSAL_LM")
        some = items[:4]
        ids = torch.arange(len(some))
        merge(model.family, Dataset(model, some).batch(ids, ids, plain=True))
        return float(model.family.merge_difference)

    def _save(self, net: nn.Module, answer: dict[str, Any]) -> dict[str, Any]:
        whole = LanguageModel(self.source, weights="float32")
        whole._exact = net.cpu()
        shutil.rmtree(self.out / "model.part", ignore_errors=True)  # of a process that was killed in here
        export(whole, self.out / "model.part", form="hf")  # reads it back and compares
        for file in sorted((self.out / "model.part").iterdir()):
            file.replace(self.out / file.name)
        (self.out / "model.part").rmdir()
        write_json(self.out / REPORT, answer)
        shutil.rmtree(self.out / "state", ignore_errors=True)
        self.watch.progress("tuning", 1.0)
        return {"run": str(self.out), **answer}


def _loss(data: Dataset) -> float:
    return held_out_loss(data.model.family, data, MEASURED)


def _by_length(items: list[Item]) -> list[Item]:
    """Rows of like length side by side: they are read in parts, and each part is as wide as its longest."""
    return sorted(items, key=lambda item: len(item.raw))


def _weights(folder: Path) -> Path:
    """The file that names a folder's weights."""
    found = (folder / name for name in ("model.safetensors", "model.safetensors.index.json"))
    return next((path for path in found if path.is_file()), folder / "config.json")
