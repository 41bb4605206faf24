"""The run folder: everything needed to draw again, and to make the run again. Knows the files; `model.py` knows the maths."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

from morphogen.config import asdict, make
from morphogen.errors import FormatError, MorphogenError, UsageError
from morphogen.files import nearby, read_json, write_bytes, write_json, write_text
from morphogen.registry import resolve

VERSION = 1


class Run:
    """A folder: recipe.toml, codec/, conditions/, bridges/, model.safetensors, state/,
    metrics.jsonl, samples/, provenance.json, report.html, card.md."""

    def __init__(self, path: Path, recipe: dict[str, Any]) -> None:
        self.path, self.recipe = Path(path), recipe
        self.source: Any = None
        "What it learned from, where that was handed over in Python: only the Run that `train` returned knows it."

    # ---------------------------------------------------------------- writing
    def save_recipe(self) -> None:
        import tomli_w

        write_text(self.path / "recipe.toml", tomli_w.dumps(_plain({"version": VERSION, **self.recipe})))

    def save_parts(self, model: Any) -> None:
        """Codec and condition states: plain JSON, written before training starts."""
        write_json(self.path / "codec" / "state.json", model.codec.state())
        for name, codec in model.conditions.items():
            write_json(self.path / "conditions" / f"{name}.json", codec.state())

    def packed(self, model: Any, weights: dict[str, Any]) -> tuple[bytes, str]:
        """What model.safetensors holds: family weights (as given: an average, usually) and bridges; and its SHA-256."""
        import hashlib

        from safetensors.torch import save

        tensors = {f"family.{k}": v for k, v in weights.items()} | {f"bridges.{k}": v for k, v in model.bridges.state_dict().items()}
        blob = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata={"format": "pt"})
        return blob, hashlib.sha256(blob).hexdigest()

    def adopt_parent(self, parent: Run) -> None:
        """Copy the small files of the run whose latent this one models; its weights travel in our own file."""
        target = self.path / "bridges" / "0"
        target.mkdir(parents=True, exist_ok=True)
        for name in ("recipe.toml", "codec", "conditions", "bridges"):
            source = parent.path / name
            if source.is_dir():
                shutil.copytree(source, target / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, target / name)

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_log(self, step: int) -> None:
        """Forget the lines after `step`: a run that is gone on with from there writes them again."""
        if (self.path / "metrics.jsonl").exists():
            kept = [line for line in self.metrics() if line.get("step", 0) <= step]
            write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that a crash or a disk damaged is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        out = []
        for line in lines:
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            out += [found] if isinstance(found, dict) else []
        return out

    def provenance(self) -> dict[str, Any]:
        return read_json(self.path / "provenance.json") if (self.path / "provenance.json").exists() else {}

    # ---------------------------------------------------------------- reading
    @classmethod
    def load(cls, path: Path | str) -> Run:
        """Open a run folder. Raises UsageError for what is no path, FormatError saying what is missing or made by a newer version."""
        if not isinstance(path, str | Path):
            what = f"a run is named by its folder, not by a {type(path).__name__}"
            raise UsageError(what, remedy="give the path `morphogen.load` was given")
        path = Path(path).expanduser()
        recipe = path / "recipe.toml"
        if not path.exists():
            raise FormatError("no such run folder", where=path, remedy=nearby(path))
        if not recipe.is_file():
            pickled = (
                next((p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl", ".pth")), "") if path.is_dir() else ""
            )
            remedy = (
                f"{pickled} is a pickle file; convert it elsewhere" if pickled else "give the folder that `morphogen train --out` wrote"
            )
            raise FormatError("not a run folder (no recipe.toml)", where=path, remedy=remedy)
        found = read_recipe(recipe)
        missing = [name for name in ("data", "codec", "family", "training", "generation") if not isinstance(found.get(name), dict)]
        if missing or not all(isinstance(found[part].get("name"), str) for part in ("codec", "family")):
            what = f"the recipe has no section '{missing[0]}'" if missing else "the recipe names no codec or family"
            raise FormatError(what, where=recipe, remedy="give the folder that `morphogen train --out` wrote")
        return cls(path, found)

    def finished(self) -> bool:
        return (self.path / "model.safetensors").is_file()

    def is_language_model(self) -> bool:
        """Whether it is plain text written from left to right, with nothing else said: what a prompt can be given to."""
        r = self.recipe
        return r["codec"]["name"] == "text" and r["family"]["name"] == "autoregressive" and not r.get("conditions")

    def build(self, device: str = "cpu") -> Any:
        """The model with its codec, conditions and bridges, weights not yet loaded."""
        try:
            return self._assembled(device)
        except MorphogenError:
            raise
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            raise FormatError(f"a part of the run is damaged ({why})", where=self.path, remedy="train it again") from None

    def _assembled(self, device: str) -> Any:
        from morphogen.model import Model

        r = self.recipe
        codec_class = resolve("codec", r["codec"]["name"])
        codec = codec_class(make(codec_class.Config, r["codec"].get("config")))
        codec.load(read_json(self.path / "codec" / "state.json"))
        conditions = {}
        for name, kind in r.get("conditions", {}).items():
            conditions[name] = resolve("condition", kind)()
            conditions[name].load(read_json(self.path / "conditions" / f"{name}.json"))
        kind = resolve("family", r["family"]["name"])
        bridges = build_bridges(codec.space, kind.accepts, self._parent())
        self._load_bridges(bridges, device)
        space = bridges[-1].target if bridges else codec.space
        family = kind(space, {k: c.space for k, c in conditions.items()}, make(kind.Config, r["family"].get("config")))
        return Model(codec, family, bridges, conditions, r["generation"]["tile"]).to(device)

    def _parent(self) -> Any:
        path = self.path / "bridges" / "0"
        return Run(path, Run.load(path).recipe).build() if (path / "recipe.toml").is_file() else None

    def model(self, device: str = "cpu") -> Any:
        """The trained model, ready to draw. Raises FormatError when a tensor is missing or of the wrong shape."""
        if not self.finished():
            raise FormatError("the run has no trained model yet", where=self.path, remedy="finish it with `morphogen train … --resume`")
        model = self.build(device)
        tensors = read_tensors(self.path / "model.safetensors", device)
        weights = {k.removeprefix("family."): v for k, v in tensors.items() if k.startswith("family.")}
        try:
            model.family.load_state_dict(weights)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:200]
            raise FormatError(
                f"weights do not fit the recipe ({detail})", where=self.path, remedy="the run folder was mixed up or damaged"
            ) from None
        return model.eval()

    def _load_bridges(self, bridges: list[Any], device: str) -> None:
        """Bridges decide the family's Space, so their fitted buffers come first. Only their tensors are read here."""
        from torch.nn import ModuleList

        source = self.path / "model.safetensors"
        if not bridges or not source.is_file():
            source = self.path / "bridges" / "fitted.safetensors"
        if bridges and source.is_file():
            tensors = read_tensors(source, device, prefix="bridges.")
            ModuleList(bridges).load_state_dict({k.removeprefix("bridges."): v for k, v in tensors.items()})

    def save_bridges(self, model: Any) -> None:
        """Fitted bridges before training starts, for --resume."""
        from safetensors.torch import save

        if len(model.bridges):
            tensors = {f"bridges.{k}": v.detach().cpu().contiguous().clone() for k, v in model.bridges.state_dict().items()}
            write_bytes(self.path / "bridges" / "fitted.safetensors", save(tensors))


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe.toml. Raises FormatError when it is missing, no TOML, or from a newer version."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"the recipe cannot be read ({error})", where=path, remedy="give a recipe.toml") from None
    unknown = set(values) - {"version", "morphogen", "data", "codec", "conditions", "family", "training", "generation", "tune"}
    if unknown:
        raise FormatError(f"unknown section '{min(unknown)}'", where=path, remedy="see recipes/ for what a recipe holds")
    if values.get("version", 0) > VERSION:
        raise FormatError(f"made by a newer version (recipe {values['version']})", where=path, remedy="update morphogen")
    return values


def build_bridges(space: Any, accepts: tuple[type, ...], parent: Any = None) -> list[Any]:
    """The chain from a codec's Space to one the family accepts, through a trained run's latent when one is given."""
    from morphogen.bridges import route

    if parent is None:
        return list(route(space, accepts))
    from morphogen.bridges.learned import Learned

    learned = Learned(list(parent.bridges), parent.family)
    return [learned, *route(learned.target, accepts)]


def read_tensors(path: Path, device: str = "cpu", prefix: str = "") -> dict[str, Any]:
    """Tensors of a safetensors file after the strict check of `formats.shards`. Raises FormatError."""
    from morphogen.formats.shards import Shards

    shards = Shards(path)
    return {k: shards[k].to(device) for k in shards if k.startswith(prefix)}


def _plain(value: Any) -> Any:
    """TOML has no null: fields without a value are left out."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def config_values(config: Any) -> dict[str, Any]:
    """A config dataclass ready for recipe.toml."""
    return _plain(asdict(config)) if config is not None else {}
