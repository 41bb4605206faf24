"""inspect: what a run or a data set is, or where two runs first differ; list: what there is to choose from; load."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from morphogen.api.common import seconds
from morphogen.errors import FormatError
from morphogen.registry import AXES, PRESETS, entries
from morphogen.run import Run


def load(path: str | Path, device: str = "cpu") -> Any:
    """What can be drawn from at a path.

    A language model (a GGUF file, a Hugging Face folder, an autoregressive run of plain text) comes as a LanguageModel:
    `encode`, `decode`, `logits`, `generate`, `stream`, `chat`, `embed`, `score`. Any other finished run comes as its Model:
    `generate`, `stream`, `log_prob`, `encode`, `decode` on raw items.
    """
    path = Path(path).expanduser()
    if (path / "recipe.toml").is_file():
        run = Run.load(path)
        if not run.is_language_model():
            return run.model(device)
    from morphogen.language import load as load_language

    return load_language(path)


def list_() -> dict[str, dict[str, str]]:
    """Every codec, condition, family and metric with one line each, and the sizes. Imports nothing heavy."""
    out = {axis: {name: entry.line for name, entry in entries(axis).items()} for axis in AXES}
    for preset, name in PRESETS.items():
        out["family"][preset] = f"preset of {name}"
    out["size"] = {
        "tiny": "seconds to minutes on a laptop",
        "small": "minutes on a laptop",
        "base": "an hour on a laptop, minutes on a GPU",
        "large": "a GPU",
    }
    return out


def inspect(first: str | Path, second: str | Path | None = None) -> dict[str, Any]:
    """Facts about a run folder, a language model or data; with two runs, the first difference between them.

    Raises FormatError or DataError when the path is neither.
    """
    if second is not None or (Path(first) / "recipe.toml").is_file():
        run, other = Run.load(first), None if second is None else Run.load(second)
        try:
            return _run_facts(run) if other is None else {"difference": difference(run, other)}
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            whose = first if other is None else f"{first} or {second}"
            raise FormatError("the recipe or the provenance of the run is damaged", where=whose, remedy="copy it again") from None
    from morphogen.language.source import holds_model

    if holds_model(first):
        return _model_facts(first)
    from morphogen.plan import make_plan

    plan = make_plan(first)
    return {
        "kind": "data",
        "codec": plan.codec.name,
        "items": len(plan.items),
        "found": plan.found,
        "picked": plan.picked,
        "warnings": plan.warnings,
    }


def _model_facts(path: str | Path) -> dict[str, Any]:
    from morphogen.language.source import open_source

    source = open_source(path)
    foreign, tokenizer = source.foreign, source.tokenizer
    assert foreign is not None
    a = foreign.architecture
    sizes = [math.prod(shape) for shape in foreign.shapes.values()]
    return {
        "kind": "language model", "name": source.name, "architecture": foreign.kind, "role": source.role, "parameters": sum(sizes),
        "layers": a.depth, "width": a.width, "heads": f"{a.heads} queries, {a.kv_heads} keys", "context": source.context,
        "vocabulary": tokenizer.size, "ends": [repr(tokenizer.text([i], special=True)) for i in tokenizer.eos],
        "chat": "has a template" if source.template else "no template", "tensors": len(sizes), "quantised": source.quantised,
        "note": tokenizer.note or None, "draws with": source.defaults or None,
    }


def _run_facts(run: Run) -> dict[str, Any]:
    r, origin = run.recipe, run.provenance()
    lines = run.metrics()
    return {
        "kind": "run",
        "finished": run.finished(),
        "codec": r["codec"]["name"],
        "family": r["family"]["name"],
        "conditions": r.get("conditions", {}),
        "items": r["data"]["items"],
        "train": r["data"]["train"],
        "held_out": r["data"]["held_out"],
        "seed": r["data"]["seed"],
        "steps": r["training"].get("steps", 0),
        "last": lines[-1] if lines else None,
        "parameters": origin.get("parameters"),
        "took": seconds(origin["seconds"]) if "seconds" in origin else None,
        "model": origin.get("model"),
        "data": origin.get("data"),
        "environment": origin.get("environment"),
        "contains_training_rows": origin.get("contains_training_rows"),
        "family_config": r["family"].get("config", {}),
    }


def difference(a: Run, b: Run) -> dict[str, Any] | None:
    """Where two runs part first: recipe field, data, environment, a logged step, or the weights. None: they are the same."""
    sides = [({**run.recipe, "data": {k: v for k, v in run.recipe["data"].items() if k != "path"}}, run.provenance()) for run in (a, b)]
    origins = [{k: o.get(k) for k in ("data", "parents", "seed", "environment")} for _, o in sides]
    for name, pair in (("recipe", [s[0] for s in sides]), ("provenance", origins)):
        if found := _first(pair[0], pair[1], name):
            return found
    for left, right in zip(a.metrics(), b.metrics()):
        left, right = ({k: v for k, v in m.items() if k != "seconds"} for m in (left, right))
        if found := _first(left, right, f"metrics.jsonl step {left.get('step')}"):
            return found
    return _first(sides[0][1].get("model"), sides[1][1].get("model"), "model.safetensors")


def _first(a: Any, b: Any, where: str) -> dict[str, Any] | None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            if found := _first(a.get(key), b.get(key), f"{where}.{key}"):
                return found
        return None
    return None if a == b else {"where": where, "first": a, "second": b}
