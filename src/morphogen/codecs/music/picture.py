"""A piano roll as a picture: time to the right, pitch upwards, bar lines, the tonic in another colour. No torch here."""
from __future__ import annotations

import io
from fractions import Fraction

from morphogen.codecs.music.score import SECTION, Note, Tune, timed
from morphogen.codecs.music.score import Bar as BarLine

WIDTH, ROW, GAP, EDGE = 448, 112, 8, 8
BARS_A_ROW, ROWS = 8, 2
PAPER, STRIPE, LINE, STRONG = (250, 248, 243), (240, 236, 227), (205, 199, 186), (120, 112, 98)
NOTE, HOME, OUTSIDE = (46, 98, 168), (208, 92, 36), (140, 60, 140)


def _rows(tune: Tune) -> list[tuple[list[tuple[Fraction, Fraction, int]], list[tuple[Fraction, str]], Fraction]]:
    """(notes (start, length, MIDI), bar lines (time, kind), length) of each row; times count from the row's beginning."""
    rows, notes, lines = [], [], []
    now, begin, bars = Fraction(0), Fraction(0), 0
    for _, e, length in timed(tune):
        if isinstance(e, Note):
            notes += [(now - begin, length, pitch.midi) for pitch in e.pitches]
            now += length
        elif isinstance(e, BarLine):
            lines.append((now - begin, e.kind))
            bars += 1
            if bars % BARS_A_ROW == 0:
                rows.append((notes, lines, now - begin))
                notes, lines, begin = [], [], now
                if len(rows) == ROWS:
                    return rows
    if notes:
        rows.append((notes, lines, now - begin))
    return rows


def png(tune: Tune) -> bytes:
    """PNG bytes of the first 16 bars in two rows. Blue: notes of the key, orange: its tonic, violet: notes outside it."""
    from PIL import Image, ImageDraw

    rows = _rows(tune)
    pitches = [midi for notes, _, _ in rows for _, _, midi in notes] or [60]
    low, high = min(pitches) - 1, max(max(pitches) + 1, min(pitches) + 11)
    image = Image.new("RGB", (WIDTH, ROWS * ROW + (ROWS + 1) * GAP), PAPER)
    draw = ImageDraw.Draw(image)
    scale, home = tune.key.scale(), tune.key.pitch_class
    longest = max((length for _, _, length in rows), default=Fraction(1)) or Fraction(1)
    for r, (notes, lines, _) in enumerate(rows):
        top = GAP + r * (ROW + GAP)
        x = lambda t: EDGE + float(t / longest) * (WIDTH - 2 * EDGE)
        y = lambda m, top=top: top + ROW * (high - m) / (high - low + 1)
        tall = ROW / (high - low + 1)
        for midi in range(low, high + 1):
            if midi % 12 == home:
                draw.rectangle((EDGE, y(midi), WIDTH - EDGE, y(midi) + tall - 1), fill=STRIPE)
        for t, kind in [(Fraction(0), "|"), *lines]:
            strong = kind in SECTION
            draw.rectangle((x(t) - 0.5 - strong, top, x(t) + 0.5, top + ROW), fill=STRONG if strong else LINE)
        for start, length, midi in notes:
            colour = HOME if midi % 12 == home else NOTE if midi % 12 in scale else OUTSIDE
            draw.rectangle((x(start) + 1, y(midi), max(x(start) + 2, x(start + length) - 1), y(midi) + max(2.0, tall - 1)), fill=colour)
    out = io.BytesIO()
    image.quantize(16).save(out, "PNG", optimize=True)
    return out.getvalue()
