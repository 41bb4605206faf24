"""The pieces a sentencepiece Unigram model chooses (Kudo 2018, arXiv 1804.10959), ties as the library breaks them. No torch here.

score(t) = max over pieces p that end at t of score(t - |p|) + score(p), the first of equals. The library adds in single precision over a
whole text, so pieces whose exact sums are equal ("aa"+"a", "a"+"aa") are told apart by rounding: whoever adds in double precision, or word
by word, gives other ids. Here a word is remembered with how clearly it won; one that rounding could turn is worked out in its place.
Held against sentencepiece 0.2.3; beyond some 20,000 tokens in one text, where single precision is coarse, a near tie may still differ.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SPACE = "▁"
PENALTY = 10.0  # below the lowest score: what an unknown character costs
REACH = 256  # characters a piece may have; work grows with it at every place
WORDS = 1 << 16  # remembered
WORD = 64  # characters a word may have to be remembered
BYTE = re.compile("<0x[0-9A-F]{2}>")
WORD_CUT = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")


@dataclass(frozen=True)
class Word:
    """Ids of a word, the scores that were added for it, and by how much the path won where it was nearest to losing."""

    ids: tuple[int, ...]
    scores: tuple[float, ...]
    margin: float
    cost: float


def single(value: float) -> float:
    """The nearest number of single precision."""
    return array("f", (value,))[0]


class Unigram:
    """`encode(normalised text)` gives the library's ids. `live`: piece -> (id, score); `fallback`: ids of the 256 bytes, or none."""

    def __init__(self, live: dict[str, tuple[int, float]], unknown: int, penalty: float, fallback: list[int] | None) -> None:
        self._live, self._unknown, self._penalty, self._fallback = live, unknown, penalty, fallback
        self._reach: dict[str, int] = {}
        for piece in live:
            self._reach[piece[0]] = max(len(piece), self._reach.get(piece[0], 0))
        self._words: dict[str, Word] = {}
        # No piece goes on beyond the beginning of the next word: then each is its own problem, but for the rounding.
        self._cuts = not any(SPACE in piece.lstrip(SPACE) for piece in live)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that is normalised already."""
        if not text:
            return []
        texts = WORD_CUT.findall(text) if self._cuts else [text]
        words = [self._words.get(t) or self._word(t) for t in texts]
        # A sum of this size is rounded by at most `ulp` / 2; every character of a word may add once to each of two paths.
        ulp = sum(w.cost for w in words) * 2.0**-22
        last = max((k for k, (t, w) in enumerate(zip(texts, words)) if w.margin <= 2 * (len(t) + 1) * ulp), default=-1)
        out: list[int] = []
        here = array("f", (0.0,))  # what the library has added up so far, as it has it
        for k, word in enumerate(words):
            if k <= last:
                if word.margin <= 2 * (len(texts[k]) + 1) * ulp:
                    word = self._best(texts[k], here[0])
                for score in word.scores:
                    here[0] += score
            out += word.ids
        return out if self._fallback else self._fused(out)

    def _fused(self, ids: list[int]) -> list[int]:
        """Unknown characters in a row are one id."""
        unknown = self._unknown
        if ids.count(unknown) < 2:
            return ids
        return [i for k, i in enumerate(ids) if i != unknown or not k or ids[k - 1] != unknown]

    def _word(self, text: str) -> Word:
        word = self._best(text, 0.0)
        if len(text) <= WORD:
            if len(self._words) >= WORDS:
                self._words.clear()
            self._words[text] = word
        return word

    def _best(self, text: str, start: float) -> Word:
        """The best path through a text when so much was added up before it."""
        size, live, reach, unknown = len(text), self._live, self._reach, self._unknown
        total, cell = array("f", bytes(4 * (size + 1))), array("f", (0.0,))
        total[0] = start
        second = [float("-inf")] * (size + 1)
        came: list[tuple[int, int, float] | None] = [None] * (size + 1)
        for at in range(size):
            before = total[at]
            for end in range(at + 1, min(size, at + reach.get(text[at], 1)) + 1):
                found = live.get(text[at:end])
                if found is None:
                    if end > at + 1:
                        continue
                    found = (unknown, self._penalty)
                cell[0] = before + found[1]
                score = cell[0]
                if came[end] is None or score > total[end]:
                    if came[end] is not None:
                        second[end] = total[end]
                    total[end], came[end] = score, (at, *found)
                elif score > second[end]:
                    second[end] = score
        return self._back(text, came, total, second)

    def _back(self, text: str, came: list[Any], total: Any, second: list[float]) -> Word:
        ids: list[int] = []
        scores: list[float] = []
        margin, end = float("inf"), len(text)
        while end:
            at, i, score = came[end]
            margin = min(margin, total[end] - second[end])
            if i == self._unknown and self._fallback:
                ids += [self._fallback[b] for b in reversed(text[at:end].encode("utf-8", "replace"))]
            else:
                ids.append(i)
            scores.append(score)
            end = at
        return Word(tuple(reversed(ids)), tuple(reversed(scores)), margin, sum(map(abs, scores)))


def unigram_of(spec: Mapping[str, Any]) -> Unigram | None:
    """The model of a tokenizer.json of `spm.spec_of`; None where it is of another kind, or has pieces too long to be looked for so."""
    model = spec["model"]
    if model.get("type") != "Unigram" or not isinstance(model.get("unk_id"), int) or not 0 <= model["unk_id"] < len(model["vocab"]):
        return None
    byte = {n: i for i, (n, _) in enumerate(model["vocab"]) if BYTE.fullmatch(n)} if model.get("byte_fallback") else {}
    special = {t["content"]: bool(t.get("special")) for t in spec.get("added_tokens") or ()}
    normal = [single(s) for n, s in model["vocab"] if n not in special and n not in byte]
    if not normal:
        return None
    # A symbol of the user's wins over any pieces, and a longer one over it; so do tokens that were added after the model was made.
    bonus = lambda name: single(0.1 * (len(name.encode("utf-8", "replace")) - 1))
    live = {t["content"]: (int(t["id"]), bonus(t["content"])) for t in spec.get("added_tokens") or () if not t.get("special")}
    for i, (name, score) in enumerate(model["vocab"]):
        if name and name not in byte and name not in special:
            live[name] = (i, single(score))
    if max(map(len, live), default=0) > REACH:
        return None
    unknown: int = model["unk_id"]
    fallback = [byte.get(f"<0x{b:02X}>", unknown) for b in range(256)] if byte else None
    return Unigram(live, unknown, single(min(normal) - PENALTY), fallback)
