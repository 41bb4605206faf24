"""A tune as tokens and back. Pitches are said as steps from the tonic, so a tune has the same tokens in every key. No torch here.

Order: metre, key, then the body; a note is its pitch, a length unless it is 1, a tie if it has one; a chord is [ pitches ].
The vocabulary is fixed. Every string of tokens means a tune: what has no meaning where it stands is passed over.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from morphogen.codecs.music.abc import ENDINGS, LENGTHS, TUPLETS
from morphogen.codecs.music.score import BARS, Bar, Element, Ending, Metre, Note, Tune, Tuplet, begins, regular
from morphogen.codecs.music.theory import KEYS, METRES, Key, Pitch, respell, signature

DEGREES = range(-29, 29)


class Degree(NamedTuple):
    """A pitch token: diatonic steps from the tonic, and semitones above (1) or below (-1) the signature's note."""

    steps: int
    relative: int


class Sign(NamedTuple):
    """rest, tie, [ and ]."""

    name: str


REST, TIE, OPEN, CLOSE = Sign("z"), Sign("-"), Sign("["), Sign("]")
Atom: TypeAlias = Metre | Key | Bar | Ending | Tuplet | Sign | Fraction | Degree
ATOMS: tuple[Atom, ...] = (
    *(Metre(name) for name in METRES), *KEYS, *(Bar(kind) for kind in BARS), *(Ending(i) for i in range(1, ENDINGS + 1)),
    *(Tuplet(*t) for t in TUPLETS), REST, TIE, OPEN, CLOSE, *LENGTHS, *(Degree(d, a) for d in DEGREES for a in (0, 1, -1)),
)
# equal tuples of different kinds are one dictionary key, so the kind is part of it
IDS = {(type(atom), atom): i for i, atom in enumerate(ATOMS)}
END = len(ATOMS)
VOCAB = END + 1
BAR_IDS = frozenset(i for i, atom in enumerate(ATOMS) if isinstance(atom, Bar))
HOLE = -1
"""Not in the vocabulary: where a tune that is given has an unknown bar (a rest of length 0)."""


def id_of(atom: Atom) -> int:
    return IDS[type(atom), atom]


def degree_of(pitch: Pitch, key: Key) -> Degree:
    """How a pitch is said in a key."""
    return Degree(pitch.step - key.home, pitch.alter - signature(key.sharps)[pitch.step % 7])


def pitch_of(degree: Degree, key: Key) -> Pitch:
    """The inverse of `degree_of`; what is off the piano comes back by octaves."""
    step = degree.steps + key.home
    return respell(Pitch(step, signature(key.sharps)[step % 7] + degree.relative), key)


def say(tune: Tune) -> tuple[list[int], list[int]]:
    """(ids without the end, where in the body each comes from: -1 metre and key of the header)."""
    ids, places = [id_of(Metre(tune.metre)), id_of(tune.key)], [-1, -1]
    key = tune.key
    for i, e in enumerate(tune.body):
        if isinstance(e, Note):
            new = _note_ids(e, key)
        else:
            key = e if isinstance(e, Key) else key
            new = [id_of(e)]
        ids += new
        places += [i] * len(new)
    return ids, places


def _note_ids(note: Note, key: Key) -> list[int]:
    tied = bool(note.ties) and all(note.ties)
    if note.length == 0:
        return [HOLE]
    if not note.pitches:
        new = [id_of(REST)]
    elif len(note.pitches) == 1:
        new = [id_of(degree_of(note.pitches[0], key))]
    else:
        new = [id_of(OPEN)]
        for pitch, tie in zip(note.pitches, note.ties):
            new += [id_of(degree_of(pitch, key)), id_of(TIE)] if tie and not tied else [id_of(degree_of(pitch, key))]
        new.append(id_of(CLOSE))
    if note.length != 1:
        new.append(id_of(note.length))
    return [*new, id_of(TIE)] if tied else new


class _Hearer:
    """Builds the body from atoms, whatever their order."""

    def __init__(self) -> None:
        self.metre, self.key = "4/4", Tune().key
        self.sound = self.key
        self.body: list[Element] = []
        self.pitches: list[Pitch] = []
        self.ties: list[bool] = []
        self.chord = False
        self.open = False  # the last element is a note that may still get a length or a tie
        self.sized = False

    def close(self) -> None:
        if self.chord and self.pitches:
            self._note(Note(tuple(self.pitches), tuple(self.ties), Fraction(1)))
        self.chord, self.pitches, self.ties = False, [], []

    def _note(self, note: Note) -> None:
        self.body.append(note)
        self.open, self.sized = True, False

    def hear(self, atom: Atom) -> None:
        if isinstance(atom, Degree):
            pitch = pitch_of(atom, self.sound)
            if self.chord:
                self.pitches.append(pitch)
                self.ties.append(False)
            else:
                self._note(Note((pitch,), (False,), Fraction(1)))
        elif isinstance(atom, Fraction):
            if self.open and not self.sized and not self.chord:
                note = self.body[-1]
                assert isinstance(note, Note)
                self.body[-1], self.sized = note._replace(length=atom), True
        elif isinstance(atom, Sign):
            self._sign(atom)
        else:
            self.close()
            self.open = False
            self._mark(atom)

    def _sign(self, atom: Sign) -> None:
        if atom == TIE:
            if self.chord and self.ties:
                self.ties[-1] = True
            elif self.open and not self.chord:
                note = self.body[-1]
                assert isinstance(note, Note)
                self.body[-1], self.sized = note._replace(ties=(True,) * len(note.ties)), True
            return
        self.close()
        if atom == OPEN:
            self.chord, self.open = True, False
        elif atom == REST:
            self._note(Note((), (), Fraction(1)))

    def _mark(self, atom: Metre | Key | Bar | Ending | Tuplet) -> None:
        if isinstance(atom, Key):
            self.sound = atom
        begun = any(begins(e) for e in self.body)
        if not begun and isinstance(atom, Metre):
            self.metre = atom.name
        elif not begun and isinstance(atom, Key):
            self.key = atom
        else:
            self.body.append(atom)


def hear(ids: Iterable[int], *, whole: bool = True) -> Tune:
    """The tune that any string of ids means, up to the first end; metre and key not said are 4/4 and C."""
    hearer = _Hearer()
    for i in ids:
        if i == END:
            break
        if 0 <= i < END:
            hearer.hear(ATOMS[i])
    hearer.close()
    return regular(Tune(hearer.metre, hearer.key, tuple(hearer.body)), whole=whole)


def words(ids: Sequence[int]) -> list[str]:
    """Token ids in words, for people and tests."""
    return ["end" if i == END else str(ATOMS[i]) for i in ids]
