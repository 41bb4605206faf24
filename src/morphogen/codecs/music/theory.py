"""Keys, modes, metres and pitches: what a note is called and how it sounds. No torch here."""
from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

LETTERS = "CDEFGAB"
SEMITONES = (0, 2, 4, 5, 7, 9, 11)
FIFTHS = {"F": -1, "C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5}
MODES = {"": 0, "m": -3, "dor": -2, "mix": -1, "phr": -4, "lyd": 1, "loc": -5}
MODE_NAMES = {"": "major", "m": "minor", "dor": "Dorian", "mix": "Mixolydian", "phr": "Phrygian", "lyd": "Lydian", "loc": "Locrian"}
MODE_WORDS = {"": "", "maj": "", "ion": "", "m": "m", "min": "m", "aeo": "m", **{mode: mode for mode in MODES if len(mode) == 3}}
METRES = ("4/4", "2/2", "2/4", "3/4", "6/8", "9/8", "12/8", "3/8", "6/4", "5/4", "3/2", "5/8", "7/8", "4/2", "9/4", "7/4", "4/8",
          "8/8", "10/8", "11/8", "15/8", "6/16", "9/16", "12/16", "1/4", "none")
MIDDLE_C = 60
LOWEST, HIGHEST = 21, 108
# Krumhansl and Kessler 1982: how well each of the twelve notes fits a major and a minor key
PROFILES = {"": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
            "m": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)}
KEY = re.compile(r"\s*([A-G])\s*([#b]?)\s*([A-Za-z]*)(.*)", re.S)
GLOBAL = re.compile(r"(\^\^|\^|__|_|=)([A-Ga-g])")


