"""How byte-level vocabularies cut text into words before merging: the patterns in use, by the names GGUF files give them. No torch here."""

from __future__ import annotations

from typing import Any

_S = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UP, _LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_X = r"[^\r\n\p{L}\p{N}]?"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = _S + "|" + _X + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL
QWEN2 = _S + "|" + _X + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL
QWEN35 = _S + "|" + _X + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _TAIL
TEKKEN = _X + _UP + "*" + _LOW + "+|" + _X + _UP + "+" + _LOW + r"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL
O200K = _X + _UP + "*" + _LOW + "+" + _S + "?|" + _X + _UP + "+" + _LOW + "*" + _S + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL
DEEPSEEK3 = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _TAIL
# Digits one by one, then GPT-2's pattern on what lies between: one pattern that cuts in the same places.
DIGITS_GPT2 = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

# Known to cut alike in Oniguruma (tokenizers) and in Rust's engine (tiktoken).
SHARED = frozenset({GPT2, LLAMA3, QWEN2, QWEN35, TEKKEN, O200K})

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2_BYTES = {**_BYTES, "use_regex": True}


def split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


_DIGITS = _sequence({"type": "Digits", "individual_digits": True}, _GPT2_BYTES)
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
# DeepSeek's list of cased letters; those that Unicode's composed form would replace by others are written as numbers.
_DS_LETTERS = (
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\u1f5f-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌ"
    "\u1fd0-\u1fd3\u1fd6-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
_DIGIT = {"type": "Digits", "individual_digits": True}
_BLOOM = split(r" ?[^(\s|.,!?…。，、।۔،)]+")

PRE: dict[str, dict[str, Any]] = {
    "gpt-2": _GPT2_BYTES,
    "smollm": _DIGITS,
    "llama-bpe": _sequence(split(LLAMA3), _BYTES),
    "qwen2": _sequence(split(QWEN2), _BYTES),
    "qwen35": _sequence(split(QWEN35), _BYTES),
    "gpt-4o": _sequence(split(O200K), _BYTES),
    "tekken": _sequence(split(TEKKEN), _BYTES),
    "deepseek-v3": _sequence(split(r"\p{N}{1,3}"), split(_CJK), split(DEEPSEEK3), _BYTES),
    "deepseek-llm": _sequence(
        split("[\r\n]"),
        split(_DS_LETTERS),
        split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        split(r"\s+$"),
        split("[一-龥ࠀ-一가-퟿]+"),
        _DIGIT,
        _BYTES,
    ),
    "deepseek-coder": _sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), _DIGIT, _BYTES),
    "falcon": _sequence(
        {"type": "Punctuation", "behavior": "Contiguous"},
        _GPT2_BYTES,
        {"type": "Digits", "individual_digits": False},
        split("[0-9][0-9][0-9]"),
    ),
    "bloom": _sequence(_BLOOM, _BYTES),
    "viking": _sequence(_BLOOM, _DIGIT, _BYTES),
}
# Other names of the same cuts.
SAME = {
    "gpt-2": "gpt-2 phi-2 mpt olmo jais jina-es jina-de jina-v1-en jina-v2-code jina-v2-es jina-v2-de roberta-bpe modern-bert "
    "gigachat exaone4 trillion a.x-4.0 mellum granite-docling",
    "smollm": "smollm starcoder refact command-r codeshell exaone minerva-7b",
    "llama-bpe": "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe chatglm-bpe glm4",
    "qwen2": "qwen2 stablelm2 deepseek-r1-qwen megrez hunyuan kormo grok-2",
    "gpt-4o": "gpt-4o llama4",
    "deepseek-v3": "deepseek-v3 hunyuan-dense",
    "bloom": "bloom gpt3-finnish poro-chat",
}
NAMES: dict[str, str] = {name: name for name in PRE} | {other: kind for kind, others in SAME.items() for other in others.split()}
NFC = frozenset({"qwen2", "qwen35", "deepseek-r1-qwen", "modern-bert"})  # vocabularies whose own files compose characters first
WHOLE_WORDS = frozenset(
    {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
)  # ignore_merges
BEGINS = frozenset(
    {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken", "chameleon"}
)  # add bos
