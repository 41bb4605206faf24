"""ABC notation (version 2.1): a tolerant reader of tunes. No torch here."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

from morphogen.codecs.music.score import MOST, Bar, Element, Ending, Metre, Note, Tune, Tuplet, begins, regular
from morphogen.codecs.music.theory import LETTERS, Key, Pitch, bar_length, parse_key, parse_metre, unit_of
from morphogen.codecs.music.writing import TIMES

LENGTHS = tuple(sorted({Fraction(n, 8) for n in (1, 2, 3, 4, 6, 7, 10, 12, 14, 20, 28, 36)} | {Fraction(n, 2) for n in (9, 11, 13, 15)}
                       | {Fraction(n) for n in (*range(2, 13), 14, 15, 16, 18, 20, 24, 32)}))
"""How long a note may be in units, besides 1; other lengths are tied together."""
GRAIN = Fraction(1, 8)
HOLE = "\x01"
"""Stands for a bar nobody knows; read as a rest of length 0."""
TUPLETS = (*((p, TIMES.get(p, 2), p) for p in range(2, 10)), *((p, 3, p) for p in (5, 7, 9)),
           *((3, 2, r) for r in (1, 2, 4, 5, 6, 7, 8, 9)))
ENDINGS = 4
NOTE = re.compile(r"(\^{1,2}|_{1,2}|=)?([A-Ga-g])([,']{0,4})")
SPAN = re.compile(r"([0-9]{0,4})(/{0,4})([0-9]{0,4})", re.ASCII)
BAR = re.compile(r":*\[?\|+\]?:*|::+")
INLINE = re.compile(r"\[([A-Za-z]):([^\]\n]{0,200})\]")
ENDING = re.compile(r"\[?([1-9])(?:[,-][1-9])*", re.ASCII)
TUPLET = re.compile(r"\(([2-9])(?::([1-9]?))?(?::([0-9]{0,2}))?", re.ASCII)
QUOTED = re.compile(r'"[^"\n]{0,400}"|![^!\s|]{1,24}!|\+[a-zA-Z.]{1,16}\+|\{[^}\n]{0,200}\}')
FIELD = re.compile(r"^([A-Za-z+]):(?![|:])(.*)$")


class Unreadable(ValueError):
    """Why a tune cannot be used, in a few words."""


@dataclass
class Source:
    """One tune of a file as it stands there: where it begins, its header's fields, its lines of music."""

    line: int
    fields: dict[str, list[str]] = field(default_factory=dict)
    body: list[str] = field(default_factory=list)

    def first(self, name: str) -> str:
        return self.fields.get(name, [""])[0]


# ------------------------------------------------------------------ files to tunes
def tunes(text: str) -> Iterator[Source]:
    """The tunes of a file: from X: to the next, a blank line or the end. What is said before the first holds for all."""
    shared: dict[str, list[str]] = {}
    now: Source | None = None
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        line = re.sub(r"(?<!\\)%.*", "", raw).rstrip()
        match = FIELD.match(line)
        if match and match[1] == "X":
            if now:
                yield now
            now = Source(number, {k: list(v) for k, v in shared.items()})
        if not line.strip():
            if now and now.body and not raw.strip():  # a comment alone does not end a tune
                yield now
                now = None
            continue
        if now is None and match and not number > 1 and match[1] in "TMKL":
            now = Source(number)  # a lone tune without X:
        if now is None:
            if match and match[1] in "MLQR":
                shared[match[1]] = [match[2].strip()]
        elif match and not now.body and "K" not in now.fields:
            if match[1] in shared and now.fields.get(match[1]) == shared[match[1]]:
                now.fields[match[1]] = []
            now.fields.setdefault(match[1], []).append(match[2].strip())
        elif match and "K" in now.fields:
            if match[1] in "KMLV":
                now.body.append(f"[{match[1]}:{match[2].strip().replace(']', '')}]")
        elif not match:
            now.body.append(line)
    if now:
        yield now


def parse(source: Source, *, whole: bool = True) -> Tune:
    """A tune of a file as a regular `Tune`. Raises Unreadable with the reason."""
    if "K" not in source.fields:
        raise Unreadable("no key (K:)")
    if any(len(v.split()) for v in source.fields.get("V", [])[1:]):
        raise Unreadable("more than one voice")
    key = parse_key(source.first("K"))
    if key is None:
        raise Unreadable(f"unknown key '{source.first('K')[:20]}'")
    metre = parse_metre(source.first("M") or "none")
    if metre is None:
        raise Unreadable(f"unknown metre '{source.first('M')[:20]}'")
    reader = Reader(metre, key[0], key[1], _length(source.first("L")) or unit_of(metre))
    for line in source.body:
        reader.line(line.rstrip("\\"))
    return reader.tune(whole=whole)


