"""GPT-2: learned positions, LayerNorm with bias, plain GELU; matrices are stored turned and q, k, v together."""

from __future__ import annotations

from morphogen.formats.tables.table import ACTS, LIMITS, Facts, Name, Table
from morphogen.nets.architecture import Architecture

QKV = ("layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj", "layers.{i}.self_attn.v_proj")
MATRICES = {
    "attn.c_attn": QKV,
    "attn.c_proj": ("layers.{i}.self_attn.o_proj",),
    "mlp.c_fc": ("layers.{i}.mlp.up_proj",),
    "mlp.c_proj": ("layers.{i}.mlp.down_proj",),
}
NORMS = {"h.{i}.ln_1": "layers.{i}.input_layernorm", "h.{i}.ln_2": "layers.{i}.post_attention_layernorm", "ln_f": "norm"}
NAMES = (
    Name("transformer.wte.weight", ("vocabulary.weight",)),
    Name("transformer.wpe.weight", ("position.weight",)),
    Name("lm_head.weight", ("vocabulary.head",)),
    *(Name(f"transformer.{a}.{end}", (f"{b}.{end}",)) for a, b in NORMS.items() for end in ("weight", "bias")),
    *(Name(f"transformer.h.{{i}}.{a}.weight", tuple(f"{o}.weight" for o in b), turned=True) for a, b in MATRICES.items()),
    *(Name(f"transformer.h.{{i}}.{a}.bias", tuple(f"{o}.bias" for o in b)) for a, b in MATRICES.items()),
)


def gpt2(f: Facts) -> Architecture:
    width, heads = f.whole("n_embd", LIMITS["width"]), f.whole("n_head", LIMITS["heads"])
    if width % heads:
        raise f.fail("n_head", f"a divisor of n_embd {width}")
    if not f.flag("scale_attn_weights", True) or f.flag("scale_attn_by_inverse_layer_idx"):
        raise f.fail("scale_attn_weights", "GPT-2's own scaling")
    return Architecture(
        width=width,
        depth=f.whole("n_layer", LIMITS["depth"]),
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        hidden=f.whole("n_inner", LIMITS["hidden"], 4 * width),
        norm="bias",
        head_norm="",
        gated=False,
        act=f.one_of("activation_function", ACTS, "gelu_new"),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        rotary=None,
        eps=f.number("layer_norm_epsilon", 1e-5),
        learned=f.whole("n_positions", LIMITS["length"]),
        tied=f.flag("tie_word_embeddings", True),
    )


TABLES = {"gpt2": Table("GPT2LMHeadModel", "decoder", gpt2, NAMES, prefix="transformer.", ignored=("attn.bias", "attn.masked_bias"))}
