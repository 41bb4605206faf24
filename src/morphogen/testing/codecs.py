"""What a codec promises, and what a condition's does."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from morphogen.codecs.sources import Listing, scan
from morphogen.contracts import HasGrammar, Holds, Item
from morphogen.spaces import Array, Record, Space, Tokens, from_json, to_json
from morphogen.testing.powers import check_grammar, check_powers
from morphogen.testing.promise import must, promised, untouched
from morphogen.testing.samples import check_given, check_sample, plain, same

OUTPUT = {"image": "", "table": ".csv", "text": ".jsonl"}


@promised("a codec must do what its protocol says without an error")
def check_codec(make: Callable[[], Any], items: Sequence[Item], folder: Path, data: Any = None) -> Any:
    """Fit, encode into the Space, decode back, keep through JSON, know its unknowns, write files; and whatever powers it has.

    `make` builds it unfitted; `items` are what it read; `folder` may be written in. `data`: a path it should claim and read.
    Returns the fitted codec. Raises BrokenPromise (an AssertionError) with one sentence.
    """
    with promised("a codec must be built, and fitted to items, without an error"), untouched("a codec's fit"):
        codec = make()
        before = [plain(item.raw) for item in items[:20]]
        codec.fit(items)
    must([plain(item.raw) for item in items[:20]] == before, "fit must not change the items it is given")
    for name in ("name", "Config", "skips", "notes"):
        must(hasattr(codec, name), f"a codec needs the attribute `{name}`")
    check_claims(type(codec), data)
    if data is not None:
        check_read(make, data)
    again = check_state(codec, make, items)
    with untouched("a codec"):
        check_items(codec, again, items)
        check_any_sample(codec)
        raws = [codec.decode(codec.encode(item.raw)) for item in items[:5]]
        check_looks(codec, raws)
        check_powers(codec, items)
        if isinstance(again, HasGrammar) and again.grammar() is not None:
            check_grammar(again, items)  # the loaded one: a model that draws has no other
        check_write(again, raws, folder)
    home = type(codec).__module__
    for name, module in list(sys.modules.items()):
        if name == home or name.startswith(home + "."):
            must(not any(map(_of_torch, vars(module).values())), "a codec must be torch-free: it is read when the tool starts")
    return codec


def _of_torch(value: Any) -> bool:
    """Whether this is torch, a part of it, or something that came from there."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and name.split(".")[0] == "torch"


def check_claims(kind: Any, data: Any = None) -> None:
    """A claim is a share, whatever is listed; what is not a codec's own is not its to crash on."""
    listings = [Listing(Path(".")), Listing(Path("."), (Path("no-such-file.xyz"), Path("README.md")))]
    with promised("claims must answer for any listing without raising"):
        scores = [kind.claims(one).score for one in listings]
    must(all(0 <= score <= 1 for score in scores), "a claim is a number from 0 to 1")
    must(scores[0] == 0, "claims must be 0 where there is nothing")
    if data is not None:
        must(kind.claims(scan(data)).score > 0.5, "claims must be above 0.5 for the codec's own data")


def check_read(make: Callable[[], Any], data: Any) -> None:
    """Reading twice gives the same items, and so does holding them; each says which it belongs with."""
    with promised("read must read the codec's own data"):
        first, second = (list(make().read(scan(data))) for _ in range(2))
        reader = make()
        held = list(reader.hold(scan(data))) if isinstance(reader, Holds) else first
    must(first, "read must find items in the codec's own data")
    must([plain(i.raw) for i in first] == [plain(i.raw) for i in second], "read must be a function of the files")
    must([(i.group, i.source) for i in first] == [(i.group, i.source) for i in second], "groups and sources must be the same each time")
    must([plain(i.raw) for i in held] == [plain(i.raw) for i in first], "hold must find what read yields")
    must(all(isinstance(i.group, str) and isinstance(i.cond, dict) for i in first), "an item's group is a word, its cond a dict")


