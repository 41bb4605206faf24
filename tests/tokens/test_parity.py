"""The same ids as the originals, on ten thousand strings a kind; and nothing in a text becomes a special token."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.tokens.load import from_gguf, load_tokenizer


def differ(ours, theirs, texts) -> list[str]:
    return [t for t, a, b in zip(texts, ours, theirs, strict=True) if list(a) != list(b)]


def transformers_of(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def no_loaded_special(tokenizer, text: str) -> None:
    marked = "".join(f"x{name} {name}{name}" for name in tokenizer.special)
    special = set(tokenizer.special.values())
    assert not special & set(tokenizer.ids(marked + text)) - ({tokenizer.unk} if tokenizer.unk is not None else set())


def test_byte_level_as_transformers(bytes_bpe, texts) -> None:
    theirs = transformers_of(bytes_bpe)
    ours = load_tokenizer(bytes_bpe)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert differ([ours.ids(t) for t in texts[:3000]], expected[:3000], texts[:3000]) == []  # by the library
    assert differ(ours.batch(texts), theirs(texts)["input_ids"], texts) == []
    assert ours._engine is not None
    assert differ([ours.ids(t) for t in texts], expected, texts) == []  # by tiktoken's engine
    assert ours.size == len(theirs) and ours.eos == (theirs.eos_token_id,) and ours.bos == theirs.bos_token_id
    chat = "<|im_start|>user\nhi <think> there<|im_end|>\n"
    assert ours.ids(chat, special=True) == theirs(chat, add_special_tokens=False)["input_ids"]
    assert ours.text(ours.ids(chat)) == chat
    assert [t for t, i in zip(texts[:2000], expected) if ours.text(i) != theirs.decode(i, clean_up_tokenization_spaces=False)] == []
    no_loaded_special(ours, "x")


def test_wordpiece_as_transformers(wordpiece, texts) -> None:
    theirs, ours = transformers_of(wordpiece), load_tokenizer(wordpiece)
    expected = theirs(texts)["input_ids"]
    assert differ(ours.batch(texts), expected, texts) == []
    assert differ([ours.ids(t) for t in texts[:2000]], [e[1:-1] for e in expected[:2000]], texts[:2000]) == []
    assert (ours.cls, ours.sep, ours.mask, ours.pad, ours.unk) == (2, 3, 4, 0, 1)
    assert [
        t
        for t, i in zip(texts[:2000], expected)
        if ours.text(i) != theirs.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ] == []
    no_loaded_special(ours, "x")


def test_vocab_txt_and_gguf_bert(wordpiece, texts, tmp_path) -> None:
    vocab = json.loads((wordpiece / "tokenizer.json").read_text())["model"]["vocab"]
    names = sorted(vocab, key=vocab.__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    expected = load_tokenizer(wordpiece).batch(texts[:3000])
    assert load_tokenizer(tmp_path).batch(texts[:3000]) == expected
    marked = [n if n.startswith("[") and n.endswith("]") and len(n) > 2 else n[2:] if n.startswith("##") else "▁" + n for n in names]
    kinds = [3 if i < 5 else 1 for i in range(len(names))]
    ours = from_gguf({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": marked, "tokenizer.ggml.token_type": kinds})
    assert ours.batch(texts[:3000]) == expected and ours.cls == 2


def test_sentencepiece(spm, texts) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    ours = load_tokenizer(spm)
    expected = theirs.encode(texts)
    assert differ([ours.ids(t) for t in texts], expected, texts) == []
    assert differ(ours.batch(texts[:500]), expected[:500], texts[:500]) == []
    long = ["\n".join(texts[:1000]), "aaa" * 3000, " ".join(texts[3000:4000])]  # roundings add up over a text
    assert [ours.ids(t) == theirs.encode(t) for t in long] == [True] * 3
    assert ours.size == theirs.get_piece_size() and ours.unk == theirs.unk_id()
    again = [i for i in expected if theirs.unk_id() not in i]
    assert [i for i in again if "\ufffd" not in theirs.decode(i) and ours.text(i).lstrip(" ") != theirs.decode(i).lstrip(" ")] == []
    no_loaded_special(ours, "<0x41>")
    assert ours.ids("<0x41><0x0A>") == theirs.encode("<0x41><0x0A>")


def test_gguf_sentencepiece(spm, texts) -> None:
    from transformers.convert_slow_tokenizer import import_protobuf

    message = import_protobuf().ModelProto()
    message.ParseFromString(spm.read_bytes())
    metadata = {
        "tokenizer.ggml.model": "llama" if "bpe" in spm.parent.name else "t5",
        "tokenizer.ggml.tokens": [p.piece for p in message.pieces],
        "tokenizer.ggml.scores": [p.score for p in message.pieces],
        "tokenizer.ggml.token_type": [p.type for p in message.pieces],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.precompiled_charsmap": list(message.normalizer_spec.precompiled_charsmap),
        "tokenizer.ggml.add_space_prefix": message.normalizer_spec.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": message.normalizer_spec.remove_extra_whitespaces,
    }
    ours, file = from_gguf(metadata), load_tokenizer(spm)
    assert [ours.ids(t) for t in texts[:2000]] == [file.ids(t) for t in texts[:2000]]
    assert ours.encode("a") == ([1, *ours.ids("a")] if metadata["tokenizer.ggml.model"] == "llama" else [*ours.ids("a"), 2])


def test_tiktoken_files(bytes_bpe, texts, tmp_path) -> None:
    import tiktoken

    from morphogen.tokens.decode import byte_alphabet
    from morphogen.tokens.patterns import LLAMA3

    spec = json.loads((bytes_bpe / "tokenizer.json").read_text())
    merged = [a + b for a, b in spec["model"]["merges"]]
    alphabet = byte_alphabet()
    tokens = [bytes([b]) for b in range(256)] + [bytes(alphabet[c] for c in name) for name in merged]
    path = tmp_path / "tokenizer.model"  # as Llama 3 names it
    path.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens)))
    theirs = tiktoken.Encoding("x", pat_str=LLAMA3, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={})
    ours = load_tokenizer(path)
    expected = [theirs.encode_ordinary(t) for t in texts]
    assert differ([e.ids for e in ours._twin.encode_batch(texts)], expected, texts) == []
    assert differ(ours.batch(texts), expected, texts) == []
    assert ours._engine is not None
    assert all(theirs.decode(e) == ours.text(e) for e in expected[:2000])


def test_vocab_and_merges_and_gguf(bytes_bpe, texts, tmp_path) -> None:
    spec = json.loads((bytes_bpe / "tokenizer.json").read_text())
    vocab, merges = spec["model"]["vocab"], [" ".join(m) for m in spec["model"]["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    from tokenizers import ByteLevelBPETokenizer

    theirs = ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    ours = load_tokenizer(tmp_path)
    assert differ(ours.batch(texts), [e.ids for e in theirs.encode_batch(texts)], texts) == []
    assert ours.eos == (vocab["<|endoftext|>"],) and vocab["<|endoftext|>"] not in ours.ids("a<|endoftext|>")
    names = [*sorted(vocab, key=vocab.__getitem__), "<think>"]
    gguf = from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": names,
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(names) - 4) + [4],
            "tokenizer.ggml.eos_token_id": 2,
        }
    )
    assert differ(gguf.batch(texts), load_tokenizer(bytes_bpe).batch(texts), texts) == []
    assert gguf.eos == (2, 0) and gguf.note == ""


@pytest.mark.parametrize(
    "pre", ["llama-bpe", "qwen2", "gpt-4o", "tekken", "gpt-2", "deepseek-v3", "deepseek-llm", "deepseek-coder", "falcon", "bloom", "viking"]
)
def test_cuts_alike_in_both_engines(bytes_bpe, texts, pre) -> None:
    texts = texts[:3000]
    spec = json.loads((bytes_bpe / "tokenizer.json").read_text())
    names = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
    ours = from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": names,
            "tokenizer.ggml.merges": [" ".join(m) for m in spec["model"]["merges"]],
            "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(names) - 3),
        }
    )
    expected = [e.ids for e in ours._twin.encode_batch(texts, add_special_tokens=False)]
    assert (ours._fast(1 << 20) is not None) == (pre in ("llama-bpe", "qwen2", "gpt-4o", "tekken", "gpt-2"))
    assert differ([ours.ids(t) for t in texts], expected, texts) == []
    assert all(ours.text(e) == t for t, e in zip(texts, expected) if pre != "qwen2")


def test_unknown_cut_is_said(bytes_bpe) -> None:
    spec = json.loads((bytes_bpe / "tokenizer.json").read_text())
    names = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
    assert "strange" in from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "strange", "tokenizer.ggml.tokens": names}).note


def test_content_loads_as_the_same(spm, bytes_bpe, wordpiece, texts, tmp_path) -> None:
    for place in (spm, bytes_bpe, wordpiece):
        ours = load_tokenizer(place)
        (tmp_path / "tokenizer.json").write_text(ours.content(), encoding="utf-8")
        again = load_tokenizer(tmp_path / "tokenizer.json")
        assert again.batch(texts[:1000]) == ours.batch(texts[:1000]) and again.special == ours.special


PLACES: dict[str, object] = {}


@pytest.fixture
def loaded(spm, bytes_bpe, wordpiece):
    for place in (spm, bytes_bpe, wordpiece):
        PLACES.setdefault(str(place), load_tokenizer(place))
    return list(PLACES.values())


def test_decoders_join_to_the_text(loaded) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 380), max_size=40), st.booleans())
    def check(ids, special) -> None:
        for tokenizer in loaded:
            decoder = tokenizer.decoder(special=special)
            given_out = [decoder.feed(i) for i in ids]
            whole = tokenizer.text(ids, special=special)
            assert "".join(given_out) + decoder.flush() == whole
            spelled = b"".join(tokenizer.piece(i) for i in ids).decode("utf-8", "replace")
            assert special or whole in (spelled, spelled[1:]) or (ids and tokenizer.spelling.kind == "wordpiece")

    check()


def test_lone_surrogates_are_read(bytes_bpe) -> None:
    ours = load_tokenizer(bytes_bpe)
    assert ours.text(ours.ids("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, " " * 1_000_000 + "x", "\n" * 300_000, "😀" * 100_000], ids=["letter", "spaces", "lines", "emoji"]
)
def test_long_runs_end(bytes_bpe, text) -> None:
    import time

    ours = load_tokenizer(bytes_bpe)
    began = time.process_time()
    ids = ours.ids(text)
    assert time.process_time() - began < 8
    assert ours.text(ids) == text


MODELS = os.environ.get("MORPHOGEN_MODELS", "")


@pytest.mark.skipif(not MODELS, reason="MORPHOGEN_MODELS names no folder of real models")
def test_real_files(texts) -> None:
    import gguf
    from tokenizers import Tokenizer

    for path in Path(MODELS).rglob("tokenizer.json"):
        raw = Tokenizer.from_file(str(path))
        raw.no_truncation()
        raw.no_padding()
        assert differ(load_tokenizer(path.parent).batch(texts), [e.ids for e in raw.encode_batch(texts)], texts) == []
    for path in Path(MODELS).rglob("*.gguf"):
        reader = gguf.GGUFReader(path)
        ours = from_gguf({k: f.contents() for k, f in reader.fields.items() if k.startswith("tokenizer")})
        expected = [e.ids for e in ours._twin.encode_batch(texts)]
        assert differ([ours.ids(t) for t in texts], expected, texts) == [] and ours._engine is not None
