"""sentencepiece models (Kudo & Richardson 2018): own reader of the file, and a tokenizer.json that gives the same ids. No torch here.

The file is a protocol buffer: fields of (number, wire type, value). Only what is needed is read, every length is checked against the
bytes that are left, and nothing is allocated from a claim.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from morphogen.tokens.strict import TOKEN, VOCAB, refuse

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
SPACE = "▁"


@dataclass(kw_only=True)
class Pieces:
    """A sentencepiece vocabulary and its switches, from a model file or from GGUF metadata."""

    names: list[str]
    scores: list[float]
    kinds: list[int]
    model: int = UNIGRAM
    charsmap: bytes = b""
    prefix: bool = True
    squeeze: bool = True
    "remove_extra_whitespaces"
    escape: bool = True
    suffix: bool = False
    "treat_whitespace_as_suffix"


def _varint(data: memoryview, at: int, where: object) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            refuse("a number is cut off", where)
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    refuse("a number of more than ten bytes", where)


def fields(data: memoryview, where: object) -> Iterator[tuple[int, Any]]:
    """(field number, int or bytes view) of one message; groups and unknown wire types are refused."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, where)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at, where)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at, where)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            refuse(f"wire type {wire}", where)
        if size > len(data) - at:
            refuse(f"a field of {size:,} bytes where {len(data) - at:,} are left", where)
        yield key >> 3, data[at : at + size]
        at += size


def _bytes(value: Any, where: object) -> memoryview:
    return value if isinstance(value, memoryview) else refuse("a number where bytes belong", where)


def _piece(data: memoryview, where: object) -> tuple[str, float, int]:
    name, score, kind = "", 0.0, NORMAL
    for field, value in fields(data, where):
        if field == 1:
            raw = bytes(_bytes(value, where))
            try:
                name = raw.decode("utf-8")
            except UnicodeDecodeError:
                refuse("a piece that is not UTF-8", where)
        elif field == 2:
            if not isinstance(value, memoryview) or len(value) != 4:
                refuse("a score that is no float", where)
            score = struct.unpack("<f", value)[0]
        elif field == 3:
            kind = value if isinstance(value, int) else 0
    return name, score, kind


def read_model(data: bytes, where: object = "") -> Pieces:
    """Pieces and switches of a sentencepiece model file. Raises FormatError."""
    found = Pieces(names=[], scores=[], kinds=[])
    for field, value in fields(memoryview(data), where):
        if field == 1:
            name, score, kind = _piece(_bytes(value, where), where)
            found.names.append(name)
            found.scores.append(score)
            found.kinds.append(kind)
            if len(found.names) > VOCAB:
                refuse(f"more than {VOCAB:,} pieces", where)
        elif field == 2:
            for key, setting in fields(_bytes(value, where), where):
                if key == 3 and isinstance(setting, int):
                    found.model = setting
                elif key == 24:
                    found.suffix = bool(setting)
        elif field == 3:
            for key, setting in fields(_bytes(value, where), where):
                if key == 2:
                    found.charsmap = bytes(_bytes(setting, where))
                elif key in (3, 4, 5) and isinstance(setting, int):
                    setattr(found, ("prefix", "squeeze", "escape")[key - 3], bool(setting))
    return found


def check(pieces: Pieces, where: object) -> None:
    """Raises FormatError for a vocabulary that cannot be one, or of a kind that is not read."""
    if pieces.model not in (UNIGRAM, BPE):
        refuse(f"a sentencepiece model of kind {pieces.model}", where, "unigram and bpe are read")
    if not pieces.names:
        refuse("no pieces", where)
    if len(set(pieces.names)) != len(pieces.names):
        refuse("a piece stands twice", where)
    for name, score, kind in zip(pieces.names, pieces.scores, pieces.kinds, strict=True):
        if not name or len(name) > TOKEN or not math.isfinite(score) or not NORMAL <= kind <= BYTE:
            refuse(f"a piece that is none: {name[:40]!r}, score {score}, type {kind}", where)
    if pieces.kinds.count(UNKNOWN) != 1:
        refuse(f"{pieces.kinds.count(UNKNOWN)} pieces for what is unknown", where)
    if pieces.suffix or not pieces.escape:
        refuse("white space after words, or not escaped", where, "convert it to tokenizer.json with its own tools")
    if len(pieces.charsmap) > 1 << 22:
        refuse(f"a normalisation table of {len(pieces.charsmap):,} bytes", where)


