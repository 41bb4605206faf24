"""Symbolic music <-> Tokens: ABC and MIDI in; ABC, MIDI, sound and piano rolls out. No torch here.

A raw item is one tune as normalised ABC text: `M:6/8`, `K:G`, then the body without spaces, lengths in the unit that ABC 2.1 gives
the metre. Bits per character count the characters of exactly this text. What is not kept: titles, words, slurs, ornaments,
dynamics, chord symbols, beams, and whatever needs more than one voice (of MIDI, voices become chords with ties).
"""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from morphogen import files, spaces
from morphogen.codecs.music import abc, looks, midi, picture, reading, sound, tokens, writing
from morphogen.codecs.music.grammar import MusicGrammar
from morphogen.codecs.music.score import Tune, segments, wrong_bars
from morphogen.codecs.music.theory import MODE_NAMES
from morphogen.codecs.sources import Listing, Skips
from morphogen.contracts import Claim, Given, Item
from morphogen.errors import DataError, UsageError
from morphogen.spaces import Tokens

LONGEST = 2048  # tokens a tune may have when its length is found in the data
MASK = re.compile(r"<mask(?::([0-9]{1,3}))?>")
HEARD = 12  # previews that get a sound: a page must stay light
EXCERPT = 4  # bars of a preview's sound


@dataclass(frozen=True, kw_only=True)
class MusicConfig:
    """How tunes become tokens and sound; 0 = found in the data or by the metre."""

    length: int = 0
    "Most tokens in a tune, the end included."
    tempo: float = 0.0
    "Beats a minute of written MIDI and sound."


