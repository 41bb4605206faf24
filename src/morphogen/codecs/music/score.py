"""A tune as a list of elements, made regular; its bars; what it sounds like. No torch here."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from morphogen.codecs.music.theory import BY_NAME, Key, Pitch, bar_length, respell, unit_of

SECTION = frozenset({"||", "|]", "|:", ":|", "::"})
BARS = ("|", "||", "|]", "|:", ":|", "::")
MOST = 20_000  # notes of a tune played out: repeats inside repeats cannot run away


class Note(NamedTuple):
    """Notes that begin together (none = a rest), which of them are tied to the next, and a length in units."""

    pitches: tuple[Pitch, ...]
    ties: tuple[bool, ...]
    length: Fraction


class Bar(NamedTuple):
    """A bar line: one of `BARS`."""

    kind: str


class Ending(NamedTuple):
    """First, second ... ending begins here."""

    number: int


class Tuplet(NamedTuple):
    """The next r notes: p in the time of q."""

    p: int
    q: int
    r: int


class Metre(NamedTuple):
    """A change of metre."""

    name: str


Element: TypeAlias = Note | Bar | Ending | Tuplet | Metre | Key


@dataclass(frozen=True)
class Tune:
    """Header metre and key, and the elements; lengths count in `unit` (whole notes), which follows from the metre."""

    metre: str = "4/4"
    key: Key = BY_NAME["C"]
    body: tuple[Element, ...] = field(default_factory=tuple)

    @property
    def unit(self) -> Fraction:
        return unit_of(self.metre)


def begins(e: Element) -> bool:
    """Whether the music has begun with this element: until then, a metre or key is the header's."""
    return isinstance(e, Note) or (isinstance(e, Bar) and e.kind == "|:")


# ------------------------------------------------------------------ made regular
def regular(tune: Tune, *, whole: bool = True) -> Tune:
    """The same tune without what means nothing: empty bars, broken tuplets, ties to nothing, changes that change nothing.

    A `whole` tune ends with a bar line that closes (|] if it has none), and one without notes becomes one bar's rest, so that
    every tune can be played. Doing it twice changes nothing more.
    """
    body = _without_empty(tune)
    body = _whole_tuplets(body)
    body = _true_ties(body)
    if whole and not any(isinstance(e, Note) for e in body):
        length = (bar_length(tune.metre) or Fraction(1)) / tune.unit
        body = [Note((), (), length)]
    if whole:
        body = _closed(body)
    return Tune(tune.metre, tune.key, tuple(body))


def _without_empty(tune: Tune) -> list[Element]:
    out: list[Element] = []
    key, metre, bar = tune.key, tune.metre, -1  # bar: where the line stands after which no note has come
    fresh, begun = True, False
    for e in tune.body:
        if isinstance(e, Bar):
            if fresh and bar >= 0:
                if begun:  # before the first note nothing can be closed
                    out[bar] = Bar(_merged(out[bar].kind, e.kind))  # type: ignore[union-attr]
                continue
            if fresh and e.kind not in ("|:",):  # nothing before it
                continue
            bar, fresh = len(out), True
        elif isinstance(e, Ending):
            if not out or not isinstance(out[-1], Bar):
                continue
        elif isinstance(e, Key):
            if e == key:
                continue
            key = e
        elif isinstance(e, Metre):
            if e.name == metre:
                continue
            metre = e.name
        elif isinstance(e, Note):
            fresh, begun, bar = False, True, -1
            e = _note(e, key)
        out.append(e)
    return out


def _closed(body: Sequence[Element]) -> list[Element]:
    out = list(body)
    while out and not isinstance(out[-1], Note | Bar):
        out.pop()
    if not out or not isinstance(out[-1], Bar):
        out.append(Bar("|]"))
    closing = {"|": "|]", "|:": "||", "::": ":|"}  # nothing is left to repeat
    last = out[-1]
    assert isinstance(last, Bar)
    out[-1] = Bar(closing.get(last.kind, last.kind))
    return out


def _note(note: Note, key: Key) -> Note:
    """Pitches in order, each once, within reach of the key's signature."""
    if len(note.pitches) == 1:
        return Note((respell(note.pitches[0], key),), note.ties, note.length)
    best: dict[int, tuple[Pitch, bool]] = {}
    for pitch, tie in zip(note.pitches, note.ties):
        pitch = respell(pitch, key)
        best[pitch.midi] = (pitch, tie or best.get(pitch.midi, (pitch, False))[1])
    chosen = [best[midi] for midi in sorted(best)]
    return Note(tuple(p for p, _ in chosen), tuple(t for _, t in chosen), note.length)


def _merged(a: str, b: str) -> str:
    closes, opens = (a in (":|", "::") or b in (":|", "::")), (a in ("|:", "::") or b in ("|:", "::"))
    if closes or opens:
        return "::" if closes and opens else ":|" if closes else "|:"
    return max(a, b, key=BARS.index)


def _whole_tuplets(body: Sequence[Element]) -> list[Element]:
    out: list[Element] = []
    for i, e in enumerate(body):
        own = body[i + 1 : i + 1 + e.r] if isinstance(e, Tuplet) else ()
        if not isinstance(e, Tuplet) or (0 < e.r == len(own) and all(isinstance(n, Note) for n in own)):
            out.append(e)
    return out


def _true_ties(body: Sequence[Element]) -> list[Element]:
    out = list(body)
    later: Note | None = None
    for i in range(len(out) - 1, -1, -1):
        e = out[i]
        if isinstance(e, Note):
            if any(e.ties):
                there = set(later.pitches) if later else set()
                out[i] = e = Note(e.pitches, tuple(t and p in there for p, t in zip(e.pitches, e.ties)), e.length)
            later = e
    return out


