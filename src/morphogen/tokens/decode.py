"""From ids back to text: the exact bytes of each id, joined, read as UTF-8. No torch here.

Text is defined as the join of pieces, so what a stream gave so far never changes and always joins to the whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from functools import cache
from typing import Any

from morphogen.tokens.strict import parts


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up (Radford et al. 2019)."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}


def kind_of(spec: Mapping[str, Any]) -> str:
    """How pieces spell text: bytes, metaspace, wordpiece, suffix (`</w>`) or words."""
    kinds = {str(p.get("type")) for p in parts(spec.get("decoder"))}
    before = {str(p.get("type")) for key in ("pre_tokenizer", "normalizer") for p in parts(spec.get(key))}
    if "ByteLevel" in kinds or (not kinds and "ByteLevel" in before):
        return "bytes"
    if kinds & {"Metaspace", "Replace", "ByteFallback"} or (not kinds and "Metaspace" in before):
        return "metaspace"
    if "WordPiece" in kinds:
        return "wordpiece"
    return "suffix" if "BPEDecoder" in kinds else "words"


CLEANUP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Spelling:
    """The bytes of every id of a tokenizer. `lead`: a text's first piece loses one leading space."""

    def __init__(self, spec: Mapping[str, Any], names: list[str], special: frozenset[int]) -> None:
        self.kind, self.names, self.special = kind_of(spec), names, special
        self.added = {t["id"] for t in spec.get("added_tokens") or ()}
        found = {str(p.get("type")): p for p in parts(spec.get("decoder"))}
        self.fallback = "ByteFallback" in found or bool((spec.get("model") or {}).get("byte_fallback"))
        strip, meta = found.get("Strip"), found.get("Metaspace")
        self.lead = self.kind in ("wordpiece", "words")
        if self.kind == "metaspace":
            always = meta is not None and meta.get("prepend_scheme", "always") != "never" and meta.get("add_prefix_space", True)
            self.lead = bool(always or (strip is not None and strip.get("start")))
        self.space = str((meta or {}).get("replacement") or "▁")
        word = found.get("WordPiece") or {}
        self.prefix, self.cleanup = str(word.get("prefix", "##")), bool(word.get("cleanup", True))
        self.suffix = str((found.get("BPEDecoder") or {}).get("suffix", "</w>"))
        self._known: dict[int, bytes] = {}

    def bytes_of(self, i: int) -> bytes:
        """The bytes of id i inside a text, special tokens spelled out."""
        known = self._known.get(i)
        if known is None:
            known = self._known[i] = self._spell(i)
        return known

    def _spell(self, i: int) -> bytes:
        name = self.names[i]
        if self.kind == "bytes":
            table = byte_alphabet()
            if i not in self.added and all(c in table for c in name):
                return bytes(table[c] for c in name)
            return name.encode("utf-8", "replace")
        if self.kind == "metaspace":
            if self.fallback and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
                try:
                    return bytes([int(name[3:5], 16)])
                except ValueError:
                    pass
            return (name if i in self.added else name.replace(self.space, " ")).encode("utf-8", "replace")
        if self.kind == "wordpiece":
            text = name.removeprefix(self.prefix) if name.startswith(self.prefix) else " " + name
            for old, new in CLEANUP if self.cleanup else ():
                text = text.replace(old, new)
            return text.encode("utf-8", "replace")
        if self.kind == "suffix":
            return name.replace(self.suffix, " ").encode("utf-8", "replace")
        return (" " + name).encode("utf-8", "replace")

    def first(self, i: int) -> bytes:
        """The bytes of id i at the start of a text."""
        if self.kind == "wordpiece" and self.names[i].startswith(self.prefix):
            return self.names[i].encode("utf-8", "replace")  # as the reference does: a continuation without its word keeps its marks
        data = self.bytes_of(i)
        return data[1:] if self.lead and data.startswith(b" ") else data


class Decoder:
    """Ids one at a time to text: `feed` gives whole characters only; all that was given joins to the text of all ids."""

    def __init__(self, spelling: Spelling, *, special: bool = False) -> None:
        self._spelling, self._special = spelling, special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False

    def feed(self, i: int) -> str:
        """The characters that id i completes; "" while one is unfinished and for special tokens."""
        i = int(i)
        if not 0 <= i < len(self._spelling.names) or (i in self._spelling.special and not self._special):
            return ""
        data = self._spelling.bytes_of(i) if self._started else self._spelling.first(i)
        self._started = True
        return self._utf8.decode(data)

    def flush(self) -> str:
        """What is left: U+FFFD where the ids ended inside a character."""
        rest = self._utf8.decode(b"", True)
        self._started = False
        return rest