def check_state(codec: Any, make: Callable[[], Any], items: Sequence[Item]) -> Any:
    """What fit found survives as JSON in a fresh codec, and is found again; returns the fresh one."""
    with promised("a Space must survive JSON"):
        must(from_json(json.loads(json.dumps(to_json(codec.space)))) == codec.space, "a Space must survive JSON")
    with promised("state must be plain JSON without NaN"):
        text = json.dumps(codec.state(), allow_nan=False)
    with promised("load must take what state gave"):
        again = make()
        again.load(json.loads(text))
    must(again.space == codec.space, "load(state()) must restore the Space")
    must(json.dumps(again.state(), allow_nan=False) == text, "load(state()) must restore all of the state")
    with promised("fit must be a function of the items"):
        twin = make()
        twin.fit(items)
        must(twin.space == codec.space and json.dumps(twin.state()) == text, "fit must be a function of the items")
    with promised("a codec must be copied as workers copy it"):
        must(json.dumps(copy.deepcopy(codec).state()) == text, "a codec must be copied as workers copy it")
    return again


def check_items(codec: Any, again: Any, items: Sequence[Item]) -> None:
    """Items go into the Space and settle after one round; encoding leaves them alone and does not remember."""
    whole = []
    for item in items[:20]:
        before = plain(item.raw)
        with promised("encode must take every item that was read"):
            x = codec.encode(item.raw)
        check_sample(x, codec.space)
        whole.append(x)
        must(plain(item.raw) == before, "encode must not change the item")
        same(x, again.encode(item.raw), "load(state()) must restore encode")
        copied = copy.deepcopy(x)
        with promised("decode must take what encode gave"):
            once = codec.decode(x)
        same(x, copied, "decode must not change the sample")
        must(plain(once) == plain(again.decode(x)), "load(state()) must restore decode, which is a function of the sample")
        same(codec.encode(once), codec.encode(codec.decode(codec.encode(once))), "encode and decode must settle after one round")
        with promised("given must take a whole item"):
            given = codec.given(item.raw)
        check_given(given, x, codec.space, "given")
    for x, item in zip(reversed(whole), reversed(items[: len(whole)])):
        same(x, codec.encode(item.raw), "encode must be a function of the item, whatever was encoded before")


def check_any_sample(codec: Any) -> None:
    """A model draws whatever lies in the Space: all of it must decode, also before much was learned."""
    rng = np.random.default_rng(0)
    for turn in range(8):
        with promised("decode must take any sample of the Space"):
            raw = codec.decode(_drawn(codec.space, rng, turn))
            codec.preview([raw])


def _drawn(space: Space, rng: np.random.Generator, turn: int) -> Any:
    """Noise in a Space; every other time far out, or as short as can be."""
    match space:
        case Array():
            return (rng.normal(0, 1 if turn % 2 else 30, [n or 4 for n in space.shape])).astype(np.float32)
        case Tokens():
            low, high = np.array(space.slots).T if space.slots else (np.zeros(space.length, int), np.full(space.length, space.vocab))
            x = rng.integers(low, high).astype(np.int64)
            if space.end is None:
                return x
            n = int(rng.integers(0, space.length)) if turn % 2 else 0
            return np.append(x[:n][x[:n] != space.end], space.end)
        case Record():
            return {name: _drawn(field, rng, turn) for name, field in space.fields}


def check_looks(codec: Any, raws: Sequence[Any]) -> None:
    """What pages, distances and rates are made of."""
    with promised("preview must show items"):
        preview = codec.preview(raws)
    check_preview(preview, len(raws))
    some = slice(1, 3) if len(raws) > 1 else slice(None)  # what takes its measure from the first, or the last, would not show there
    with promised("features must take items"):
        features = np.asarray(codec.features(raws))
        few = np.asarray(codec.features(raws[some]))
    must(features.ndim == 2 and len(features) == len(raws) and np.isfinite(features).all(), "features are finite, one row an item")
    must(np.allclose(features[some], few, rtol=1e-4, atol=1e-5), "features of an item must not depend on the others")
    with promised("size_of must take an item"):
        size, unit = codec.size_of(raws[0])
    must(size > 0 and unit, "size_of says how many units an item has")


