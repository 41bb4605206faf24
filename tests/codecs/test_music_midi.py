"""MIDI: what is written is read back, other readers agree, lies in a file are refused; sound and pictures are what they claim."""

import contextlib
import io
import struct
import wave
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.codecs.music import MusicCodec, abc, midi, picture, sound, writing
from morphogen.codecs.music.abc import Unreadable
from morphogen.codecs.music.score import sounds, wrong_bars
from morphogen.codecs.sources import scan
from morphogen.errors import DataError

JIG = "M:6/8\nK:G\nd|GABd2e|dBGA2B|cBAG2A|BGEE2|]"


def track(*events: bytes, end: bytes = b"\x00\xff\x2f\x00", size: int | None = None) -> bytes:
    body = b"".join(events) + end
    return b"MTrk" + struct.pack(">I", len(body) if size is None else size) + body


def header(kind: int = 0, tracks: int = 1, division: int = 96, size: int = 6) -> bytes:
    return b"MThd" + struct.pack(">IHHH", size, kind, tracks, division)


def number(value: int) -> bytes:
    return midi._varlen(value)


def scale(*more: bytes, channel: int = 0) -> list[bytes]:
    on = [number(0) + bytes((0x90 | channel, p, 64)) + number(48) + bytes((0x80 | channel, p, 0)) for p in (60, 62, 64, 65, 67, 69, 71, 72)]
    return [*more, *on]


def heard(data: bytes) -> str:
    return writing.write(midi.tune_of(midi.parse(data)))


SCALE = "M:4/4\nK:C\nCDEFGABc|]"


# ------------------------------------------------------------------ round trips
@pytest.mark.parametrize(
    "text",
    [
        JIG,
        "M:4/4\nK:Dm\n(3ABcd2z2[DFA]2|A8-|A4z4|]",
        "M:3/4\nK:F\n[F-A]4F2|c6|]",
        "M:2/4\nK:Bb\nB4dcBA|B8|]",
        "M:4/4\nK:C\nC8|[M:3/4]D6|E6|]",
        "M:4/4\nK:A\nA>BE3/4F/4G(3:2:2c2AB/4B/4A3/2|A8|]",
    ],
)
def test_tunes_come_back_from_midi(text):
    tune = abc.read(text)
    again = midi.tune_of(midi.parse(midi.write(tune, 120)))
    assert sounds(again) == sounds(tune) and again.key == tune.key and again.metre == tune.metre and wrong_bars(again) == []


def test_what_is_written_once_is_written_again():
    assert heard(midi.write(abc.read(JIG), 100)) == JIG
    assert midi.parse(midi.write(abc.read(JIG), 100)).tempo == pytest.approx(150)  # 100 dotted quarters are 150 quarters


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(40, 90), st.sampled_from([1, 2, 3, 4, 6, 8]), st.booleans()), min_size=4, max_size=40))
def test_any_melody_on_the_grid_comes_back(notes):
    struck, now = [], 0
    for pitch, steps, rest in notes:
        now += 24 * steps * rest
        struck.append(midi.Struck(now, now + 24 * steps, pitch))
        now += 24 * steps
    tune = midi.tune_of(midi.Midi(96, struck))
    begin = Fraction(struck[0].start, 384)
    lead = sounds(tune)[0].start
    assert [(s.start - lead, s.length, s.midi) for s in sounds(tune)] == [
        (Fraction(n.start, 384) - begin, Fraction(n.end - n.start, 384), n.midi) for n in struck
    ]
    assert wrong_bars(tune) == [] and abc.read(writing.write(tune)) == tune


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(40, 90), st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=30))
def test_any_polyphony_on_the_grid_comes_back_as_chords_with_ties(notes):
    struck = midi._no_overlaps(sorted(midi.Struck(24 * a, 24 * (a + n), p) for p, a, n in notes))
    tune = midi.tune_of(midi.Midi(96, struck))
    got = sorted((s.start, s.length, s.midi) for s in sounds(tune))
    shift = got[0][0] - min(Fraction(n.start, 384) for n in struck)
    assert got == sorted((Fraction(n.start, 384) + shift, Fraction(n.end - n.start, 384), n.midi) for n in struck)


def test_played_timing_finds_its_grid():
    rng = np.random.default_rng(0)
    times = [0, 480, 960, 1120, 1280, 1440, 1920, 2160, 2400]  # quarters, a triplet, quavers
    ends = [*times[1:], 2880]
    struck = [midi.Struck(max(0, t + int(rng.integers(-10, 11))), e - 15, 60 + i) for i, (t, e) in enumerate(zip(times, ends))]
    assert [s.start for s in sounds(midi.tune_of(midi.Midi(480, struck)))] == [Fraction(t, 1920) for t in times]


