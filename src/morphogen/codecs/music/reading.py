"""Files of tunes to items: ABC and MIDI, what is said about them, and which tunes are nearly the same. No torch here."""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from morphogen.codecs.music import abc, midi, writing
from morphogen.codecs.music.abc import Unreadable
from morphogen.codecs.music.score import MOST, Note, Tune
from morphogen.codecs.sources import Listing, Skips, class_folders, group_of, read_metadata, said_about
from morphogen.errors import DataError

ABC = frozenset({".abc"})
MIDI = frozenset({".mid", ".midi", ".smf"})
MOST_BYTES = 256 << 20
OPENING = 8  # notes whose intervals make two tunes near-duplicates
NAMELESS = frozenset({"", "untitled", "notitle", "ganainm", "unknown", "noname", "nameless", "tune", "track"})
RHYTHMS = {"slipjig": "slip jig", "double jig": "jig", "jig double": "jig", "single jig": "single jig", "hop jig": "slip jig"}


@dataclass
class Found:
    """A tune of a file before groups are known."""

    tune: Tune
    cond: dict[str, Any]
    title: str
    group: str
    source: str


def rhythm_of(text: str) -> str:
    """The normalised R: field: lower case, one word order and number ("Reels" and "reel" are one), "" when none."""
    words = re.sub(r"[^a-z ]+", " ", text.lower().split(",")[0]).split()
    name = " ".join(words)
    name = RHYTHMS.get(name, name)
    return name[:-1] if name.endswith("s") and len(name) > 4 and not name.endswith("ss") else name


def title_of(text: str) -> str:
    """A title without case, article and punctuation ("Butcher's Apron, The" is "The Butchers Apron"); "" when it names nothing."""
    text = re.sub(r"\b(the|a|an)\b", " ", text.lower())
    name = re.sub(r"[^a-z0-9]+", "", text)
    return "" if name in NAMELESS or re.fullmatch(r"(tune|track)?[0-9]*", name) else name


def opening(tune: Tune) -> str:
    """The intervals of the first eight notes (of chords the highest): the same in every key."""
    tops = [e.pitches[-1].midi for e in tune.body if isinstance(e, Note) and e.pitches][:OPENING]
    return ",".join(str(b - a) for a, b in pairwise(tops)) if len(tops) == OPENING else group_of(writing.write(tune))


def found(listing: Listing, skips: Skips, notes: list[str]) -> Iterator[Found]:
    """All tunes of a listing in order; what cannot be read goes to `skips`, what was mended to `notes`."""
    chosen = [f for f in listing.files if f.suffix.lower() in ABC | MIDI]
    written = {f.with_suffix("") for f in chosen if f.suffix.lower() in ABC}
    twins = [f for f in chosen if f.suffix.lower() in MIDI and f.with_suffix("") in written]
    if twins:
        notes.append(f"{len(twins):,} MIDI files lie beside an ABC file of the same name: the ABC is read")
    said = read_metadata(listing, skips)
    labels = class_folders(listing, chosen)
    repairs: dict[str, int] = {}
    for file in chosen:
        if file in twins:
            continue
        more, group = said_about(said.get(file, {}))
        if file in labels:
            more.setdefault("label", labels[file])
        reader = _abc_file(file, listing.name_of(file), skips) if file.suffix.lower() in ABC else _midi_file(file, listing, skips, repairs)
        for each in reader:
            # what the notes say goes before what a table says about them
            yield Found(each.tune, {**more, **each.cond}, each.title, group, each.source)
    notes += [f"MIDI: {count:,} {what}" for what, count in repairs.items()]


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError("larger than 256 MB", where=file, remedy="split it")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=file, remedy="check its permissions") from None


def text_of(file: Path) -> str:
    """An ABC file as text: UTF-8 or UTF-16 by its mark, else Latin-1, as old collections are. Raises DataError when it is no text."""
    data = _bytes(file)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        raise DataError("not a text file", where=file, remedy="ABC is plain text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _abc_file(file: Path, name: str, skips: Skips) -> Iterator[Found]:
    try:
        text = text_of(file)
    except DataError as error:
        skips.add(name, error.what)
        return
    count = 0
    for source in abc.tunes(text):
        count += 1
        where = f"{name}:{source.line}"
        try:
            tune = abc.parse(source)
        except Unreadable as error:
            skips.add(where, str(error))
            continue
        reason = _unfit(tune)
        if reason:
            skips.add(where, reason)
            continue
        cond: dict[str, Any] = {"key": tune.key.name, "metre": tune.metre}
        rhythm = next((r for r in map(rhythm_of, source.fields.get("R", [])) if r), "")
        if rhythm:
            cond["rhythm"] = rhythm
        yield Found(tune, cond, title_of(source.first("T")), "", where)
    if not count:
        skips.add(name, "no tune in it (no X: line)")


def _midi_file(file: Path, listing: Listing, skips: Skips, repairs: dict[str, int]) -> Iterator[Found]:
    try:
        parsed = midi.parse(_bytes(file))
        tune = midi.tune_of(parsed)
    except (Unreadable, DataError) as error:
        skips.add(listing.name_of(file), error.what if isinstance(error, DataError) else str(error))
        return
    for what, count in parsed.repairs.items():
        repairs[what] = repairs.get(what, 0) + count
    reason = _unfit(tune)
    if reason:
        skips.add(listing.name_of(file), reason)
        return
    cond = {"key": tune.key.name, "metre": tune.metre, "tempo": round(parsed.tempo)}
    yield Found(tune, cond, title_of(file.stem), "", listing.name_of(file))


def _unfit(tune: Tune) -> str:
    count = sum(bool(e.pitches) for e in tune.body if isinstance(e, Note))
    return "fewer than 4 notes" if count < 4 else f"more than {MOST:,} notes" if count > MOST else ""


def groups(tunes: Sequence[Found]) -> list[str]:
    """One name a tune; tunes of one title, one opening or one group of the user's share it, and so do those linked through others."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    marks = []
    for each in tunes:
        mine = [f"o:{opening(each.tune)}", *([f"t:{each.title}"] if each.title else []), *([f"g:{each.group}"] if each.group else [])]
        marks.append(mine[0])
        for other in mine[1:]:
            a, b = sorted((root(mine[0]), root(other)))
            parent[b] = a
    return [group_of(root(mark)) for mark in marks]
