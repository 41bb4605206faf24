"""Damaged and hostile tokenizer files: one line of a typed error or a tokenizer that works, never a crash, never a hang."""

from __future__ import annotations

import json
import random
import struct
import time

import pytest

from morphogen.errors import FormatError, MorphogenError
from morphogen.tokens.load import from_gguf, load_tokenizer
from morphogen.tokens.spm import read_model
from morphogen.tokens.strict import check_regex


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(out) or 1)
        sort = rng.randrange(5)
        if sort == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif sort == 1:
            del out[at : at + rng.randrange(1, 200)]
        elif sort == 2:
            out[at:at] = out[at : at + rng.randrange(1, 100)]
        elif sort == 3:
            out[at:at] = rng.choice((b"null", b"-1", b"1e999", b"99999999999", b'""', b"[", b"}", b"true", b"\\ud800", b"\xff"))
        else:
            out = out[:at] if rng.random() < 0.2 else out
    return bytes(out)


def mutants(file, target, count: int) -> None:
    """Structure first (values exchanged), then bytes."""
    rng, data = random.Random(7), file.read_bytes()
    for number in range(count):
        target.write_bytes(swapped(data, rng) if number % 2 and file.suffix == ".json" else mutate(data, rng))
        began = time.perf_counter()
        try:
            tokenizer = load_tokenizer(target)
            tokenizer.text(tokenizer.encode("Hello 日本 12 <|im_end|> \n"))
        except MorphogenError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
        assert time.perf_counter() - began < 10


def swapped(data: bytes, rng: random.Random) -> bytes:
    spec = json.loads(data)
    node = spec
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        child = node[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.25:
            node[key] = rng.choice(
                [None, -1, 2**70, 1.5, "", "x", [], {}, True, [[]], "Sequence", 0, {"type": "Precompiled", "precompiled_charsmap": "AAAA"}]
            )
            if rng.random() < 0.2 and isinstance(node, dict):
                del node[key]
            return json.dumps(spec).encode()
        node = child


def test_mutated_tokenizer_json(bytes_bpe, wordpiece, spm, tmp_path) -> None:
    for folder in (bytes_bpe, wordpiece):
        mutants(folder / "tokenizer.json", tmp_path / "tokenizer.json", 50)
    mutants(spm, tmp_path / "tokenizer.model", 40)


@pytest.mark.slow
def test_ten_thousand_mutants(bytes_bpe, tmp_path) -> None:
    mutants(bytes_bpe / "tokenizer.json", tmp_path / "tokenizer.json", 10_000)


BPE = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}, "added_tokens": []}


def variant(**changes) -> str:
    spec = json.loads(json.dumps(BPE))
    spec["model"].update(changes.pop("model", {}))
    return json.dumps(spec | changes)


@pytest.mark.parametrize(
    "content, says",
    [
        ("", "JSON"),
        ("[]", "object"),
        ("{}", "no model"),
        ('{"model": {"type": "BPE", "type": "BPE"}}', "twice"),
        (variant(model={"vocab": {"a": 0, "b": 2}}), "no token has id 1"),
        (variant(model={"vocab": {"a": 0, "b": 0}}), "two tokens"),
        (variant(model={"vocab": {"a": -1}}), "entry"),
        (variant(model={"vocab": {"a": True}}), "entry"),
        (variant(model={"vocab": {"a": 10**9}}), "entry"),
        (variant(model={"vocab": {}}), "empty"),
        (variant(model={"type": "Custom"}), "'Custom'"),
        (variant(added_tokens=[{"id": 7, "content": "x"}]), "no token has id 3"),
        (variant(added_tokens=[{"id": 1, "content": "a"}]), "ids 0 and 1"),
        (variant(model={"merges": [["a", "c"]]}), "library"),
        (variant(model={"merges": [["a", "b"]], "continuing_subword_prefix": "##"}), "second half"),
        (variant(added_tokens=7), "list"),
        ("[" * 100_000, "JSON"),
        ('{"model": NaN}', "NaN"),
        (variant(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}), "repetition"),
        ("version https://git-lfs.github.com/spec/v1", "LFS"),
        ("<!DOCTYPE html>", "web page"),
    ],
)
def test_refused_in_one_line(tmp_path, content, says) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(FormatError, match=says) as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_custom_code_is_not_looked_at(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text(variant(auto_map={"AutoTokenizer": "evil.Evil"}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "os.system"})
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    assert load_tokenizer(tmp_path).ids("ab") == [2]


def test_missing_and_strange_places(tmp_path) -> None:
    for place in (tmp_path, tmp_path / "none.json", tmp_path / "x.bin"):
        with pytest.raises(FormatError):
            load_tokenizer(place)


def test_sentencepiece_lies() -> None:
    for data in (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0a\x05ab", b"\x0b", b"\xff" * 30, b"\x0a\x03\x0a\x01\xff", b"\x08"):
        with pytest.raises(FormatError):
            read_model(data)
    assert read_model(b"\x0a\x08\x0a\x01a\x15" + struct.pack("<f", -1.5)).scores == [-1.5]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "rwkv"},
        {"model": None},
        {"tokens": None},
        {"tokens": ["a", "a"]},
        {"tokens": [1]},
        {"token_type": [1]},
        {"merges": ["abc"]},
        {"merges": [7]},
        {"model": "llama"},
        {"tokens": "abc"},
        {"merges": ["a zz"]},
    ],
)
def test_gguf_lies(changes) -> None:
    metadata = {"model": "gpt2", "tokens": ["a", "b", "ab"], "token_type": [1, 1, 1], "merges": ["a b"]} | changes
    with pytest.raises(FormatError):
        from_gguf({f"tokenizer.ggml.{k}": v for k, v in metadata.items() if v is not None})


@pytest.mark.parametrize(
    "pattern, good",
    [
        (r"(a+)+", False),
        (r"((a*)b)*", False),
        (r"(?:\w+ ?)+$", False),
        (r"(a{2,})*", False),
        (r"\p{L}+|[^\r\n(+*]+", True),
        (r"(?i:'s|'t)|\s+(?!\S)", True),
        (r"([+*]a)+", True),
        (r"\(a+\)+", True),
    ],
)
def test_patterns(pattern, good) -> None:
    if good:
        check_regex(pattern, "")
    else:
        with pytest.raises(FormatError):
            check_regex(pattern, "")
