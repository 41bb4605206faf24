"""What sentencepiece does to a text before it looks for pieces (Kudo & Richardson 2018), on whole texts. No torch here.

Its table of rules is a double-array trie over UTF-8 (Darts-clone's layout of 32-bit units) and the texts its leaves point at; at every
place the longest rule wins. Hugging Face's `Precompiled` asks the same table grapheme by grapheme, which is not always the same.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from morphogen.tokens.strict import parts, refuse

SPACE = "▁"
TABLE = 1 << 22  # bytes a table may have; NFKC with lower case has 250,000
LONG = 256  # bytes a rule may write; the longest of Unicode has 33
MEMO = 1 << 16
PLAIN = re.compile(r"[\x00-\x7f]+(?![^\x00-\x7f])")
"ASCII that nothing else follows: a letter before an accent belongs to the accent."


class Trie:
    """The rules of a table: what the longest one that fits somewhere writes. Raises FormatError for a table that is none."""

    def __init__(self, table: bytes, where: object = "") -> None:
        if len(table) > TABLE:
            refuse(f"a normalisation table of {len(table):,} bytes", where)
        size = int.from_bytes(table[:4], "little")
        if size % 4 or not 4 <= size < len(table) - 4:
            refuse("a normalisation table that is none", where)
        self._units = memoryview(table[4 : 4 + size]).cast("I")
        self._texts = table[4 + size :]
        self._step: dict[tuple[int, str], tuple[int, str | None]] = {}

    def _text(self, at: int) -> str:
        end = self._texts.find(b"\0", at, at + LONG)
        return self._texts[at:end].decode("utf-8", "replace") if end >= 0 else ""

    def step(self, node: int, char: str) -> tuple[int, str | None]:
        """(the node after a character, -1 where no rule goes on; what the rule that ends there writes)."""
        found = self._step.get((node, char))
        if found is None:
            if len(self._step) > MEMO:
                self._step.clear()
            found = self._step[node, char] = self._walk(node, char)
        return found

    def _walk(self, node: int, char: str) -> tuple[int, str | None]:
        units, text = self._units, None
        for byte in char.encode("utf-8", "replace"):
            node ^= byte
            if node >= len(units) or units[node] & 0x800000FF != byte:
                return -1, None
            unit = units[node]
            node ^= (unit >> 10) << ((unit & 512) >> 6)
            if node >= len(units):
                return -1, None
            text = self._text(units[node] & 0x7FFFFFFF) if unit & 256 else None
        return node, text

    @property
    def root(self) -> int:
        """The node all rules begin at."""
        return (self._units[0] >> 10) << ((self._units[0] & 512) >> 6)

    def apply(self, text: str, at: int, stop: int) -> tuple[str, int]:
        """What is written for text[at:stop], every rule applied once from left to right, and how far the last one read: stop or beyond."""
        out, root, step = [], self.root, self.step
        while at < stop:
            node, end, best, i = root, at + 1, text[at], at
            while i < len(text):
                node, found = step(node, text[i])
                if node < 0:
                    break
                i += 1
                if found is not None:
                    best, end = found, i
            out.append(best)
            at = end
        return "".join(out), at


class Normaliser:
    """Rules, spaces at the ends and in runs, the space before a text; spaces come out as their sign. `kept`: symbols no rule touches."""

    def __init__(self, table: bytes, *, prefix: bool, squeeze: bool, kept: Iterable[str] = (), where: object = "") -> None:
        self.prefix, self.squeeze = prefix, squeeze
        self._trie = Trie(table, where) if table else None
        kept = sorted(kept, key=len, reverse=True)
        self._kept = re.compile("(" + "|".join(map(re.escape, kept)) + ")") if kept else None
        self._ascii: dict[int, str] | None = None
        if self._trie is not None:
            self._ascii = self._of_ascii(self._trie)

    @staticmethod
    def _of_ascii(trie: Trie) -> dict[int, str] | None:
        """What becomes of ASCII characters each by itself; None when a rule joins two of them."""
        chars, out = [chr(i) for i in range(128)], {}
        for char in chars:
            node, text = trie.step(trie.root, char)
            if node >= 0 and any(trie.step(node, after)[0] >= 0 for after in chars):
                return None
            if text is not None and text != char:
                out[ord(char)] = text
        trie._step.clear()
        return out

    def __call__(self, text: str) -> str:
        """The text as the model sees it."""
        if not text:
            return ""
        parts = self._kept.split(text) if self._kept else [text]
        if self._trie is not None:
            parts[::2] = map(self._ruled, parts[::2])
        text = "".join(self._squeezed(parts) if self.squeeze else parts)
        if self.squeeze and not text:
            return ""
        text = (SPACE if self.prefix else "") + text.replace(" ", SPACE)
        return text.rstrip(SPACE) if self.squeeze else text

    @staticmethod
    def _squeezed(parts: Iterable[str]) -> Iterator[str]:
        """One space for many, none at the beginning; every second part is a symbol, whose spaces inside stay."""
        space = True
        for i, part in enumerate(parts):
            part = part if i % 2 else re.sub("  +", " ", part)
            part = part.lstrip(" ") if space else part
            space = part.endswith(" ") if part else space
            yield part

    def _ruled(self, text: str) -> str:
        trie, table = self._trie, self._ascii
        assert trie is not None
        if table is None:
            return trie.apply(text, 0, len(text))[0]
        if text.isascii():
            return text.translate(table)
        out, at = [], 0
        for run in PLAIN.finditer(text):
            written, at = trie.apply(text, at, run.start())  # a rule may go on into the run
            out += [written, text[at : run.end()].translate(table)]
            at = max(at, run.end())
        return "".join([*out, trie.apply(text, at, len(text))[0]])


def normaliser_of(spec: Mapping[str, Any], where: object = "") -> Normaliser | None:
    """The Normaliser a tokenizer.json of `spm.spec_of` asks for; None where it says nothing of sentencepiece. Raises FormatError."""
    steps = spec.get("normalizer")
    asked = steps.get("sentencepiece") if isinstance(steps, dict) else None
    if asked is None:
        return None
    if not isinstance(asked, dict) or not all(isinstance(asked.get(k), bool) for k in ("prefix", "squeeze")):
        refuse("switches of sentencepiece that are none", where)
    tables = [str(p.get("precompiled_charsmap")) for p in parts(steps) if p.get("type") == "Precompiled"]
    try:
        table = base64.b64decode(tables[0], validate=True) if tables else b""
    except (ValueError, binascii.Error):
        refuse("a normalisation table that is none", where)
    kept = [t["content"] for t in spec.get("added_tokens") or () if not t.get("special")]
    return Normaliser(table, prefix=asked["prefix"], squeeze=asked["squeeze"], kept=kept, where=where)
