"""A tokenizer from a GGUF file's metadata: byte-level pairs (gpt2), sentencepiece (llama, t5) and WordPiece (bert). No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from morphogen.tokens.build import around, byte_level, word_pieces
from morphogen.tokens.patterns import BEGINS, NAMES, NFC, PRE, WHOLE_WORDS
from morphogen.tokens.spm import BPE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, USER, Pieces, spec_of
from morphogen.tokens.strict import VOCAB, refuse
from morphogen.tokens.tokenizer import Tokenizer

WHERE = "tokenizer.ggml"
# Names of tokens that end a turn or a text, where files name only one of them; some mark them as symbols of the user's.
ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eom_id|>")


def _list(metadata: Mapping[str, Any], key: str, kind: type | tuple[type, ...], count: int | None = None) -> list[Any] | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    value = (
        value.tolist()
        if hasattr(value, "tolist")
        else list(value)
        if isinstance(value, list | tuple)
        else refuse("not a list", f"{WHERE}.{key}")
    )
    if len(value) > 4 * VOCAB or not all(isinstance(v, kind) for v in value):
        refuse("a list of other things or too long", f"{WHERE}.{key}")
    if count is not None and len(value) != count:
        refuse(f"{len(value):,} entries for {count:,} tokens", f"{WHERE}.{key}")
    return value


def _id(metadata: Mapping[str, Any], role: str, count: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{role}_token_id")
    return int(value) if isinstance(value, int) and 0 <= int(value) < count else None


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{key}")
    return default if value is None else bool(value)


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file. `note` on it says what had to be assumed. Raises FormatError."""
    model = metadata.get("tokenizer.ggml.model")
    names = _list(metadata, "tokens", str)
    if names is None or not names:
        refuse("no tokens in it", WHERE, "the file holds no tokenizer")
    if len(names) > VOCAB:
        refuse(f"a vocabulary of {len(names):,} tokens", WHERE)
    if len(set(names)) != len(names):
        refuse("a token stands twice", f"{WHERE}.tokens")
    kinds = [int(k) for k in _list(metadata, "token_type", int, len(names)) or [NORMAL] * len(names)]
    note, begin, end = "", False, False
    if model == "gpt2":
        spec, note, begin = _pairs(metadata, names, kinds)
    elif model in ("llama", "t5"):
        spec, begin, end = _sentencepiece(metadata, names, kinds, str(model)), model == "llama", model == "t5"
    elif model == "bert":
        spec = _bert(names, kinds, metadata)
    else:
        refuse(f"a tokenizer of kind {str(model)[:40]!r}", f"{WHERE}.model", "known are gpt2, llama, t5 and bert")
    ids = {n: i for i, n in enumerate(names)}
    named = {"bos": "bos", "unk": "unknown", "pad": "padding", "mask": "mask", "cls": "cls", "sep": "seperator"}
    roles: dict[str, Any] = {role: _id(metadata, key, len(names)) for role, key in named.items()}
    if model == "bert":
        roles |= {r: ids.get(f"[{r.upper()}]") if roles.get(r) is None else roles[r] for r in ("unk", "pad", "mask", "cls", "sep")}
    ends = [_id(metadata, role, len(names)) for role in ("eos", "eot", "eom")]
    controls = [ids[n] for n in ENDS if n in ids and kinds[ids[n]] in (CONTROL, USER)]
    roles["eos"] = tuple(dict.fromkeys(i for i in (*ends, *controls) if i is not None))
    if model != "bert":
        before = [names[roles["bos"]]] if _flag(metadata, "add_bos_token", begin) and roles["bos"] is not None else []
        after = [names[ends[0]]] if _flag(metadata, "add_eos_token", end) and ends[0] is not None else []
        spec["post_processor"] = around(before, after, ids) if before or after else None
    marks = (names[i] for i in (*roles["eos"], roles["bos"]) if i is not None)  # whatever their kind, no text may spell them
    found = Tokenizer(spec, special=[n for n in marks if n.startswith("<") and n.endswith(">")], roles=roles, where=WHERE)
    found.note = note
    return found


def _added(names: list[str], kinds: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": i, "content": n, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": k != USER}
        for i, (n, k) in enumerate(zip(names, kinds))
        if k in (UNKNOWN, CONTROL, USER)
    ]


def _pairs(metadata: Mapping[str, Any], names: list[str], kinds: list[int]) -> tuple[dict[str, Any], str, bool]:
    merges = _list(metadata, "merges", str) or []
    rows = [m.split(" ") for m in merges]
    if any(len(r) != 2 for r in rows):
        refuse("a merge is not two tokens", f"{WHERE}.merges")
    name = str(metadata.get("tokenizer.ggml.pre") or "default")
    note = (
        ""
        if name in NAMES
        else f"the way words are cut, {name[:40]!r}, is not known here: GPT-2's is used, and ids may differ from the model's own"
    )
    spec = byte_level({n: i for i, n in enumerate(names)}, rows, PRE[NAMES.get(name, "gpt-2")])
    spec["model"]["ignore_merges"] = name in WHOLE_WORDS
    spec["normalizer"] = {"type": "NFC"} if name in NFC else None
    spec["added_tokens"] = _added(names, kinds)
    return spec, note, name in BEGINS


def _sentencepiece(metadata: Mapping[str, Any], names: list[str], kinds: list[int], model: str) -> dict[str, Any]:
    scores = _list(metadata, "scores", (int, float), len(names))
    if scores is None:
        refuse("no scores", f"{WHERE}.scores")
    if kinds.count(UNKNOWN) == 0:  # some converters mark it as a control token
        unknown = _id(metadata, "unknown", len(names))
        kinds[unknown if unknown is not None else 0] = UNKNOWN
    table = _list(metadata, "precompiled_charsmap", int)
    return spec_of(
        Pieces(
            names=names,
            scores=[float(s) for s in scores],
            kinds=kinds,
            model=BPE if model == "llama" else UNIGRAM,
            charsmap=bytes(int(b) & 255 for b in table or ()),
            prefix=_flag(metadata, "add_space_prefix", True),
            squeeze=_flag(metadata, "remove_extra_whitespaces", model == "t5"),
        ),
        WHERE,
    )


def _bert(names: list[str], kinds: list[int], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """GGUF marks the beginnings of words with a space sign where WordPiece marks what continues them with ##."""
    lower = not any(n.startswith("▁") and n[1:2].isascii() and n[1:2].isupper() for n in names)
    own = lambda n, k: (
        n if k != NORMAL or (n.startswith("[") and n.endswith("]")) else n[1:] if n.startswith("▁") and len(n) > 1 else "##" + n
    )
    marked = any(n.startswith("▁") for n in names)
    vocab = {own(n, k) if marked else n: i for i, (n, k) in enumerate(zip(names, kinds))}
    if len(vocab) != len(names):
        refuse("a token stands twice", f"{WHERE}.tokens")
    return word_pieces(vocab, {"do_lower_case": lower})
