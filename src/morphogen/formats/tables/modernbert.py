"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): rotary, GeGLU, a window in two layers of three."""

from __future__ import annotations

from morphogen.formats.tables.table import ACTS, LIMITS, Facts, Name, Table, pairs, rotary
from morphogen.nets.architecture import Architecture

NAMES = (
    Name("model.embeddings.tok_embeddings.weight", ("vocabulary.weight",)),
    *pairs("", "model.", {"embeddings.norm": "embed_norm", "final_norm": "norm"}),
    *pairs(
        "layers.{i}.",
        "model.layers.{i}.",
        {
            "attn_norm": "input_layernorm",
            "attn.Wqkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
            "attn.Wo": "self_attn.o_proj",
            "mlp_norm": "post_attention_layernorm",
            "mlp.Wi": "mlp.gate_proj mlp.up_proj",
            "mlp.Wo": "mlp.down_proj",
        },
    ),
    *pairs("head.", "head.", {"dense": "dense", "norm": "norm"}),
    Name("decoder.bias", ("vocabulary.bias",)),
)


def modernbert(f: Facts) -> Architecture:
    width, heads = f.whole("hidden_size", LIMITS["width"]), f.whole("num_attention_heads", LIMITS["heads"])
    if width % heads or width // heads % 2:
        raise f.fail("num_attention_heads", f"a divisor of hidden_size {width} that leaves even heads")
    depth, bias = f.whole("num_hidden_layers", LIMITS["depth"]), f.flag("attention_bias")
    every = f.whole("global_attn_every_n_layers", 1 << 20, 3)
    layers = f.layers("layer_types", depth, "sliding_attention")
    far = Facts({**f.values, "rope_theta": f.number("global_rope_theta", 160000.0)}, f.where)
    near = Facts({**f.values, "rope_theta": f.number("local_rope_theta", 10000.0)}, f.where)
    if f.flag("classifier_bias") or (f.flag("norm_bias") != f.flag("mlp_bias") and f.flag("mlp_bias")):
        raise f.fail("classifier_bias", "ModernBERT's own choice of biases")
    return Architecture(
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        hidden=f.whole("intermediate_size", LIMITS["hidden"]),
        norm="bias" if f.flag("norm_bias") else "layer",
        head_norm="",
        act=f.one_of("hidden_activation", ACTS, "gelu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=f.flag("mlp_bias"),
        tied=f.flag("tie_word_embeddings", True),
        eps=f.number("norm_eps", 1e-5),
        rotary=rotary(far, width // heads, "full_attention"),
        local=rotary(near, width // heads, "sliding_attention"),
        window=f.whole("local_attention", 1 << 28, 128) // 2,
        windowed=tuple(i for i in range(depth) if i % every) if layers is None else layers,
        embed_norm=True,
        bare=(0,),
        head="dense",
        head_act=f.one_of("classifier_activation", ACTS, "gelu"),
        head_bias=f.flag("decoder_bias", True),
    )


TABLES = {"modernbert": Table("ModernBertForMaskedLM", "encoder", modernbert, NAMES, ignored=("decoder.weight",))}
