"""The loop: losses are sums, divided once; the order of data and every draw are functions of (seed, step, item)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.contracts import Adapts, Batch, Calibrates, Loss
from morphogen.errors import Interrupted, MorphogenError
from morphogen.model import Model, to
from morphogen.sampling import draws
from morphogen.training import checkpoint
from morphogen.training.data import Dataset, order
from morphogen.training.ema import EMA
from morphogen.training.lanes import Lanes, lanes_for
from morphogen.training.optim import TrainConfig, ema_decay, optimisers, rate

Log = dict[str, Any]


class Diverged(MorphogenError):
    """The loss stopped being a number and stayed so."""

    code, exit_code = "diverged", 5


class Trainer:
    """Trains a model's family on a Dataset. `parallel` wraps the family from outside; its forward is the loss.

    The loop holds no clock: `config.steps` decides. `step()` is one optimiser step over all windows and phases.
    """

    def __init__(self, model: Model, data: Dataset, config: TrainConfig, *, seed: int = 0, held_out: Dataset | None = None) -> None:
        self.model, self.family, self.data, self.config, self.seed = model, model.family, data, config, seed
        self.held_out, self.steps, self.skipped, self._bad = held_out, 0, 0, 0
        self.best_loss = math.inf
        self.best: dict[str, Tensor] = {}
        trainable = {k: p for k, p in self.family.named_parameters() if p.requires_grad}
        self.frozen = {k for k, p in self.family.named_parameters(remove_duplicate=False) if not p.requires_grad}
        self.params = {ph.name: {k: p for k, p in trainable.items() if k.startswith(ph.params)} for ph in self.family.phases}
        lanes = config.lanes or lanes_for(model.device)
        self.config = config = dataclasses.replace(config, lanes=lanes)
        self.lanes = Lanes(self.family, lanes)
        self.optimisers = {ph.name: optimisers(config, ph, self.family, self.params[ph.name], lanes) for ph in self.family.phases}
        self.ema = EMA(self.family, ema_decay(config)) if config.ema else None

    @torch.no_grad()
    def calibrate(self) -> None:
        """Let the family set its data-dependent buffers from up to 4,096 items, before the first step."""
        if isinstance(self.family, Calibrates):
            ids = torch.arange(self.data.n)[:: max(1, self.data.n // 4096)][:4096]
            self.family.calibrate(self.data.batch(ids, draws.derive(ids, "calibrate"), plain=True))
            if self.ema:
                self.ema.module.load_state_dict(self.model.family.state_dict())

    # ---------------------------------------------------------------- one step
    def windows(self) -> list[list[Batch]]:
        """This step's batch in parts: for each lane, its windows one after another."""
        ids, keys, weight = order(self.data.n, self.config.batch, self.seed, self.steps, self.data.lengths)
        n = self.config.lanes * self.config.windows

        def share(lane: int) -> list[Batch]:
            parts = [slice(i, None, n) for i in range(lane, min(n, len(ids)), self.config.lanes)]
            return [self.data.batch(ids[part], keys[part], weight[part]) for part in parts]

        return self.lanes.map(share, range(len(self.lanes)))

    def step(self) -> Log:
        """One optimiser step for each phase; returns mean losses. A step whose loss is not finite changes nothing and is counted."""
        self.lanes.train()
        batches, log, stats = self.windows(), {}, {}
        factor = rate(self.config, self.steps)
        for phase in self.family.phases:
            if self.steps % phase.every:
                continue
            params = self.params[phase.name]
            for name, others in self.params.items():
                for p in others:
                    self.lanes.require(p, name == phase.name)
            total, weight, parts = self._backward(batches, phase.name, stats)
            log.update({k: float(v / weight) for k, v in {phase.name: total, **parts}.items()})
            self._apply(phase, params, float(weight), factor, log, finite=bool(torch.isfinite(total)))
        for others in self.params.values():
            for p in others:
                self.lanes.require(p, True)
        self.steps += 1
        if isinstance(self.family, Adapts):
            self.family.after_step(self.steps, self.steps / max(1, self.config.steps), stats)
        if self.ema:
            self.ema.update(self.steps)
        return {"step": self.steps, "lr": self.config.lr * factor, **log}

    def _backward(self, batches: list[list[Batch]], phase: str, stats: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        def work(module: nn.Module, mine: list[Batch]) -> list[Loss]:
            losses = []
            for batch in mine:
                loss = module(batch, phase)
                loss.total.backward()
                losses.append(dataclasses.replace(loss, total=loss.total.detach()))
            return losses

        total = weight = torch.zeros((), device=self.model.device)
        parts: dict[str, Tensor] = {}
        for loss in [loss for lane in self.lanes.map(work, self.lanes.modules, batches) for loss in lane]:
            total, weight = total + loss.total, weight + loss.weight.detach()
            for into, new in ((parts, loss.parts), (stats, loss.stats)):
                for k, v in new.items():
                    into[k] = into[k] + v if k in into else v
        self.lanes.gather()
        return total, weight, parts

    def _apply(self, phase: Any, params: dict[str, nn.Parameter], weight: float, factor: float, log: Log, *, finite: bool) -> None:
        optimisers = self.optimisers[phase.name]
        grads = [p.grad for p in params.values() if p.grad is not None]
        for grad in grads:
            grad.mul_(1 / max(weight, 1e-9))
        norm = torch.nn.utils.get_total_norm(grads)
        if not finite or not bool(torch.isfinite(norm)):
            self.skipped, self._bad = self.skipped + 1, self._bad + 1
            log["skipped"] = self.skipped
            if self._bad >= 10:
                raise Diverged(
                    "the loss is not a number for 10 steps in a row",
                    where=f"step {self.steps}",
                    remedy="lower the rate: --set training.lr=1e-4",
                )
        else:
            self._bad = 0
            if self.config.clip:
                torch.nn.utils.clip_grads_with_norm_(params.values(), self.config.clip, norm)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = self.config.lr * phase.lr * factor
            self.lanes.each(lambda optimiser: optimiser.step(), optimisers)
        for p in params.values():
            p.grad = None

    # ---------------------------------------------------------------- the held-out loss, and keeping the best
    @torch.no_grad()
    def check(self) -> float | None:
        """Mean held-out loss of the average, on fixed items and draws; remembers the best weights when asked to."""
        if self.held_out is None or len(self.family.phases) != 1:
            return None
        module = self.ema.module if self.ema else self.family
        value = held_out_loss(module, self.held_out)
        if self.config.keep == "best" and value < self.best_loss:
            self.best_loss, self.best = value, {k: v.detach().cpu().clone() for k, v in self.moving(module).items()}
        return value

    def final(self) -> dict[str, Tensor]:
        """The weights to draw from: the best average, the last average, or the weights themselves."""
        if self.best:
            return {**self.family.state_dict(), **self.best}
        return (self.ema.module if self.ema else self.family).state_dict()

    # ---------------------------------------------------------------- the whole run
    def run(self, hook: Callable[[Trainer, Log], None] | None = None, *, save_to: Path | None = None, every: float = 60.0) -> None:
        """Step until `config.steps`. `hook` hears each step; a checkpoint is written about each `every` seconds.

        Raises Interrupted after saving when the user presses Ctrl-C.
        """
        saved = time.monotonic()
        try:
            while self.steps < self.config.steps:
                log = self.step()
                if due(self.steps, self.config.checks, self.config.steps) and (value := self.check()) is not None:
                    log["held_out"] = value
                if hook:
                    hook(self, log)
                if save_to and time.monotonic() - saved > every and self.steps < self.config.steps:
                    self.save(save_to)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if save_to:
                self.save(save_to)
            where = f"step {self.steps} of {self.config.steps}"
            raise Interrupted("stopped; what was trained is saved", where=where, remedy="go on with --resume") from None

    def retarget(self, steps: int) -> None:
        """Change how many steps there will be, before the rate begins to fall; what has been done so far stays as it was.

        Warm-up and average keep their lengths in steps, so the new config alone describes the whole schedule.
        """
        old = self.config
        if self.steps > (1 - old.cooldown) * min(old.steps, steps):
            return
        share = old.steps / steps
        self.config = dataclasses.replace(old, steps=steps, warmup=old.warmup * share, ema=old.ema * share)

    def seconds_per_step(self, budget: float) -> float:
        """Measure a step on a copy of the state: about `budget` seconds, at least 2 steps. Nothing of the run changes."""
        weights = {k: v.detach().clone() for k, v in self.moving(self.family).items()}
        config, self.config = self.config, dataclasses.replace(self.config, steps=10**9)
        start, times = time.monotonic(), []
        while len(times) < 2 or (time.monotonic() - start < budget and len(times) < 2000):
            self.steps = (len(times) * 7919) % 100_003  # anywhere in the data: steps of ragged items differ
            begun = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - begun)
        self.config, self.steps, self.skipped, self._bad = config, 0, 0, 0
        self._put(self.family, weights)
        for optimiser in [o for group in self.optimisers.values() for o in group]:
            optimiser.state.clear()
        if self.ema:
            self.ema.module.load_state_dict(self.family.state_dict())
        settled = times[1:] if len(times) < 6 else times[2:]  # the first ones warm up caches
        return sum(settled) / len(settled)

    # ---------------------------------------------------------------- state
    def moving(self, module: nn.Module) -> dict[str, Tensor]:
        """A state dict without what was frozen when training began."""
        return {k: v for k, v in module.state_dict().items() if k not in self.frozen}

    def _put(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Load what `moving` gave; what is frozen stays."""
        module.load_state_dict({**{k: v for k, v in module.state_dict().items() if k in self.frozen}, **state})

    def save(self, folder: Path) -> None:
        """A checkpoint of everything that the rest of the run depends on."""
        tensors = {f"model/{k}": v for k, v in self.moving(self.family).items()}
        if self.ema:
            tensors |= {f"ema/{k}": v for k, v in self.moving(self.ema.module).items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        for name, group in self.optimisers.items():
            for k, p in self.params[name].items():
                for field, value in next((o.state[p] for o in group if p in o.state), {}).items():
                    tensors[f"optim/{name}/{field}/{k}"] = value
        best = self.best_loss if math.isfinite(self.best_loss) else None
        facts = {"steps": self.steps, "skipped": self.skipped, "best_loss": best, "seed": self.seed, "total": self.config.steps}
        checkpoint.write(folder, self.steps, tensors, facts)

    def load(self, folder: Path) -> list[str] | None:
        """Continue from the newest whole checkpoint; None when there is none, else warnings about damaged ones."""
        found = checkpoint.newest(folder)
        if found is None:
            return None
        tensors, facts, warnings = found
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        self._put(self.family, part("model/"))
        if self.ema:
            self._put(self.ema.module, part("ema/"))
        self.best = part("best/")
        self.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        self.steps, self.skipped = facts["steps"], facts["skipped"]
        for key, value in part("optim/").items():
            name, field, param = key.split("/")
            parameter = self.params[name][param]
            device = "cpu" if field == "step" else parameter.device
            owner = next(o for o in self.optimisers[name] if any(p is parameter for g in o.param_groups for p in g["params"]))
            owner.state[parameter][field] = to(value, device)
        return warnings


@torch.no_grad()
def held_out_loss(module: Any, data: Dataset, most: int = 512) -> float:
    """Mean loss of a family's first phase over the first items, with the same draws each time; the family is left in evaluation."""
    module.eval()
    total, weight = 0.0, 0.0
    ids = torch.arange(data.n)[:most]
    for start in range(0, len(ids), 128):
        part = ids[start : start + 128]
        loss = module(data.batch(part, draws.derive(part, "check"), plain=True), module.phases[0].name)
        total, weight = total + float(loss.total), weight + float(loss.weight)
    return total / max(weight, 1e-9)


def due(step: int, times: int, steps: int) -> bool:
    """Whether one of `times` evenly spread occasions falls on `step` (1 .. steps); the last one on the last step."""
    return step * times // steps != (step - 1) * times // steps
