"""ABC notation as we write it: one spelling of a tune for models, and a page for people. No torch here."""
from __future__ import annotations

from fractions import Fraction
from functools import cache

from morphogen.codecs.music.score import Bar, Element, Ending, Metre, Note, Tune, Tuplet, timed
from morphogen.codecs.music.theory import LETTERS, Key, beat_length, signature

TIMES = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}
"""In the time of how many notes a tuplet of p is, where ABC does not leave it to the metre."""


def page(tune: Tune, number: int, title: str, more: str = "") -> str:
    """A tune as people read it: X: T: M: L: K: lines, beats apart, four bars a line. `more`: further header lines."""
    lines, now, bars, at = [], "", 0, Fraction(0)
    beat, lengths = beat_length(tune.metre), {i: length for i, _, length in timed(tune)}
    for i, (e, text) in enumerate(zip(tune.body, pieces(tune))):
        if isinstance(e, Bar):
            now, bars, at = f"{now.rstrip()} {text} ", bars + 1, Fraction(0)
            if bars % 4 == 0 and not (i + 1 < len(tune.body) and isinstance(tune.body[i + 1], Ending)):
                lines, now = [*lines, now.strip()], ""
            continue
        now = now.rstrip() + text + " " if isinstance(e, Ending) else now + text
        if isinstance(e, Note):
            at += lengths[i]
            now += " " if at % beat == 0 and text[-1] not in "<>" else ""
    head = f"X:{number}\nT:{title}\n{more}M:{tune.metre}\nL:{tune.unit}\nK:{tune.key.name}\n"
    return head + "\n".join([*lines, *([now.strip()] if now.strip() else [])]) + "\n"


def header(tune: Tune) -> str:
    return f"M:{tune.metre}\nK:{tune.key.name}\n"


def write(tune: Tune) -> str:
    """The one spelling of a regular tune: M: and K: lines, then the body without spaces, lengths in the metre's own unit."""
    return header(tune) + "".join(pieces(tune))


def pieces(tune: Tune) -> list[str]:
    """The text of each element of the body; a broken pair's mark stands with its first note."""
    out: list[str] = []
    letters, heard = signature(tune.key.sharps), {}
    swung: str = ""
    for i, e in enumerate(tune.body):
        if isinstance(e, Note):
            after = tune.body[i + 1] if i + 1 < len(tune.body) else None
            mark = "" if swung or not isinstance(after, Note) or any(e.ties) else _pair(e.length, after.length)
            out.append(_note_text(e, Fraction(1) if mark or swung else e.length, letters, heard) + mark)
            swung = mark
            continue
        if isinstance(e, Bar):
            heard = {}
        elif isinstance(e, Key):
            letters, heard = signature(e.sharps), {}
        out.append(_mark_text(e))
    return out


@cache
def _pair(a: Fraction, b: Fraction) -> str:
    if {a, b} == {Fraction(3, 2), Fraction(1, 2)}:
        return ">" if a > b else "<"
    return ""


def _mark_text(e: Element) -> str:
    match e:
        case Bar(kind):
            return kind
        case Ending(number):
            return f"[{number}"
        case Tuplet(p, q, r):
            usual = TIMES.get(p, 2)
            return f"({p}" if (q, r) == (usual, p) and p in TIMES else f"({p}:{q}" if r == p else f"({p}:{q}:{r}"
        case Metre(name):
            return f"[M:{name}]"
        case Key():
            return f"[K:{e.name}]"
    return ""


def _note_text(note: Note, length: Fraction, letters: tuple[int, ...], heard: dict[int, int]) -> str:
    names = []
    for pitch in note.pitches:
        letter = pitch.step % 7
        sign = ""
        if heard.get(letter, letters[letter]) != pitch.alter:
            sign = {0: "=", 1: "^", 2: "^^", -1: "_", -2: "__"}[pitch.alter]
            heard[letter] = pitch.alter
        octave = pitch.step // 7
        name = LETTERS[letter] if octave <= 0 else LETTERS[letter].lower()
        names.append(sign + name + ("," * -octave if octave < 0 else "'" * (octave - 1)))
    text = span_text(length)
    tied = all(note.ties) and bool(note.ties)
    if len(names) == 1:
        return names[0] + text + "-" * tied
    if not names:
        return "z" + text
    return "[" + "".join(n + "-" * (t and not tied) for n, t in zip(names, note.ties)) + "]" + text + "-" * tied


@cache
def span_text(length: Fraction) -> str:
    """2, 3/2, /, /4 or nothing for 1."""
    if length.denominator == 1:
        return "" if length == 1 else str(length.numerator)
    top = "" if length.numerator == 1 else str(length.numerator)
    return f"{top}/" + ("" if length == Fraction(1, 2) else str(length.denominator))
