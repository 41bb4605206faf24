"""What a codec promises, and what a condition's does."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.codecs.sources import Listing, scan
from morphogen.contracts import Checks, Derives, Faults, Given, HasGrammar, Identifies, Item
from morphogen.spaces import Array, Record, Space, Tokens, from_json, to_json
from morphogen.testing.promise import must, promised, untouched

OUTPUT = {"image": "", "table": ".csv", "text": ".jsonl"}


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
    ours = [m for name, m in sys.modules.items() if name.split(".")[0] != "morphogen" or name.startswith("morphogen.codecs")]
    home = type(codec).__module__
    for module in (m for m in ours if m is not None and (m.__name__ == home or m.__name__.startswith(home + "."))):
        must("torch" not in vars(module), "a codec must be torch-free: it is read when the tool starts")
    return codec


def check_claims(kind: Any, data: Any = None) -> None:
    """A claim is a share, whatever is listed; what is not a codec's own is not its to crash on."""
    listings = [Listing(Path(".")), Listing(Path("."), (Path("no-such-file.xyz"), Path("README.md")))]
    with promised("claims must answer for any listing without raising"):
        claims = [kind.claims(one) for one in listings]
    must(all(0 <= c.score <= 1 for c in claims), "a claim is a number from 0 to 1")
    must(claims[0].score == 0, "claims must be 0 where there is nothing")
    if data is not None:
        must(kind.claims(scan(data)).score > 0.5, "claims must be above 0.5 for the codec's own data")


def check_read(make: Callable[[], Any], data: Any) -> None:
    """Reading twice gives the same items; each says where it was read and which it belongs with."""
    with promised("read must read the codec's own data"):
        first, second = (list(make().read(scan(data))) for _ in range(2))
    must(first, "read must find items in the codec's own data")
    must([plain(i.raw) for i in first] == [plain(i.raw) for i in second], "read must be a function of the files")
    must([(i.group, i.source) for i in first] == [(i.group, i.source) for i in second], "groups and sources must be the same each time")
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
        must(twin.space == codec.space, "fit must be a function of the items")
    with promised("a codec must be copied as workers copy it"):
        must(copy.deepcopy(codec).space == codec.space, "a codec must be copied as workers copy it")
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
        _check_given(given, codec.space)
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
    with promised("features must take items"):
        features = np.asarray(codec.features(raws))
        few = np.asarray(codec.features(raws[:1]))
    must(features.ndim == 2 and len(features) == len(raws) and np.isfinite(features).all(), "features are finite, one row an item")
    must(np.allclose(features[:1], few, rtol=1e-4, atol=1e-5), "features of an item must not depend on the others")
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


