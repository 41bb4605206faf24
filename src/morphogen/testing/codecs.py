"""What a codec promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.contracts import Item
from morphogen.spaces import Array, Record, Space, Tokens, from_json, to_json


def check_codec(make: Callable[[], Any], items: Sequence[Item], folder: Path) -> None:
    """Fit, encode into the Space, decode back, keep through JSON, know its unknowns, write files. Raises AssertionError."""
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
    assert preview["kind"] in ("image", "table", "text"), "preview says what to show"
    features = codec.features(raws)
    assert features.shape[0] == len(raws) and np.isfinite(features).all(), "features are finite, one row an item"
    size, unit = codec.size_of(raws[0])
    assert size > 0 and unit, "size_of says how many units an item has"
    name = {"image": "out", "table": "out.csv", "text": "out.jsonl"}[preview["kind"]]
    paths = codec.write(raws, folder / name, [{"index": i} for i in range(len(raws))])
    assert paths and all(p.is_file() for p in paths), "write returns the files it wrote"
    module = sys.modules[type(codec).__module__]
    assert "torch" not in vars(module), "codecs are torch-free"


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
