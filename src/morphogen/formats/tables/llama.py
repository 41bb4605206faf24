"""Llama 2 and 3, Mistral, Qwen 2, 2.5 and 3, SmolLM 2 and 3: one block, small differences."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from morphogen.formats.tables.table import Facts, Name, Table, decoder, same
from morphogen.nets.architecture import Architecture, Rotary

ENDS = (Name("model.embed_tokens.weight", ("vocabulary.weight",)), Name("lm_head.weight", ("vocabulary.head",)),
        Name("model.norm.weight", ("norm.weight",)))
NAMES = (
    *ENDS,
    *same("layers.{i}.", "model.layers.{i}.",
          "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"),
    *same("layers.{i}.", "model.layers.{i}.", "self_attn.q_norm self_attn.k_norm input_layernorm post_attention_layernorm", "weight"),
)


def llama(f: Facts) -> Architecture:
    bias = f.flag("attention_bias")
    return Architecture(**decoder(f), qkv_bias=bias, out_bias=bias, mlp_bias=f.flag("mlp_bias"))


def mistral(f: Facts) -> Architecture:
    a = Architecture(**decoder(f))
    window = f.whole("sliding_window", 1 << 28, 0)
    return replace(a, window=window, windowed=tuple(range(a.depth))) if window else a


def _some_windows(f: Facts, a: Architecture) -> Architecture:
    """Qwen: windows only where asked, from a given layer on."""
    if not f.flag("use_sliding_window") or "sliding_window" not in f:
        return a
    layers = f.layers("layer_types", a.depth, "sliding_attention")
    if layers is None:
        layers = tuple(range(f.whole("max_window_layers", 1 << 20, 28, 0), a.depth))
    return replace(a, window=f.whole("sliding_window", 1 << 28), windowed=layers)


def qwen2(f: Facts) -> Architecture:
    return _some_windows(f, Architecture(**decoder(f), qkv_bias=True))


def qwen3(f: Facts) -> Architecture:
    bias = f.flag("attention_bias")
    a = Architecture(**{**decoder(f), "head_norm": "head"}, qkv_bias=bias, out_bias=bias)
    return _some_windows(f, a)


def smollm3(f: Facts) -> Architecture:
    a = llama(f)
    turning, every = f.values.get("no_rope_layers"), f.whole("no_rope_layer_interval", 1 << 20, 4)
    if isinstance(turning, list) and len(turning) == a.depth:  # 1 = with rotary positions, whatever the key's name says
        still = tuple(i for i, on in enumerate(turning) if not on)
    else:
        still = tuple(i for i in range(a.depth) if (i + 1) % every == 0)
    return _some_windows(f, replace(a, still=still))


def write(a: Architecture) -> dict[str, Any]:
    """The fields of a config.json that follow from an Architecture, for models that were not read from one."""
    values: dict[str, Any] = {
        "hidden_size": a.width, "num_hidden_layers": a.depth, "num_attention_heads": a.heads, "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_width, "intermediate_size": a.hidden, "hidden_act": a.act, "rms_norm_eps": a.eps,
        "tie_word_embeddings": a.tied, "attention_bias": a.qkv_bias and a.out_bias, "mlp_bias": a.mlp_bias, "torch_dtype": "float32",
    }
    r = a.rotary or Rotary()
    values["rope_theta"] = r.theta
    if r.kind == "llama3":
        values["rope_scaling"] = {"rope_type": "llama3", "factor": r.factor, "low_freq_factor": r.low, "high_freq_factor": r.high,
                                  "original_max_position_embeddings": r.original}
    elif r.kind in ("linear", "dynamic"):
        values["rope_scaling"] = {"rope_type": r.kind, "factor": r.factor}
    return values


TABLES = {
    "llama": Table("LlamaForCausalLM", "decoder", llama, NAMES, write),
    "mistral": Table("MistralForCausalLM", "decoder", mistral, NAMES, write),
    "qwen2": Table("Qwen2ForCausalLM", "decoder", qwen2, NAMES, write),
    "qwen3": Table("Qwen3ForCausalLM", "decoder", qwen3, NAMES, write),
    "smollm3": Table("SmolLM3ForCausalLM", "decoder", smollm3, NAMES),
}
