"""What a codec promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.contracts import Checks, Derives, Faults, Given, HasGrammar, Identifies, Item
from morphogen.spaces import Array, Record, Space, Tokens, from_json, to_json

OUTPUT = {"image": "", "table": ".csv", "text": ".jsonl"}


def check_codec(make: Callable[[], Any], items: Sequence[Item], folder: Path) -> None:
    """Fit, encode into the Space, decode back, keep through JSON, know its unknowns, write files; and whatever powers it has.

    Raises AssertionError.
    """
    codec = make()
    codec.fit(items)
    assert from_json(json.loads(json.dumps(to_json(codec.space)))) == codec.space, "a Space must survive JSON"
    again = make()
    again.load(json.loads(json.dumps(codec.state())))
    assert again.space == codec.space, "load(state()) must restore the Space"
    for item in items[:20]:
        x = codec.encode(item.raw)
        check_sample(x, codec.space)
        _same(x, again.encode(item.raw), "load(state()) must restore encode")
        once = codec.decode(x)
        _same(codec.encode(once), codec.encode(codec.decode(codec.encode(once))), "encode and decode must settle after one round")
        given = codec.given(item.raw)
        _check_given(given, codec.space)
    raws = [codec.decode(codec.encode(item.raw)) for item in items[:5]]
    preview = codec.preview(raws)
    check_preview(preview, len(raws))
    features = codec.features(raws)
    assert features.shape[0] == len(raws) and np.isfinite(features).all(), "features are finite, one row an item"
    size, unit = codec.size_of(raws[0])
    assert size > 0 and unit, "size_of says how many units an item has"
    check_powers(codec, items)
    if isinstance(again, HasGrammar) and again.grammar() is not None:
        check_grammar(again, items)  # the loaded one: a model that draws has no other
    name = "out" + getattr(codec, "output", OUTPUT[preview["kind"]])
    paths = codec.write(raws, folder / name, [{"index": i} for i in range(len(raws))])
    assert paths and all(p.is_file() for p in paths), "write returns the files it wrote"
    module = sys.modules[type(codec).__module__]
    assert "torch" not in vars(module), "codecs are torch-free"


def check_preview(preview: dict[str, Any], n: int) -> None:
    """A preview shows what it says, one thing an item; pictures may have a line of text and a sound each."""
    kind = preview["kind"]
    assert kind in OUTPUT, "preview says what to show"
    assert len(preview[{"image": "png", "table": "rows", "text": "texts"}[kind]]) == n, "preview shows each item"
    if kind != "image":
        return
    for data in preview["png"]:
        known = data[:8] == b"\x89PNG\r\n\x1a\n" or data[:4] == b"GIF8" or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        assert known, "pictures are PNG, GIF or WebP"
    for name in ("texts", "audio"):
        assert len(preview.get(name) or [0] * n) == n, f"{name}: one for each picture"
    assert all(isinstance(t, str) and "\n" not in t for t in preview.get("texts") or ()), "texts are one line each"
    for sound in preview.get("audio") or ():
        assert not sound or (sound[:4] == b"RIFF" and sound[8:12] == b"WAVE"), "sounds are WAV"


def check_powers(codec: Any, items: Sequence[Item]) -> None:
    """Derived values, checks, faults and identities of real items, as far as the codec has them."""
    raws, space, encode = [item.raw for item in items[:20]], codec.space, codec.encode
    if isinstance(codec, Derives):
        names = list(codec.derived)
        assert names and all(isinstance(line, str) and line for line in codec.derived.values()), "derived: name -> one line in words"
        found = codec.derive(raws, names)
        assert len(found) == len(raws) and all(set(one) == set(names) for one in found), "derive: one dict an item, every name in it"
        assert found == codec.derive(raws, names), "derive is a function of the item"
        assert all(codec.derive([], [name]) == [] for name in names[:1]), "derive takes no items"
        for value in (v for one in found for v in one.values()):
            assert value is None or isinstance(value, str | bool) or np.isfinite(value), "derived values are words or finite numbers"
    if isinstance(codec, Checks):
        for item in items[:20]:
            assert all(isinstance(ok, bool | np.bool_) for ok in codec.checks(item.raw, item.cond).values()), "checks: rule -> kept or not"
            codec.checks(item.raw, {})
    if isinstance(codec, Faults):
        for raw in raws:
            for attempt in (0, 1, 7):
                given = codec.faults(raw, attempt)
                if given is not None:
                    _check_given(given, space)
                    _check_layout(given, encode(raw), space)
    if isinstance(codec, Identifies):
        assert [codec.identity(r) for r in raws] == [codec.identity(r) for r in raws], "identity is a function of the item"


def check_grammar(codec: Any, items: Sequence[Item], walks: int = 20) -> None:
    """Every item is a legal string; any legal walk ends within the length and decodes; states are values."""
    space, grammar = codec.space, codec.grammar()
    assert isinstance(space, Tokens) and space.streams == 1, "a grammar speaks of one stream of tokens"
    for item in items[:50]:
        state = grammar.start()
        for i, token in enumerate(codec.encode(item.raw).tolist()):
            allowed = _allowed(grammar, state, space.length - i, space.vocab)
            assert allowed[token], f"the grammar refuses token {token} at {i} of a real item: {item.raw!r:.200}"
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
            assert (_allowed(grammar, before, left, space.vocab) == allowed).all(), "advance must leave the state it was given alone"
        check_sample(np.array(out, np.int64), space)
        codec.decode(np.array(out, np.int64))


def _allowed(grammar: Any, state: Any, left: int, vocab: int) -> np.ndarray:
    allowed = np.asarray(grammar.allowed(state, left))
    assert allowed.shape == (vocab,) and allowed.dtype == bool, "allowed is one bool a token"
    assert allowed.any(), f"a dead end with {left} positions left"
    return allowed


def _check_layout(given: Any, x: Any, space: Space) -> None:
    """Given values lie as samples do; open ends may be longer."""
    match space:
        case Record():
            for name, field in space.fields:
                _check_layout(Given(given.x[name], given.known[name]), x[name], field)
        case Tokens():
            assert len(given.x) == len(given.known) <= space.length, "faults: x and known in the layout of a sample"
            told = np.asarray(given.x)[np.asarray(given.known)]
            assert ((told >= 0) & (told < space.vocab)).all(), "known tokens are below vocab"
        case Array():
            assert np.shape(given.x) == np.shape(x), "faults: x in the layout of a sample"
            np.broadcast_shapes(np.shape(given.known), np.shape(x))


def check_sample(x: Any, space: Space) -> None:
    """A sample has the dtype, shape and range its Space says."""
    match space:
        case Array():
            assert x.dtype == np.float32, "Array samples are float32"
            assert len(x.shape) == len(space.shape) and all(b is None or a == b for a, b in zip(x.shape, space.shape)), (
                f"{x.shape} is not {space.shape}"
            )
            assert np.isfinite(x).all(), "Array samples are finite"
        case Tokens():
            assert x.dtype == np.int64, "Tokens samples are int64"
            assert len(x) <= space.length and (space.end is not None or len(x) == space.length), "Tokens keep their length"
            assert ((x >= 0) & (x < space.vocab)).all(), "Tokens are below vocab"
        case Record():
            assert list(x) == [k for k, _ in space.fields], "a Record has its fields in order"
            for name, field in space.fields:
                check_sample(x[name], field)


def _check_given(given: Any, space: Space) -> None:
    if isinstance(space, Record):
        assert set(given.known) == {k for k, _ in space.fields}, "known has every field"
        return
    assert np.asarray(given.known).dtype == bool, "known is bool"


def _same(a: Any, b: Any, why: str) -> None:
    if isinstance(a, dict):
        for k in a:
            _same(a[k], b[k], why)
        return
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=why)
