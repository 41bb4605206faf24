"""Undamaged model files for `benchmarks.fuzz_formats` (weights, configurations, tokenizers), and how the package reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROSE = "The quick brown fox jumps over the lazy dog. Naïve café — 東京 \U0001f600; 12 of 30 (40 %).\n"


def weights() -> dict[str, Any]:
    import torch

    g = torch.Generator().manual_seed(0)
    out = {f"blk.{i}.{n}.weight": torch.randn(64, 256, generator=g) for i in range(6) for n in ("attn_q", "ffn_up")}
    return out | {"norm.weight": torch.ones(256), "half.weight": torch.randn(64, 256, generator=g).bfloat16()}


def safetensors(place: Path) -> list[tuple[Path, str]]:
    from morphogen.formats.shards import write_shards

    write_shards(place, weights())
    return [(place, "model.safetensors")]


def use_safetensors(path: Path) -> None:
    from morphogen.formats.shards import Shards

    for tensor in Shards(path).values():
        tensor.sum()


def gguf(place: Path) -> list[tuple[Path, str]]:
    from morphogen.formats.gguf import write_gguf

    kinds = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.block_count": 6,
        "llama.eps": 1e-5,
        "flag": True,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(200)],
        "tokenizer.ggml.scores": [i / 2 for i in range(200)],
        "tokenizer.ggml.token_type": [1] * 200,
        "tokenizer.chat_template": "{{ messages }}",
    }
    place.mkdir(parents=True)
    write_gguf(place / "a.gguf", metadata, {k: (v, kinds[i % 6]) for i, (k, v) in enumerate(weights().items())})
    return [(place, "a.gguf")]


def use_gguf(path: Path) -> None:
    from morphogen.formats.gguf import read_gguf

    for tensor in read_gguf(path).tensors.values():
        tensor.load()


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 300,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}


def checkpoint(name: str) -> Callable[[Path], list[tuple[Path, str]]]:
    """A Hugging Face folder of a tiny Llama; the file called `name` gets damaged."""

    def make(place: Path) -> list[tuple[Path, str]]:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        from morphogen.formats.shards import write_shards

        t = Tokenizer(models.BPE())
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        t.train_from_iterator([PROSE] * 20, trainer)
        place.mkdir(parents=True)
        t.save(str(place / "tokenizer.json"))
        sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (t.get_vocab_size(), 32), "model.norm.weight": (32,)}
        for i in range(2):
            at = f"model.layers.{i}."
            sizes |= {
                at + "self_attn.q_proj.weight": (32, 32),
                at + "self_attn.k_proj.weight": (16, 32),
                at + "mlp.down_proj.weight": (32, 48),
                at + "self_attn.v_proj.weight": (16, 32),
                at + "self_attn.o_proj.weight": (32, 32),
                at + "input_layernorm.weight": (32,),
                at + "mlp.gate_proj.weight": (48, 32),
                at + "mlp.up_proj.weight": (48, 32),
                at + "post_attention_layernorm.weight": (32,),
            }
        write_shards(place, {k: torch.full(shape, 0.1) for k, shape in sizes.items()})
        config = {**CONFIG, "vocab_size": t.get_vocab_size()}
        (place / "config.json").write_text(json.dumps(config))
        (place / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "top_k": 20, "do_sample": True, "eos_token_id": [1]}))
        side = {
            "bos_token": "<s>",
            "eos_token": {"content": "</s>"},
            "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        }
        (place / "tokenizer_config.json").write_text(json.dumps({**side, "tokenizer_class": "PreTrainedTokenizerFast"}))
        return [(place, name)]

    return make


def use_checkpoint(path: Path) -> None:
    from morphogen.language.source import open_source

    source = open_source(path.parent)
    source.net()
    source.tokenizer.text(source.tokenizer.encode(PROSE))


def use_tokenizer(path: Path) -> None:
    from morphogen.tokens.load import load_tokenizer

    tokenizer = load_tokenizer(path)
    tokenizer.text(tokenizer.encode(PROSE + "<s>"))
