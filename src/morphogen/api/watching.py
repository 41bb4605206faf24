"""What happens beside training: previews of the same keys, metrics.jsonl, the progress bar, keeping the promised time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphogen.api.common import Watch
from morphogen.errors import ResourceError
from morphogen.files import read_json, write_bytes, write_json
from morphogen.plan import Plan
from morphogen.run import Run, config_values

if TYPE_CHECKING:
    from morphogen.training.pace import Pace


class Previewer:
    """Draws the same few keys now and then, so that the strip shows one sample getting better."""

    def __init__(self, model: Any, run: Run, plan: Plan, watch: Watch) -> None:
        from morphogen.sampling import draws

        self.model, self.run, self.n = model, run, 8
        self.keys = draws.seeded(plan.seed, self.n)
        self.cond = default_cond(model, self.keys)

    def draw(self, step: int, module: Any = None) -> None:
        family, self.model.family = self.model.family, module or self.model.family
        tile, self.model.tile = self.model.tile, self.n
        try:
            raws = self.model.generate(self.keys, cond=self.cond)
            save_preview(self.run.path / "samples" / f"step-{step:07d}", self.model.codec.preview(raws))
        finally:
            self.model.family, self.model.tile = family, tile


class Hook:
    """Writes metrics.jsonl, draws previews, moves the progress bar, keeps the promised time (`pace`)."""

    def __init__(self, run: Run, preview: Previewer, watch: Watch, pace: Pace | None) -> None:
        self.run, self.preview, self.watch, self.pace = run, preview, watch, pace
        self.begun, self.count, self.shown, self.note = time.monotonic(), 0, 0.0, ""
        self.sums: dict[str, float] = {}
        self.refused = False

    def __call__(self, trainer: Any, log: dict[str, Any]) -> None:
        from morphogen.training.trainer import due

        total, step = trainer.config.steps, log["step"]
        if self.pace:
            self.pace.stepped("check" if "held_out" in log else "")
        for k, v in log.items():
            if k not in ("step", "lr", "held_out", "skipped", "back"):
                self.sums[k] = self.sums.get(k, 0.0) + v
        self.count += 1
        if "back" in log:
            self.watch.say(f"step {step:,}: {log['back']}; back to a good state, at half the rate", "warn")
        every = max(1, total // 200)
        if step % every == 0 or step == total or "held_out" in log:
            means = {k: v / self.count for k, v in self.sums.items()}
            kept = {k: log[k] for k in ("held_out", "skipped") if k in log}
            line = {"step": step, "seconds": round(time.monotonic() - self.begun, 2), "lr": log["lr"], **means, **kept}
            plain = {
                k: round(v, 6) if isinstance(v, float) and v == v and abs(v) < 1e12 else (v if isinstance(v, int) else None)
                for k, v in line.items()
            }
            self.write(lambda: self.run.log(plain))
            self.sums, self.count = {}, 0
            shown = {f"{v:.4g}": k for k, v in means.items()}  # a loss of one part is named once, by its part
            self.note = "  ".join(f"{k} {v}" for v, k in shown.items())
        if time.monotonic() - self.shown > 0.2 or step == total:
            self.watch.progress("training", step / total, self.note)
            self.shown = time.monotonic()
        previews = trainer.config.previews
        if previews and due(step, previews, total):
            with trainer.drawn() as module:
                self.write(lambda: self.preview.draw(step, module))
            if self.pace:
                self.pace.did("preview")
        if self.pace and step < total:
            self.keep_time(trainer, self.pace)
            trainer.lanes.tell(trainer.config.steps)

    def keep_time(self, trainer: Any, pace: Pace) -> None:
        """Mend the number of steps when the machine turns out faster or slower; it is written down before it matters."""
        config, done, total = trainer.config, trainer.steps, trainer.config.steps
        waiting = {what: times - times * done // total for what, times in (("check", config.checks), ("preview", config.previews))}
        steps = pace.steps_in_all(done, total, waiting)
        if steps != total:
            trainer.retarget(steps)
            self.run.recipe["training"] = config_values(trainer.config)
            self.write(self.run.save_recipe)

    def write(self, work: Callable[[], None]) -> None:
        """A disk that is full costs a line of the log or a preview, not the run; that is said once."""
        try:
            work()
        except (OSError, ResourceError) as error:
            if not self.refused:
                self.watch.say(f"log and previews are not written, training goes on: {error}", "warn")
            self.refused = True


class Follower:
    """The hook of the other processes: takes part where the first one needs all of them, and hears of new numbers of steps."""

    def __init__(self, *, paced: bool) -> None:
        self.paced = paced

    def __call__(self, trainer: Any, log: dict[str, Any]) -> None:
        from morphogen.training.trainer import due

        total, step = trainer.config.steps, log["step"]
        if trainer.config.previews and due(step, trainer.config.previews, total):
            with trainer.drawn():
                pass
        if self.paced and step < total:
            trainer.retarget(int(trainer.lanes.tell(0)))


def default_cond(model: Any, keys: Any, asked: dict[str, Any] | None = None) -> dict[str, list[Any]] | None:
    """Values of the conditions, one a key: as asked, else drawn from how often the training data had them."""
    from morphogen.sampling import draws

    out: dict[str, list[Any]] = {}
    for name, codec in model.conditions.items():
        if asked and name in asked:
            out[name] = [asked[name]] * len(keys)
        elif asked is None or not asked:
            values = codec.draw(draws.uniform(keys.cpu(), f"cond.{name}").numpy())
            if values is not None:
                out[name] = list(values)
    return out


def save_preview(stem: Path, preview: dict[str, Any]) -> None:
    """A preview as files: pictures and sounds as they are, one a file, the rest as JSON."""
    from morphogen.evaluation.report import picture_kind

    stem.parent.mkdir(parents=True, exist_ok=True)
    if preview["kind"] != "image":
        write_json(stem.with_suffix(".json"), preview)
        return
    for i, data in enumerate(preview["png"]):
        write_bytes(stem.with_name(f"{stem.name}-{i}.{picture_kind(data) or 'png'}"), data)
    for i, data in enumerate(preview.get("audio") or ()):
        write_bytes(stem.with_name(f"{stem.name}-{i}.wav"), data or b"")
    if preview.get("texts"):
        write_json(stem.with_suffix(".json"), {"kind": "image", "texts": list(preview["texts"])})


def load_previews(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """(step, preview) in order, as `save_preview` wrote them."""
    found: dict[int, dict[str, Any]] = {}
    parts = [(path, *path.stem.split("-")[1:]) for path in folder.glob("step-*")]
    for path, step, *_ in sorted(parts, key=lambda p: [int(n) for n in p[1:]]):
        preview = found.setdefault(int(step), {})
        if path.suffix == ".json":
            preview.update(read_json(path))
        else:
            preview.setdefault("kind", "image")
            preview.setdefault("audio" if path.suffix == ".wav" else "png", []).append(path.read_bytes())
    return sorted((step, preview) for step, preview in found.items() if preview.get("png") or preview["kind"] != "image")