def read(text: str, *, whole: bool = True) -> Tune:
    """One tune from its normalised text (or any single ABC tune; without K: it is in C). Raises Unreadable.

    Not `whole`: a beginning, which nothing closes.
    """
    head, body = Source(1), []
    for line in text.split("\n"):
        match = FIELD.match(line)
        if match and not body and "K" not in head.fields:
            head.fields.setdefault(match[1], []).append(match[2].strip())
        elif line.strip():
            body.append(line)
    head.fields.setdefault("K", ["C"])
    head.fields.setdefault("M", ["4/4"])
    head.body = body
    return parse(head, whole=whole)


def _length(text: str) -> Fraction | None:
    match = re.fullmatch(r"\s*([0-9]{1,2})(?:\s*/\s*([0-9]{1,3}))?\s*", text, re.ASCII)
    if not match or not int(match[1]) or (match[2] and not int(match[2])):
        return None
    return Fraction(int(match[1]), int(match[2] or 1))


# ------------------------------------------------------------------ lines of music
class Reader:
    """Reads lines of music; `tune()` is what was read. Lengths are kept in the units of the header's metre."""

    def __init__(self, metre: str, key: Key, letters: tuple[int, ...], length: Fraction) -> None:
        self.start, self.metre, self.unit = (metre, key), metre, unit_of(metre)
        self.letters, self.length = letters, length
        self.body: list[Element] = []
        self.heard: dict[int, int] = {}  # letter -> alteration that holds until the bar ends
        self.broken = Fraction(1)  # what the next note is multiplied by
        self.last: int | None = None  # where the last note stands, for ties and broken rhythm
        self.voice: str | None = None
        self.skipped = 0

    def tune(self, *, whole: bool = True) -> Tune:
        return regular(Tune(*self.start, tuple(_sayable(self.body))), whole=whole)

    def line(self, text: str) -> None:
        """Read one line. Raises Unreadable for what cannot be played as one voice."""
        at = 0
        while at < len(text):
            at = self._next(text, at)
            if len(self.body) > 4 * MOST:
                raise Unreadable("too long")

    def _next(self, text: str, at: int) -> int:
        c = text[at]
        if c == "[" and (match := INLINE.match(text, at)):
            self._field(match[1], match[2].strip())
            return match.end()
        if c in "|:[" and (match := BAR.match(text, at)):
            self._bar(match[0])
            follow = ENDING.match(text, match.end())
            if follow and not follow[0].startswith("["):
                self.body.append(Ending(int(follow[1])))
                return follow.end()
            return match.end()
        if c == "[":
            if match := ENDING.match(text, at):
                self.body.append(Ending(int(match[1])))
                return match.end()
            return self._chord(text, at + 1)
        if c in "\"!+{" and (match := QUOTED.match(text, at)):
            return match.end()
        if c == "(" and (match := TUPLET.match(text, at)):
            p = int(match[1])
            q = int(match[2]) if match[2] else self._usual(p)
            self.body.append(Tuplet(p, q, int(match[3]) if match[3] else p))
            return match.end()
        return self._sound(text, at)

    def _sound(self, text: str, at: int) -> int:
        c = text[at]
        if match := NOTE.match(text, at):
            pitch, (length, end) = self._pitch(match), self._span(text, match.end())
            return self._add((pitch,), (False,), length, end)
        if c == HOLE:
            return self._add((), (), Fraction(0), at + 1)
        if c in "zx":
            length, end = self._span(text, at + 1)
            return self._add((), (), length, end)
        if c in "ZX":
            count, end = self._span(text, at + 1)
            whole = (bar_length(self.metre) or Fraction(1)) / self.length
            for i in range(int(min(count, 64))):
                if i:
                    self._bar("|")
                self._add((), (), whole, end)
            return end
        if c == "-" and self.last is not None:
            note = self.body[self.last]
            assert isinstance(note, Note)
            self.body[self.last] = Note(note.pitches, (True,) * len(note.pitches), note.length)
        elif c in "<>":
            return self._swing(text, at)
        elif c == "&":
            raise Unreadable("more than one voice (&)")
        else:
            self.skipped += not c.isspace() and c not in "().~`\\$*yHIJKLMNOPQRSTUVWhijklmnopqrstuvw"
        return at + 1

    def _usual(self, p: int) -> int:
        compound = self.metre != "none" and int(self.metre.split("/")[0]) % 3 == 0 and int(self.metre.split("/")[0]) > 3
        return TIMES.get(p, 3 if compound else 2)

    def _pitch(self, match: re.Match[str]) -> Pitch:
        sign, letter, octave = match.groups()
        at = LETTERS.index(letter.upper())
        step = at + 7 * (letter.islower() + octave.count("'") - octave.count(","))
        if sign:
            self.heard[at] = sign.count("^") - sign.count("_")
        elif at not in self.heard and self.last is not None:
            note = self.body[self.last]
            assert isinstance(note, Note)
            for pitch, tie in zip(note.pitches, note.ties):
                if tie and pitch.step == step:  # a tie carries its accidental over the bar line
                    return pitch
        return Pitch(step, self.heard.get(at, self.letters[at]))

    def _span(self, text: str, at: int) -> tuple[Fraction, int]:
        match = SPAN.match(text, at)
        assert match
        top, slashes, low = match.groups()
        divisor = (int(low) if low else 2 ** len(slashes)) if slashes else 1
        if not slashes and low:
            top += low
        if divisor == 0 or (top and int(top) == 0):
            raise Unreadable("a length of 0")
        return Fraction(int(top) if top else 1, divisor), match.end()

    def _chord(self, text: str, at: int) -> int:
        pitches: list[Pitch] = []
        ties: list[bool] = []
        inner: Fraction | None = None
        while at < len(text) and text[at] != "]":
            if match := NOTE.match(text, at):
                pitches.append(self._pitch(match))
                ties.append(False)
                length, at = self._span(text, match.end())
                inner = inner or length
            elif match := QUOTED.match(text, at):
                at = match.end()
            else:
                if text[at] == "-" and ties:
                    ties[-1] = True
                at += 1
        if at >= len(text):
            raise Unreadable("a chord without its end")
        length, at = self._span(text, at + 1)
        return self._add(tuple(pitches), tuple(ties), length * (inner or 1), at) if pitches else at

    def _add(self, pitches: tuple[Pitch, ...], ties: tuple[bool, ...], length: Fraction, end: int) -> int:
        self.last = len(self.body)
        self.body.append(Note(pitches, ties, length * self.broken * self.length / self.unit))
        self.broken = Fraction(1)
        return end

    def _swing(self, text: str, at: int) -> int:
        end = at
        while end < len(text) and text[end] == text[at] and end < at + 3:
            end += 1
        short = Fraction(1, 2 ** (end - at))
        if self.last is not None:
            note = self.body[self.last]
            assert isinstance(note, Note)
            first = 2 - short if text[at] == ">" else short
            self.body[self.last] = Note(note.pitches, note.ties, note.length * first)
            self.broken = 2 - first
            if self.body[self.last].length.denominator > 512:  # type: ignore[union-attr]
                raise Unreadable("a rhythm broken too often")
        return end

    def _bar(self, mark: str) -> None:
        closes, opens = mark.startswith(":"), mark.endswith(":")
        if set(mark) == {":"} or (closes and opens):
            kind = "::"
        elif closes or opens:
            kind = ":|" if closes else "|:"
        else:
            kind = "|]" if "]" in mark else "||" if mark.count("|") > 1 or "[" in mark else "|"
        self.body.append(Bar(kind))
        self.heard, self.broken = {}, Fraction(1)

    def _field(self, name: str, value: str) -> None:
        if name == "K":
            key = parse_key(value)
            if key is None:
                raise Unreadable(f"unknown key '{value[:20]}'")
            self.letters, self.heard = key[1], {}
            if any(map(begins, self.body)):
                self.body.append(key[0])
            else:
                self.start = (self.start[0], key[0])
        elif name == "M":
            metre = parse_metre(value)
            if metre is None:
                raise Unreadable(f"unknown metre '{value[:20]}'")
            self.metre = metre
            if any(map(begins, self.body)):
                self.body.append(Metre(metre))
            else:
                self.start, self.unit = (metre, self.start[1]), unit_of(metre)
        elif name == "L":
            self.length = _length(value) or self.length
        elif name == "V":
            voice = (value.split() or [""])[0]
            if self.voice not in (None, voice):
                raise Unreadable("more than one voice")
            self.voice = voice


