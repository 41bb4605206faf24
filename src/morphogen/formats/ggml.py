"""GGUF models <-> Hugging Face's names and config: what llama.cpp calls things, and how it lays them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from morphogen.engine.int4 import Grid
from morphogen.errors import FormatError, UsageError, suggest
from morphogen.formats.gguf import Gguf, Typed, read_gguf
from morphogen.formats.hf import Foreign, check_claims, describe
from morphogen.nets.architecture import Architecture

# general.architecture -> model_type
KINDS = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "gpt2": "gpt2",
    "qwen3moe": "qwen3_moe",
}
BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_norm": "input_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
}
SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GPT2 = {
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
    "attn_norm": "ln_1",
    "ffn_norm": "ln_2",
}
TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
MOST_EXPERTS, MOST_NAMES = 4096, 500_000
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
MIXTRAL = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}


def blocks_of(kind: str) -> dict[str, str]:
    """GGUF's names within a layer -> Hugging Face's, for a model_type."""
    match kind:
        case "gemma2" | "gemma3_text" | "olmo2":
            return {**BLOCK, **SANDWICH}
        case "phi3":
            return {**BLOCK, "ffn_up": "mlp.gate_up_proj"}
        case "gpt2":
            return GPT2
        case "mixtral":
            return {**BLOCK, "ffn_gate_inp": "block_sparse_moe.gate"}
    return BLOCK


def ends_of(kind: str) -> dict[str, str]:
    """GGUF's names outside of layers -> Hugging Face's."""
    if kind == "gpt2":
        return {
            "token_embd.weight": "transformer.wte.weight",
            "position_embd.weight": "transformer.wpe.weight",
            "output_norm.weight": "transformer.ln_f.weight",
            "output_norm.bias": "transformer.ln_f.bias",
            "output.weight": "lm_head.weight",
        }
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def layer_name(kind: str, i: int, leaf: str) -> str:
    return f"transformer.h.{i}.{leaf}" if kind == "gpt2" else f"model.layers.{i}.{leaf}"


class GgufWeights(Mapping[str, Tensor]):
    """A GGUF file's tensors under Hugging Face's names, read and laid out when asked for."""

    def __init__(self, gguf: Gguf, kind: str, heads: tuple[int, int], turned_heads: bool) -> None:
        self.gguf, self.kind, self.heads, self.turned_heads = gguf, kind, heads, turned_heads
        self.where: dict[str, tuple[str, int | None]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in gguf.tensors.items():
            if len(self.where) > MOST_NAMES:  # a name for each row of a stack costs far more than the row
                raise FormatError(f"more than {MOST_NAMES:,} tensors and experts", where=gguf.path, remedy="the file is damaged or hostile")
            for theirs, row in self._names(name, tensor.shape):
                shape = tensor.shape[1:] if row is not None else tensor.shape
                self.where[theirs] = (name, row)
                self.shapes[theirs] = tuple(reversed(shape)) if self._is_turned(theirs) else tuple(shape)

    def _is_turned(self, theirs: str) -> bool:
        return self.kind == "gpt2" and theirs.endswith(TURNED)

    def _names(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, int | None]]:
        ends = ends_of(self.kind)
        parts = name.split(".")
        if name in ends:
            yield ends[name], None
        elif len(parts) == 4 and parts[0] == "blk" and parts[1].isascii() and parts[1].isdigit():
            i, leaf = int(parts[1]), parts[2]
            block = blocks_of(self.kind)
            if leaf in block:
                yield layer_name(self.kind, i, f"{block[leaf]}.{parts[3]}"), None
            elif leaf in EXPERTS and len(shape) == 3 and shape[0] <= MOST_EXPERTS:
                inner = f"block_sparse_moe.experts.{{}}.{MIXTRAL[leaf]}" if self.kind == "mixtral" else f"mlp.experts.{{}}.{EXPERTS[leaf]}"
                yield from ((layer_name(self.kind, i, f"{inner.format(e)}.{parts[3]}"), e) for e in range(shape[0]))
            else:
                yield name, None
        elif name not in ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"):
            yield name, None  # not ours: the table will say so

    def __getitem__(self, theirs: str) -> Tensor:
        name, row = self.where[theirs]
        value = self.gguf.tensors[name].load()
        value = value if row is None else value[row]
        if self.turned_heads and theirs.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
            value = halves(value, self.heads["k_proj" in theirs])
        if self.kind.startswith("gemma") and theirs.endswith("norm.weight"):
            value = value - 1
        return value.t() if self._is_turned(theirs) else value

    def grid(self, theirs: str) -> Grid | None:
        """The same as the file has it, where that is codes with scales and offsets, and only rows are laid out otherwise."""
        name, row = self.where[theirs]
        grid = None if row is not None or self._is_turned(theirs) else self.gguf.tensors[name].grid()
        if grid is not None and self.turned_heads and theirs.endswith(("q_proj.weight", "k_proj.weight")):
            return grid.each(lambda part: halves(part, self.heads["k_proj" in theirs]))
        return grid

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)


def halves(w: Tensor, heads: int) -> Tensor:
    """Rows of each head from interleaved pairs (llama.cpp) to first and second halves (Hugging Face)."""
    return w.view(heads, -1, 2, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def interleaved(w: Tensor, heads: int) -> Tensor:
    """The inverse of `halves`."""
    return w.view(heads, 2, -1, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def open_gguf(path: Path) -> tuple[Foreign, dict[str, Any]]:
    """A GGUF model and its metadata. Raises FormatError for an architecture that is not known."""
    gguf = read_gguf(path)
    m = gguf.metadata
    word = m.get("general.architecture")
    if not isinstance(word, str) or word not in KINDS:
        raise FormatError(f"architecture '{str(word)[:60]}' is not supported in GGUF", where=path, remedy=suggest(str(word), KINDS))
    if m.get("split.count", 0) not in (0, 1):
        raise FormatError("the model is split over several files", where=path, remedy="merge them with llama.cpp's gguf-split")
    kind = "mixtral" if word == "llama" and m.get("llama.expert_count") else KINDS[word]
    config = config_of(gguf, kind, str(word))
    heads = (config.get("num_attention_heads", 1), config.get("num_key_value_heads", 1))
    weights = GgufWeights(gguf, kind, heads, word == "llama")
    kind, table, a, vocab, length = describe(config, path)
    if a.depth > len(gguf.tensors):
        raise FormatError(f"{a.depth} layers are claimed, {len(gguf.tensors)} tensors are there", where=path, remedy="the file is damaged")
    check_claims(a, table, vocab, weights.shapes, path)
    return Foreign(kind, table, config, a, vocab, length, weights, weights.shapes, path), m


def config_of(gguf: Gguf, kind: str, word: str) -> dict[str, Any]:
    """A config.json that says the same as GGUF's metadata."""
    m, shapes = gguf.metadata, {k: t.shape for k, t in gguf.tensors.items()}

    def key(name: str) -> Any:
        value = m.get(f"{word}.{name}")
        return value[0] if isinstance(value, list) and value and len(set(map(str, value))) == 1 else value

    embed = shapes.get("token_embd.weight", (0, 0))
    config = {
        "model_type": kind,
        "hidden_size": key("embedding_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": key("attention.head_count"),
        "intermediate_size": key("feed_forward_length"),
        "num_key_value_heads": key("attention.head_count_kv") or key("attention.head_count"),
        "max_position_embeddings": key("context_length"),
        "vocab_size": embed[0],
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
        "rope_theta": key("rope.freq_base"),
        "head_dim": key("attention.key_length"),
        "tie_word_embeddings": "output.weight" not in shapes,
        "sliding_window": key("attention.sliding_window"),
        "bos_token_id": m.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": m.get("tokenizer.ggml.eos_token_id"),
        "attention_bias": kind in ("llama", "mistral") and "blk.0.attn_q.bias" in shapes,
    }
    config |= _rope(gguf, word, config)
    if kind == "gpt2":
        config |= {
            "n_embd": config["hidden_size"],
            "n_layer": config["num_hidden_layers"],
            "n_head": config["num_attention_heads"],
            "n_inner": config["intermediate_size"],
            "n_positions": config["max_position_embeddings"],
            "layer_norm_epsilon": key("attention.layer_norm_epsilon"),
        }
    if kind in ("gemma2", "gemma3_text"):
        config |= {"query_pre_attn_scalar": key("attention.key_length") or 256}
        if kind == "gemma2":
            config |= {"attn_logit_softcapping": key("attn_logit_softcapping"), "final_logit_softcapping": key("final_logit_softcapping")}
    if kind in ("mixtral", "qwen3_moe"):
        config |= {
            "num_local_experts": key("expert_count"),
            "num_experts_per_tok": key("expert_used_count"),
            "moe_intermediate_size": key("expert_feed_forward_length"),
            "norm_topk_prob": True,
        }
    return {k: v for k, v in config.items() if v is not None}


def _rope(gguf: Gguf, word: str, config: dict[str, Any]) -> dict[str, Any]:
    """Stretched positions: factors in a tensor (Llama 3.1, Phi-3 long), or a linear or yarn factor in the metadata."""
    m, rows = gguf.metadata, {}
    for name, keys in {
        "rope_freqs.weight": ("short_factor", "long_factor"),
        "rope_factors_long.weight": ("long_factor",),
        "rope_factors_short.weight": ("short_factor",),
    }.items():
        if name in gguf.tensors:
            rows |= {k: gguf.tensors[name].load().tolist() for k in keys}
    original = m.get(f"{word}.rope.scaling.original_context_length") or config.get("max_position_embeddings")
    if len(rows) == 2:
        factor = m.get(f"{word}.rope.scaling.attn_factor", 1.0)
        return {"rope_scaling": {"rope_type": "longrope", **rows, "attention_factor": factor, "original_max_position_embeddings": original}}
    kind = m.get(f"{word}.rope.scaling.type")
    if kind in ("linear", "yarn"):
        return {
            "rope_scaling": {
                "rope_type": kind,
                "factor": m.get(f"{word}.rope.scaling.factor", 1.0),
                "original_max_position_embeddings": original,
            }
        }
    return {}


def to_gguf(kind: str, a: Architecture, state: Mapping[str, Tensor], length: int, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(metadata without the tokenizer's, tensors by GGUF's names) of a model under Hugging Face's names. Raises UsageError."""
    words = {v: k for k, v in KINDS.items()} | {"mistral": "llama"}
    if kind not in words or a.experts is not None:
        raise UsageError(f"a {kind} model cannot be written as GGUF", remedy="export it with --format hf")
    word = words[kind]
    ends, block = {v: k for k, v in ends_of(kind).items()}, {v: k for k, v in blocks_of(kind).items()}
    tensors: dict[str, Tensor] = {}
    for theirs, value in state.items():
        if theirs in ends:
            gguf = ends[theirs]
        else:
            parts = theirs.split(".")  # model.layers.3.self_attn.q_proj.weight, transformer.h.3.ln_1.weight
            gguf = f"blk.{parts[2]}.{block['.'.join(parts[3:-1])]}.{parts[-1]}"
        if (word == "llama" and ".attn_q." in gguf) or (word == "llama" and ".attn_k." in gguf):
            value = interleaved(value, a.heads if ".attn_q." in gguf else a.kv_heads)
        if kind.startswith("gemma") and gguf.endswith("norm.weight"):
            value = value + 1
        if kind == "gpt2" and theirs.endswith(TURNED):
            value = value.t()
        tensors[gguf] = value.contiguous()
    eps = "attention.layer_norm_epsilon" if kind == "gpt2" else "attention.layer_norm_rms_epsilon"
    whole = {
        "context_length": length,
        "embedding_length": a.width,
        "block_count": a.depth,
        "feed_forward_length": a.hidden,
        "attention.head_count": a.heads,
        "attention.head_count_kv": a.kv_heads,
    }
    metadata: dict[str, Any] = {"general.architecture": word, "general.name": name}
    metadata |= {f"{word}.{k}": Typed(v, "uint32") for k, v in whole.items()} | {f"{word}.{eps}": Typed(a.eps, "float32")}
    if a.rotary is not None:
        metadata |= {
            f"{word}.rope.freq_base": Typed(a.rotary.theta, "float32"),
            f"{word}.rope.dimension_count": Typed(int(a.head_width * a.rotary.share), "uint32"),
        }
        tensors |= _rope_out(metadata, word, a)
    if a.head_width * a.heads != a.width or kind.startswith(("gemma", "qwen3")):
        metadata |= {f"{word}.attention.{k}_length": Typed(a.head_width, "uint32") for k in ("key", "value")}
    if a.window:
        metadata[f"{word}.attention.sliding_window"] = Typed(a.window, "uint32")
    for key, value in {"attn_logit_softcapping": a.soft_cap, "final_logit_softcapping": a.soft_cap_logits}.items():
        if value:
            metadata[f"{word}.{key}"] = Typed(value, "float32")
    return metadata, tensors


def _rope_out(metadata: dict[str, Any], word: str, a: Architecture) -> dict[str, Tensor]:
    """Stretched positions as llama.cpp wants them. Raises UsageError for a kind it has no word for."""
    from morphogen.nets.positions import frequencies

    r = a.rotary
    assert r is not None
    if r.kind == "plain":
        return {}
    scaling = f"{word}.rope.scaling"
    if r.kind in ("linear", "yarn"):
        metadata |= {f"{scaling}.type": r.kind, f"{scaling}.factor": Typed(r.factor, "float32")}
        if r.original:
            metadata[f"{scaling}.original_context_length"] = Typed(r.original, "uint32")
        return {}
    if r.kind == "longrope" and r.long != r.short:
        metadata |= {
            f"{scaling}.original_context_length": Typed(r.original, "uint32"),
            f"{scaling}.attn_factor": Typed(r.attention, "float32"),
        }
        return {"rope_factors_long.weight": torch.tensor(r.long), "rope_factors_short.weight": torch.tensor(r.short)}
    if r.kind in ("llama3", "longrope"):
        from dataclasses import replace

        return {"rope_freqs.weight": frequencies(replace(r, kind="plain"), a.head_width, 0) / frequencies(r, a.head_width, 0)}
    raise UsageError(f"positions of kind {r.kind} have no GGUF form", remedy="export with --format hf")