# ------------------------------------------------------------------ time
def timed(tune: Tune) -> Iterator[tuple[int, Element, Fraction]]:
    """(position in the body, element, how long it lasts in whole notes: tuplets worked out)."""
    scale, left = Fraction(1), 0
    for i, e in enumerate(tune.body):
        if isinstance(e, Tuplet):
            scale, left = Fraction(e.q, e.p), e.r
        if isinstance(e, Note):
            yield i, e, e.length * tune.unit * (scale if left else 1)
            left -= left > 0
        else:
            yield i, e, Fraction(0)


@dataclass
class Segment:
    """What lies between two bar lines: body positions [start, stop), how long it lasts and should last (whole notes).

    `left`, `right`: the bar lines' kinds, "" at the ends of the tune; `ending`: an ending begins here.
    """

    start: int
    stop: int
    length: Fraction
    full: Fraction
    left: str = ""
    right: str = ""
    ending: bool = False

    @property
    def missing(self) -> Fraction:
        """What it lacks to a full bar."""
        return self.full - self.length


def segments(tune: Tune) -> list[Segment]:
    """The bars of a tune, those without notes left out."""
    out: list[Segment] = []
    now = Segment(0, 0, Fraction(0), bar_length(tune.metre))
    notes = 0
    for i, e, length in timed(tune):
        if isinstance(e, Bar):
            now.stop, now.right = i, e.kind
            if notes:
                out.append(now)
            now, notes = Segment(i + 1, i + 1, Fraction(0), now.full, left=e.kind), 0
        elif isinstance(e, Metre):
            now.full = bar_length(e.name)
        elif isinstance(e, Ending):
            now.ending = True
        elif isinstance(e, Note):
            now.length += length
            notes += 1
    now.stop = len(tune.body)
    return [*out, now] if notes else out


def wrong_bars(tune: Tune) -> list[int]:
    """Which `segments` do not fill the metre. Shorter bars are right where music has them: an upbeat that begins the tune or a
    section; and before a section's bar line, an ending or the end, a bar that lacks what such an upbeat gives (that of its
    own section, of the next one, or of the tune).
    """
    bars = segments(tune)
    upbeats = [bar.length if opens(bar) and bar.missing > 0 else Fraction(0) for bar in bars]
    wrong: list[int] = []
    own = Fraction(0)
    for i, bar in enumerate(bars):
        if opens(bar):
            own = upbeats[i]
        if bar.full == 0 or bar.missing == 0 or upbeats[i]:
            continue
        after = bars[i + 1] if i + 1 < len(bars) else None
        closes = after is None or bar.right in SECTION or after.ending
        if not (closes and bar.missing > 0 and bar.missing in (own, upbeats[0], upbeats[i + 1] if after else 0)):
            wrong.append(i)
    return wrong


def opens(bar: Segment) -> bool:
    """Whether a section begins with this bar; an ending belongs to the section before it."""
    return (bar.left == "" or bar.left in SECTION) and not bar.ending


# ------------------------------------------------------------------ sound
class Sound(NamedTuple):
    """Notes as played: when, how long (whole notes), MIDI number."""

    start: Fraction
    length: Fraction
    midi: int


def unfolded(tune: Tune) -> list[tuple[Element, Fraction]]:
    """Elements with their lengths in the order they are played: repeats twice, endings in turn."""
    flat = [(e, length) for _, e, length in timed(tune)]
    out: list[tuple[Element, Fraction]] = []
    i = begin = 0
    turn, closed = 1, set()
    while i < len(flat) and len(out) < MOST:
        e = flat[i][0]
        if isinstance(e, Ending) and e.number != turn and any(isinstance(x, Ending) and x.number == turn for x, _ in flat[i + 1 :]):
            i = _skip_ending(flat, i + 1, turn)
            continue
        out.append(flat[i])
        if isinstance(e, Bar):
            if e.kind in (":|", "::") and i not in closed:
                closed.add(i)
                turn, i = turn + 1, begin
                continue
            if e.kind in ("|:", "::") or (e.kind == ":|" and not _goes_on(flat, i)):
                begin, turn = i + 1, 1
        i += 1
    return out


def _goes_on(flat: Sequence[tuple[Element, Fraction]], i: int) -> bool:
    return i + 1 < len(flat) and isinstance(flat[i + 1][0], Ending)


def _skip_ending(flat: Sequence[tuple[Element, Fraction]], i: int, turn: int) -> int:
    """The position of the ending that is to be played in this turn."""
    while i < len(flat):
        e = flat[i][0]
        if isinstance(e, Ending) and e.number == turn:
            return i
        i += 1
    return i


def sounds(tune: Tune) -> list[Sound]:
    """Notes as played, tied ones joined, in order of their start."""
    out: list[Sound] = []
    held: dict[int, int] = {}  # MIDI number -> position in out of the note that is tied on
    now = Fraction(0)
    for e, length in unfolded(tune):
        if not isinstance(e, Note):
            continue
        tied: dict[int, int] = {}
        for pitch, tie in zip(e.pitches, e.ties):
            midi = pitch.midi
            if midi in held:
                at = held[midi]
                out[at] = Sound(out[at].start, now + length - out[at].start, midi)
            else:
                at = len(out)
                out.append(Sound(now, length, midi))
            if tie:
                tied[midi] = at
        held, now = tied, now + length
    return out