def _replace(pattern: str | None, text: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text} if pattern is None else {"Regex": pattern}, "content": content}


def _normaliser(p: Pieces) -> list[dict[str, Any]]:
    """What sentencepiece does to a text, in its order: its table, spaces at the ends and in runs, the escape, the dummy prefix."""
    steps: list[dict[str, Any]] = []
    if p.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(p.charsmap).decode("ascii")})
    if p.squeeze:
        steps += [_replace("^ +", "", ""), _replace(" {2,}", "", " ")]
    steps.append(_replace(None, " ", SPACE))
    if p.squeeze:
        steps.append(_replace(SPACE + "+$", "", ""))
    if p.prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return steps


def merges_of(p: Pieces) -> list[list[str]]:
    """Pairs in the order sentencepiece merges them: by the score of what they make; every pair that makes a piece is one."""
    live = {n: i for i, (n, k) in enumerate(zip(p.names, p.kinds)) if k == NORMAL}
    rows: list[tuple[float, int, int, int, str, str]] = []
    for name, i in live.items():
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in live and right in live:
                rows.append((-p.scores[i], i, live[left], live[right], left, right))
    rows.sort(key=lambda row: row[:4])
    return [[left, right] for *_, left, right in rows]


def spec_of(p: Pieces, where: object = "") -> dict[str, Any]:
    """A tokenizer.json that reads as sentencepiece does. Raises FormatError."""
    check(p, where)
    unknown = p.kinds.index(UNKNOWN)
    byte_fallback = BYTE in p.kinds
    # Pieces hold the space only at their beginning in nearly all models; then cutting before it changes no id and bounds every word.
    splits: list[dict[str, Any]] = []
    if not any(SPACE in n.lstrip(SPACE) for n, k in zip(p.names, p.kinds) if k == NORMAL):
        splits.append({"type": "Split", "pattern": {"Regex": f"{SPACE}*[^{SPACE}]+|{SPACE}+"}, "behavior": "Isolated", "invert": False})
    if p.model == UNIGRAM:
        if byte_fallback:  # the library would read the text "<0x41>" as a byte piece
            splits.append({"type": "Split", "pattern": {"Regex": "<(?=0x[0-9A-F]{2}>)"}, "behavior": "Isolated", "invert": False})
        model: dict[str, Any] = {
            "type": "Unigram",
            "unk_id": unknown,
            "byte_fallback": byte_fallback,
            "vocab": [[n, s] for n, s in zip(p.names, p.scores)],
        }
    else:
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": p.names[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": byte_fallback,
            "ignore_merges": False,
            "vocab": {n: i for i, n in enumerate(p.names)},
            "merges": merges_of(p),
        }
    added = [
        {"id": i, "content": n, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": k != USER}
        for i, (n, k) in enumerate(zip(p.names, p.kinds))
        if k in (UNKNOWN, CONTROL, USER, UNUSED)
    ]
    decoder = [_replace(None, SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if p.prefix or p.squeeze:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": None,
        "model": model,
        # The steps are for other readers and nearly the same; ours takes the table and these switches (normalise.py).
        "normalizer": {"type": "Sequence", "normalizers": _normaliser(p), "sentencepiece": {"prefix": p.prefix, "squeeze": p.squeeze}},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits} if splits else None,
        "decoder": {"type": "Sequence", "decoders": decoder},
    }


def fairseq(p: Pieces, where: object) -> Pieces:
    """The vocabulary as XLM-R numbers it: fairseq's four marks instead of sentencepiece's three, and a mask after all pieces."""
    if p.kinds[:3] != [UNKNOWN, CONTROL, CONTROL]:
        refuse("a vocabulary that does not begin with <unk>, <s>, </s>", where)
    return replace(
        p,
        names=["<s>", "<pad>", "</s>", "<unk>", *p.names[3:], "<mask>"],
        scores=[0.0] * 4 + p.scores[3:] + [0.0],
        kinds=[CONTROL, CONTROL, CONTROL, UNKNOWN, *p.kinds[3:], CONTROL],
    )


def from_sentencepiece(data: bytes, where: object = "", *, shifted: bool = False) -> dict[str, Any]:
    """A tokenizer.json from a sentencepiece model file; `shifted`: with the ids of `fairseq`."""
    pieces = read_model(data, where)
    return spec_of(fairseq(pieces, where) if shifted else pieces, where)
