"""Tiny random checkpoints of every architecture, made by transformers: (class, config) by a name of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 16,
}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "llama2": ("Llama", {**COMMON, "tie_word_embeddings": False}),
    "llama3": ("Llama", {**COMMON, "rope_parameters": LLAMA3}),
    "llama-linear": ("Llama", {**COMMON, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "llama-dynamic": (
        "Llama",
        {**COMMON, "max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "llama-yarn": (
        "Llama",
        {**COMMON, "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}},
    ),
    "llama-biases": ("Llama", {**COMMON, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "mistral": ("Mistral", {**COMMON, "sliding_window": 8}),
    "qwen2": ("Qwen2", {**COMMON, "tie_word_embeddings": True}),
    "qwen2-windows": ("Qwen2", {**COMMON, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**COMMON, "head_dim": 16}),
    "smollm3": ("SmolLM3", {**COMMON, "no_rope_layer_interval": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "phi3": ("Phi3", {**COMMON, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": 40}),
    "phi3-long": (
        "Phi3",
        {
            **COMMON,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": LONG,
            "original_max_position_embeddings": 16,
        },
    ),
    "olmo2": ("Olmo2", {**COMMON, "pad_token_id": 0}),
    "gemma2": ("Gemma2", {**COMMON, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20}),
    "gemma3": ("Gemma3", {**COMMON, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20, "num_hidden_layers": 7}),
    "mixtral": ("Mixtral", {**COMMON, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3-moe": (
        "Qwen3Moe",
        {
            **COMMON,
            "head_dim": 16,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [],
        },
    ),
}
BERT = {**{k: v for k, v in COMMON.items() if k != "num_key_value_heads"}, "pad_token_id": 0}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", {**BERT, "pad_token_id": 1}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 97, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    ),
    "modernbert": (
        "ModernBert",
        {**BERT, "local_attention": 8, "num_hidden_layers": 4, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
}
T5 = {
    "vocab_size": 97,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {**T5, "feed_forward_proj": "relu"}),
    "flan-t5": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}
SUFFIX = {
    "GPT2": "LMHeadModel",
    **{k: "ForMaskedLM" for k, _ in ENCODERS.values()},
    **{k: "ForConditionalGeneration" for k, _ in SEQ2SEQ.values()},
}


def make(name: str, folder: Path | None = None) -> Any:
    """The transformers model, with weights far from their gentle start; saved to `folder` when one is given."""
    import transformers

    kind, values = {**DECODERS, **ENCODERS, **SEQ2SEQ}[name]
    words = {"Gemma3": "Gemma3TextConfig"}
    config = getattr(transformers, words.get(kind, f"{kind}Config"))(**values)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, kind + SUFFIX.get(kind, "ForCausalLM"))(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn_like(p) * 0.15)
            else:
                p.add_(torch.randn_like(p) * 0.1)
    if folder is not None:
        model.save_pretrained(folder)
    return model
