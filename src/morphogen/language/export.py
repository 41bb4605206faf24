"""Writing a language model for others to use: a Hugging Face folder or a GGUF file, read back and compared before it counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from morphogen.errors import FormatError, UsageError
from morphogen.files import new_folder, write_json, write_text
from morphogen.formats.gguf import Typed, write_gguf
from morphogen.formats.hf import Foreign, state_for
from morphogen.formats.shards import write_shards
from morphogen.formats.tables import table_of

if TYPE_CHECKING:
    from morphogen.language.model import LanguageModel

QUANTISED = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
# what a round trip may change: nothing in float32, rounding of the weights otherwise (nats, mean over positions)
TOLERANCE = {"f32": 1e-4, "f16": 0.01, "bf16": 0.05, "q8_0": 0.05, "q4_0": 2.0, "q4_1": 2.0}
SAMPLE = "The quick brown fox jumps over the lazy dog. 0123456789 naïve café — 東京 \U0001f600\n\tdef f(x):\n        return x ** 2\n"


@dataclass(frozen=True)
class Exported:
    """What was written and how far it is from what it was made of (mean and largest, nats of KL divergence a position)."""

    path: Path
    kl: float
    top1: float
    positions: int


def export(model: LanguageModel, out: Path, *, form: str, quantise: str = "f32") -> Exported:
    """Write `model` to `out`. Raises UsageError for a pair that cannot be, FormatError when what was written does not read back."""
    if form not in ("hf", "gguf"):
        raise UsageError(f"unknown format '{form}'", remedy="choose hf or gguf")
    if quantise not in QUANTISED:
        raise UsageError(f"unknown quantisation '{quantise}'", remedy=f"choose one of {', '.join(QUANTISED)}")
    if form == "hf" and quantise not in ("f32", "f16", "bf16"):
        raise UsageError(f"a Hugging Face folder does not hold {quantise}", remedy="choose f32, f16 or bf16, or --format gguf")
    if form == "hf":
        with new_folder(out) as folder:
            _folder(model, folder, quantise)
            return _compared(model, folder, quantise, out)
    if out.suffix != ".gguf":
        raise UsageError("a GGUF file's name ends in .gguf", where=out, remedy=f"write --out {out}.gguf")
    part = out.with_name(f".{out.stem}.part.gguf")
    try:
        _gguf(model, part, quantise)
        checked = _compared(model, part, quantise, out)
        part.replace(out)
        return checked
    finally:
        part.unlink(missing_ok=True)


def _described(model: LanguageModel) -> tuple[Foreign, dict[str, Tensor]]:
    """The model in Hugging Face's terms; a run of ours is a Qwen3."""
    foreign = model.source.foreign
    if foreign is None:
        net: Any = model.net
        table, a = table_of("qwen3"), net.architecture
        vocab = net.vocabulary.weight.shape[0]
        assert table.write is not None
        config = {
            "model_type": "qwen3",
            "architectures": [table.cls],
            "vocab_size": vocab,
            "max_position_embeddings": net.length + 1,
            **table.write(a),
            "bos_token_id": model.tokenizer.bos,
            "eos_token_id": model.tokenizer.eos[0],
        }
        foreign = Foreign("qwen3", table, config, a, vocab, net.length + 1, {}, {}, model.source.path)
    state = state_for(foreign.table, foreign.architecture, model.net)
    return foreign, state


def _config(foreign: Foreign) -> dict[str, Any]:
    config = dict(foreign.config)
    if "architectures" not in config:  # it came from GGUF
        config = {**config, "architectures": [foreign.table.cls]}
        if foreign.table.write is not None:
            config |= {k: v for k, v in foreign.table.write(foreign.architecture).items() if k not in ("rope_scaling",) or k not in config}
    if foreign.table.mend is not None:
        config |= foreign.table.mend(foreign.architecture)
    config.pop("dtype", None)
    return config


def _folder(model: LanguageModel, folder: Path, quantise: str) -> None:
    foreign, state = _described(model)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[quantise]
    write_json(folder / "config.json", {**_config(foreign), "torch_dtype": str(dtype).removeprefix("torch.")})
    write_shards(folder, {k: v.to(dtype) for k, v in state.items()})
    write_text(folder / "tokenizer.json", model.tokenizer.content())
    write_json(folder / "tokenizer_config.json", _tokenizer_config(model))
    eos, wishes = list(model.tokenizer.eos), model.source.defaults
    ends = {"bos_token_id": model.tokenizer.bos, "eos_token_id": eos[0] if len(eos) == 1 else eos}
    write_json(folder / "generation_config.json", {**ends, **({"do_sample": True, **wishes} if wishes else {})})


