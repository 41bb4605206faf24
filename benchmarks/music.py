"""Folk tunes, <= 30 min: python -m benchmarks.music --data folk-tunes-abc.tgz [--minutes 25]

Bits per character against n-grams, bars that fill the metre, notes in the asked key, copied runs.
The archive holds O'Neill's 1850 (1903) in ABC as the PyPI package `music21` 10.5.1 has it. A tenth of the tunes, whole groups of
near-duplicates, is put aside as test before anything is trained. One model, conditioned on key and metre, does everything: the
probability of a tune is that of its key and metre by their counts in the training tunes, times the model's of the whole text given
them, so that both models write down the same text. The checker of bars and keys reads the text itself, with no code of the package.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import morphogen
from benchmarks.common import WORK, fresh, record

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
CIRCLE = {"F": -1, "C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5}
MODES = {"": 0, "m": -3, "dor": -2, "mix": -1, "phr": -4, "lyd": 1, "loc": -5}
ATOM = re.compile(
    r"(?P<bar>:\||\|:|::|\|\]|\|\||\|)|(?P<ending>\[[1-4])|\[M:(?P<metre>[^\]]+)\]|\[K:(?P<key>[^\]]+)\]"
    r"|\((?P<p>[2-9])(?::(?P<q>[1-9]))?(?::(?P<r>[1-9]))?"
    r"|(?P<note>z|(?:[_^]{1,2}|=)?[A-Ga-g][,']*|\[(?:(?:[_^]{1,2}|=)?[A-Ga-g][,']*-?)+\])(?P<top>\d*)(?P<slash>/?)(?P<low>\d*)(?P<tie>-?)(?P<swing>[<>]?)"
)
PITCH = re.compile(r"([_^]{1,2}|=)?([A-Ga-g])([,']*)")


# ------------------------------------------------------------------ a reader of its own
def read(text: str) -> tuple[list[tuple[Fraction, Fraction, str, bool]], list[tuple[int, Fraction]], str, str] | None:
    """Bars (length, full length, the line before, an ending begins), notes (MIDI, length), metre, key; None where it does not parse."""
    head = re.match(r"M:([^\n]+)\nK:([A-G][#b]?)(m|dor|mix|phr|lyd|loc|)\n", text)
    if not head:
        return None
    metre, key = head[1], head[2] + head[3]
    full = Fraction(0) if metre == "none" else Fraction(metre)
    unit = Fraction(1, 16) if 0 < full < Fraction(3, 4) else Fraction(1, 8)
    signs, heard, at = signature(key), {}, head.end()
    bars, notes, now, left, begun, ending = [], [], Fraction(0), "", False, False
    scale, todo, swing = Fraction(1), 0, ""
    while at < len(text):
        m = ATOM.match(text, at)
        if not m:
            return None
        at = m.end()
        if m["bar"]:
            bars += [(now, full, left, ending)] if begun else []
            now, left, begun, ending, heard = Fraction(0), m["bar"], False, False, {}
        elif m["ending"]:
            ending = True
        elif m["metre"]:
            full = Fraction(0) if m["metre"] == "none" else Fraction(m["metre"])
        elif m["key"]:
            signs, heard = signature(m["key"]), {}
        elif m["p"]:
            p = int(m["p"])
            scale, todo = Fraction(int(m["q"] or {3: 2, 2: 3, 4: 3, 6: 2, 8: 3}.get(p, 2)), p), int(m["r"] or p)
        else:
            length = Fraction(int(m["top"] or 1), int(m["low"] or 2) if m["slash"] else 1)
            length *= {">": Fraction(1, 2), "<": Fraction(3, 2)}.get(swing, 1)
            length *= {">": Fraction(3, 2), "<": Fraction(1, 2)}.get(m["swing"], 1)
            length *= unit * (scale if todo else 1)
            swing, todo, now, begun = m["swing"], max(0, todo - 1), now + length, True
            notes += [(midi, length) for midi in pitches(m["note"], signs, heard)]
    bars += [(now, full, left, ending)] if begun else []
    return bars, notes, metre, key


def signature(key: str) -> dict[str, int]:
    match = re.fullmatch(r"([A-G])([#b]?)(.*)", key)
    assert match
    sharps = CIRCLE[match[1]] + {"": 0, "#": 7, "b": -7}[match[2]] + MODES[match[3]]
    raised, lowered = "FCGDAEB"[: max(0, sharps)], "BEADGCF"[: max(0, -sharps)]
    return {letter: (letter in raised) - (letter in lowered) for letter in LETTERS}


def pitches(note: str, signs: dict[str, int], heard: dict[str, int]) -> list[int]:
    out = []
    for sign, letter, octave in PITCH.findall(note) if note != "z" else []:
        name = letter.upper()
        if sign:
            heard[name] = sign.count("^") - sign.count("_")
        octaves = letter.islower() + octave.count("'") - octave.count(",")
        out.append(60 + LETTERS[name] + heard.get(name, signs[name]) + 12 * octaves)
    return out


def filled(text: str) -> bool:
    """All bars fill the metre, but for upbeats that begin the tune or a section, and the bars before a section's end that they complete."""
    parsed = read(text)
    if parsed is None or not parsed[0]:
        return False
    bars, section = parsed[0], {"||", "|]", "|:", ":|", "::"}
    begins = [(i == 0 or left in section) and not ending for i, (_, _, left, ending) in enumerate(bars)]
    ups = [length if b and length < full else Fraction(0) for b, (length, full, _, _) in zip(begins, bars)]
    own = Fraction(0)
    for i, (length, full, _, _) in enumerate(bars):
        own = ups[i] if begins[i] else own
        if full in (0, length) or ups[i]:
            continue
        last = i + 1 == len(bars)
        closes = last or bars[i + 1][2] in section or bars[i + 1][3]
        if length > full or not closes or full - length not in {own, ups[0], Fraction(0) if last else ups[i + 1]}:
            return False
    return True


