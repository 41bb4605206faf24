"""What can be said of a tune in numbers: features, derived conditions, whether it keeps the rules. No torch here."""
from __future__ import annotations

import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from morphogen.codecs.music.score import Bar, Note, Tune, segments, sounds, timed, wrong_bars
from morphogen.codecs.music.theory import BY_NAME, MODE_NAMES, bar_length, parse_key, parse_metre

BLOCKS = (25, 12, 12, 16, 64, 48)  # intervals, pitch classes from the tonic, lengths, place in the bar, interval threes, rhythm threes
SIZE = sum(BLOCKS)
NAME = "histograms of intervals, scale degrees, lengths, places in the bar, and runs of intervals and of rhythm"
IN_KEY = 0.9


def in_key(tune: Tune, key: Any) -> float:
    """The share of notes in the scale of a key."""
    pitches = [p.midi % 12 for e in tune.body if isinstance(e, Note) for p in e.pitches]
    scale = key.scale()
    return sum(p in scale for p in pitches) / len(pitches) if pitches else 1.0


def derive(tune: Tune) -> dict[str, Any]:
    """Everything that can be told from the notes alone."""
    played = sounds(tune)
    pitches = [s.midi for s in played]
    whole = sum((length for _, _, length in timed(tune)), Fraction(0))
    bars = segments(tune)
    return {
        "key": tune.key.name, "mode": MODE_NAMES[tune.key.mode], "metre": tune.metre, "bars": len(bars), "notes": len(pitches),
        "range": max(pitches) - min(pitches) if pitches else 0,
        "lowest": min(pitches) if pitches else None, "highest": max(pitches) if pitches else None,
        "density": round(len([e for e in tune.body if isinstance(e, Note) and e.pitches]) / float(whole), 3) if whole else None,
    }


def checks(tune: Tune, cond: dict[str, Any]) -> dict[str, bool]:
    """Bars fill the metre (the asked one, if one was); the key is the asked one and nine notes in ten lie in its scale."""
    filled = bar_length(tune.metre) == 0 or not wrong_bars(tune)
    metre = parse_metre(str(cond["metre"])) if cond.get("metre") is not None else None
    out = {"parses": any(isinstance(e, Note) and e.pitches for e in tune.body),
           "bars fill the metre": filled and (metre is None or metre == tune.metre)}
    if cond.get("key") is not None:
        found = parse_key(str(cond["key"]))
        key = found[0] if found else BY_NAME.get(str(cond["key"]))
        out["in key"] = key is not None and key == tune.key and in_key(tune, key) >= IN_KEY
    return out


def _hashed(values: Sequence[Any], n: int, size: int) -> np.ndarray:
    out = np.zeros(size)
    for i in range(len(values) - n + 1):
        out[zlib.crc32(repr(tuple(values[i : i + n])).encode()) % size] += 1
    return out


def features(tune: Tune) -> np.ndarray:
    """(177,) float32: square roots of six histograms (Hellinger distance is Euclidean then); transposing changes nothing."""
    tops: list[int] = []
    lengths: list[Fraction] = []
    places = np.zeros(BLOCKS[3])
    at, full = Fraction(0), bar_length(tune.metre) or Fraction(1)
    for _, e, length in timed(tune):
        if isinstance(e, Bar):
            at = Fraction(0)
        elif isinstance(e, Note):
            if e.pitches:
                tops.append(e.pitches[-1].midi)
                lengths.append(length)
                places[min(BLOCKS[3] - 1, int(at / full * BLOCKS[3]))] += 1
            at += length
    steps = np.diff(tops) if len(tops) > 1 else np.zeros(0, int)
    intervals = np.bincount(np.clip(steps, -12, 12) + 12, minlength=25)
    degrees = np.bincount([(m - tune.key.pitch_class) % 12 for m in tops], minlength=12) if tops else np.zeros(12)
    logs = [min(11, max(0, round(2 * np.log2(float(x) * 32)))) for x in lengths]
    spans = np.bincount(logs, minlength=12) if logs else np.zeros(12)
    blocks = [intervals, degrees, spans, places, _hashed([int(s) for s in steps], 3, 64), _hashed(logs, 3, 48)]
    return np.concatenate([np.sqrt(b / max(1.0, b.sum())) for b in blocks]).astype(np.float32)