def _sayable(body: list[Element]) -> list[Element]:
    """Lengths split into ones there is a name for; tuplets and endings without a name left out. Raises Unreadable."""
    out: list[Element] = []
    for e in body:
        if isinstance(e, Note):
            out += split_note(e) if e.length else [e]
        elif isinstance(e, Tuplet):
            if tuple(e) in TUPLETS:
                out.append(e)
            else:
                raise Unreadable(f"a tuplet of {e.p}:{e.q}:{e.r}")
        elif not (isinstance(e, Ending) and e.number > ENDINGS):
            out.append(e)
    return out


def split_note(note: Note) -> list[Note]:
    """A note as tied notes whose lengths have a name. Raises Unreadable when its length is no whole number of eighths of a unit."""
    parts = parts_of(note.length)
    if len(parts) == 1:
        return [note]
    if not parts:
        raise Unreadable(f"a length of {note.length} units")
    held = (True,) * len(note.pitches)
    return [*(Note(note.pitches, held, part) for part in parts[:-1]), Note(note.pitches, note.ties, parts[-1])]


@cache
def parts_of(length: Fraction) -> tuple[Fraction, ...]:
    """A length as a sum of lengths with a name, longest first; empty when there is none."""
    if length in LENGTHS or length == 1:
        return (length,)
    if length.denominator not in (1, 2, 4, 8) or not 0 < length <= 512:
        return ()
    part = max(n for n in (Fraction(1), *LENGTHS) if n <= length)
    return (part, *parts_of(length - part))
