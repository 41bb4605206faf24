"""Gemma 2 and 3 (text): norms before and after branches, weights added to 1, scaled embeddings, windows in most layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from morphogen.formats.tables.llama import ENDS
from morphogen.formats.tables.table import Facts, Table, decoder, pairs, rotary, same
from morphogen.nets.architecture import Architecture

NAMES = (
    *ENDS,
    *same(
        "layers.{i}.",
        "model.layers.{i}.",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj",
    ),
    *same("layers.{i}.", "model.layers.{i}.", "self_attn.q_norm self_attn.k_norm input_layernorm", "weight"),
    *pairs(
        "layers.{i}.",
        "model.layers.{i}.",
        {
            "post_attention_layernorm": "attn_out_norm",
            "pre_feedforward_layernorm": "post_attention_layernorm",
            "post_feedforward_layernorm": "mlp_out_norm",
        },
        "weight",
    ),
)


def common(f: Facts) -> dict[str, Any]:
    values = dict(f.values)
    values.setdefault("hidden_act", values.get("hidden_activation") or "gelu_pytorch_tanh")
    values.setdefault("tie_word_embeddings", True)
    values.setdefault("head_dim", 256)
    fields = decoder(Facts(values, f.where))
    bias = f.flag("attention_bias")
    return {
        **fields,
        "norm": "rms1",
        "order": "both",
        "qkv_bias": bias,
        "out_bias": bias,
        "embed_scale": fields["width"] ** 0.5,
        "scale": f.number("query_pre_attn_scalar", 256.0) ** -0.5,
        "window": f.whole("sliding_window", 1 << 28, 4096),
        "soft_cap": f.number("attn_logit_softcapping", 0.0),
        "soft_cap_logits": f.number("final_logit_softcapping", 0.0),
    }


def gemma2(f: Facts) -> Architecture:
    if "attn_logit_softcapping" not in f.values:  # absent is the default, null is off
        f = Facts({**f.values, "attn_logit_softcapping": 50.0}, f.where)
    if "final_logit_softcapping" not in f.values:
        f = Facts({**f.values, "final_logit_softcapping": 30.0}, f.where)
    a = Architecture(**common(f))
    layers = f.layers("layer_types", a.depth, "sliding_attention")
    return replace(a, windowed=tuple(range(0, a.depth, 2)) if layers is None else layers)


def gemma3(f: Facts) -> Architecture:
    fields = {**common(f), "head_norm": "head"}
    head = fields["head_width"]
    far = rotary(f, head, "full_attention", 1_000_000.0)
    local = f.number("rope_local_base_freq", 10000.0)
    near = rotary(
        Facts({"rope_parameters": f.values.get("rope_parameters"), "rope_theta": local}, f.where), head, "sliding_attention", local
    )
    a = Architecture(**{**fields, "rotary": far, "local": near})
    layers = f.layers("layer_types", a.depth, "sliding_attention")
    every = f.whole("sliding_window_pattern", 1 << 20, 6)
    return replace(a, windowed=tuple(i for i in range(a.depth) if (i + 1) % every) if layers is None else layers)


TABLES = {
    "gemma2": Table("Gemma2ForCausalLM", "decoder", gemma2, NAMES),
    "gemma3_text": Table("Gemma3ForCausalLM", "decoder", gemma3, NAMES),
}
TABLES["gemma3"] = TABLES["gemma3_text"]