class MusicCodec:
    """A tune as tokens: metre, key, then pitches as steps from the tonic, lengths, bar lines; any string of tokens is a tune.

    Because pitches count from the tonic, a tune has the same tokens in every key: nothing is learned twelve times over.
    """

    name: ClassVar[str] = "music"
    Config: ClassVar[type] = MusicConfig
    feature_name: ClassVar[str] = looks.NAME
    derived: ClassVar[dict[str, str]] = {
        "key": "the key: G, Em, Dmix", "mode": "major, minor, Dorian, Mixolydian ...", "metre": "the metre: 4/4, 6/8",
        "bars": "how many bars are written", "notes": "how many notes are played, repeats included",
        "range": "semitones from lowest to highest",
        "lowest": "MIDI number of the lowest note", "highest": "MIDI number of the highest note", "density": "notes in a whole note's time",
    }

    def __init__(self, config: MusicConfig | None = None) -> None:
        self.config = config or MusicConfig()
        if self.config.length < 0 or self.config.length == 1:
            raise UsageError(f"music length = {self.config.length}", remedy="choose 0 (found in the data) or a number from 2")
        if not (self.config.tempo == 0 or 10 <= self.config.tempo <= 1000):
            raise UsageError(f"music tempo = {self.config.tempo}", remedy="choose 10 to 1000 beats a minute, or 0")
        self.space: spaces.Space = Tokens(tokens.VOCAB, self.config.length or 512, end=tokens.END)
        self.tails, self.bar = 0, 8
        self.skips, self.notes = Skips(), []

    # ---------------------------------------------------------------- files
    @staticmethod
    def claims(listing: Listing) -> Claim:
        """The share of .abc and .mid files."""
        if listing.frame is not None or not listing.files:
            return Claim(0.0, "no files")
        count = sum(f.suffix.lower() in reading.ABC | reading.MIDI for f in listing.files)
        return Claim(0.95 * count / len(listing.files), f"{count:,} of {len(listing.files):,} files are ABC or MIDI")

    def read(self, listing: Listing) -> Iterator[Item]:
        """Yield tunes; near-duplicates (one title, or one opening in any key) share a group. Raises DataError when there is none."""
        found = list(reading.found(listing, self.skips, self.notes))
        self.skips.check(len(found) + self.skips.count, limit=0.05)
        if not found:
            raise DataError("there are no tunes", where=listing.root, remedy="give ABC (.abc) or MIDI (.mid) files")
        names = reading.groups(found)
        copies = len(found) - len(set(names))
        if copies:
            self.notes.append(f"{copies:,} of {len(found):,} tunes share title or opening with others: each such group stays together")
        for each, name in zip(found, names):
            yield Item(writing.write(each.tune), each.cond, name, each.source)

    # ---------------------------------------------------------------- tokens
    def fit(self, items: Sequence[Item]) -> None:
        """Measure the length; the vocabulary is fixed. Raises DataError when there are fewer than two tunes."""
        if len(items) < 2:
            raise DataError(f"{len(items)} tune is too little to learn from", remedy="give at least two")
        said = [_ids(item.raw) for item in items]
        sizes = [len(ids) + 1 for ids in said]
        self.bar = max(2, round(float(np.median([len(ids) / max(1, sum(map(tokens.BAR_IDS.__contains__, ids))) for ids in said]))) - 1)
        length = self.config.length
        if not length:
            ordered = np.sort(sizes)
            usual = int(ordered[math.ceil(0.99 * len(ordered)) - 1])
            length = min(LONGEST, -(-int(ordered[-1] if ordered[-1] <= 1.5 * usual else usual) // 8) * 8)
        self.tails = int((np.array(sizes) > length).sum())
        self.space = Tokens(tokens.VOCAB, length, end=tokens.END)

    def describe(self) -> list[str]:
        """What was decided, one line each."""
        tails = f" ({self.tails:,} tunes lose their tail)" if self.tails else ""
        return [f"tokens are notes as steps from the tonic, lengths, bar lines; at most {self._space.length:,} a tune{tails}"]

    @property
    def _space(self) -> Tokens:
        assert isinstance(self.space, Tokens)
        return self.space

    def encode(self, raw: str) -> np.ndarray:
        """(n,) int64 ids, closed by the end if there is room. Raises UsageError when the text is no tune."""
        return np.array([*_ids(raw), tokens.END][: self._space.length], np.int64)

    def decode(self, x: Any) -> str:
        """The tune that the ids mean, up to the first end, as normalised ABC; never fails."""
        return writing.write(tokens.hear(np.asarray(x).tolist()))

    def grammar(self) -> MusicGrammar:
        """Left to right: bars fill the metre exactly."""
        return MusicGrammar()

    def given(self, raw: str) -> Given:
        """A tune is a beginning with an open end. `<mask>` is one unknown bar, `<mask:4>` four; then the end is closed.

        Unknown bars get as many tokens as the other bars have. Raises UsageError when it does not fit the length.
        """
        closed = MASK.search(raw) is not None
        tune = _tune(MASK.sub(lambda m: abc.HOLE * int(m[1] or 1), raw), whole=closed)
        ids, known = [], []
        bars = [s for s in segments(tune) if s.length > 0]
        own = [len(tokens.say(Tune(tune.metre, tune.key, tune.body[s.start : s.stop]))[0]) - 2 for s in bars if s.length == s.full]
        hole = max(2, round(float(np.median(own)))) if own else self.bar
        for i in tokens.say(tune)[0]:
            again = i == tokens.HOLE and bool(known) and not known[-1]  # the bar line between two unknown bars is unknown too
            new = [tokens.END] * (hole + again) if i == tokens.HOLE else [i]
            ids, known = ids + new, known + [i != tokens.HOLE] * len(new)
        return self._given(ids, known, closed)

    def _given(self, ids: Sequence[int], known: Sequence[bool], closed: bool) -> Given:
        length = self._space.length
        if len(ids) > length:
            raise UsageError(f"{len(ids):,} tokens do not fit the model's {length:,}", remedy="shorten what is given")
        x, mask = np.full(length, tokens.END, np.int64), np.full(length, closed)
        x[: len(ids)], mask[: len(ids)] = ids, known
        return Given(x, mask)

    def read_given(self, path: Path) -> list[str]:
        """What `generate --given` continues or fills: each tune of an ABC file (`<mask>` marks unknown bars), or a MIDI file."""
        if path.suffix.lower() in reading.MIDI:
            try:
                return [writing.write(midi.tune_of(midi.parse(path.read_bytes())))]
            except abc.Unreadable as error:
                raise DataError(str(error), where=path, remedy="give another file") from None
        text = reading.text_of(path)
        return [_plain(source) for source in abc.tunes(text)] or [text]

    def explain(self, raw: str, parts: Any) -> list[tuple[str, float]]:
        """("bar 3: d2 Bd", sum over its tokens) from left to right; metre and key first, the end last where it was looked at."""
        tune, each = _tune(raw), np.asarray(parts, np.float64).tolist()
        places, bars, text = tokens.say(tune)[1], segments(tune), writing.pieces(tune)
        out: list[tuple[str, float]] = [("metre and key", float(sum(each[:2])))]
        starts = [bar.start for bar in bars[1:]]
        of = [sum(place >= start for start in starts) for place in places[2:]]
        for i, bar in enumerate(bars):
            own = [part for part, at in zip(each[2:], of) if at == i]
            if own:
                out.append((f"bar {i + 1}: {''.join(text[bar.start : bar.stop])}", sum(own)))
        return out if len(each) <= len(places) else [*out, ("end", sum(each[len(places) :]))]

    def faults(self, raw: str, attempt: int) -> Given | None:
        """The bars that do not fill the metre, and `attempt` more on either side, are unknown."""
        tune = _tune(raw)
        wrong = wrong_bars(tune)
        if not wrong:
            return None
        ids, places = tokens.say(tune)
        bars = segments(tune)
        again = {i for w in wrong for i in range(w - attempt, w + attempt + 1) if 0 <= i < len(bars)}
        unknown = {i for w in again for i in range(bars[w].start, bars[w].stop)}
        length = self._space.length
        return self._given(ids[:length], [place not in unknown for place in places][:length], True)

    # ---------------------------------------------------------------- judging
    def checks(self, raw: str, cond: dict[str, Any]) -> dict[str, bool]:
        """Parses; bars fill the metre; 90 % of the notes lie in the asked key."""
        try:
            tune = abc.read(raw)
        except abc.Unreadable:
            return {"parses": False, "bars fill the metre": False}
        return looks.checks(tune, cond)

    def derive(self, raws: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """The named values of `derived`, one dict a tune."""
        return [{name: said.get(name) for name in names} for said in (looks.derive(_tune(raw)) for raw in raws)]

    def features(self, raws: Sequence[str]) -> np.ndarray:
        """(N, 177) float32; the same for a tune in every key."""
        return np.stack([looks.features(_tune(raw)) for raw in raws]) if len(raws) else np.zeros((0, looks.SIZE), np.float32)

    def size_of(self, raw: str) -> tuple[int, str]:
        """Characters of the normalised text of what `encode` keeps."""
        ids = _ids(raw)
        return len(writing.write(tokens.hear(ids[: self._space.length], whole=len(ids) <= self._space.length))), "character"

    # ---------------------------------------------------------------- outputs
    def write(self, raws: Sequence[str], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]:
        """`out` ending in .abc: all tunes in one file; .mid or .wav: that file (numbered ones for several tunes);
        else a folder with each tune as .abc, .mid and .wav, and metadata.jsonl.
        """
        out, suffix = Path(out), Path(out).suffix.lower()
        meta = meta or [{}] * len(raws)
        if suffix in reading.ABC:
            files.write_text(out, "\n".join(self._abc(raw, m, i) for i, (raw, m) in enumerate(zip(raws, meta, strict=True))))
            return [out]
        if suffix in reading.MIDI or suffix == ".wav":
            paths = [out] if len(raws) == 1 else [out.with_name(f"{out.stem}-{i:05d}{out.suffix}") for i in range(len(raws))]
            for path, raw, m in zip(paths, raws, meta, strict=True):
                files.write_bytes(path, self._wav(raw) if suffix == ".wav" else self._midi(raw, m))
            return paths
        names, lines = [], []
        with files.new_folder(out) as folder:
            for i, (raw, m) in enumerate(zip(raws, meta, strict=True)):
                own = [f"{i:05d}{ending}" for ending in (".abc", ".mid", ".wav")]
                for name, data in zip(own, (self._abc(raw, m, i).encode(), self._midi(raw, m), self._wav(raw))):
                    (folder / name).write_bytes(data)
                tune = _tune(raw)
                row = {**dict(zip(("file_name", "midi", "sound"), own)), "key": tune.key.name, "metre": tune.metre, **m}
                lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                names += own
            (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        return [out / name for name in names]

    def _abc(self, raw: str, meta: dict[str, Any], i: int) -> str:
        number = int(meta.get("index", i)) + 1
        rhythm = f"R:{_word(meta['rhythm'])}\n" if meta.get("rhythm") else ""
        return writing.page(_tune(raw), number, f"Tune {number}", rhythm)

    def _midi(self, raw: str, meta: dict[str, Any]) -> bytes:
        tune = _tune(raw)
        asked = meta.get("tempo")
        tempo = float(asked) if isinstance(asked, int | float) and 10 <= asked <= 1000 else sound.tempo_of(tune, self.config.tempo)
        return midi.write(tune, tempo)

    def _wav(self, raw: str) -> bytes:
        tune = _tune(raw)
        return sound.wav(sound.render(tune, sound.tempo_of(tune, self.config.tempo)))

    def preview(self, raws: Sequence[str]) -> dict[str, Any]:
        """Piano rolls of the first bars, a line about each, and the beginning of the first few as sound."""
        tunes = [_tune(raw) for raw in raws]
        lines = [f"{t.key.tonic} {MODE_NAMES[t.key.mode]} · {t.metre} · {len(segments(t))} bars" for t in tunes]
        rate = 11_025
        heard = [sound.wav(sound.render(t, sound.tempo_of(t, self.config.tempo), rate, EXCERPT, 8.0), rate, 1) for t in tunes[:HEARD]]
        return {"kind": "image", "png": [picture.png(t) for t in tunes], "texts": lines, "audio": heard}

    def state(self) -> dict[str, Any]:
        """All that `load` needs, as JSON; the vocabulary's size guards against another version's."""
        return {"space": spaces.to_json(self.space), "bar": self.bar}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.space, self.bar = spaces.from_json(state["space"]), int(state["bar"])


def _tune(raw: str, *, whole: bool = True) -> Tune:
    try:
        return abc.read(raw, whole=whole)
    except abc.Unreadable as error:
        raise UsageError(f"not a tune: {error}", remedy="write it as ABC, such as K:G and a line of notes") from None


@lru_cache(maxsize=1 << 15)
def _ids(raw: str) -> tuple[int, ...]:
    """Ids without the end; remembered, because measuring, encoding and scoring ask for the same."""
    return tuple(tokens.say(_tune(raw))[0])


def _plain(source: abc.Source) -> str:
    """A tune of a file as text with its own header, for `given`."""
    head = "".join(f"{name}:{source.first(name)}\n" for name in "MLK" if name in source.fields)
    return head + "\n".join(source.body)


def _word(value: Any) -> str:
    return re.sub(r"[^\w ]+", " ", str(value))[:40]
