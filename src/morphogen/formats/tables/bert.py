"""BERT, RoBERTa, DistilBERT: norms after the sum, learned positions, plain GELU; and sentence encoders built on them."""
from __future__ import annotations

from collections.abc import Callable

from morphogen.formats.tables.table import ACTS, LIMITS, Facts, Name, Table, pairs
from morphogen.nets.architecture import Architecture

IGNORED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias", "seq_relationship.weight", "seq_relationship.bias",
           "predictions.decoder.weight", "predictions.decoder.bias", "lm_head.decoder.weight", "lm_head.decoder.bias")
BLOCK = {
    "attention.self.query": "self_attn.q_proj", "attention.self.key": "self_attn.k_proj", "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj", "attention.output.LayerNorm": "input_layernorm",
    "intermediate.dense": "mlp.up_proj", "output.dense": "mlp.down_proj", "output.LayerNorm": "post_attention_layernorm",
}
DISTIL = {
    "attention.q_lin": "self_attn.q_proj", "attention.k_lin": "self_attn.k_proj", "attention.v_lin": "self_attn.v_proj",
    "attention.out_lin": "self_attn.o_proj", "sa_layer_norm": "input_layernorm",
    "ffn.lin1": "mlp.up_proj", "ffn.lin2": "mlp.down_proj", "output_layer_norm": "post_attention_layernorm",
}


def _names(prefix: str, layers: str, block: dict[str, str], head: dict[str, str], bias: str) -> tuple[Name, ...]:
    table = f"{prefix}embeddings."
    return (
        Name(f"{table}word_embeddings.weight", ("vocabulary.weight",)), Name(f"{table}position_embeddings.weight", ("position.weight",)),
        Name(f"{table}token_type_embeddings.weight", ("types.weight",)),
        *pairs("", table, {"LayerNorm": "embed_norm"}),
        *pairs("layers.{i}.", f"{prefix}{layers}.{{i}}.", block), *pairs("head.", "", head), Name(bias, ("vocabulary.bias",)),
    )


def _encoder(keys: dict[str, str], offset: int) -> Callable[[Facts], Architecture]:
    """`keys`: where this kind keeps width, depth, heads, hidden, act."""

    def read(f: Facts) -> Architecture:
        width, heads = f.whole(keys["width"], LIMITS["width"]), f.whole(keys["heads"], LIMITS["heads"])
        if width % heads:
            raise f.fail(keys["heads"], f"a divisor of the width {width}")
        if f.values.get("position_embedding_type", "absolute") not in ("absolute", None):
            raise f.fail("position_embedding_type", "absolute")
        act = f.one_of(keys["act"], ACTS, "gelu")
        return Architecture(
            width=width, depth=f.whole(keys["depth"], LIMITS["depth"]), heads=heads, kv_heads=heads, head_width=width // heads,
            hidden=f.whole(keys["hidden"], LIMITS["hidden"]), norm="bias", order="post", head_norm="", act=act, gated=False, qkv_bias=True,
            out_bias=True, mlp_bias=True, rotary=None, eps=f.number("layer_norm_eps", 1e-12), embed_norm=True, last_norm=False,
            learned=f.whole("max_position_embeddings", LIMITS["length"]), offset=offset,
            types=f.whole("type_vocab_size", 1 << 16, 0, 0), head="dense", head_act="gelu" if offset else act, head_bias=True,
        )

    return read


BERT = {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads", "hidden": "intermediate_size",
        "act": "hidden_act"}
SMALL = {"width": "dim", "depth": "n_layers", "heads": "n_heads", "hidden": "hidden_dim", "act": "activation"}
TABLES = {
    "bert": Table("BertForMaskedLM", "encoder", _encoder(BERT, 0),
                  _names("bert.", "encoder.layer", BLOCK, {"cls.predictions.transform.dense": "dense",
                                                          "cls.predictions.transform.LayerNorm": "norm"}, "cls.predictions.bias"),
                  prefix="bert.", ignored=IGNORED),
    "roberta": Table("RobertaForMaskedLM", "encoder", _encoder(BERT, 2),
                     _names("roberta.", "encoder.layer", BLOCK, {"lm_head.dense": "dense", "lm_head.layer_norm": "norm"}, "lm_head.bias"),
                     prefix="roberta.", ignored=IGNORED),
    "distilbert": Table("DistilBertForMaskedLM", "encoder", _encoder(SMALL, 0),
                        _names("distilbert.", "transformer.layer", DISTIL, {"vocab_transform": "dense", "vocab_layer_norm": "norm"},
                               "vocab_projector.bias"),
                        prefix="distilbert.", ignored=(*IGNORED, "vocab_projector.weight")),
}
TABLES["xlm-roberta"] = TABLES["roberta"]