def test_another_reader_agrees():
    symusic = pytest.importorskip("symusic")
    tune = abc.read(JIG)
    score = symusic.Score.from_midi(midi.write(tune, 112))
    notes = sorted((n.time, n.duration, n.pitch) for t in score.tracks for n in t.notes)
    lead = midi.lead(tune)
    assert notes == [
        (int((s.start + lead) * 4 * score.ticks_per_quarter), int(s.length * 4 * score.ticks_per_quarter), s.midi) for s in sounds(tune)
    ]
    assert (score.time_signatures[0].numerator, score.time_signatures[0].denominator) == (6, 8) and score.key_signatures[0].key == 1


def test_we_agree_with_another_writer():
    symusic = pytest.importorskip("symusic")
    score = symusic.Score(480)
    made = symusic.Track("t", 0, False)
    for i, p in enumerate((60, 62, 64, 65, 67, 69, 71, 72)):
        made.notes.append(symusic.Note(i * 240, 240, p, 90))
    score.tracks.append(made)
    assert heard(score.dumps_midi()) == SCALE


# ------------------------------------------------------------------ bad input
BAD = {
    "empty": (b"", "no MIDI header"),
    "not MIDI": (b"RIFF" + b"x" * 40, "no MIDI header"),
    "short header": (b"MThd\0\0\0\6\0", "no MIDI header"),
    "header lies": (header(size=1 << 30) + track(*scale()), "header claims"),
    "header size 0": (header(size=0) + track(*scale()), "header claims"),
    "format 9": (header(kind=9) + track(*scale()), "unknown MIDI format"),
    "SMPTE": (header(division=0xE728) + track(*scale()), "SMPTE"),
    "division 0": (header(division=0) + track(*scale()), "0 ticks"),
    "no status": (header() + track(b"\x00\x40\x40"), "without an event"),
    "status byte as data": (header() + track(b"\x00\x90\x90\x40"), "above 127"),
    "track never ends": (header() + track(b"\x00\x90\x3c", end=b""), "ends inside"),
    "track too long": (header() + track(*scale(), size=1 << 31), "chunk claims"),
    "delta 2^28": (header() + track(b"\xff\xff\xff\xff\x7f"), "2.28"),
    "meta too long": (header() + track(b"\x00\xff\x03\xff\xff\x7f"), "ends inside"),
    "a century": (header() + track(b"\xff\xff\xff\x7f\x90\x3c\x40"), "longer than"),
    "no notes": (header() + track(), "no notes"),
    "no tracks": (header(), "no notes"),
    "system byte": (header() + track(b"\x00\xf4"), "cannot hold"),
    "drums only": (header() + track(*scale(channel=9)), "no notes"),
    "too many tracks": (header(1, 65535) + track() * 1100, "tracks"),
}


@pytest.mark.parametrize("name", BAD)
def test_lies_are_refused_in_one_line(name, tmp_path):
    data, why = BAD[name]
    with pytest.raises(Unreadable, match=why):
        midi.tune_of(midi.parse(data))
    (tmp_path / "a.mid").write_bytes(data)
    with pytest.raises(DataError, match="nothing usable"):
        list(MusicCodec().read(scan(tmp_path)))


def test_a_claim_of_a_million_tracks_costs_nothing():
    assert heard(header(1, 65535) + track(*scale())) == SCALE


def test_what_can_be_mended_is_mended_and_counted():
    never = midi.parse(header() + track(*scale(), b"\x00\x90\x48\x40", b"\x60\xff\x01\x01a"))
    assert never.repairs == {"notes never ended": 1} and never.notes[-1] == midi.Struck(384, 480, 72)
    again = midi.parse(header() + track(b"\x00\x90\x3c\x40", b"\x30\x90\x3c\x40", b"\x30\x80\x3c\x00"))
    assert again.notes == [(0, 48, 60), (48, 96, 60)] and again.repairs == {"notes struck again before their end": 1}
    slow = midi.parse(header() + track(*scale(b"\x00\xff\x51\x03\x00\x00\x00")))
    assert slow.tempo == 120 and slow.repairs == {"tempos of 0": 1}
    odd = midi.parse(header() + track(*scale(b"\x00\xff\x58\x04\x11\x03\x18\x08")))
    assert odd.metres == [] and odd.repairs == {"metres we do not keep": 1}


def test_running_status_silent_note_ons_other_events_and_no_end():
    events = [b"\x00\xc0\x05", b"\x00\xb0\x07\x64", b"\x00\xf0\x03\x01\x02\xf7", b"\x00\xe0\x00\x40"]
    notes = [
        b"\x00\x90" + bytes((60, 64)),
        *[number(48) + bytes((p, 0)) + number(0) + bytes((p + 2, 64)) for p in (60, 62)],
        number(48) + bytes((64, 0)),
    ]
    assert heard(header() + track(*events, *notes, end=b"")) == "M:4/4\nK:C\nCDE|]"
    assert [n.midi for n in midi.parse(header() + track(*events, *notes, end=b"")).notes] == [60, 62, 64]


