"""A small synthesiser: plucked notes of a few partials, mixed to one channel, as WAV bytes. No torch here."""
from __future__ import annotations

import io
import wave

import numpy as np

from morphogen.codecs.music.score import Tune, sounds
from morphogen.codecs.music.theory import bar_length, beat_length

RATE = 22_050
LONGEST = 180.0  # seconds of a file
PARTIALS = (1.0, 0.55, 0.32, 0.2, 0.12, 0.07, 0.04)
ATTACK, RELEASE = 0.006, 0.09
CONCERT_A = 440.0


def frequency(midi: float) -> float:
    """Hertz of a MIDI number: 440 · 2^((m - 69) / 12)."""
    return CONCERT_A * 2.0 ** ((midi - 69) / 12)


def pluck(midi: int, seconds: float, rate: int) -> np.ndarray:
    """(n,) float32 of one note: Σ a_k sin(2π k f t), upper partials dying faster, with a short attack and release."""
    n = max(1, int((seconds + RELEASE) * rate))
    t = np.arange(n, dtype=np.float32) / rate
    f = frequency(midi)
    out = np.zeros(n, np.float32)
    for k, amplitude in enumerate(PARTIALS, 1):
        if k * f < 0.45 * rate:
            out += amplitude * np.sin(np.float32(2 * np.pi * k * f) * t) * np.exp(-t * (1.0 + 0.8 * k))
    envelope = np.minimum(1, t / ATTACK) * np.clip((seconds + RELEASE - t) / RELEASE, 0, 1)
    return out * envelope / (1 + (frequency(midi) / 1500))  # high notes are loud to the ear


def tempo_of(tune: Tune, asked: float = 0.0) -> float:
    """Beats a minute: as asked, else what suits the metre."""
    if asked:
        return asked
    return {"6/8": 112.0, "9/8": 112.0, "12/8": 104.0, "2/2": 88.0, "3/8": 150.0}.get(tune.metre, 112.0)


def render(tune: Tune, tempo: float, rate: int = RATE, bars: int = 0, longest: float = LONGEST) -> np.ndarray:
    """(n,) float32 in -1 .. 1; only the first `bars` bars unless 0, never more than `longest` seconds."""
    whole = 60.0 / tempo / float(beat_length(tune.metre))  # seconds of a whole note
    limit = float(bar_length(tune.metre) or 1) * bars * whole if bars else longest
    limit = min(limit, longest)
    played = [(float(s.start) * whole, float(s.length) * whole, s.midi) for s in sounds(tune)]
    played = [(start, min(length, limit - start), midi) for start, length, midi in played if start < limit]
    end = max((start + length for start, length, _ in played), default=0.0)
    out = np.zeros(int((end + RELEASE + 0.1) * rate) + 1, np.float32)
    known: dict[tuple[int, int], np.ndarray] = {}
    for start, length, midi in played:
        place = (midi, round(length * rate))
        if place not in known:
            known[place] = pluck(midi, length, rate)
        at = int(start * rate)
        part = known[place][: len(out) - at]
        out[at : at + len(part)] += part
    peak = float(np.abs(out).max())
    return out * (0.85 / peak) if peak > 0 else out


def wav(x: np.ndarray, rate: int = RATE, width: int = 2) -> bytes:
    """Mono WAV bytes of samples in -1 .. 1, 16 bit (`width` 2) or 8 bit (1)."""
    if width == 1:
        data = np.rint(np.clip(x, -1, 1) * 127 + 128).astype(np.uint8)
    else:
        data = np.rint(np.clip(x, -1, 1) * 32767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data.tobytes())
    return out.getvalue()
