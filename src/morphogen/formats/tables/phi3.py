"""Phi-3: Llama's block with queries, keys and values in one matrix, gate and up in another."""
from __future__ import annotations

from dataclasses import replace

from morphogen.formats.tables.llama import ENDS
from morphogen.formats.tables.table import Facts, Table, decoder, pairs, same
from morphogen.nets.architecture import Architecture

NAMES = (
    *ENDS,
    *same("layers.{i}.", "model.layers.{i}.", "self_attn.o_proj mlp.down_proj input_layernorm post_attention_layernorm", "weight"),
    *pairs("layers.{i}.", "model.layers.{i}.", {"self_attn.qkv_proj": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
                                                "mlp.gate_up_proj": "mlp.gate_proj mlp.up_proj"}, "weight"),
)


def phi3(f: Facts) -> Architecture:
    a = Architecture(**decoder(f))
    window = f.whole("sliding_window", 1 << 28, 0)
    return replace(a, window=window, windowed=tuple(range(a.depth))) if window else a


TABLES = {"phi3": Table("Phi3ForCausalLM", "decoder", phi3, NAMES)}
