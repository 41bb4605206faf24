"""Seeded strings of every sort, and tiny tokenizers of every kind trained on them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

TEXT = """the of and to in is it you that he was for on are with as his they at be this from have or by one had not but what all were
tokenizer's
don't I'll we've HTTPServer camelCase snake_case naïve café Zürich straße привет мир шрифт 日本語 漢字 中文 测试 한국어 नमस्ते שלום مرحبا ไทย
ελληνικά 😀 👨‍👩‍👧 🇩🇪 ✅ ½ ² Ⅷ 3.14 1,000 2024-01-02 x=1; def f(a): return a+1 https://a.b/c?d=e#f #! /* */ </b> && || != == -> ::"""
WORDS = TEXT.split()
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCXYZ abc",
    "0123456789 .,",
    " \t\n\r",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "äöüßéèñçøåÅİıſK",
    "日本語漢字中文测试的一是不了人我在有他这",
    "ひらがなカタカナー。、「」",
    "가나다라마한국어",
    "абвгдежзийклмн",
    "אבגדה",
    "ابتثج",
    "กขคงจ",
    "😀😃🎉👍🏽👨‍👩‍👧🇩🇪❤️",
    "\u0300\u0301\u0308\u0323aeiou",
    "\x00\x01\x07\x08\x0b\x0c\x1b\x1c\x1d\x1e\x1f\x7f\x80\x85\x9f",
    "\u00a0\u2000\u2003\u2028\u2029\u3000\u200b\u200d\ufeff",
    "½²³Ⅷ٣४①",
    "\U0001d400\U00020000\U000e0041\ufffd",
    "ﬀﬁ㎏ｱｶﾞＡＢ１",
)


def strings(count: int, seed: int = 0) -> list[str]:
    """Words, letters of every script, controls, white space, emoji; alone and mixed; short and long."""
    rng = random.Random(seed)
    found = ["", " ", "  ", "\n", "\t", " a", "a ", "  a  b  ", "\x00", "▁", "▁a ▁", "##a", "a" * 300, " " * 300, "😀" * 50]
    while len(found) < count:
        sort = rng.random()
        if sort < 0.4:
            text = rng.choice((" ", "  ", "", "\n", "\n\n", " \t")).join(rng.choices(WORDS, k=rng.randrange(1, 12)))
        elif sort < 0.7:
            text = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(1, 20)))
        else:
            text = "".join("".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(1, 6))) for _ in range(rng.randrange(1, 8)))
        found.append(text)
    return found


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=14)) for _ in range(600)] + strings(400, 2)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return strings(10_000, 3)


def save(folder: Path, tokenizer, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def bytes_bpe(tmp_path_factory, corpus) -> Path:
    """SmolLM's arrangement: digits apart, GPT-2's pattern, special tokens first; one ordinary added token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.add_tokens(["<think>"])
    return save(
        tmp_path_factory.mktemp("tokens") / "bpe",
        tokenizer,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        tokenizer_class="PreTrainedTokenizerFast",
    )


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory, corpus) -> Path:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    roles = {f"{r}_token": f"[{r.upper()}]" for r in ("pad", "unk", "cls", "sep", "mask")}
    return save(tmp_path_factory.mktemp("tokens") / "wordpiece", tokenizer, do_lower_case=True, tokenizer_class="BertTokenizer", **roles)


def sentencepiece_model(corpus, **options) -> bytes:
    import io

    import sentencepiece

    model = io.BytesIO()
    lines = [t.replace("\n", " ").replace("\r", " ").replace("\0", " ") for t in corpus]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, minloglevel=2, num_threads=1, **options)
    return model.getvalue()


SPM = {
    "bpe": {
        "model_type": "bpe",
        "vocab_size": 900,
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
    },
    "bpe_bare": {
        "model_type": "bpe",
        "vocab_size": 600,
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<tool>", "\t\t"],
    },
    "unigram": {"model_type": "unigram", "hard_vocab_limit": False, "vocab_size": 600, "character_coverage": 0.98},
    "unigram_bytes": {
        "model_type": "unigram",
        "hard_vocab_limit": False,
        "vocab_size": 800,
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "nfkc",
    },
    "unigram_symbols": {
        "model_type": "unigram",
        "hard_vocab_limit": False,
        "vocab_size": 600,
        "character_coverage": 0.98,
        "split_by_whitespace": False,
        "user_defined_symbols": ["<tool>", "\t\t", "aa", "ab cd"],
        "normalization_rule_name": "nmt_nfkc_cf",
    },
}


@pytest.fixture(scope="session", params=sorted(SPM))
def spm(request, tmp_path_factory, corpus) -> Path:
    path = tmp_path_factory.mktemp("tokens") / request.param / "tokenizer.model"
    path.parent.mkdir()
    path.write_bytes(sentencepiece_model(corpus, **SPM[request.param]))
    return path


@pytest.fixture
def unigram_bytes():
    """Makes a small sentencepiece model of one's own."""
    lines = ["the cat sat on a mat by the sea", "abc a b c x y yes no", "a cab came by the bay"] * 20

    def make(**options) -> bytes:
        return sentencepiece_model(lines, model_type="unigram", vocab_size=60, hard_vocab_limit=False, **options)

    return make


@pytest.fixture
def plain_unigram(tmp_path, unigram_bytes) -> Path:
    """A folder with a model whose normalisation has rules that begin outside ASCII and end in it."""
    rules = tmp_path / "rules.tsv"
    rules.write_text("E9 61\t78\nE9 62 63\t79 79\n")  # "éa" is written x, "ébc" yy
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(unigram_bytes(normalization_rule_tsv=str(rules)))
    return folder