def inside(text: str, key: str) -> tuple[int, int]:
    """(notes in the scale of a key, notes)."""
    parsed = read(text)
    scale = {(LETTERS[k] + v) % 12 for k, v in signature(key).items()}
    own = [midi % 12 in scale for midi, _ in parsed[1]] if parsed else []
    return sum(own), len(own)


# ------------------------------------------------------------------ copying
def runs(tunes: Sequence[str], source: Sequence[str]) -> np.ndarray:
    """Per tune the most notes in a row (interval and length of each) that also stand in a source tune, in whatever key."""
    lines = [[_steps(text) for text in texts] for texts in (source, tunes)]
    grams = [[list(line) for line in side] for side in lines]  # hashes of the runs of n that begin at each place
    best, live, n = np.zeros(len(tunes), int), set(range(len(tunes))), 1
    while live:
        known = {gram for line in grams[0] for gram in line}
        live = {k for k in live if not known.isdisjoint(grams[1][k])}
        best[list(live)] = n
        for steps, side in zip(lines, grams):
            side[:] = [[hash((a, b)) for a, b in zip(gram, line[n:])] for gram, line in zip(side, steps)]
        n += 1
    return best


def _steps(text: str) -> list[int]:
    parsed = read(text)
    notes = parsed[1] if parsed else []
    return [hash((b - a, length)) for (a, _), (b, length) in pairwise(notes)]


# ------------------------------------------------------------------ figures with intervals
def interval(fn: Any, *columns: np.ndarray, rounds: int = 1000) -> tuple[float, float, float]:
    """(value, low, high): 95 % of a bootstrap over rows."""
    rng, n = np.random.default_rng(0), len(columns[0])
    values = [fn(*(c[ids] for c in columns)) for ids in rng.integers(0, n, (rounds, n))]
    return float(fn(*columns)), float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5))


def ngrams(train: Sequence[str], test: Sequence[str], ends: Sequence[bool]) -> dict[str, np.ndarray]:
    """name -> nats of each test text, by character n-grams of orders 3 to 7, Kneser-Ney and Witten-Bell; the end is written too."""
    import torch

    from morphogen.contracts import Batch
    from morphogen.families.ngram import Ngram, NgramConfig
    from morphogen.model import real_positions
    from morphogen.spaces import Tokens

    length = max(map(len, [*train, *test])) + 1

    def batch(texts: Sequence[str], closed: Sequence[bool]) -> Batch:
        x = torch.full((len(texts), length), 256)
        for row, text in zip(x, texts):
            row[: len(text)] = torch.tensor(list(text.encode("ascii")))
        mask = real_positions(x, 256)
        for row, text, end in zip(mask, texts, closed):
            row[len(text) :] &= end
        return Batch(x, torch.arange(len(texts)), torch.ones(len(texts)), mask)

    out = {}
    for kind in ("kneser-ney", "witten-bell"):
        for order in range(3, 8):
            model = Ngram(Tokens(257, length, end=256), {}, NgramConfig(order=order, smoothing=kind))
            model.fit([batch(train, [True] * len(train))])
            out[f"{kind} {order}"] = model.log_prob(batch(test, ends)).total.double().numpy()
    return out


# ------------------------------------------------------------------ the data
def halves(archive: Path) -> tuple[Path, list[Any], list[Any]]:
    """(folder of training tunes, training items, test items); whole groups on one side."""
    from morphogen.codecs.music import MusicCodec
    from morphogen.codecs.sources import scan
    from morphogen.training.split import split

    raw, target = WORK / "folk-tunes", WORK / "folk-tunes-train"
    if not raw.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(raw, filter="data")
    items = list(MusicCodec().read(scan(raw)))
    train, test = ([items[i] for i in ids] for ids in split(items, seed=1))
    fresh(target).mkdir(parents=True)
    lines = []
    for i, item in enumerate(train):
        head, body = item.raw.split("\nK:", 1)
        (target / f"{i:05d}.abc").write_text(f"X:{i + 1}\n{head}\nK:{body}\n")
        more = {"rhythm": item.cond["rhythm"]} if "rhythm" in item.cond else {}
        lines.append(json.dumps({"file_name": f"{i:05d}.abc", "group": item.group, **more}) + "\n")
    (target / "metadata.jsonl").write_text("".join(lines))
    return target, train, test


