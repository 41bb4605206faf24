"""Adapters as files: the folder that PEFT reads and writes (adapter_config.json and adapter_model.safetensors)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from morphogen.errors import FormatError
from morphogen.files import read_json, write_bytes, write_json

PREFIX = "base_model.model."
Rename = Callable[[str], str]

# What may stand in an adapter_config.json without changing what the tensors mean.
HARMLESS = {
    "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "r", "lora_alpha",
    "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "use_rslora", "modules_to_save", "init_lora_weights",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core", "loftq_config", "eva_config",
    "qalora_group_size", "runtime_config", "ensure_weight_tying", "corda_config", "lora_ga_config", "arrow_config", "velora_config",
}
NAMES = {
    "use_dora": "DoRA", "lora_bias": "biases in lora_B", "layer_replication": "replicated layers", "use_qalora": "QALoRA",
    "trainable_token_indices": "single trained tokens", "target_parameters": "LoRA on bare parameters",
    "alora_invocation_tokens": "activated LoRA", "megatron_config": "Megatron layers", "use_bdlora": "block-diagonal LoRA",
}
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to start that also change the base's own weights


@dataclass
class Adapter:
    """What an adapter changes, by module path: W + s B A with s = alpha / r, or alpha / sqrt(r) (`rslora`).

    `pairs`: A (r, in) or (r, in, *kernel), B (out, r). `alpha`: one number a path. `whole`: modules trained as a whole,
    path -> parameter -> tensor. `base`: what it belongs to, in words.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    alpha: dict[str, float]
    rslora: bool = False
    whole: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    dropout: float = 0.0
    base: str = ""

    def scale(self, path: str) -> float:
        """The factor on B A of one module."""
        rank = len(self.pairs[path][0])
        return self.alpha[path] / (math.sqrt(rank) if self.rslora else rank)

    def size(self) -> int:
        """How many numbers it holds."""
        return sum(a.numel() + b.numel() for a, b in self.pairs.values()) + sum(t.numel() for p in self.whole.values() for t in p.values())

    def renamed(self, rename: Rename) -> Adapter:
        """The same adapter under other module paths. Raises FormatError when two become one."""
        out = Adapter({rename(k): v for k, v in self.pairs.items()}, {rename(k): v for k, v in self.alpha.items()}, self.rslora,
                      {rename(k): v for k, v in self.whole.items()}, self.dropout, self.base)
        if len(out.pairs) != len(self.pairs) or len(out.whole) != len(self.whole):
            raise FormatError("two modules of the adapter get the same name", remedy="their layout differs from the model's")
        return out


def decoder_to_hf(path: str) -> str:
    """Where a module of our own decoder lies in the Hugging Face model it is exported as."""
    return "model." + path.removeprefix("net.") if path.startswith("net.") else path


def _same(name: str) -> str:
    return name


def write_peft(folder: Path, adapter: Adapter, to_hf: Rename = _same, *, task: str | None = None) -> list[Path]:
    """Write adapter_config.json and adapter_model.safetensors. `to_hf`: our module path -> the path inside the Hugging Face model.

    `task`: PEFT's task_type, such as CAUSAL_LM. Raises ResourceError when the disk refuses.
    """
    from safetensors.torch import save

    adapter = adapter.renamed(to_hf)
    tensors: dict[str, Tensor] = {}
    for path, (a, b) in adapter.pairs.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = a
        tensors[f"{PREFIX}{path}.lora_B.weight"] = b.view(*b.shape, *[1] * (a.ndim - 2))
    for path, parts in adapter.whole.items():
        tensors |= {f"{PREFIX}{path}.{name}": value for name, value in parts.items()}
    ranks = {path: len(a) for path, (a, _) in adapter.pairs.items()}
    rank, alpha = _usual(ranks, 8), _usual(adapter.alpha, 16.0)
    config = {
        "peft_type": "LORA", "task_type": task, "base_model_name_or_path": adapter.base or None, "inference_mode": True,
        "r": rank, "lora_alpha": _number(alpha), "lora_dropout": adapter.dropout, "use_rslora": adapter.rslora, "use_dora": False,
        "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True,
        "target_modules": sorted(adapter.pairs), "modules_to_save": sorted(adapter.whole) or None,
        # anchored, since PEFT takes them for endings: `out` would also mean `a.out`
        "rank_pattern": {f"^{k}": v for k, v in ranks.items() if v != rank},
        "alpha_pattern": {f"^{k}": _number(v) for k, v in adapter.alpha.items() if v != alpha},
    }
    blob = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata={"format": "pt"})
    write_bytes(folder / "adapter_model.safetensors", blob)
    write_json(folder / "adapter_config.json", config)
    return [folder / "adapter_config.json", folder / "adapter_model.safetensors"]


