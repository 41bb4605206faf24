"""Opening a language model, whatever it lies in: a Hugging Face folder, a GGUF file, or a run of ours."""
from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from morphogen.errors import FormatError, UsageError
from morphogen.formats.hf import Foreign, open_folder
from morphogen.formats.recognise import PICKLES, foreign, is_safetensors
from morphogen.tokens.chat import Template
from morphogen.tokens.strict import read_object
from morphogen.tokens.tokenizer import Tokenizer


@dataclass
class Source:
    """A model that is understood but not yet in memory. `role`: decoder, encoder or seq2seq.

    `net()` builds it in float32. `start`: ids every text begins with besides what the tokenizer adds. `quantised`: its
    weights were already rounded to few bits. `defaults`: how it wants to be drawn from.
    """

    name: str
    path: Path
    role: str
    tokenizer: Tokenizer
    template: Template | None
    context: int
    net: Callable[[], nn.Module]
    start: tuple[int, ...] = ()
    quantised: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    foreign: Foreign | None = None
    pooling: dict[str, Any] = field(default_factory=dict)


def holds_model(path: Path | str) -> bool:
    """Whether a path is a foreign language model by its looks: a GGUF file, or a Hugging Face folder; a run is not."""
    path = Path(path).expanduser()
    if path.is_file():
        return path.suffix in (".gguf", ".safetensors")
    if not path.is_dir() or (path / "recipe.toml").is_file():
        return False
    weights = (".gguf", ".safetensors", *PICKLES)  # pickles are refused, but as what they are
    ends = {p.suffix for p in path.iterdir()}
    return ".gguf" in ends or ((path / "config.json").is_file() and (not ends.isdisjoint(weights) or any(path.glob("*.safetensors.*"))))


def open_source(path: Path | str) -> Source:
    """Find out what lies at a path. Raises FormatError in one line for what is no language model."""
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError("no such file or folder", where=path, remedy="give a .gguf file, a Hugging Face folder or a run")
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(512)
        if head[:4] == b"GGUF":
            return _gguf(path)
        if (path.parent / "config.json").is_file() and path.suffix == ".safetensors":
            return _folder(path.parent)
        what, _ = (not is_safetensors(head) and foreign(head)) or ("not a GGUF file", "")
        raise FormatError(what, where=path, remedy="give a .gguf file, a Hugging Face folder or a run")
    if (path / "recipe.toml").is_file():
        return _run(path)
    if (path / "config.json").is_file():
        return _folder(path)
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return _gguf(found[0])
    pickled = next((p.name for p in path.glob("*") if p.suffix in PICKLES), "")
    remedy = f"{pickled} is a pickle file; convert it elsewhere" if pickled else "a folder needs config.json and model.safetensors"
    raise FormatError("no model there", where=path, remedy=remedy)


def _gguf(path: Path) -> Source:
    from morphogen.formats.ggml import open_gguf
    from morphogen.tokens.chat import template_of
    from morphogen.tokens.load import from_gguf

    foreign, metadata = open_gguf(path)
    tokenizer = from_gguf(metadata)
    quantised = any(t.kind not in ("F32", "F16", "BF16") for t in foreign.tensors.gguf.tensors.values())  # type: ignore[attr-defined]
    return Source(path.stem, path, foreign.role, _checked(tokenizer, foreign), template_of(metadata), foreign.length, foreign.net,
                  quantised=quantised, foreign=foreign)


def _folder(path: Path) -> Source:
    from morphogen.formats.shards import Shards
    from morphogen.tokens.chat import template_of
    from morphogen.tokens.load import load_tokenizer

    foreign = open_folder(path, Shards)
    source = Source(path.resolve().name, path, foreign.role, _checked(load_tokenizer(path), foreign), template_of(path), foreign.length,
                    foreign.net, foreign=foreign)
    if (path / "generation_config.json").is_file():
        source.defaults = _defaults(read_object(path / "generation_config.json", 1 << 20))
    if (path / "modules.json").is_file() or (path / "1_Pooling").is_dir():
        source.pooling = _pooling(path)
        source.context = min(source.context, source.pooling.pop("length", source.context))
    return source


def _checked(tokenizer: Tokenizer, foreign: Foreign) -> Tokenizer:
    if tokenizer.size > foreign.vocab:
        raise FormatError(f"the tokenizer has {tokenizer.size:,} ids, the model {foreign.vocab:,}", where=foreign.where,
                          remedy="tokenizer and weights do not belong together")
    return tokenizer


def _defaults(values: dict[str, Any]) -> dict[str, Any]:
    """How a model wants to be drawn from; only what is within reason is taken."""
    if not values.get("do_sample"):
        return {}
    known = {"temperature": (0.0, 5.0), "top_p": (0.01, 1.0), "top_k": (0, 100_000), "min_p": (0.0, 0.99)}
    out: dict[str, Any] = {}
    for name, (low, high) in known.items():
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            out[name] = int(value) if name == "top_k" else float(value)
    return out


def _pooling(path: Path) -> dict[str, Any]:
    """How sentence-transformers makes one vector of many: {"mode", "normalise", "length"}."""
    out: dict[str, Any] = {"mode": "mean", "normalise": (path / "2_Normalize").is_dir()}
    if (path / "modules.json").is_file():
        out["normalise"] = '"sentence_transformers.models.Normalize"' in (path / "modules.json").read_text(encoding="utf-8")
    if (path / "1_Pooling" / "config.json").is_file():
        values = read_object(path / "1_Pooling" / "config.json", 1 << 16)
        on = [k for k, v in values.items() if k.startswith("pooling_mode_") and v is True]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max",
                 "pooling_mode_lasttoken": "last"}
        if len(on) != 1 or on[0] not in names:
            raise FormatError(f"pooling {', '.join(on) or 'of no kind'} is not supported", where=path / "1_Pooling",
                              remedy="mean, cls, max and last are")
        out["mode"] = names[on[0]]
    if (path / "sentence_bert_config.json").is_file():
        length = read_object(path / "sentence_bert_config.json", 1 << 16).get("max_seq_length")
        if isinstance(length, int) and length > 0:
            out["length"] = length
    return out


def _run(path: Path) -> Source:
    """A text run of ours: its net as it is, its alphabet as a tokenizer."""
    from morphogen.run import Run
    from morphogen.tokens.build import own_tokenizer

    run = Run.load(path)
    r = run.recipe
    if not run.is_language_model():
        raise UsageError(f"a run of {r['codec']['name']} by {r['family']['name']} is not a language model", where=path,
                         remedy="use generate RUN --out …; chat and --prompt need an autoregressive run of plain text")
    model = run.model()
    space = model.family.space
    tokenizer = own_tokenizer(model.codec.state()["tokenizer"], end=space.end, start=space.vocab)
    net = model.family.net
    return Source(path.resolve().name, path, "decoder", tokenizer, None, space.length, lambda: copy.deepcopy(net), start=(space.vocab,))
