"""tokenizer.json structures built from plain vocabularies. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphogen.tokens.decode import byte_alphabet
from morphogen.tokens.strict import refuse

if TYPE_CHECKING:
    from morphogen.tokens.tokenizer import Tokenizer

WORK = 200_000_000  # steps that rebuilding the merges of a rank file may take; o200k takes some 15 million


def text_of(value: Any) -> str | None:
    """A token as configs write it: its text, or an object with `content`."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def byte_level(vocab: dict[str, int], merges: list[Any], pre: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json for byte-level pair encoding (Sennrich et al. 2016; Radford et al. 2019)."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def word_pieces(vocab: dict[str, int], config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json for WordPiece as BERT has it (Devlin et al. 2019): [CLS] text [SEP]."""
    named = {role: text_of(config.get(f"{role}_token")) or f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
    unk = named["unk"] if named["unk"] in vocab else "<unk>"
    marks = [n for n in named.values() if n in vocab]
    post = None
    if named["cls"] in vocab and named["sep"] in vocab:
        post = around([named["cls"]], [named["sep"]], vocab)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "post_processor": post,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [
            {"id": vocab[n], "content": n, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for n in sorted(marks, key=vocab.__getitem__)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
            "strip_accents": config.get("strip_accents"),
            "lowercase": bool(config.get("do_lower_case", True)),
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def around(before: list[str], after: list[str], vocab: dict[str, int]) -> dict[str, Any]:
    """A post-processor that puts special tokens before and after a text."""
    mark = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    single = [*map(mark, before), {"Sequence": {"id": "A", "type_id": 0}}, *map(mark, after)]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, *map(mark, after)]
    named = {n: {"id": n, "ids": [vocab[n]], "tokens": [n]} for n in {*before, *after}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}


def from_ranks(ranks: dict[bytes, int], pre: dict[str, Any], where: object) -> dict[str, Any]:
    """A tokenizer.json from tiktoken ranks: each token's merge is the last one its own bytes take with lower ranks only."""
    back = {b: c for c, b in byte_alphabet().items()}
    spell = lambda data: "".join(back[b] for b in data)
    merges = []
    if sum(len(t) ** 2 for t in ranks) > WORK:
        refuse("too many long tokens", where)
    for token, rank in sorted(ranks.items(), key=lambda pair: pair[1]):
        if len(token) > 1:
            halves = _halves(token, rank, ranks)
            if len(halves) != 2:
                refuse(f"the token of rank {rank} is not made of two of lower rank", where)
            merges.append([spell(halves[0]), spell(halves[1])])
    spec = byte_level({spell(t): r for t, r in ranks.items()}, merges, pre)
    spec["model"]["ignore_merges"] = True
    return spec


def _halves(token: bytes, limit: int, ranks: dict[bytes, int]) -> list[bytes]:
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        best = min(range(len(pieces) - 1), key=lambda i: ranks.get(pieces[i] + pieces[i + 1], limit))
        joined = pieces[best] + pieces[best + 1]
        if ranks.get(joined, limit) >= limit:
            break
        pieces[best : best + 2] = [joined]
    return pieces if all(p in ranks for p in pieces) else []


def own_tokenizer(content: dict[str, Any] | None, end: int, start: int) -> Tokenizer:
    """The alphabet of a text run as a Tokenizer: bytes (None) or a byte-level tokenizer.json, then the end and the start."""
    from morphogen.tokens.tokenizer import Tokenizer

    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if content is None:
        spec = byte_level(dict(byte_alphabet().items()), [], {**pre, "use_regex": False})
    else:
        spec = dict(content)
    names = {"<|end|>": end, "<|start|>": start}
    added = [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for name, i in names.items()]
    return Tokenizer({**spec, "added_tokens": added}, roles={"eos": (end,), "bos": start})