def _usual(values: Mapping[str, Any], otherwise: Any) -> Any:
    return Counter(values.values()).most_common(1)[0][0] if values else otherwise


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def read_peft(folder: Path, to_ours: Rename = _same) -> Adapter:
    """An adapter written by PEFT (or `write_peft`), under our module paths. `to_ours` is the inverse of `to_hf`.

    Raises FormatError naming what is not supported (DoRA, bias training, other kinds of adapter), damaged or missing.
    """
    folder = Path(folder)
    config = _config(folder)
    tensors = _tensors(folder)
    sides: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, dict[str, Tensor]] = {}
    kept = [str(name) for name in config.get("modules_to_save") or ()]
    for key, value in tensors.items():
        name = key.removeprefix(PREFIX)
        path, _, last = name.rpartition(".lora_")
        if path and last in ("A.weight", "B.weight"):
            sides.setdefault(path, {})[last[0]] = value
            continue
        if path or "lora_" in name:
            what = {"magnitude_vector": "DoRA", "magnitude_vector.weight": "DoRA", "B.bias": "biases in lora_B"}.get(last, name)
            what = "LoRA on embeddings" if "embedding" in last else what
            raise FormatError(f"{what} is not supported", where=folder, remedy="give a plain LoRA adapter")
        owner = next((path for path in _prefixes(name) if any(path == k or path.endswith("." + k) for k in kept)), None)
        if owner is None:
            raise FormatError(f"tensor '{key}' belongs to no LoRA layer and to none of modules_to_save", where=folder,
                              remedy="give a plain LoRA adapter")
        whole.setdefault(owner, {})[name.removeprefix(owner + ".")] = value
    pairs = {path: _pair(path, both, folder) for path, both in sides.items()}
    alphas = config.get("alpha_pattern") or {}
    default = float(config.get("lora_alpha", 8))
    alpha = {path: float(next((v for k, v in alphas.items() if _means(k, path)), default)) for path in pairs}
    adapter = Adapter(pairs, alpha, bool(config.get("use_rslora")), whole, float(config.get("lora_dropout") or 0.0),
                      str(config.get("base_model_name_or_path") or ""))
    _check_ranks(adapter, config, folder)
    return adapter.renamed(to_ours)


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "adapter_config.json").is_file():
        raise FormatError("not an adapter (no adapter_config.json)", where=folder, remedy="give the folder that PEFT or `tune` wrote")
    config = read_json(folder / "adapter_config.json")
    if not isinstance(config, dict):
        raise FormatError("adapter_config.json is not an object", where=folder, remedy="restore the file")
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind != "LORA":
        raise FormatError(f"an adapter of kind {kind[:40]} is not supported", where=folder, remedy="only LORA is")
    if config.get("bias", "none") != "none":
        raise FormatError(f"trained biases (bias = {str(config['bias'])[:40]}) are not supported", where=folder, remedy='only "none" is')
    for key, value in config.items():
        if key not in HARMLESS and key != "bias" and value not in (None, False, 0, "", [], {}):
            what = NAMES.get(key, f"the option {key[:60]}")
            raise FormatError(f"{what} is not supported", where=folder / "adapter_config.json", remedy="give a plain LoRA adapter")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise FormatError(f"an adapter started by {start[:40]} belongs to changed base weights", where=folder,
                          remedy="convert it to plain LoRA with PEFT first")
    for key, kind in (("r", int), ("lora_alpha", int | float), ("rank_pattern", dict), ("alpha_pattern", dict), ("modules_to_save", list)):
        value = config.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _invalid(key, value, folder)
    numbers = [("lora_alpha", config.get("lora_alpha", 8)), *(config.get("alpha_pattern") or {}).items()]
    for key, value in [*numbers, ("lora_dropout", config.get("lora_dropout") or 0.0)]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:  # NaN too
            raise _invalid(key, value, folder)
    return config


def _invalid(key: str, value: Any, folder: Path) -> FormatError:
    what = f"{key[:60]} = {json.dumps(value)[:60]} is not valid"
    return FormatError(what, where=folder / "adapter_config.json", remedy="restore the file")


def _tensors(folder: Path) -> dict[str, Tensor]:
    from morphogen.formats.shards import Shards

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        remedy = "adapter_model.bin is a pickle file; convert it elsewhere" if pickled else "give the whole folder"
        raise FormatError("the adapter has no adapter_model.safetensors", where=folder, remedy=remedy)
    return dict(Shards(path))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]


def _means(pattern: str, path: str) -> bool:
    """Whether a pattern names a path: the whole of it (with ^), or its last parts. Patterns are never run as expressions."""
    whole, pattern = pattern.startswith("^"), pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    pattern = pattern.removeprefix(".*").removeprefix(".")
    if not all(c.isalnum() or c in "._-" for c in pattern):
        raise FormatError(f"the pattern '{pattern[:60]}' is an expression", remedy="write rank_pattern and alpha_pattern with module names")
    return path == pattern or (not whole and path.endswith("." + pattern))


def _pair(path: str, both: dict[str, Tensor], folder: Path) -> tuple[Tensor, Tensor]:
    if set(both) != {"A", "B"}:
        raise FormatError(f"'{path}' has no lora_{'B' if 'A' in both else 'A'}", where=folder, remedy="the file is not whole")
    a, b = both["A"], both["B"]
    fits = a.ndim >= 2 and b.ndim == a.ndim and b.shape[1] == len(a) and all(n == 1 for n in b.shape[2:])
    if not fits or not a.is_floating_point() or not b.is_floating_point():
        raise FormatError(f"lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} of '{path}' do not belong together", where=folder,
                          remedy="the file is damaged or of another kind")
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise FormatError(f"'{path}' holds numbers that are not finite", where=folder, remedy="train it again")
    return a, b.flatten(1)


def _check_ranks(adapter: Adapter, config: dict[str, Any], folder: Path) -> None:
    """The scale is alpha / r: a config that says another r than the tensors have would scale them wrongly, so it is refused."""
    patterns = config.get("rank_pattern") or {}
    for path, (a, _) in adapter.pairs.items():
        said = next((v for k, v in patterns.items() if _means(k, path)), config.get("r", len(a)))
        if said != len(a):
            raise FormatError(f"'{path}' has rank {len(a)}, the config says {str(said)[:20]}", where=folder,
                              remedy="write rank_pattern with plain module names" if patterns else "the two files do not belong together")