def prior(train: Sequence[Any], test: Sequence[Any]) -> np.ndarray:
    """Nats of each test tune's key and metre by their counts in the training tunes, one added for every pair there could be."""
    counts = Counter((item.cond["key"], item.cond["metre"]) for item in train)
    pairs = 105 * 26
    return np.array([math.log((counts[item.cond["key"], item.cond["metre"]] + 1) / (len(train) + pairs)) for item in test])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--size", default=None)
    a = parser.parse_args()
    folder, train, test = halves(a.data)
    run = morphogen.train(folder, fresh(WORK / "music"), minutes=a.minutes, cond=("key", "metre"), size=a.size)
    model = run.model()
    figures: dict[str, Any] = {"train seconds": run.provenance()["seconds"], **likelihood(model, train, test)}
    figures |= outputs(model, train, test, a.n)
    record("music", figures, minutes=a.minutes, train=len(train), test=len(test), n=a.n, size=a.size or "default")


def likelihood(model: Any, train: Sequence[Any], test: Sequence[Any]) -> dict[str, Any]:
    """Bits per character of the test tunes, by our model and by n-grams of characters of the same text."""
    from morphogen.sampling import draws

    test = [t for t in test if all(model.conditions[k].knows(t.cond[k]) for k in ("key", "metre"))]
    codec = model.codec
    texts, ends = [], []
    for item in test:
        ids = codec.encode(item.raw)
        ends.append(bool(ids[-1] == codec.space.end))
        texts.append(item.raw if ends[-1] else item.raw[: codec.size_of(item.raw)[0]])
    sizes = np.array([len(t) for t in texts], float)
    cond = {k: [item.cond[k] for item in test] for k in ("key", "metre")}
    nats = model.log_prob([item.raw for item in test], draws.seeded(0, len(test)), cond).total + prior(train, test)
    bits = lambda x, s: float(-x.sum() / (math.log(2) * s.sum()))
    rivals = ngrams([item.raw for item in train], texts, ends)
    best = min(rivals, key=lambda k: bits(rivals[k], sizes))
    own, gain = interval(bits, nats, sizes), interval(lambda x, y: float(1 - x.sum() / y.sum()), nats, rivals[best])
    figures = {"bits per character": own[0], "low": own[1], "high": own[2], "best n-gram": bits(rivals[best], sizes), "which": best}
    figures |= {"below it": gain[0], "below it, low": gain[1], "below it, high": gain[2]}
    return figures | {f"n-gram {name}": bits(x, sizes) for name, x in rivals.items()}


def outputs(model: Any, train: Sequence[Any], test: Sequence[Any], n: int) -> dict[str, Any]:
    """Legality, key and copying of tunes drawn with the keys and metres of test tunes, as they come and under the grammar."""
    from morphogen.sampling import draws

    asked = [test[i % len(test)].cond for i in range(n)]
    asked = [c if model.conditions["key"].knows(c["key"]) and model.conditions["metre"].knows(c["metre"]) else train[0].cond for c in asked]
    cond = {k: [c[k] for c in asked] for k in ("key", "metre")}
    real, source = [item.raw for item in test], [item.raw for item in train]
    honest = runs(real, source)
    limit = float(np.percentile(honest, 99))
    out: dict[str, Any] = {"real: bars fill": float(np.mean([filled(t) for t in real])), "real: copied run, 99 %": limit}
    for name, strict in (("raw", False), ("grammar", True)):
        begun = time.monotonic()
        drawn = model.generate(draws.seeded(7, n), cond=cond, strict=strict)
        took = time.monotonic() - begun
        ok = np.array([filled(t) for t in drawn], float)
        value, low, high = interval(lambda x: float(x.mean()), ok)
        out |= {f"{name}: parse": float(np.mean([read(t) is not None for t in drawn])), f"{name}: bars fill": value,
                f"{name}: bars fill, low": low, f"{name}: bars fill, high": high}
        counts = np.array([inside(t, c["key"]) for t, c in zip(drawn, asked)], float)
        value, low, high = interval(lambda k, m: float(k.sum() / m.sum()), counts[:, 0], counts[:, 1])
        out |= {f"{name}: notes in the asked key": value, f"{name}: in key, low": low, f"{name}: in key, high": high}
        out[f"{name}: asked metre"] = float(np.mean([t.startswith(f"M:{c['metre']}\n") for t, c in zip(drawn, asked)]))
        longest = runs(drawn, source)
        p99 = interval(lambda x: float(np.percentile(x, 99)), longest.astype(float))
        out |= {f"{name}: copied run, 99 %": p99[0], f"{name}: copied run, low": p99[1], f"{name}: copied run, high": p99[2]}
        out |= {f"{name}: copied run, longest": int(longest.max()), f"{name}: beyond real 99 %": float(np.mean(longest > limit))}
        out[f"{name}: tunes a second"] = n / took
    return out


if __name__ == "__main__":
    main()