def test_unknown_chunks_are_passed_over_and_files_named(tmp_path):
    data = header() + b"XFIH" + struct.pack(">I", 4) + b"abcd" + track(*scale())
    (tmp_path / "a tune.mid").write_bytes(data)
    (item,) = MusicCodec().read(scan(tmp_path))
    assert item.raw == SCALE and item.cond == {"key": "C", "metre": "4/4", "tempo": 120} and item.source == "a tune.mid"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=6))
def test_random_bytes_never_do_worse_than_unreadable(body, damage):
    whole = bytearray(midi.write(abc.read(JIG), 100))
    for i, b in enumerate(damage):
        whole[14 + (b * 7 + i * 31) % (len(whole) - 14)] ^= b
    for data in (header() + track(body), bytes(whole)):
        with contextlib.suppress(Unreadable):
            sounds(midi.tune_of(midi.parse(data)))


# ------------------------------------------------------------------ sound
def samples(data: bytes) -> tuple[np.ndarray, int]:
    with wave.open(io.BytesIO(data)) as file:
        kind = np.dtype("<i2") if file.getsampwidth() == 2 else np.dtype(np.uint8)
        return np.frombuffer(file.readframes(file.getnframes()), kind).astype(float), file.getframerate()


@pytest.mark.parametrize("rate, width", [(22_050, 2), (11_025, 1)])
def test_the_strongest_frequency_is_that_of_each_note(rate, width):
    tune = abc.read("M:4/4\nK:C\nC4E4|A4c4|e4^f4|A,4G4|]")
    x, got = samples(sound.wav(sound.render(tune, 120, rate), rate, width))
    assert got == rate and np.abs(x).max() <= 32767
    for note in sounds(tune):
        seconds = float(note.start) * 2, float(note.length) * 2  # a whole note at 120 quarters a minute lasts two seconds
        part = x[int((seconds[0] + 0.02) * rate) : int((seconds[0] + seconds[1]) * rate)]
        part = (part - part.mean()) * np.hanning(len(part))
        peak = np.fft.rfftfreq(8 * len(part), 1 / rate)[np.abs(np.fft.rfft(part, 8 * len(part))).argmax()]
        assert abs(12 * np.log2(peak / sound.frequency(note.midi))) < 0.3


def test_chords_sound_together_and_rests_are_silent():
    tune = abc.read("M:4/4\nK:C\n[CEG]4z4|]")
    x = sound.render(tune, 120, 22_050)
    spectrum = np.abs(np.fft.rfft(x[:20_000] * np.hanning(20_000)))
    at = lambda midi: spectrum[round(sound.frequency(midi) * 20_000 / 22_050)]
    assert min(at(60), at(64), at(67)) > 10 * at(62) and sound.frequency(69) == 440
    assert np.abs(x[int(1.2 * 22_050) :]).max(initial=0.0) < 1e-3 and np.abs(x).max() == pytest.approx(0.85, abs=0.01)


def test_sound_is_bounded():
    tune = abc.read("M:4/4\nK:C\n" + "C8|" * 400)
    assert len(sound.render(tune, 10, 8000)) <= 8000 * (sound.LONGEST + 1)
    assert len(sound.render(tune, 120, 8000, bars=4)) <= 8000 * 9


# ------------------------------------------------------------------ pictures
def test_pictures_have_the_notes_where_they_belong():
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.asarray(image_module.open(io.BytesIO(picture.png(abc.read("M:4/4\nK:C\nC8|D8|E8|^F8|]")))).convert("RGB")).astype(int)
    found = {
        name: np.argwhere(np.abs(pixels - colour).sum(2) < 30)
        for name, colour in (("home", picture.HOME), ("note", picture.NOTE), ("outside", picture.OUTSIDE))
    }
    assert all(len(where) for where in found.values())
    assert (
        found["home"][:, 1].max() < found["note"][:, 1].min() and found["note"][:, 1].max() < found["outside"][:, 1].min()
    )  # time to the right
    assert found["home"][:, 0].min() > found["note"][:, 0].max() > found["outside"][:, 0].max()  # pitch upwards


def test_previews_say_and_sound():
    shown = MusicCodec().preview([JIG] * 14)
    assert shown["kind"] == "image" and len(shown["png"]) == len(shown["texts"]) == 14 and shown["texts"][0] == "G major · 6/8 · 5 bars"
    assert shown["png"][0].startswith(b"\x89PNG") and len(shown["audio"]) == 12 and sum(map(len, shown["audio"])) < 1_300_000