def _tokenizer_config(model: LanguageModel) -> dict[str, Any]:
    t, names = model.tokenizer, {i: n for n, i in model.tokenizer.special.items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.context,
        "clean_up_tokenization_spaces": False,
    }
    for role, i in {
        "bos": t.bos,
        "eos": t.eos[0] if t.eos else None,
        "unk": t.unk,
        "pad": t.pad,
        "mask": t.mask,
        "cls": t.cls,
        "sep": t.sep,
    }.items():
        if i is not None and i in names:
            config[f"{role}_token"] = names[i]
    if model.template is not None:
        config["chat_template"] = model.template.source
    return config


def _gguf(model: LanguageModel, path: Path, quantise: str) -> None:
    from morphogen.formats.ggml import to_gguf

    foreign, state = _described(model)
    if foreign.role != "decoder":
        raise UsageError(f"a {foreign.kind} model cannot be written as GGUF", remedy="export it with --format hf")
    metadata, tensors = to_gguf(foreign.kind, foreign.architecture, state, foreign.length, model.name)
    metadata |= tokenizer_metadata(model)
    kind = quantise.upper()
    packed = {
        name: (t, kind if t.ndim > 1 and t.shape[-1] % 32 == 0 and name != "position_embd.weight" else "F32") for name, t in tensors.items()
    }
    write_gguf(path, metadata, packed)


def tokenizer_metadata(model: LanguageModel) -> dict[str, Any]:
    """A tokenizer in GGUF's keys. Raises UsageError for a kind that is not byte-level and did not come from GGUF."""
    from morphogen.tokens.patterns import PRE

    own = getattr(getattr(model.source.foreign, "tensors", None), "gguf", None)
    if own is not None:
        return {k: v for k, v in own.metadata.items() if k.startswith("tokenizer.")}
    spec = json.loads(model.tokenizer.content())
    body, pre = spec.get("model", {}), spec.get("pre_tokenizer")
    if body.get("type") != "BPE" or "ByteLevel" not in json.dumps(pre):
        raise UsageError("only byte-level tokenizers can be written as GGUF", remedy="export with --format hf")
    # the cut before merging must be one llama.cpp has a name for; without merges no cut matters
    plain = lambda p: json.dumps({k: v for k, v in p.items() if k not in ("trim_offsets",)}, sort_keys=True) if isinstance(p, dict) else ""
    name = next((n for n, known in PRE.items() if plain(known) == plain(pre)), None) or ("gpt-2" if not body.get("merges") else None)
    if name is None:
        raise UsageError("GGUF has no name for how this tokenizer cuts text", remedy="export with --format hf")
    names = {i: n for n, i in body["vocab"].items()} | {t["id"]: t["content"] for t in spec.get("added_tokens", [])}
    special = set(model.tokenizer.special.values())
    added = {t["id"] for t in spec.get("added_tokens", [])}
    merges = [m if isinstance(m, str) else " ".join(m) for m in body.get("merges", [])]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": [names[i] for i in range(len(names))],
        "tokenizer.ggml.token_type": Typed([3 if i in special else 4 if i in added else 1 for i in range(len(names))], "int32"),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": bool(model.encode("a")[:1] == [model.tokenizer.bos]),
    }
    for role, i in {
        "bos": model.tokenizer.bos,
        "eos": model.tokenizer.eos[0] if model.tokenizer.eos else None,
        "padding": model.tokenizer.pad,
    }.items():
        if i is not None:
            metadata[f"tokenizer.ggml.{role}_token_id"] = Typed(i, "uint32")
    if model.template is not None:
        metadata["tokenizer.chat_template"] = model.template.source
    return metadata


@torch.inference_mode()
def _compared(model: LanguageModel, written: Path, quantise: str, out: Path) -> Exported:
    """Read back what was written: the same ids, and logits as near as its precision allows. Raises FormatError otherwise."""
    from morphogen.language.model import load

    again = load(written, weights="float32")
    ids = model.tokenizer.ids(SAMPLE)
    if again.tokenizer.ids(SAMPLE) != ids:
        raise FormatError("the tokenizer written gives other ids", where=out, remedy="this is a fault of ours; the file was not kept")
    ids = [*model.source.start, *ids][: min(model.context, again.context)]
    if model.role == "seq2seq":
        a, b = (torch.from_numpy(m.logits(ids[:16], source=ids)) for m in (model, again))
    else:
        a, b = (torch.from_numpy(m.logits(ids)) for m in (model, again))
    n = min(a.shape[1], b.shape[1])
    p, q = (x[:, :n].double().log_softmax(-1) for x in (a, b))
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    if not kl <= TOLERANCE[quantise]:
        raise FormatError(
            f"what was written differs by {kl:.3g} nats a position", where=out, remedy="this is a fault of ours; it was not kept"
        )
    return Exported(out, max(0.0, kl), float((p.argmax(-1) == q.argmax(-1)).float().mean()), len(p))
