"""The loop: losses are sums, divided once; the order of data and every draw are functions of (seed, step, item)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from morphogen.contracts import Adapts, Ails, Batch, Calibrates, Loss
from morphogen.errors import Interrupted
from morphogen.model import Model
from morphogen.nets.dropout import Draw, drawn
from morphogen.sampling import draws
from morphogen.training import checkpoint, generated, precision
from morphogen.training.data import Dataset, order
from morphogen.training.ema import EMA
from morphogen.training.guard import COLLAPSED, HEALTHY, Guard, finite, recalled
from morphogen.training.held_out import compares, held_out_loss
from morphogen.training.lanes import Lanes, lanes_for
from morphogen.training.optim import TrainConfig, aimed, ema_decay, optimisers, rate, retargeted
from morphogen.training.overfit import Check, by_heart, check, words
from morphogen.training.recompute import recompute
from morphogen.training.saving import Saving, between_steps

if TYPE_CHECKING:
    from morphogen.training.parallel import Crew

Log = dict[str, Any]
Hook = Callable[["Trainer", Log], object]
Warn = Callable[[str], None]
OTHER = "fool"  # the part of a loss that is the other side's of a game: the critic's falls when it runs away, this one rises


class Trainer:
    """Trains a model's family on a Dataset; its forward is the loss. `crew`: the processes that train it together.

    The loop holds no clock: `config.steps` decides. `step()` is one optimiser step over all windows and phases.
    """

    def __init__(
        self, model: Model, data: Dataset, config: TrainConfig, *, seed: int = 0, held_out: Dataset | None = None, crew: Crew | None = None
    ) -> None:
        self.model, self.data, self.seed = model, data, seed
        self.held_out, self.steps, self.guard, self.threads = held_out, 0, Guard(), torch.get_num_threads()
        self.best_loss = math.inf
        self.best: dict[str, Tensor] = {}
        self.checks: list[Check] = []
        lanes = config.lanes or lanes_for(model.device)
        self.config = config = dataclasses.replace(config, lanes=lanes, precision=precision.checked(config.precision))
        self.ema = EMA(model.family, ema_decay(config)) if config.ema else None
        self.lanes = crew.over(model.family, self.ema) if crew else Lanes(model.family, lanes)
        self.family: Any = self.lanes.modules[0]
        self.generated: dict[int, Any] = {}
        if config.activation_checkpointing:
            for module in self.lanes.modules:
                recompute(module)
        for module in self.lanes.modules:
            precision.use(module, config.precision)
        if config.compile:
            generated.check(self.family, config, crew.world if crew else 1)
            self.generated = {id(module): generated.generated(module) for module in self.lanes.modules}
        trainable = {k: p for k, p in self.family.named_parameters() if p.requires_grad}
        self.frozen = {k for k, p in self.family.named_parameters(remove_duplicate=False) if not p.requires_grad}
        self.params = {ph.name: {k: p for k, p in trainable.items() if k.startswith(ph.params)} for ph in self.family.phases}
        self.optimisers = {
            ph.name: optimisers(config, ph, self.family, self.params[ph.name], len(self.lanes)) for ph in self.family.phases
        }

    @torch.no_grad()
    def calibrate(self) -> None:
        """Let the family set its data-dependent buffers from up to 4,096 items, before the first step."""
        if isinstance(self.family, Calibrates):
            ids = torch.arange(self.data.n)[:: max(1, self.data.n // 4096)][:4096]
            self.family.calibrate(self.data.batch(ids, draws.derive(ids, "calibrate"), plain=True))
            self.lanes.level()
            if self.ema:
                self.ema.module.load_state_dict(self.lanes.modules[0].state_dict())

    # ---------------------------------------------------------------- one step
    def windows(self) -> list[list[Batch]]:
        """This step's batch in parts: for each lane, its windows one after another."""
        ids, keys, weight = order(self.data.n, self.config.batch, self.seed, self.steps, self.data.lengths)
        n = self.lanes.world * self.config.windows
        if self.lanes.together and len(ids) < n:  # rows of weight 0 for those who would have none
            ids, keys = (torch.cat([rows, rows[:1].expand(n - len(rows))]) for rows in (ids, keys))
            weight = torch.cat([weight, torch.zeros(n - len(weight))])

        def share(lane: int) -> list[Batch]:
            parts = [slice(i, None, n) for i in range(lane, min(n, len(ids)), self.lanes.world)]
            return [self.data.batch(ids[part], keys[part], weight[part]) for part in parts]

        return self.lanes.map(share, self.lanes.mine)

    def step(self) -> Log:
        """One optimiser step for each phase; returns mean losses. A step whose loss is not finite changes nothing and is counted."""
        if self.guard.due(self.steps):
            self._keep()
        self.lanes.train()
        batches, stats = self.windows(), {}
        log: Log = {}
        factor, good = rate(self.config, self.steps) * self.guard.scale, True
        for phase in self.family.phases:
            if self.steps % phase.every:
                continue
            params = self.params[phase.name]
            for name, others in self.params.items():
                for p in others:
                    self.lanes.require(p, name == phase.name)
            total, weight, parts = self._backward(batches, phase.name, stats)
            log.update({k: float(v / weight) for k, v in {phase.name: total, **parts}.items()})
            good &= self._apply(phase, params, float(weight), factor, finite=bool(torch.isfinite(total)))
        for others in self.params.values():
            for p in others:
                self.lanes.require(p, True)
        self.steps += 1
        if good and isinstance(self.family, Adapts):
            self.family.after_step(self.steps, self.steps / aimed(self.config, self.steps - 1), stats)
        if good and self.ema:
            self.ema.decay = ema_decay(self.config, self.steps - 1)
            self.ema.update(self.steps)
        if not good:
            log["skipped"] = self.guard.skipped + 1
        why, remedy = self.guard.note(self.steps, {name: log[name] for name in (*self.params, OTHER) if name in log}, good), ""
        if not why and good and isinstance(self.family, Ails) and (health := self.family.health()).share < COLLAPSED:
            why, remedy = health.words, health.remedy
        if why:
            self._go_back(why, remedy)
            log["back"] = why
        return {"step": self.steps, "lr": self.config.lr * factor, **log}

    def _keep(self) -> None:
        """Remember this state as one to go back to, unless it is not finite: then it is what one goes back from."""
        state = self.state()
        if finite(state):
            if not self.guard.good or not isinstance(self.family, Ails) or self.family.health().share > HEALTHY:
                self.guard.keep(self.steps, state)
        elif self.guard.good:
            self._go_back("weights are no numbers")

    def _go_back(self, why: str, remedy: str = "") -> None:
        """To the last good state, at half the rate; the step count stands. Raises Diverged when that was done often enough."""
        self._restore(self.guard.good)
        self.guard.go_back(self.steps, why, remedy)

    def _backward(self, batches: list[list[Batch]], phase: str, stats: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        def work(module: nn.Module, mine: list[Batch]) -> list[Loss]:
            losses = []
            for i, batch in enumerate(mine):
                with drawn(dropped(batch.key, phase)), self.lanes.loss(module, phase, i + 1 == len(mine)) as loss_of:
                    loss = self.generated.get(id(module), loss_of)(batch, phase)
                    loss.total.backward()
                losses.append(dataclasses.replace(loss, total=loss.total.detach()))
            return losses

        total = weight = torch.zeros((), device=self.model.device)
        parts: dict[str, Tensor] = {}
        now: dict[str, Tensor] = {}
        for loss in [loss for lane in self.lanes.map(work, self.lanes.modules, batches) for loss in lane]:
            total, weight = total + loss.total, weight + loss.weight.detach()
            for into, new in ((parts, loss.parts), (now, loss.stats)):
                for k, v in new.items():
                    into[k] = into[k] + v if k in into else v
        self.lanes.gather()
        total, weight = self.lanes.sum(total, weight, parts, now)
        stats.update({k: stats[k] + v if k in stats else v for k, v in now.items()})
        return total, weight, parts

    def _apply(self, phase: Any, params: dict[str, nn.Parameter], weight: float, factor: float, *, finite: bool) -> bool:
        """Step one phase's optimisers; False when loss or gradient is not finite, and nothing was done."""
        optimisers = self.optimisers[phase.name]
        grads = [p.grad for p in params.values() if p.grad is not None]
        for grad in grads:
            grad.mul_(1 / max(weight, 1e-9))
        norm = self.lanes.norm(grads)
        good = finite and bool(torch.isfinite(norm))
        if good:
            if self.config.clip:
                torch.nn.utils.clip_grads_with_norm_(params.values(), self.config.clip, norm)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = self.config.lr * phase.lr * factor
            self.lanes.each(lambda optimiser: optimiser.step(), optimisers)
        for p in params.values():
            p.grad = None
        return good

    # ---------------------------------------------------------------- the held-out loss, and keeping the best
    @torch.no_grad()
    def check(self) -> float | None:
        """Mean held-out loss of the average, on fixed items and draws; remembers the best weights when asked to."""
        if self.held_out is None or not compares(self.family):
            return None
        module = self.ema.module if self.ema else self.family
        value = self.lanes.tell(held_out_loss(module, self.held_out, each=self.lanes.each))
        usual = self.guard.losses.get(self.family.phases[0].name)
        if usual and math.isfinite(value):
            self.checks.append(check(self.steps, value, usual))
        if self.config.keep == "best" and -math.inf < value < self.best_loss and finite(self.moving(module)):
            self.best_loss, self.best = value, {k: v.detach().cpu().clone() for k, v in self.moving(module).items()}
        return value

    def final(self) -> dict[str, Tensor]:
        """The weights to draw from: the best average, the last average, or the weights themselves."""
        best = {**self.family.state_dict(), **self.best}
        weights = best if self.best else (self.ema.module if self.ema else self.family).state_dict()
        return {k: self.lanes.whole(v) for k, v in weights.items()}

    @contextlib.contextmanager
    def drawn(self) -> Iterator[Any]:
        """The family to draw from now: the average, or the weights themselves."""
        with self.lanes.drawn(self.ema.module if self.ema else self.family) as module:
            yield module

    # ---------------------------------------------------------------- the whole run
    def run(self, hook: Hook | None = None, *, save_to: Path | None = None, every: float = 60.0, warn: Warn | None = None) -> None:
        """Step until `config.steps`. `hook` hears each step; a checkpoint is written about each `every` seconds.

        A disk that refuses pauses the saving, not the training: `warn` hears of it once.
        Raises Interrupted after saving when the user presses Ctrl-C, Diverged, or ResourceError when no checkpoint can fit.
        """
        if save_to:
            checkpoint.check_room(save_to, self.state())
        saving, threads, whole = Saving(self, save_to, every, warn), torch.get_num_threads(), True
        told = bool(self.overfits())
        torch.set_num_threads(self.threads)
        try:
            with between_steps() as stop:
                while self.steps < self.config.steps and not self.ended():
                    whole = False
                    log = self.step()
                    if due(self.steps, self.config.checks, aimed(self.config, self.steps - 1)) and (value := self.check()) is not None:
                        log["held_out"] = value
                        if warn and (said := self.overfits()) and not told:
                            warn(f"step {self.steps:,}: {said}")
                            told = True
                    whole = True
                    if hook:
                        hook(self, log)
                    saving.now_and_then()
                    stop()
                    if self.lanes.stopping():
                        raise KeyboardInterrupt
            if not finite(self.state()):
                self._go_back("weights are no numbers at the end")
        except KeyboardInterrupt:
            if save_to and whole:
                self.save(save_to)
            where = f"step {self.steps} of {self.config.steps}"
            what = "what was trained is saved" if whole else "the last checkpoint stands"
            raise Interrupted(f"stopped; {what}", where=where, remedy="go on with --resume") from None
        finally:
            torch.set_num_threads(threads)

    def overfits(self) -> str:
        """In plain words that the run learns its items by heart, and what is done about it; nothing when it does not."""
        return words(self.checks, self.data.n, self.config.keep)

    def ended(self) -> bool:
        """Whether nothing is to be gained any more: the best weights are kept, and lie behind."""
        return self.config.keep == "best" and by_heart(self.checks) is not None

    def retarget(self, steps: int) -> None:
        """Change how many steps there will be; what has been done so far stays as it was."""
        self.config = retargeted(self.config, self.steps, steps)

    def seconds_per_step(self, budget: float) -> float:
        """Measure a step on a copy of the state: about `budget` seconds, at least 2 steps. Nothing of the run changes."""
        before = {k: v.detach().clone() for k, v in self.state().items()}
        config, self.config = self.config, dataclasses.replace(self.config, steps=10**9)
        start, times = time.monotonic(), []
        while self.lanes.tell(len(times) < 2 or (time.monotonic() - start < budget and len(times) < 2000)):
            self.steps = (len(times) * 7919) % 100_003  # anywhere in the data: steps of ragged items differ
            begun = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - begun)
        self.config, self.steps, self.guard = config, 0, Guard()
        self._restore(before)
        settled = times[1:] if len(times) < 6 else times[2:]  # the first ones warm up caches
        return sum(settled) / len(settled)

    # ---------------------------------------------------------------- state
    def moving(self, module: nn.Module) -> dict[str, Tensor]:
        """A state dict without what was frozen when training began."""
        return {k: v for k, v in module.state_dict().items() if k not in self.frozen}

    def _put(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Load what `moving` gave; what is frozen stays."""
        now = module.state_dict()
        frozen = {k: v for k, v in now.items() if k in self.frozen}
        module.load_state_dict({**frozen, **{k: self.lanes.like(v, now[k]) for k, v in state.items() if k in now}})

    def state(self) -> dict[str, Tensor]:
        """What training changes, by name, not copied: weights and buffers, their average, what optimisers remember."""
        tensors = {f"model/{k}": v for k, v in self.moving(self.family).items()}
        if self.ema:
            tensors |= {f"ema/{k}": v for k, v in self.moving(self.ema.module).items()}
        for name, group in self.optimisers.items():
            for k, p in self.params[name].items():
                for field, value in next((o.state[p] for o in group if p in o.state), {}).items():
                    tensors[f"optim/{name}/{field}/{k}"] = value
        return tensors

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        self._put(self.family, part(state, "model/"))
        if self.ema:
            self._put(self.ema.module, part(state, "ema/"))
        for optimiser in [o for group in self.optimisers.values() for o in group]:
            optimiser.state.clear()
        for key, value in part(state, "optim/").items():
            name, field, param = key.split("/")
            parameter = self.params[name][param]
            device = "cpu" if field == "step" else parameter.device
            owner = next(o for o in self.optimisers[name] if any(p is parameter for g in o.param_groups for p in g["params"]))
            value = value.to(device, copy=True)
            owner.state[parameter][field] = value if field == "step" else self.lanes.like(value, parameter)

    def save(self, folder: Path) -> bool:
        """A checkpoint of everything that the rest of the run depends on; False when it is not finite, and nothing was written."""
        state = self.state()
        if not finite(state):
            return False
        tensors = state | {f"best/{k}": v for k, v in self.best.items()} | {f"good/{k}": v for k, v in self.guard.good.items()}
        best = self.best_loss if math.isfinite(self.best_loss) else None
        facts = {"steps": self.steps, "best_loss": best, "seed": self.seed, "total": self.config.steps, "guard": self.guard.facts(),
                 "checks": self.checks, "threads": self.threads, "around": self.around()}
        self.lanes.write(folder, self.steps, tensors, facts)
        return True

    def load(self, folder: Path) -> list[str] | None:
        """Continue from the newest whole checkpoint; None when there is none, else warnings: damaged ones, what is not as it was."""
        found = checkpoint.newest(folder)
        if found is None:
            return None
        tensors, facts, warnings = found
        self._restore(tensors)
        state = self.state()
        laid = lambda kept, now: {k: self.lanes.like(v, now[k]).to("cpu") for k, v in kept.items()}
        self.best = laid(part(tensors, "best/"), part(state, "ema/" if self.ema else "model/"))
        self.guard = recalled(facts["guard"], laid(part(tensors, "good/"), state))
        self.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        self.checks = [Check(*check) for check in facts.get("checks", [])]
        self.steps, self.threads = facts["steps"], facts["threads"]
        now = self.around()
        differ = [f"{k} {was} (now {now[k]})" for k, was in facts["around"].items() if k in now and now[k] != was]
        if differ:
            warnings.append("the run began with " + ", ".join(differ) + ": it goes on, but not bit for bit as it would have")
        return warnings

    def around(self) -> dict[str, Any]:
        """What equality to the bit depends on, beside the state; the number of threads is put back on its own."""
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in self.family.parameters()})
        return {
            "torch": str(torch.__version__), "device": self.model.device.type, "cpu": torch.backends.cpu.get_cpu_capability(),
            "dtype": "+".join(dtypes), "lanes": self.lanes.world, "batch": self.config.batch, "seed": self.seed,
            "data": self.data.fingerprint(), "compiled": self.config.compile, "precision": self.config.precision,
        }  # fmt: skip


def dropped(keys: Tensor, phase: str) -> Draw:
    """Draws for drop-out that depend on an item's key alone, where rows are items: not on lanes, windows or neighbours."""

    def draw(n: int, shape: torch.Size) -> Tensor:
        name = f"dropout.{phase}"
        if shape[0] == len(keys):
            return draws.uniform(keys, name, n, tuple(shape[1:]))
        return draws.uniform(keys[:1], name, n, (shape.numel(),)).view(shape)

    return draw


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {k.removeprefix(prefix): state[k] for k in state if k.startswith(prefix)}  # not items(): these may come from a disk


def due(step: int, times: int, steps: int) -> bool:
    """Whether one of `times` evenly spread occasions falls on `step` (1 .. steps); the last one on the last step."""
    return step * times // steps != (step - 1) * times // steps
