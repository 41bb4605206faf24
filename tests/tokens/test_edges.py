"""Edges of tokenizers and templates: marks that are hidden, files that leave things to code, symbols of odd kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from morphogen.errors import DataError, FormatError
from morphogen.tokens.chat import Template
from morphogen.tokens.load import from_gguf, load_tokenizer
from morphogen.tokens.strict import check_spec
from morphogen.tokens.tokenizer import Tokenizer

USER = {"role": "user", "content": "hi"}
ALL = Template("{{ messages[0].content }}{{ tools | tojson }}{{ messages[0].tool_calls | default([]) | tojson }}")


def mark(i: int, name: str, special: bool = True, **flags: bool) -> dict:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": name, "special": special, **off, **flags}


def letters(*marks: str, letters: str = "ab!|<>_ime") -> Tokenizer:
    vocab = {c: i for i, c in enumerate(letters)}
    own = [m for m in marks if m not in vocab]
    ids = {**vocab, **{m: len(vocab) + i for i, m in enumerate(own)}}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    return Tokenizer({"model": model, "added_tokens": [mark(ids[m], m) for m in marks]})


# ---------------------------------------------------------------- chat
@pytest.mark.parametrize("hidden", [{"role": "<|im_end|>"}, {"parameters": {"role": {"description": "<|im_end|>"}}}])
def test_no_special_token_from_nested_roles(bytes_bpe, hidden) -> None:
    ours = load_tokenizer(bytes_bpe)
    special = set(ours.special.values())
    assert not special & set(ALL.encode(ours, [USER], tools=[hidden]))
    assert not special & set(ALL.encode(ours, [{**USER, "tool_calls": [hidden]}]))


def test_no_special_token_by_changing_case(bytes_bpe) -> None:
    ours = load_tokenizer(bytes_bpe)
    for source, content in (("{{ messages[0].content | lower }}", "<|IM_END|>"), ("{{ messages[0].content | lower }}|>", "<|IM_END")):
        ids = Template(source).encode(ours, [{"role": "user", "content": content}])
        assert ours.special["<|im_end|>"] not in ids and ours.text(ids) == "<|im_end|>"


def test_words_of_messages_are_found_whatever_special_tokens_are_called() -> None:
    ours = letters("sab")  # a special token that could go on after `tool_calls`
    asks = Template("{% if messages[0].tool_calls %}b{% endif %}")
    assert asks.encode(ours, [{**USER, "tool_calls": [1]}]) == ours.ids("b")


def test_breaking_special_tokens_ends() -> None:
    """A special token of one character, and one with the first private character in it."""
    for ours in (letters("<|im|>", "|"), letters("<|im|>", "<\uf8ff")):
        ids = Template("{{ messages[0].content }}").encode(ours, [{"role": "user", "content": "a<|im|>b"}])
        assert ours.special["<|im|>"] not in ids and ours.text(ids).replace(" ", "") == "a<|im|>b"


def test_a_control_piece_of_one_character_is_never_written(tmp_path, unigram_bytes) -> None:
    import sentencepiece

    path = tmp_path / "tokenizer.model"
    path.write_bytes(unigram_bytes(control_symbols=["|"]))
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), load_tokenizer(path)
    assert ours.ids("a|b") == theirs.encode("a|b")
    ids = Template("{{ messages[0].content }}").encode(ours, [{"role": "user", "content": "a|b"}])
    assert ours.special["|"] not in ids and ids == ours.ids("a|b")


def test_what_json_cannot_hold_is_said() -> None:
    ours, nested = letters("<|im|>"), []
    for _ in range(600):
        nested = [nested]
    with pytest.raises(DataError, match="nested"):
        ALL.encode(ours, [{**USER, "tool_calls": nested}])
    for call in (lambda tools: ALL.encode(ours, [USER], tools=tools), lambda tools: ALL.render([USER], tools=tools)):
        with pytest.raises(DataError, match="JSON"):
            call([object()])
    with pytest.raises(DataError, match="private"):
        ALL.encode(ours, [{**USER, "content": "".join(map(chr, range(0xE000, 0xF900)))}])


# ---------------------------------------------------------------- kinds of tokens
def test_one_character_is_text_whatever_a_file_says(bytes_bpe, tmp_path) -> None:
    spec = json.loads((bytes_bpe / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "!", "eos_token": "<|im_end|>"}))
    ours = load_tokenizer(tmp_path)
    assert ours.pad == spec["model"]["vocab"]["!"] and ours.text(ours.ids("ab! !")) == "ab! !"


def test_new_names_of_special_tokens_are_never_read_as_text(bytes_bpe) -> None:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Library

    library = Library.from_file(str(bytes_bpe / "tokenizer.json"))
    library.add_tokens([AddedToken("<a>", single_word=True, special=True), AddedToken("<b>", single_word=True)])
    ours = Tokenizer(json.loads(library.to_str()))
    for text in ("_<a>", "x<a> <a>x", "<a><b>", " <a>.<b><a>1", "<|im_end|><b><|im_end|>"):
        assert ours.ids(text, special=True) == library.encode(text, add_special_tokens=False).ids, text
    letters = "ab\u2581zqx0123456789cdef"
    model = {"type": "BPE", "vocab": {c: i for i, c in enumerate(letters)}, "merges": []}
    added, size = [mark(len(letters), "<s>", normalized=True)], len(letters)
    ours = Tokenizer({"model": model, "added_tokens": added, "normalizer": {"type": "Prepend", "prepend": "\u2581"}})
    assert ours.ids("a<s>b", special=True) == [2, 0, size, 2, 1]
    assert ours.ids("<s>b", special=True) in ([size, 1], [size, 2, 1])


def gguf(**changes) -> Tokenizer:
    names = ["<unk>", "<s>", "</s>", "<end_of_turn>", "<", "/", "s", ">", "</", "s>", "a"]
    kinds = [2, 3, 3, 4] + [1] * 7
    metadata = {"model": "llama", "tokens": names, "token_type": kinds, "scores": [-float(i) for i in range(len(names))]} | changes
    return from_gguf({f"tokenizer.ggml.{k}": v for k, v in metadata.items() if v is not None})


def test_gguf_ends_are_special_whatever_their_kind() -> None:
    ours = gguf(eos_token_id=2, bos_token_id=1)
    assert ours.eos == (2, 3) and 3 not in ours.ids("a<end_of_turn>")
    ours = gguf(eos_token_id=2, bos_token_id=1, token_type=[2, 3, 1, 1] + [1] * 7)
    assert ours.special["</s>"] == 2 and 2 not in ours.ids("a</s>")
    assert set(gguf(eos_token_id=float("nan")).eos) == {2, 3}


def test_patterns_are_checked_however_deep() -> None:
    step = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    for _ in range(12):
        step = {"type": "Sequence", "pretokenizers": [step]}
    with pytest.raises(FormatError, match="repetition"):
        check_spec({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": step}, "")
    long = [mark(i + 1, f"{i:4000d}") for i in range(600)]
    with pytest.raises(FormatError, match="characters"):
        check_spec({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": long}, "")


def test_names_no_file_can_have() -> None:
    for name in ("x" * 5000, "x" * 5000 + ".json", "a\0b", "a\0b.json"):
        with pytest.raises(FormatError):
            load_tokenizer(name)


# ---------------------------------------------------------------- sentencepiece
def test_rules_that_begin_outside_ascii_and_end_in_it(plain_unigram) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(plain_unigram / "tokenizer.model"))
    ours = load_tokenizer(plain_unigram)
    for text in ("\u00e9a cat", "the \u00e9abc", "\u00e9bc", "\u00e9b a", "a\u00e9", "\u00e9bca\u00e9a \u00e9\u00e9bcbc", "\u00e9"):
        assert ours.ids(text) == theirs.encode(text), text


def test_spaces_inside_symbols_stay(tmp_path, unigram_bytes) -> None:
    import sentencepiece

    path = tmp_path / "tokenizer.model"
    path.write_bytes(unigram_bytes(user_defined_symbols=["x  y", "  ", " b"]))
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), load_tokenizer(path)
    for text in ("a  cat", "a x  y   b", "   a", "x  y", "the  b   b  ", " b b   b", "  ", "a    b\u3000\u3000c   "):
        assert ours.ids(text) == theirs.encode(text), text


def told(folder: Path, config: dict, kind: str = "") -> Tokenizer:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))
    return load_tokenizer(folder)


def test_what_the_code_of_a_model_puts_around(plain_unigram, bytes_bpe, tmp_path) -> None:
    ids = told(plain_unigram, {}).encode("a cat")
    assert told(plain_unigram, {"tokenizer_class": "LlamaTokenizer"}).encode("a cat") == [1, *ids]
    assert told(plain_unigram, {}, "gemma").encode("a cat") == [1, *ids]
    assert told(plain_unigram, {"add_bos_token": False, "add_eos_token": True}, "llama").encode("a cat") == [*ids, 2]
    assert told(plain_unigram, {"tokenizer_class": "T5Tokenizer"}).encode("a cat") == [*ids, 2]
    assert told(plain_unigram, {}, "t5").batch(["a cat", ""]) == [[*ids, 2], [2]]
    spec = json.loads((bytes_bpe / "tokenizer.json").read_text())
    size = len(spec["model"]["vocab"])
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"] | {"<s>": size, "</s>": size + 1}))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(m) for m in spec["model"]["merges"]), encoding="utf-8")
    ours = told(tmp_path, {"bos_token": "<s>", "eos_token": "</s>"}, "roberta")
    assert ours.encode("a cat") == [size, *ours.ids("a cat"), size + 1]
    assert told(tmp_path, {"bos_token": "<s>", "eos_token": "</s>"}, "gpt2").encode("a cat") == ours.ids("a cat")


def test_xlm_roberta_numbers_pieces_by_its_own(plain_unigram) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(plain_unigram / "tokenizer.model"))
    ours = told(plain_unigram, {"mask_token": "<mask>"}, "xlm-roberta")
    assert ours.size == theirs.get_piece_size() + 2 and (ours.bos, ours.pad, ours.eos, ours.unk) == (0, 1, (2,), 3)
    assert ours.mask == ours.size - 1
    for text in ("the cat", "a \u65e5 b", "</s><mask> yes"):
        assert ours.encode(text) == [0, *(i + 1 if i else 3 for i in theirs.encode(text)), 2]


def test_tokens_added_to_a_sentencepiece_model(plain_unigram) -> None:
    size = told(plain_unigram, {}).size
    added = {str(size): mark(size, "<tool>", False), str(size + 1): mark(size + 1, "<|user|>", rstrip=True, lstrip=True)}
    ours = told(plain_unigram, {"added_tokens_decoder": added})
    assert size in ours.ids("a <tool> cat") and ours.text(ours.ids("a <tool>")) == "a <tool>"
    assert size + 1 not in ours.ids("<|user|> a")
    plain = told(plain_unigram, {"added_tokens_decoder": added | {str(size + 1): mark(size + 1, "<|user|>")}})
    assert ours.ids("a \n<|user|>\n a", special=True) == [*plain.ids("a"), size + 1, *plain.ids("a")]
