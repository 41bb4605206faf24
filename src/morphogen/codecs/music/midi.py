"""Standard MIDI files: a bounded, strict reader of our own, and a writer. No torch here.

Kept: pitches, onsets and lengths on a grid of halves and thirds of a beat and their halves, metre, key, the first tempo.
Lost: loudness, instruments, drums (channel 10), controllers, who plays what (voices become chords with ties), finer timing.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from morphogen.codecs.music.abc import Unreadable, split_note
from morphogen.codecs.music.score import Bar, Element, Metre, Note, Tune, Tuplet, regular, segments, sounds, timed
from morphogen.codecs.music.theory import BY_NAME, KEYS, MODES, Key, bar_length, beat_length, krumhansl, parse_metre, spell, unit_of

MOST_BYTES = 16 << 20
MOST_TRACKS = 1024
MOST_EVENTS = 1_000_000
MOST_BEATS = 4096
DRUMS = 9
DIVISION = 480
GRIDS = (2, 4, 3, 8, 6)  # parts of a beat that are tried, simplest first
FINE = 24  # of which a beat has a whole number of parts of every grid


class Struck(NamedTuple):
    """A note of a file: first and last tick, MIDI number."""

    start: int
    end: int
    midi: int


@dataclass
class Midi:
    """What a file says; `repairs` counts what had to be mended."""

    division: int
    notes: list[Struck] = field(default_factory=list)
    metres: list[tuple[int, str]] = field(default_factory=list)
    keys: list[tuple[int, int, int]] = field(default_factory=list)
    tempo: float = 120.0
    repairs: dict[str, int] = field(default_factory=dict)

    def mend(self, what: str) -> None:
        self.repairs[what] = self.repairs.get(what, 0) + 1


# ------------------------------------------------------------------ bytes
def parse(data: bytes) -> Midi:
    """All notes of a file. Raises Unreadable; reads each byte once, whatever the file claims."""
    if len(data) > MOST_BYTES:
        raise Unreadable(f"{len(data):,} bytes are more than {MOST_BYTES:,}")
    if data[:4] != b"MThd" or len(data) < 14:
        raise Unreadable("no MIDI header")
    size, kind, _, division = struct.unpack(">IHHH", data[4:14])
    if size < 6 or size > len(data) - 8:
        raise Unreadable(f"the header claims {size:,} bytes")
    if kind > 2:
        raise Unreadable(f"unknown MIDI format {kind}")
    if division & 0x8000:
        raise Unreadable("time is in film frames (SMPTE), not in beats")
    if division == 0:
        raise Unreadable("a beat of 0 ticks")
    midi = Midi(division)
    for number, (start, end) in enumerate(_chunks(data, 8 + size)):
        if number >= MOST_TRACKS:
            raise Unreadable(f"more than {MOST_TRACKS:,} tracks")
        _Track(data, start, end, midi).read()
    midi.notes.sort()
    midi.metres.sort()
    midi.keys.sort()
    return midi


def _chunks(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each track's bytes."""
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8])
        if at + 8 + size > len(data):
            raise Unreadable(f"a chunk claims {size:,} bytes, {len(data) - at - 8:,} are there")
        if name == b"MTrk":
            yield at + 8, at + 8 + size
        at += 8 + size


class _Track:
    """Walks through the events of one track."""

    def __init__(self, data: bytes, at: int, end: int, midi: Midi) -> None:
        self.data, self.at, self.end, self.midi = data, at, end, midi
        self.now = 0
        self.sounding: dict[tuple[int, int], int] = {}

    def read(self) -> None:
        status = 0
        while self.at < self.end:
            self.now += self._number()
            if self.now > MOST_BEATS * self.midi.division * 4:
                raise Unreadable("longer than a day's music: a time step is wrong")
            first = self._byte()
            if first >= 0xF0:
                if not self._special(first):
                    break
                status = 0
                continue
            if first & 0x80:
                status, first = first, self._byte()
            if not status:
                raise Unreadable("data without an event (running status)")
            second = self._byte() if status >> 4 not in (0xC, 0xD) else 0
            if (first | second) & 0x80:
                raise Unreadable("a data byte above 127")
            if status >> 4 in (8, 9):
                self._note(status, first, second)
        for (_, number), start in self.sounding.items():
            self.midi.mend("notes never ended")
            self._keep(start, self.now, number)

    def _byte(self) -> int:
        if self.at >= self.end:
            raise Unreadable("a track ends inside an event")
        self.at += 1
        return self.data[self.at - 1]

    def _number(self) -> int:
        """A variable-length number below 2^28."""
        value = 0
        for _ in range(4):
            byte = self._byte()
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise Unreadable("a time step of 2^28 or more")

    def _note(self, status: int, number: int, loudness: int) -> None:
        channel = status & 15
        if channel == DRUMS:
            return
        place = (channel, number)
        if place in self.sounding:
            if status >> 4 == 9 and loudness:
                self.midi.mend("notes struck again before their end")
            self._keep(self.sounding.pop(place), self.now, number)
        if status >> 4 == 9 and loudness:
            self.sounding[place] = self.now

    def _keep(self, start: int, end: int, number: int) -> None:
        if len(self.midi.notes) >= MOST_EVENTS:
            raise Unreadable(f"more than {MOST_EVENTS:,} notes")
        self.midi.notes.append(Struck(start, end, number))

    def _special(self, first: int) -> bool:
        """Meta and system events; False at the end of the track."""
        kind = self._byte() if first == 0xFF else 0
        if first not in (0xF0, 0xF7, 0xFF):
            raise Unreadable(f"an event {first:#x} that files cannot hold")
        size = self._number()
        if self.at + size > self.end:
            raise Unreadable("a track ends inside an event")
        body = self.data[self.at : self.at + size]
        self.at += size
        if first != 0xFF:
            return True
        if kind == 0x51 and size == 3:
            self._tempo(int.from_bytes(body))
        elif kind == 0x58 and size >= 2:
            metre = parse_metre(f"{body[0]}/{2 ** min(body[1], 6)}")
            self.midi.metres.append((self.now, metre)) if metre else self.midi.mend("metres we do not keep")
        elif kind == 0x59 and size == 2:
            self.midi.keys.append((self.now, struct.unpack("b", body[:1])[0], body[1]))
        return kind != 0x2F

    def _tempo(self, micros: int) -> None:
        if micros == 0:
            self.midi.mend("tempos of 0")
        elif self.now == 0:
            self.midi.tempo = min(1000.0, max(4.0, 6e7 / micros))