def plain(value: Any) -> Any:
    """Something equal for equal raw items, arrays included."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return repr(value)


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


def check_powers(codec: Any, items: Sequence[Item]) -> None:
    """Derived values, checks, faults and identities of real items, as far as the codec has them."""
    raws, space, encode = [item.raw for item in items[:20]], codec.space, codec.encode
    if isinstance(codec, Derives):
        names = list(codec.derived)
        must(names and all(isinstance(line, str) and line for line in codec.derived.values()), "derived: name -> one line in words")
        found = codec.derive(raws, names)
        must(len(found) == len(raws) and all(set(one) == set(names) for one in found), "derive: one dict an item, every name in it")
        must(found == codec.derive(raws, names), "derive is a function of the item")
        must(all(codec.derive([], [name]) == [] for name in names[:1]), "derive takes no items")
        for value in (v for one in found for v in one.values()):
            must(value is None or isinstance(value, str | bool) or np.isfinite(value), "derived values are words or finite numbers")
    if isinstance(codec, Checks):
        for item in items[:20]:
            must(all(isinstance(ok, bool | np.bool_) for ok in codec.checks(item.raw, item.cond).values()), "checks: rule -> kept or not")
            codec.checks(item.raw, {})
    if isinstance(codec, Faults):
        for raw in raws:
            for attempt in (0, 1, 7):
                given = codec.faults(raw, attempt)
                if given is not None:
                    _check_given(given, space)
                    _check_layout(given, encode(raw), space)
    if isinstance(codec, Identifies):
        must([codec.identity(r) for r in raws] == [codec.identity(r) for r in raws], "identity is a function of the item")


def check_grammar(codec: Any, items: Sequence[Item], walks: int = 20) -> None:
    """Every item is a legal string; any legal walk ends within the length and decodes; states are values."""
    space, grammar = codec.space, codec.grammar()
    must(isinstance(space, Tokens) and space.streams == 1, "a grammar speaks of one stream of tokens")
    for item in items[:50]:
        state = grammar.start()
        for i, token in enumerate(codec.encode(item.raw).tolist()):
            allowed = _allowed(grammar, state, space.length - i, space.vocab)
            must(allowed[token], f"the grammar refuses token {token} at {i} of a real item: {item.raw!r:.200}")
            if token == space.end:
                break
            state = grammar.advance(state, token)
    rng = np.random.default_rng(0)
    for _ in range(walks):
        state, out = grammar.start(), []
        for left in range(space.length, 0, -1):
            allowed = _allowed(grammar, state, left, space.vocab)
            token = int(rng.choice(np.flatnonzero(allowed)))
            out.append(token)
            if token == space.end:
                break
            state, before = grammar.advance(state, token), state
            must((_allowed(grammar, before, left, space.vocab) == allowed).all(), "advance must leave the state it was given alone")
        check_sample(np.array(out, np.int64), space)
        codec.decode(np.array(out, np.int64))


def _allowed(grammar: Any, state: Any, left: int, vocab: int) -> np.ndarray:
    allowed = np.asarray(grammar.allowed(state, left))
    must(allowed.shape == (vocab,) and allowed.dtype == bool, "allowed is one bool a token")
    must(allowed.any(), f"a dead end with {left} positions left")
    return allowed


def _check_layout(given: Any, x: Any, space: Space) -> None:
    """Given values lie as samples do; open ends may be longer."""
    match space:
        case Record():
            for name, field in space.fields:
                _check_layout(Given(given.x[name], given.known[name]), x[name], field)
        case Tokens():
            must(len(given.x) == len(given.known) <= space.length, "faults: x and known in the layout of a sample")
            told = np.asarray(given.x)[np.asarray(given.known)]
            must(((told >= 0) & (told < space.vocab)).all(), "known tokens are below vocab")
        case Array():
            must(np.shape(given.x) == np.shape(x), "faults: x in the layout of a sample")
            np.broadcast_shapes(np.shape(given.known), np.shape(x))


def check_sample(x: Any, space: Space) -> None:
    """A sample has the dtype, shape and range its Space says."""
    match space:
        case Array():
            must(x.dtype == np.float32, "Array samples are float32")
            fits = len(x.shape) == len(space.shape) and all(b is None or a == b for a, b in zip(x.shape, space.shape))
            must(fits, f"Array samples have the Space's shape: {x.shape} is not {space.shape}")
            must(np.isfinite(x).all(), "Array samples are finite")
        case Tokens():
            must(x.dtype == np.int64, "Tokens samples are int64")
            must(len(x) <= space.length and (space.end is not None or len(x) == space.length), "Tokens keep their length")
            must(((x >= 0) & (x < space.vocab)).all(), "Tokens are below vocab")
        case Record():
            must(list(x) == [k for k, _ in space.fields], "a Record has its fields in order")
            for name, field in space.fields:
                check_sample(x[name], field)


def _check_given(given: Any, space: Space) -> None:
    if isinstance(space, Record):
        must(set(given.known) == {k for k, _ in space.fields}, "known has every field")
        return
    must(np.asarray(given.known).dtype == bool, "known is bool")


def same(a: Any, b: Any, why: str, tolerance: float = 1e-4) -> None:
    """Samples are equal, real numbers within a tolerance."""
    if isinstance(a, dict):
        must(set(a) == set(b), why)
        for k in a:
            same(a[k], b[k], why, tolerance)
        return
    must(np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=tolerance, atol=tolerance / 10), why)