class Pitch(NamedTuple):
    """`step`: diatonic steps from middle C (the C of ABC); `alter`: semitones it sounds above that white key."""

    step: int
    alter: int

    @property
    def midi(self) -> int:
        """MIDI number, 60 = middle C."""
        return MIDDLE_C + 12 * (self.step // 7) + SEMITONES[self.step % 7] + self.alter


class Key(NamedTuple):
    """Tonic letter with # or b, and a mode of `MODES` ("" = major)."""

    tonic: str
    mode: str

    @property
    def name(self) -> str:
        """As ABC writes it: G, Em, Bbmix."""
        return self.tonic + self.mode

    @property
    def sharps(self) -> int:
        """Sharps of the signature; flats are negative."""
        return FIFTHS[self.tonic[0]] + 7 * {"": 0, "#": 1, "b": -1}[self.tonic[1:]] + MODES[self.mode]

    @property
    def home(self) -> int:
        """Diatonic step of the tonic in the octave from middle C."""
        return LETTERS.index(self.tonic[0])

    @property
    def pitch_class(self) -> int:
        """0 = C .. 11 = B of the tonic."""
        return Pitch(self.home, {"": 0, "#": 1, "b": -1}[self.tonic[1:]]).midi % 12

    def scale(self) -> frozenset[int]:
        """The seven pitch classes of the signature."""
        return frozenset((SEMITONES[i] + signature(self.sharps)[i]) % 12 for i in range(7))


@cache
def signature(sharps: int) -> tuple[int, ...]:
    """Alteration of each letter C D E F G A B under a signature of so many sharps (negative: flats)."""
    out = [0] * 7
    for i in range(abs(sharps)):
        out[LETTERS.index("FCGDAEB"[i] if sharps > 0 else "BEADGCF"[i])] = 1 if sharps > 0 else -1
    return tuple(out)


def _keys() -> tuple[Key, ...]:
    found = (Key(letter + sign, mode) for mode in MODES for letter in LETTERS for sign in ("", "#", "b"))
    return tuple(key for key in found if abs(key.sharps) <= 7)


KEYS = _keys()
BY_NAME = {key.name: key for key in KEYS}


def parse_key(text: str) -> tuple[Key, tuple[int, ...]] | None:
    """The key of a K: field and the alterations of its letters (explicit ones included); None when it is none."""
    text = text.strip()
    if not text or text.lower().startswith("none"):
        return BY_NAME["C"], signature(0)
    if text[:2] in ("HP", "Hp"):  # Highland pipes: sounds with F and C sharp
        return BY_NAME["Amix"], signature(2)
    match = KEY.match(text)
    if not match:
        return None
    letter, sign, word, rest = match.groups()
    mode = MODE_WORDS.get(word if word in ("m", "M") else word[:3].lower())
    if word == "M":
        mode = ""
    if mode is None:
        later = re.match(r"\s*(maj|min|ion|aeo|dor|mix|phr|lyd|loc)", word + rest, re.I)
        mode, rest = (MODE_WORDS[later[1].lower()], rest) if later else ("", word + rest)
    elif not word:
        later = re.match(r"\s*(maj|min|ion|aeo|dor|mix|phr|lyd|loc)[a-z]*", rest, re.I)
        mode = MODE_WORDS[later[1].lower()] if later else mode
    key = BY_NAME.get(letter + sign + mode)
    if key is None:
        return None
    letters = list(signature(key.sharps))
    for accidental, note in GLOBAL.findall(rest):
        letters[LETTERS.index(note.upper())] = accidental.count("^") - accidental.count("_")
    return key, tuple(letters)


def parse_metre(text: str) -> str | None:
    """The normalised metre of an M: field ("4/4" for C, "2/2" for C|, sums added up); None when it is not one we keep."""
    text = text.split("%")[0].strip().replace(" ", "").strip("()")
    if text in ("C", "c"):
        return "4/4"
    if text in ("C|", "c|"):
        return "2/2"
    if not text or text.lower() == "none":
        return "none"
    match = re.fullmatch(r"\(?([0-9]{1,2}(?:\+[0-9]{1,2})*)\)?/([0-9]{1,2})", text, re.ASCII)
    if not match:
        return None
    metre = f"{sum(map(int, match[1].split('+')))}/{int(match[2])}"
    return metre if metre in METRES else None


@cache
def bar_length(metre: str) -> Fraction:
    """Length of a bar in whole notes; 0 for a free metre."""
    return Fraction(0) if metre == "none" else Fraction(*map(int, metre.split("/")))


def unit_of(metre: str) -> Fraction:
    """The length of a plain note (ABC 2.1: 1/16 where a bar is shorter than 3/4, else 1/8)."""
    return Fraction(1, 16) if 0 < bar_length(metre) < Fraction(3, 4) else Fraction(1, 8)


@cache
def beat_length(metre: str) -> Fraction:
    """What a foot taps: a dotted note in 6/8, 9/8, 12/8, a half in 2/2, else the lower number; whole notes."""
    if metre == "none":
        return Fraction(1, 4)
    top, low = map(int, metre.split("/"))
    return Fraction(3, low) if top % 3 == 0 and top > 3 and low >= 8 else Fraction(1, low)


def spell(midi: int, key: Key) -> Pitch:
    """The name of a MIDI number in a key: its scale note, else the nearest one raised (in flat keys lowered)."""
    letters = signature(key.sharps)
    order = (0, 1, -1) if key.sharps >= 0 else (0, -1, 1)
    for relative in order:
        for letter in range(7):
            away = midi - MIDDLE_C - SEMITONES[letter] - letters[letter] - relative
            if away % 12 == 0:
                return Pitch(letter + 7 * (away // 12), letters[letter] + relative)
    raise AssertionError("every semitone is a scale note or next to one")


@cache
def respell(pitch: Pitch, key: Key) -> Pitch:
    """The same sound within a semitone of the key's own note and on the piano's keys (by octaves)."""
    midi = pitch.midi
    if abs(pitch.alter - signature(key.sharps)[pitch.step % 7]) <= 1 and LOWEST <= midi <= HIGHEST:
        return pitch
    if midi < LOWEST:
        midi += 12 * -((midi - LOWEST) // 12)
    elif midi > HIGHEST:
        midi -= 12 * -((HIGHEST - midi) // 12)
    return spell(midi, key)


def krumhansl(weights: Sequence[float]) -> Key:
    """The key whose profile correlates best with how long each of 12 pitch classes sounds (Krumhansl 1990). C when nothing sounds."""
    w = np.asarray(weights, np.float64)
    if w.std() == 0:
        return BY_NAME["C"]
    best, chosen = -2.0, BY_NAME["C"]
    for key in KEYS:
        if key.mode in PROFILES and -5 <= key.sharps <= 6:
            score = float(np.corrcoef(np.roll(PROFILES[key.mode], key.pitch_class), w)[0, 1])
            if score > best + 1e-12:
                best, chosen = score, key
    return chosen
