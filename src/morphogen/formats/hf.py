"""Hugging Face folders in and out: config.json and safetensors <-> our transformer. No code of a model is ever run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from morphogen.engine.int4 import Grid
from morphogen.errors import FormatError
from morphogen.files import write_json
from morphogen.formats.tables import Name, Table, expand, table_of
from morphogen.formats.tables.table import LIMITS, Facts
from morphogen.nets.architecture import Architecture
from morphogen.nets.seq2seq import EncoderDecoder
from morphogen.nets.transformer import Transformer
from morphogen.tokens.strict import read_object

LARGEST_CONFIG = 4 << 20


class NoStart(TorchFunctionMode):
    """Within it nothing is written into new parameters: they take no memory until something is.

    (The meta device would do, but brings two seconds and fifty megabytes of its own.)
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("randn", "zeros", "ones"):
            return torch.empty(*args, **(kwargs or {}))
        if name in ("normal_", "uniform_", "kaiming_uniform_", "zeros_", "ones_", "fill_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@dataclass
class Foreign:
    """A model from elsewhere, understood but not yet in memory.

    `tensors`: lazily read, by Hugging Face's names. `config`: its config.json, kept so that saving gives it back.
    """

    kind: str
    table: Table
    config: dict[str, Any]
    architecture: Architecture
    vocab: int
    length: int
    tensors: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    where: Path

    @property
    def role(self) -> str:
        return self.table.role

    def empty(self) -> nn.Module:
        """The net before its weights are there; their memory is not touched yet."""
        with NoStart():
            return net_of(self.table, self.architecture, self.vocab, self.length)

    def net(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The net with its weights, ready to evaluate. Raises FormatError naming a tensor that is missing, left over or misshapen."""
        net = self.empty()
        state = {ours: piece.to(dtype) for ours, piece in self.pieces(net)}
        net.load_state_dict(state, strict=True, assign=True)
        return net.eval()

    def pieces(self, net: nn.Module) -> Iterator[tuple[str, Tensor | Grid]]:
        """(our parameter, its values) one after another, in whatever type the file has; matrices as codes and scales where it has those."""
        grid: Callable[[str], Grid | None] = getattr(self.tensors, "grid", lambda theirs: None)
        stacks: dict[str, list[Tensor | None]] = {}
        sizes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
        for name, theirs in self.matched(sizes):
            codes = None if name.turned or "[" in name.ours[0] else grid(theirs)
            if codes is not None:
                yield from zip(name.ours, codes.split([sizes[o][0] for o in name.ours]))
                continue
            value = self.tensors[theirs]
            value = value.t() if name.turned else value
            bare = [o.partition("[")[0] for o in name.ours]
            if "[" in name.ours[0]:
                count = sizes[bare[0]][0]
                row = int(name.ours[0].partition("[")[2][:-1])
                stack = stacks.setdefault(bare[0], [None] * count)
                stack[row] = value
                if all(v is not None for v in stack):
                    yield bare[0], torch.stack([v for v in stacks.pop(bare[0]) if v is not None])
                continue
            for ours, piece in zip(name.ours, value.split([sizes[o][0] for o in name.ours])):
                yield ours, piece if len(name.ours) == 1 else piece.clone()
        if stacks:
            raise FormatError("experts are missing", where=self.where, remedy=f"the file lacks parts of {min(stacks)}")

    def matched(self, sizes: dict[str, tuple[int, ...]]) -> list[tuple[Name, str]]:
        """Every name of the table that our net has, with the tensor's own name; checks that both sides come out even."""
        known, used, found = set(self.shapes), set(), []
        prefix = self.table.prefix if not any(k.startswith(self.table.prefix) for k in known) else ""
        filled: set[str] = set()
        experts = self.architecture.experts.count if self.architecture.experts else 0
        for name in expand(self.table.names, self.architecture.depth, experts):
            bare = [o.partition("[")[0] for o in name.ours]
            if not name.applies(sizes) or (bare[0] in filled and "[" not in name.ours[0]):
                continue
            theirs = name.theirs if not prefix else name.theirs.removeprefix(prefix)
            if theirs not in known:
                continue
            self._fits(name, theirs, [sizes[o][1:] if "[" in name.ours[0] else sizes[o] for o in bare])
            found.append((name, theirs))
            used.add(theirs)
            filled.update(bare)
        self._even(set(sizes) - filled, known - used)
        return found

    def _fits(self, name: Name, theirs: str, parts: list[tuple[int, ...]]) -> None:
        want = (sum(p[0] for p in parts), *parts[0][1:])
        want = tuple(reversed(want)) if name.turned else want
        if tuple(self.shapes[theirs]) != want:
            raise FormatError(
                f"tensor {theirs} has shape {tuple(self.shapes[theirs])}, the config asks for {want}",
                where=self.where,
                remedy="config and weights do not belong together",
            )

    def _even(self, missing: set[str], left: set[str]) -> None:
        if missing:
            name = theirs_of(self.table, min(missing))
            raise FormatError(f"tensor {name} is missing", where=self.where, remedy="the download is not complete, or of another model")
        left = {t for t in left if not any(t.endswith(i) or i in t for i in self.table.ignored) and not t.startswith("lm_head.")}
        if left:
            raise FormatError(
                f"tensor {min(left)} has no place in a {self.kind} model",
                where=self.where,
                remedy="it is of another kind than its config says",
            )


def net_of(table: Table, a: Architecture, vocab: int, length: int) -> nn.Module:
    """An untrained net of a table's role."""
    if table.role == "seq2seq":
        return EncoderDecoder(vocab, length, a, depth=table.extra.get("depth", a.depth))
    return Transformer(vocab, vocab, length, a, causal=table.role == "decoder")


def theirs_of(table: Table, ours: str) -> str:
    """Hugging Face's name of one of our parameters."""
    layer = re.search(r"layers\.(\d+)\.", ours)
    i = layer[1] if layer else "0"
    for name in table.names:
        if any(o.replace("{i}", i).partition("[")[0] == ours for o in name.ours):
            return name.theirs.replace("{i}", i)
    return ours


def describe(config: dict[str, Any], where: object) -> tuple[str, Table, Architecture, int, int]:
    """(kind, table, architecture, vocabulary, positions) of a config.json. Raises FormatError, also for an unknown architecture."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise FormatError("config.json names no model_type", where=where, remedy="give a folder with a Hugging Face model")
    text = config.get("text_config")
    table, facts = table_of(kind), Facts(config, where)
    if kind == "gemma3" and isinstance(text, dict):
        raise FormatError("a Gemma 3 with pictures is not supported", where=where, remedy="use a text-only one (gemma3_text)")
    try:
        a = table.read(facts)
    except (ArithmeticError, ValueError, TypeError) as error:  # numbers that pass one by one and make no sense together
        raise FormatError(f"the config makes no sense ({' '.join(str(error).split())[:80]})", where=where, remedy="it is damaged") from None
    extra = dict(table.extra)
    if "depth" in extra:
        extra["depth"] = facts.whole(extra["depth"], LIMITS["depth"], a.depth) if isinstance(extra["depth"], str) else a.depth
        table = replace(table, extra=extra)
    length = next((facts.whole(k, LIMITS["length"]) for k in ("max_position_embeddings", "n_positions", "n_ctx") if k in facts), 1 << 20)
    return kind, table, a, facts.whole("vocab_size", LIMITS["vocab"]), length - a.offset


def check_claims(a: Architecture, table: Table, vocab: int, shapes: Mapping[str, tuple[int, ...]], where: object) -> None:
    """What a config claims must lie in the file before anything of that size is built. Raises FormatError."""
    inner, kv = a.heads * a.head_width, a.kv_heads * a.head_width
    mlp = (3 if a.gated else 2) * a.width * a.hidden
    experts = a.experts
    depth = a.depth + (table.extra.get("depth", 0) if table.role == "seq2seq" else 0)
    sparse = len(experts.layers) if experts else 0
    claimed = (vocab + a.learned) * a.width + depth * a.width * (2 * inner + 2 * kv) + (depth - sparse) * mlp
    if experts:
        claimed += sparse * experts.count * 3 * a.width * experts.hidden
    held = sum(math.prod(shape) for shape in shapes.values())
    if claimed > 1.02 * held + 1_000:
        raise FormatError(f"the config claims {claimed:,} numbers, the file holds {held:,}", where=where,
                          remedy="config and weights do not belong together")


def open_folder(path: Path, shards: Callable[[Path], Any]) -> Foreign:
    """A Hugging Face folder. `shards` opens its tensors. Raises FormatError."""
    config = read_object(path / "config.json", LARGEST_CONFIG)
    kind, table, a, vocab, length = describe(config, path / "config.json")
    tensors = shards(path)
    check_claims(a, table, vocab, tensors.shapes, path)
    experts = a.experts.count * len(a.experts.layers) if a.experts else 0
    if a.depth + experts > 4 * len(tensors.shapes):
        raise FormatError(
            f"the config claims {a.depth} layers, the file holds {len(tensors.shapes)} tensors",
            where=path,
            remedy="config and weights do not belong together",
        )
    if a.head and not any(name.theirs in tensors.shapes for name in table.names if name.ours[0].startswith("head.")):
        a = replace(a, head="", head_bias=False)  # a body alone: vectors, no logits
    if table.role == "seq2seq" and "lm_head.weight" in tensors.shapes:
        a = replace(a, tied=False)
    return Foreign(kind, table, config, a, vocab, length, tensors, tensors.shapes, path)


def state_for(table: Table, a: Architecture, net: nn.Module) -> dict[str, Tensor]:
    """A net's parameters under Hugging Face's names, put together as they want them."""
    state, out = net.state_dict(), {}
    for name in expand(table.names, a.depth, a.experts.count if a.experts else 0):
        bare = [o.partition("[")[0] for o in name.ours]
        if not name.applies(state) or name.theirs in out:
            continue
        if "[" in name.ours[0]:
            value = state[bare[0]][int(name.ours[0].partition("[")[2][:-1])]
        else:
            value = torch.cat([state[o] for o in bare]) if len(bare) > 1 else state[bare[0]]
        out[name.theirs] = (value.t() if name.turned else value).contiguous()
    return out


def save_folder(path: Path, foreign: Foreign, net: nn.Module, write_shards: Callable[..., Any]) -> None:
    """config.json and model.safetensors; `net` has the foreign model's architecture. Tokenizer files are the caller's."""
    tensors = state_for(foreign.table, foreign.architecture, net)
    config = {**foreign.config, "vocab_size": foreign.vocab, "torch_dtype": _dtype_word(next(iter(tensors.values())).dtype)}
    config.pop("dtype", None)
    if foreign.table.mend is not None:
        config |= foreign.table.mend(foreign.architecture)
    write_json(path / "config.json", config)
    write_shards(path, tensors)


def _dtype_word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
