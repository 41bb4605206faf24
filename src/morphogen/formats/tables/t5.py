"""T5, Flan-T5, mT5: RMSNorm, a bias by distance in place of positions, no scaling of scores, no biases."""

from __future__ import annotations

from morphogen.formats.tables.table import ACTS, LIMITS, Facts, Name, Table, pairs
from morphogen.nets.architecture import Architecture


def _block(ours: str, theirs: str, mlp: int) -> list[Name]:
    part = f"{theirs}.block.{{i}}.layer"
    layer = f"{ours}.layers.{{i}}."
    attention = {f"{x}": f"{x}_proj" for x in "qkvo"}
    names = [
        Name(f"{theirs}.final_layer_norm.weight", (f"{ours}.norm.weight",)),
        Name(f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (f"{ours}.distance.weight",)),
        *pairs(f"{layer}self_attn.", f"{part}.0.SelfAttention.", attention, "weight"),
        *pairs(layer, f"{part}.", {"0.layer_norm": "input_layernorm", f"{mlp}.layer_norm": "post_attention_layernorm"}, "weight"),
        *pairs(f"{layer}mlp.", f"{part}.{mlp}.DenseReluDense.", {"wi_0": "gate_proj", "wo": "down_proj"}, "weight"),
        Name(f"{part}.{mlp}.DenseReluDense.wi_1.weight", (f"{layer}mlp.up_proj.weight",), beside=f"{layer}mlp.gate_proj.weight"),
        Name(f"{part}.{mlp}.DenseReluDense.wi.weight", (f"{layer}mlp.up_proj.weight",), beside=f"!{layer}mlp.gate_proj.weight"),
    ]
    if mlp == 2:
        names += pairs(f"{layer}cross_attn.", f"{part}.1.EncDecAttention.", attention, "weight")
        names += pairs(layer, f"{part}.", {"1.layer_norm": "cross_layernorm"}, "weight")
    return names


NAMES = (
    Name("shared.weight", ("decoder.vocabulary.weight",)),
    Name("lm_head.weight", ("decoder.vocabulary.head",)),
    *_block("encoder", "encoder", 1),
    *_block("decoder", "decoder", 2),
)


def t5(f: Facts) -> Architecture:
    """T5 scales what its logits read where the table is shared; version 1.1 and Flan do not."""
    width, tied = f.whole("d_model", LIMITS["width"]), f.flag("tie_word_embeddings", True)
    words = f.values.get("feed_forward_proj", "relu")
    gated = isinstance(words, str) and words.startswith("gated-")
    act = str(words).removeprefix("gated-")
    if gated and act == "gelu":  # T5 1.1 says gelu and means the tanh approximation
        act = "gelu_new"
    if act not in ACTS:
        raise f.fail("feed_forward_proj", "one of relu, gated-gelu, gated-silu")
    scaled = f.flag("scale_decoder_outputs", tied and f.values.get("model_type") == "t5")
    heads = f.whole("num_heads", LIMITS["heads"])
    return Architecture(
        width=width,
        depth=f.whole("num_layers", LIMITS["depth"]),
        heads=heads,
        kv_heads=heads,
        head_width=f.whole("d_kv", LIMITS["width"]),
        hidden=f.whole("d_ff", LIMITS["hidden"]),
        head_norm="",
        act=ACTS[act],
        gated=gated,
        tied=tied,
        eps=f.number("layer_norm_epsilon", 1e-6),
        rotary=None,
        scale=1.0,
        logit_scale=width**-0.5 if scaled else 1.0,
        relative=(f.whole("relative_attention_num_buckets", 1 << 16, 32, 4), f.whole("relative_attention_max_distance", 1 << 20, 128)),
    )


def mend(a: Architecture) -> dict[str, bool]:
    """transformers 5 reads from this key alone whether the decoder's outputs are scaled."""
    return {"tie_word_embeddings": a.logit_scale != 1.0}


IGNORED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
TABLES = {
    "t5": Table(
        "T5ForConditionalGeneration", "seq2seq", t5, NAMES, ignored=IGNORED, prefix="", extra={"depth": "num_decoder_layers"}, mend=mend
    ),
    "mt5": Table("MT5ForConditionalGeneration", "seq2seq", t5, NAMES, ignored=IGNORED, prefix="", extra={"depth": "num_decoder_layers"}),
}