# ------------------------------------------------------------------ notes to a tune
def tune_of(midi: Midi) -> Tune:
    """The notes of a file on a grid, cut into bars; voices that overlap become chords with ties. Raises Unreadable when it is silent."""
    if not midi.notes:
        raise Unreadable("no notes")
    notes = snapped(midi)
    if notes[-1].start > MOST_BEATS * FINE:
        raise Unreadable("too long")
    metres = _bars_of(midi)
    key = _key(midi)
    begin = notes[0].start
    body: list[Element] = []
    first = metres[0][1]
    metre = first
    grids = {n.start // FINE for n in notes if n.start % FINE % 3} | {n.end // FINE for n in notes if n.end % FINE % 3}
    end = max(n.end for n in notes)
    for start, stop, name in _bars(metres, begin, end):
        if name != metre:
            body.append(Metre(name))
            metre = name
        last = -(-end // FINE) * FINE if end // FINE in grids else end  # thirds fill their beat
        body += _slices(notes, max(start, begin), min(stop, last), grids, key, unit_of(first))
        body.append(Bar("|"))
    tune = regular(Tune(first, key, tuple(body)))
    return _rounded_off(tune)


def snapped(midi: Midi) -> list[Struck]:
    """Notes in 24ths of a beat, each beat on the coarsest grid that fits its onsets within a twentieth of a beat."""
    beats: dict[int, list[float]] = {}
    for note in midi.notes:
        at = note.start / midi.division
        beats.setdefault(int(at), []).append(at % 1)
    grid = {beat: _grid(parts) for beat, parts in beats.items()}

    def snap(tick: int, steps: int) -> int:
        return tick // midi.division * FINE + round(tick % midi.division / midi.division * steps) * (FINE // steps)

    out = []
    for note in midi.notes:
        start = snap(note.start, grid[note.start // midi.division])
        steps = _grid_of_end(note.end % midi.division / midi.division, grid.get(note.end // midi.division, 0))
        end = snap(note.end, steps)
        out.append(Struck(start, end if end > start else start + FINE // max(4, steps), note.midi))
    return _no_overlaps(sorted(set(out)))


def _grid(parts: Sequence[float]) -> int:
    errors = {steps: max(abs(p - round(p * steps) / steps) for p in parts) for steps in GRIDS}
    return next((steps for steps in GRIDS if errors[steps] <= 0.05), min(GRIDS, key=errors.__getitem__))


def _grid_of_end(part: float, grid: int) -> int:
    """Players end notes loosely: fine steps are taken for an end only where it lies right on one."""
    for fine in (8, 6) if grid in (0, 2, 4, 8) else (6, 8):
        if abs(part * fine - round(part * fine)) <= 0.01 * fine and (not grid or grid % 3 == fine % 3):
            return fine
    return 3 if grid and grid % 3 == 0 else 4


def _no_overlaps(notes: list[Struck]) -> list[Struck]:
    """A pitch that is struck again ends there, as on one keyboard."""
    last: dict[int, int] = {}
    out: list[Struck] = []
    for note in notes:
        if note.midi in last:
            before = out[last[note.midi]]
            if before.start == note.start:
                out[last[note.midi]] = before._replace(end=max(before.end, note.end))
                continue
            if before.end > note.start:
                out[last[note.midi]] = before._replace(end=note.start)
        last[note.midi] = len(out)
        out.append(note)
    return out


def _bars_of(midi: Midi) -> list[tuple[int, str]]:
    """(start in 24ths of a beat, metre), the first at 0."""
    found = {round(tick / midi.division * FINE): metre for tick, metre in midi.metres}
    found.setdefault(0, "4/4")
    return sorted(found.items())


def _bars(metres: Sequence[tuple[int, str]], begin: int, end: int) -> Iterator[tuple[int, int, str]]:
    """(start, stop, metre) of each bar that overlaps [begin, end), in 24ths of a beat; a change of metre begins a bar."""
    for (start, name), following in zip(metres, [*(m[0] for m in metres[1:]), end]):
        size = int((bar_length(name) or Fraction(1)) * 4 * FINE)
        while start < min(following, end):
            stop = min(start + size, following) if following < end else start + size
            if stop > begin:
                yield start, stop, name
            start = stop


def _key(midi: Midi) -> Key:
    """As the file says; when it says nothing, or C major of music that is not, by Krumhansl's profiles."""
    weights = [0.0] * 12
    for note in midi.notes:
        weights[note.midi % 12] += note.end - note.start
    if midi.keys:
        _, sharps, minor = midi.keys[0]
        mode = "m" if minor == 1 else ""
        found = [key for key in KEYS if key.mode == mode and key.sharps == sharps]
        inside = sum(weights[pc] for pc in BY_NAME["C"].scale())
        if found and (sharps or minor or inside >= 0.85 * sum(weights)):
            return found[0]
    return krumhansl(weights)


def _slices(notes: Sequence[Struck], start: int, stop: int, thirds: set[int], key: Key, unit: Fraction) -> list[Element]:
    """One bar: cut where a note begins or ends, and at the beats that are in thirds."""
    here = [n for n in notes if n.start < stop and n.end > start]
    cuts = {start, stop} | {t for n in here for t in (n.start, n.end) if start < t < stop}
    cuts |= {t for beat in thirds for t in (beat * FINE, beat * FINE + FINE) if start < t < stop}
    edges, out = sorted(cuts), []
    group: list[Note] = []
    for a, b in pairwise(edges):
        active = sorted((n for n in here if n.start <= a and n.end >= b), key=lambda n: n.midi)
        length = Fraction(b - a, 4 * FINE) / unit
        note = Note(tuple(spell(n.midi, key) for n in active), tuple(n.end > b for n in active), length)
        if a // FINE in thirds and b - a < FINE:
            group.append(note._replace(length=length * Fraction(3, 2)))
            if b % FINE == 0:
                out += [Tuplet(3, 2, len(group)), *group]
                group = []
        else:
            out += split_note(note)
    return [*out, *group]


def _rounded_off(tune: Tune) -> Tune:
    """A last bar that is short without an upbeat to explain it gets a rest."""
    bars = segments(tune)
    if not bars or bars[-1].missing <= 0:
        return tune
    upbeat = bars[0].length if bars[0].missing > 0 and len(bars) > 1 else None
    if upbeat == bars[-1].missing or len(bars) == 1:
        return tune
    rest = Note((), (), bars[-1].missing / tune.unit)
    try:
        return regular(Tune(tune.metre, tune.key, (*tune.body[:-1], *split_note(rest))))
    except Unreadable:
        return tune


# ------------------------------------------------------------------ writing
def _varlen(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))


def lead(tune: Tune) -> Fraction:
    """Silence before an upbeat, in whole notes, so that bar lines fall where a player of the file counts them."""
    bars = segments(tune)
    return bars[0].missing if len(bars) > 1 and bars[0].missing > 0 else Fraction(0)


def write(tune: Tune, tempo: float, title: str = "") -> bytes:
    """A format-0 file at `tempo` beats a minute, repeats played out; modes are written as major or minor of the same signature."""
    shift = lead(tune)
    events: list[tuple[int, int, bytes]] = []
    for sound in sounds(tune):
        start, end = (round((shift + t) * 4 * DIVISION) for t in (sound.start, sound.start + sound.length))
        events.append((start, 2, bytes((0x90, sound.midi, 80))))
        events.append((max(end, start + 1), 1, bytes((0x80, sound.midi, 0))))
    name = title.encode("utf-8", "replace")[:120]
    micros = min(0xFFFFFF, max(1, round(6e7 / tempo / float(beat_length(tune.metre) * 4))))
    minor = MODES[tune.key.mode] <= -2
    head = b"\x00\xff\x03" + _varlen(len(name)) + name + b"\x00\xff\x51\x03" + micros.to_bytes(3)
    if tune.metre != "none":
        top, low = map(int, tune.metre.split("/"))
        head += b"\x00\xff\x58\x04" + bytes((top, low.bit_length() - 1, 24, 8))
    head += b"\x00\xff\x59\x02" + struct.pack("bB", tune.key.sharps, minor)
    track, now = head, 0
    for tick, _, message in sorted(events):
        track += _varlen(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, DIVISION) + b"MTrk" + struct.pack(">I", len(track)) + track


def beats(tune: Tune) -> Fraction:
    """Length in whole notes as written, repeats not played."""
    return sum((length for _, _, length in timed(tune)), Fraction(0))
