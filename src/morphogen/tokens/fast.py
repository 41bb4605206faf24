"""The same ids through tiktoken's engine, where the vocabulary allows it. No torch here.

tiktoken merges the adjacent pair whose *joined bytes* have the lowest rank; a merge list names pairs. Both give the same ids if every
merged token has one merge, merges stand in the order of ranks, and each merged token's own spelling merges to that token: then, by
induction over a piece, a pair that tiktoken could merge and the list does not name is never adjacent (the steps inside the bytes of a
token depend on those bytes only). All three are checked here; then both engines read a set of probes; else the library's engine stays.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from morphogen.tokens.decode import byte_alphabet
from morphogen.tokens.patterns import DIGITS_GPT2, GPT2, SHARED
from morphogen.tokens.strict import parts

WINDOW = 8192  # a run of white space longer than two of these overflows the stack of tiktoken's pattern engine
ADDED = 64  # ordinary added tokens looked for one by one
PROBES = (
    "",
    " ",
    "  ",
    "\n",
    " \n",
    "\n \n",
    "\t\t x",
    "a",
    "A b  c   d\n\ne \r\n f",
    "don't I'LL we'Ve 'S x'd",
    "\u017f'\u017f '\u017f \u212a",
    "12345 1 22 333 4444 \u00bd \u00b2 \u2167 \u0663\u0664",
    "  1",
    " 1  2   3a4",
    "x=1;y+=2 // !!\n}\n\n",
    "日本語 のテキスト。中文，测试",
    "한국어 텍스트",
    "नमस्ते दुनिया",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d",
    "😀😃 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "e\u0301 a\u0308\u0323",
    "\x00\x01\x1c\x1d\x1f\x7f\x85\xa0\u2028\u3000\ufeff\u200b",
    "\u0345\u1e9e \u0130\u0131\u0149 \u01c5 \ufb00",
    "__init__ $x @y #z % & *",
    "a\u00a0b \u00a0 c\u2003 d",
    "https://x.y/z?q=1#f",
    "\U0001f9ff\U000e0041\U0010ffff\ue000\ufffd",
    "camelCaseHTTPServer \u00c4\u00d6\u00fc \u00df\u1e9e",
    "\u00bda a\u00bd 1st 2nd",
    "   \n   \n\n  x  \n",
    "'",
    "''s '' 't",
    "\r\r\n\n\r",
)


class Engine:
    """`encode(text)` gives the library's ids, faster, or None where the library must do it itself."""

    def __init__(self, encoding: Any, table: list[int] | None, size: int, added: list[str], normaliser: Any) -> None:
        self._encoding, self._table, self._size, self._added, self._normaliser = encoding, table, size, added, normaliser

    def encode(self, text: str) -> list[int] | None:
        for i in range(0, len(text) - WINDOW, WINDOW):
            if text[i : i + 64].isspace() and text[i : i + WINDOW].isspace():
                return None
        if self._normaliser is not None and not text.isascii():
            text = self._normaliser.normalize_str(text)
        for token in self._added:
            if token in text:
                return None
        try:
            ids = self._encoding.encode_ordinary(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic of the pattern engine is no Exception
            return None
        if self._table is not None:
            table = self._table
            ids = [table[i] for i in ids]
        # Ids beyond the vocabulary stand for bytes it lacks; what becomes of those is the library's to say.
        return None if ids and max(ids) >= self._size else ids


def _pattern(spec: dict[str, Any]) -> str | None:
    """One pattern that cuts as the pre-tokeniser does, or None."""
    before = list(parts(spec.get("pre_tokenizer")))
    if not before or before[-1].get("type") != "ByteLevel" or before[-1].get("add_prefix_space", True):
        return None
    whole = before[-1].get("use_regex", True)
    if len(before) == 1 and whole:
        return GPT2
    if len(before) == 2 and whole and before[0].get("type") == "Digits" and before[0].get("individual_digits"):
        return DIGITS_GPT2
    if len(before) == 2 and not whole and before[0].get("type") == "Split":
        pattern = (before[0].get("pattern") or {}).get("Regex")
        if before[0].get("behavior") == "Isolated" and not before[0].get("invert") and pattern in SHARED:
            return pattern
        if before[0].get("behavior") == "Removed" and before[0].get("invert") and pattern in SHARED:
            return pattern
    return None


def _ranks(model: dict[str, Any], added: set[int]) -> tuple[dict[bytes, int], list[int] | None, int] | None:
    """Bytes -> rank, the ids of ranks (None: they are the ranks), and the size; None where the engines could differ."""
    import tokenizers

    vocab: dict[str, int] = model["vocab"]
    if any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")):
        return None
    alphabet = byte_alphabet()
    made: list[str] = []
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made.append(left + right)
    whole = set(made)
    if len(whole) != len(made) or any(name not in vocab or any(c not in alphabet for c in name) for name in whole):
        return None
    if model.get("ignore_merges") and any(len(n) > 1 and n not in whole and i not in added for n, i in vocab.items()):
        return None
    plain = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocab, merges=[tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]])
    )
    if any(e.ids != [vocab[name]] for name, e in zip(made, plain.encode_batch_fast(made))):
        return None
    size = max([*vocab.values(), *added]) + 1
    ids = [vocab[name] for name in made]
    single = {bytes([b]): vocab.get(c, size + b) for c, b in alphabet.items()}
    if all(a < b for a, b in pairwise(ids)):
        return single | {bytes(alphabet[c] for c in name): i for name, i in zip(made, ids)}, None, size
    ranks = {key: k for k, key in enumerate(single)} | {bytes(alphabet[c] for c in name): 256 + k for k, name in enumerate(made)}
    return ranks, [*single.values(), *ids], size


def build_engine(source: str, library: Any) -> Engine | None:
    """An engine for a tokenizer.json that gives the same ids as `library`, or None (also where tiktoken is not installed)."""
    try:
        import tiktoken
    except ImportError:
        return None
    spec = json.loads(source)
    model, pattern = spec["model"], _pattern(spec)
    normal = [p.get("type") for p in parts(spec.get("normalizer"))]
    ordinary = [t for t in spec["added_tokens"] if not t["special"]]
    if model["type"] != "BPE" or pattern is None or normal not in ([], ["NFC"]) or len(ordinary) > ADDED:
        return None
    found = _ranks(model, {t["id"] for t in spec["added_tokens"]})
    if found is None:
        return None
    ranks, table, size = found
    try:
        encoding = tiktoken.Encoding("morphogen", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return None
    engine = Engine(encoding, table, size, [t["content"] for t in ordinary], library.normalizer if normal else None)
    for probe in PROBES:
        ids = engine.encode(probe)
        if ids is not None and ids != library.encode(probe, add_special_tokens=False).ids:
            return None
    return engine
