"""The packed data: small, exact, the folders a user would have, read by the codec as such."""
from __future__ import annotations

import csv
import sys
from collections import Counter
from importlib import resources

import numpy as np
import pytest
from sklearn.datasets import load_digits

from morphogen import samples
from morphogen.codecs.image import ImageCodec
from morphogen.codecs.sources import scan
from morphogen.errors import ResourceError, UsageError


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    return samples.unpack(tmp_path_factory.mktemp("demo") / "new")


def read(folder):
    codec = ImageCodec()
    items = list(codec.read(scan(folder)))
    codec.fit(items)
    assert codec.skips.count == 0
    return codec, items


def test_what_travels_is_small():
    sizes = {file.name: len(file.read_bytes()) for file in resources.files("morphogen.samples").iterdir() if file.is_file()}
    assert sum(sizes.values()) < 700_000
    assert "CREDITS.md" in sizes


def test_digits_are_exact(unpacked):
    codec, items = read(unpacked["digits"])
    paths = scan(unpacked["digits"]).files
    known = load_digits()
    assert codec.shape == (1, 8, 8) and len(items) == 1797 and len(codec.levels[0]) == 17
    for path, item in zip(paths, items):
        i = int(path.stem)
        assert np.array_equal(np.rint(item.raw[..., 0] / 255 * 16), known.images[i])
        assert item.cond == {"label": str(known.target[i])}


def test_digits_survive_the_codec(unpacked):
    codec, items = read(unpacked["digits"])
    for item in items[::50]:
        assert np.array_equal(codec.decode(codec.encode(item.raw)), item.raw)


def test_emoji(unpacked):
    codec, items = read(unpacked["emoji"])
    assert codec.shape == (4, 32, 32) and len(items) == 480
    assert set(Counter(item.cond["category"] for item in items)) == {"face", "heart", "hand", "animal", "plant", "food", "drink"}
    assert all(item.cond["caption"].strip() for item in items)
    assert not any("skin tone" in item.cond["caption"] for item in items)
    assert len({item.group for item in items}) == 480
    for item in items:
        assert (item.raw[item.raw[..., 3] == 0] == 0).all()


def test_penguins(unpacked):
    with unpacked["penguins"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 344 and Counter(row["species"] for row in rows) == {"Adelie": 152, "Gentoo": 124, "Chinstrap": 68}


def test_docstrings(unpacked):
    entries = unpacked["docstrings"].read_text("utf-8").strip("\n").split("\n\n")
    assert 1000 < len(entries) == len(set(entries))
    assert sum(map(len, entries)) <= samples.TEXT_LIMIT
    assert any("text wrapping" in entry.lower() for entry in entries)


def test_docstrings_stop_at_the_limit(unpacked, monkeypatch, tmp_path):
    before = set(sys.modules)
    short = samples.docstrings(20_000)
    assert 15_000 < sum(map(len, short)) <= 20_000
    assert set(sys.modules) == before
    assert unpacked["docstrings"].read_text("utf-8").startswith("\n\n".join(short))
    monkeypatch.setattr(samples.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ResourceError, match="source"):
        samples.docstrings()


def test_unpack_refuses_to_overwrite(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        samples.unpack(tmp_path)
    assert (tmp_path / "x").read_text() == "mine"
