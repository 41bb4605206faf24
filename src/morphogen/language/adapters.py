"""PEFT adapters beside a language model's weights, chosen by name for each answer."""
from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from morphogen.errors import FormatError, UsageError
from morphogen.formats.peft import Adapter

if TYPE_CHECKING:
    from morphogen.formats.tables.table import Table
    from morphogen.language.model import LanguageModel

Layout = dict[str, list[tuple[str, int]]]
"A module of theirs -> ours in it, one after another, each with its rows: `qkv_proj` and GPT-2's `c_attn` hold three of ours."


def layout(table: Table, net: torch.nn.Module) -> Layout:
    """Where the matrices of a net, adapted or not, stand in the Hugging Face model of a table."""
    from morphogen.adapt.lora import base_state

    rows = {k.removesuffix(".weight"): len(p) for k, p in base_state(net).items() if k.endswith(".weight") and p.ndim == 2}
    layers = sorted({m[1] for k in rows for m in re.finditer(r"layers\.(\d+)\.", k)}, key=int)
    out: Layout = {}
    for name in table.names:
        if not name.theirs.endswith(".weight") or "{e}" in name.theirs or any("[" in o for o in name.ours):
            continue
        for i in layers if "{i}" in name.theirs else ("",):
            ours = [o.replace("{i}", i).removesuffix(".weight") for o in name.ours]
            if all(o in rows for o in ours):
                out.setdefault(name.theirs.replace("{i}", i).removesuffix(".weight"), [(o, rows[o]) for o in ours])
    return out


def fused(adapter: Adapter, places: Layout) -> Adapter:
    """An adapter of ours under their names: where theirs holds several of ours, ranks add up and B stands in blocks."""
    out, left = dataclasses.replace(adapter, pairs={}, alpha={}), dict(adapter.pairs)
    for theirs, ours in places.items():
        found = [path for path, _ in ours if left.pop(path, None) is not None]
        if len(ours) == 1 and found:
            out.pairs[theirs], out.alpha[theirs] = adapter.pairs[found[0]], adapter.alpha[found[0]]
        elif found:
            first = next((scale for scale in map(adapter.scale, found) if scale), 1.0)
            a = torch.cat([adapter.pairs[path][0] for path in found])
            parts, at = [], 0
            for path, rows in ours:  # rows of a matrix that has no pair stay as they are
                block = torch.zeros(rows, len(a), dtype=a.dtype, device=a.device)
                if path in found:
                    b = adapter.pairs[path][1] * (adapter.scale(path) / first)
                    block[:, at : at + b.shape[1]] = b
                    at += b.shape[1]
                parts.append(block)
            out.pairs[theirs] = a, torch.cat(parts)
            out.alpha[theirs] = first * (len(a) ** 0.5 if adapter.rslora else len(a))
    out.pairs |= left
    out.alpha |= {path: adapter.alpha[path] for path in left}
    return out


def parted(adapter: Adapter, places: Layout) -> Adapter:
    """An adapter under their names for our matrices: each gets the same A and its own rows of B. Raises FormatError for other shapes."""
    out = dataclasses.replace(adapter, pairs={}, alpha={}, whole={_one(k, places): v for k, v in adapter.whole.items()})
    for theirs, (a, b) in adapter.pairs.items():
        ours = places.get(theirs, [(theirs, len(b))])
        if sum(rows for _, rows in ours) != len(b):
            raise FormatError(f"the adapter's '{theirs}' has {len(b)} rows, the model's {sum(rows for _, rows in ours)}",
                              remedy="it belongs to another base model")
        for (path, _), part in zip(ours, b.split([rows for _, rows in ours]), strict=True):
            out.pairs[path], out.alpha[path] = (a, part), adapter.alpha[theirs]
    return out


def _one(theirs: str, places: Layout) -> str:
    ours = places.get(theirs, [(theirs, 0)])
    return ours[0][0] if len(ours) == 1 else theirs


def load_adapter(model: LanguageModel, folder: Path, name: str = "") -> str:
    """Read a PEFT folder and wrap the model's matrices. Raises UsageError for a model or name that cannot take it."""
    from morphogen.adapt import lora
    from morphogen.formats.peft import read_peft

    foreign = model.source.foreign
    if model.role != "decoder":
        raise UsageError("adapters are for decoders", where=folder, remedy="merge it into the model first")
    name = name or folder.resolve().name.replace(".", "-")
    if name in model.adapters:
        raise UsageError(f"an adapter '{name}' is loaded already", where=folder, remedy="give another name")
    net = model.net
    if foreign is not None:
        state = parted(read_peft(folder), layout(foreign.table, net))
    else:
        state = read_peft(folder, lambda theirs: theirs.removeprefix("model."))
    lora.load_adapter(net, state, name=name)
    lora.set_adapter(net, None)
    model._drawing = net
    model.adapters[name] = folder
    return name
