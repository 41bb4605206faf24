"""Tiny language models on disk: random weights, real tokenizers, a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "a small model writes small words",
    "naïve café — 東京 \U0001f600",
    "def f(x):\n    return x + 1\n",
] * 20
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(folder: Path, kind: str = "bpe") -> int:
    """tokenizer.json and tokenizer_config.json; returns how many ids there are."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if kind == "bpe":
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.decoder = decoders.ByteLevel()
        special = ["<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
        t.train_from_iterator(
            TEXT,
            trainers.BpeTrainer(
                vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
            ),
        )
        config |= {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": TEMPLATE}
    elif kind == "wordpiece":
        t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        t.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False))
        t.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
        t.decoder = decoders.WordPiece()
        config |= {f"{n.strip('[]').lower()}_token": n for n in names}
    else:
        t = Tokenizer(models.Unigram())
        t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        t.train_from_iterator(
            TEXT, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
        )
        t.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
        config |= {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    t.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return t.get_vocab_size()


def checkpoint(folder: Path, kind: str = "Llama", cls: str = "LlamaForCausalLM", tok: str = "bpe", **values: Any) -> Any:
    """A random model of `kind` with a tokenizer beside it; returns the transformers model."""
    import transformers

    size = tokenizer(folder, tok)
    base = {
        "vocab_size": size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 160,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    config = getattr(transformers, f"{kind}Config")(**{**base, **values})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, cls)(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.15 if p.ndim > 1 else p + torch.randn_like(p) * 0.1)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, checkpoint(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("bert")
    drop = dict.fromkeys(("bos_token_id", "eos_token_id"))
    return folder, checkpoint(folder, "Bert", "BertForMaskedLM", "wordpiece", pad_token_id=0, **drop)


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("t5")
    size = {
        "d_model": 64,
        "d_ff": 96,
        "d_kv": 16,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "gated-gelu",
    }
    return folder, checkpoint(folder, "T5", "T5ForConditionalGeneration", "unigram", pad_token_id=0, **size)
