"""OLMo 2: norms on the outputs of branches, and over all queries and keys together (arXiv 2501.00656)."""
from __future__ import annotations

from morphogen.formats.tables.llama import ENDS
from morphogen.formats.tables.table import Facts, Table, decoder, pairs, same
from morphogen.nets.architecture import Architecture

NAMES = (
    *ENDS,
    *same("layers.{i}.", "model.layers.{i}.",
          "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"),
    *same("layers.{i}.", "model.layers.{i}.", "self_attn.q_norm self_attn.k_norm", "weight"),
    *pairs("layers.{i}.", "model.layers.{i}.", {"post_attention_layernorm": "attn_out_norm", "post_feedforward_layernorm": "mlp_out_norm"},
           "weight"),
)


def olmo2(f: Facts) -> Architecture:
    bias = f.flag("attention_bias")
    return Architecture(**{**decoder(f), "head_norm": "whole"}, order="after", qkv_bias=bias, out_bias=bias)


TABLES = {"olmo2": Table("Olmo2ForCausalLM", "decoder", olmo2, NAMES)}
