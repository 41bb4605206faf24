"""Mixtral and Qwen3-MoE: experts in place of the MLP; files hold each expert by itself."""
from __future__ import annotations

from dataclasses import replace

from morphogen.formats.tables.llama import ENDS, mistral, qwen3
from morphogen.formats.tables.table import Facts, Name, Table, same
from morphogen.nets.architecture import Architecture, Experts

ATTENTION = (
    *ENDS,
    *same("layers.{i}.", "model.layers.{i}.", "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"),
    *same("layers.{i}.", "model.layers.{i}.", "self_attn.q_norm self_attn.k_norm input_layernorm post_attention_layernorm", "weight"),
)


def _experts(block: str, router: str, words: tuple[str, str, str]) -> tuple[Name, ...]:
    """`gate up down` of each expert; one of ours is a row of a stacked parameter."""
    ours = ("gate_proj", "up_proj", "down_proj")
    return (Name(f"model.layers.{{i}}.{block}.{router}.weight", ("layers.{i}.mlp.router.weight",)),
            *(Name(f"model.layers.{{i}}.{block}.experts.{{e}}.{w}.weight", (f"layers.{{i}}.mlp.{o}[{{e}}]",)) for w, o in zip(words, ours)))


def mixtral(f: Facts) -> Architecture:
    a = mistral(f)
    e = Experts(count=f.whole("num_local_experts", 4096, 8), chosen=f.whole("num_experts_per_tok", 4096, 2), hidden=a.hidden,
                layers=tuple(range(a.depth)))
    return replace(a, experts=_checked(f, e))


def qwen3_moe(f: Facts) -> Architecture:
    a = qwen3(f)
    plain, every = f.values.get("mlp_only_layers") or [], f.whole("decoder_sparse_step", 1 << 20, 1)
    e = Experts(count=f.whole("num_experts", 4096, f.whole("num_local_experts", 4096, 128)), chosen=f.whole("num_experts_per_tok", 4096, 8),
                hidden=f.whole("moe_intermediate_size", 1 << 20, 768), normed=f.flag("norm_topk_prob"),
                layers=tuple(i for i in range(a.depth) if i not in plain and (i + 1) % every == 0))
    return replace(a, experts=_checked(f, e))


def _checked(f: Facts, e: Experts) -> Experts:
    if e.chosen > e.count:
        raise f.fail("num_experts_per_tok", f"at most the {e.count} experts")
    return e


QWEN = (*ATTENTION, *_experts("mlp", "gate", ("gate_proj", "up_proj", "down_proj")),
        *same("layers.{i}.", "model.layers.{i}.", "mlp.gate_proj mlp.up_proj mlp.down_proj", "weight"))
TABLES = {
    "mixtral": Table("MixtralForCausalLM", "decoder", mixtral, (*ATTENTION, *_experts("block_sparse_moe", "gate", ("w1", "w3", "w2")))),
    "qwen3_moe": Table("Qwen3MoeForCausalLM", "decoder", qwen3_moe, QWEN),
}