def check_write(codec: Any, raws: Sequence[Any], folder: Path) -> None:
    """What is written exists, is what was said, and is read again as as many items that encode alike.

    A codec that writes the same items in several forms reads them from one of the files.
    """
    name = "out" + getattr(codec, "output", OUTPUT[codec.preview(raws)["kind"]])
    before = [plain(raw) for raw in raws]
    with promised("write must write items, each with its metadata"):
        paths = codec.write(raws, folder / name, [{"index": i} for i in range(len(raws))])
    must(paths and all(p.is_file() for p in paths), "write returns the files it wrote")
    must(all(p.resolve().is_relative_to(folder.resolve()) for p in paths), "write must write where it was told to")
    must([plain(raw) for raw in raws] == before, "write must not change the items")
    back, why = [], ""
    for place in [p for p in (folder / name, *paths) if p.exists()]:
        try:
            found = list(codec.read(scan(place)))
        except Exception as error:  # a drawing beside the items, perhaps
            why = f"{type(error).__name__}: {error}"
            continue
        back = found if len(back) != len(raws) else back
    must(len(back) == len(raws), f"read must find what write wrote: {len(back)} items of {len(raws)} {why}".rstrip())
    for raw, item in zip(raws, back):
        with promised("what was written and read must encode"):
            same(codec.encode(raw), codec.encode(item.raw), "what was written must be read as it was", 1e-2)


@promised("a condition must do what its protocol says without an error")
@untouched("a condition")
def check_condition(make: Callable[[], Any], values: Sequence[Any]) -> Any:
    """A condition's codec: fit to values, encode each, keep through JSON, draw some like them."""
    with promised("a condition must fit values"):
        codec, again = make(), make()
        codec.fit(values)
        again.load(json.loads(json.dumps(codec.state(), allow_nan=False)))
    must(again.space == codec.space, "load(state()) must restore the Space")
    for value in values[:20]:
        with promised("a condition must encode what it was fitted to"):
            x = codec.encode(value)
        check_sample(x, codec.space)
        same(x, again.encode(value), "load(state()) must restore encode")
    uniforms = np.linspace(0.01, 0.99, 7)
    with promised("a condition must draw values from uniforms"):
        drawn = codec.draw(uniforms)
    must(drawn == again.draw(uniforms), "draw must be a function of the uniforms")
    must(drawn is None or len(drawn) == 7, "draw gives a value for each uniform, or None: nothing is said")
    for value in drawn or ():
        with promised("what a condition draws it must encode"):
            check_sample(codec.encode(value), codec.space)
    return codec


def check_preview(preview: dict[str, Any], n: int) -> None:
    """A preview shows what it says, one thing an item; pictures may have a line of text and a sound each."""
    kind = preview["kind"]
    must(kind in OUTPUT, "preview says what to show")
    must(len(preview[{"image": "png", "table": "rows", "text": "texts"}[kind]]) == n, "preview shows each item")
    if kind != "image":
        return
    for data in preview["png"]:
        known = data[:8] == b"\x89PNG\r\n\x1a\n" or data[:4] == b"GIF8" or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        must(known, "pictures are PNG, GIF or WebP")
    for name in ("texts", "audio"):
        must(len(preview.get(name) or [0] * n) == n, f"{name}: one for each picture")
    must(all(isinstance(t, str) and "\n" not in t for t in preview.get("texts") or ()), "texts are one line each")
    for sound in preview.get("audio") or ():
        must(not sound or (sound[:4] == b"RIFF" and sound[8:12] == b"WAVE"), "sounds are WAV")
