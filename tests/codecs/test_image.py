"""Pictures: every bad input of the promises ends typed, every good one comes back."""
from __future__ import annotations

import io
import json
import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from morphogen import config
from morphogen.codecs.image import ImageCodec, ImageConfig
from morphogen.codecs.sources import scan
from morphogen.contracts import Item
from morphogen.errors import DataError, MorphogenError, UsageError
from morphogen.spaces import Array


def noise(height=12, width=10, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def items(raws):
    return [Item(raw) for raw in raws]


def fitted(raws, **options):
    codec = ImageCodec(ImageConfig(**options))
    codec.fit(items(raws))
    return codec


def bytes_of(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(noise())).save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = bytes_of("PNG")


# ------------------------------------------------------------------- conditions
def test_class_folders_and_duplicates(tmp_path):
    for name, seed in (("cat/1.png", 1), ("dog/1.png", 2), ("dog/copy.png", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(seed=seed)).save(tmp_path / name)
    found = list(ImageCodec().read(scan(tmp_path)))
    assert [item.cond for item in found] == [{"label": "cat"}, {"label": "dog"}, {"label": "dog"}]
    assert found[0].group == found[2].group != found[1].group


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata(tmp_path, kind):
    for i in range(3):
        Image.fromarray(noise(seed=i)).save(tmp_path / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": f"number {i}", "source": "me", "size": i + 0.5} for i in range(3)]
    text = "\n".join(map(json.dumps, rows)) if kind == "jsonl" else "\n".join(
        [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    (tmp_path / f"metadata.{kind}").write_text(text)
    found = list(ImageCodec().read(scan(tmp_path)))
    assert found[2].cond == {"caption": "number 2", "size": 2.5} and found[2].group == "me"
    (tmp_path / f"metadata.{kind}").write_text(text.replace("0.png", "7.png").replace("1.png", "8.png"))
    with pytest.raises(DataError, match="2 of 3"):
        list(ImageCodec().read(scan(tmp_path)))


def test_what_the_listing_left_out_is_said(tmp_path):
    (tmp_path / "data").mkdir()
    Image.fromarray(noise()).save(tmp_path / "secret.png")
    Image.fromarray(noise()).save(tmp_path / "data/a.png")
    (tmp_path / "data/b.png").symlink_to("../secret.png")
    codec = ImageCodec()
    assert len(list(codec.read(scan(tmp_path / "data")))) == 1 and "b.png: a link that leads outside" in codec.notes[0]


def test_captions_beside(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(" a tree\n")
    listing = scan(tmp_path)
    assert ImageCodec.claims(listing).score == 1
    assert [item.cond for item in ImageCodec().read(listing)] == [{"caption": "a tree"}]


# ------------------------------------------------------------------- fit
@pytest.mark.parametrize(("shapes", "options", "expect"), [
    ([(8, 8)] * 2, {}, (8, 8)),
    ([(7, 13)] * 2, {}, (7, 13)),
    ([(300, 100)] * 2, {}, (64, 24)),
    ([(20, 30), (22, 31), (90, 31)], {}, (24, 32)),
    ([(500, 400), (600, 400)], {}, (64, 48)),
    ([(500, 400), (600, 400)], {"limit": 128}, (128, 96)),
    ([(8, 8)] * 2, {"size": 16}, (16, 16)),
    ([(8, 8)] * 2, {"size": 16, "width": 4}, (16, 4)),
    ([(8, 9)] * 2, {"height": 5}, (5, 9)),
])
def test_sizes(shapes, options, expect):
    assert fitted([noise(*shape, seed=i) for i, shape in enumerate(shapes)], **options).shape[1:] == expect


@pytest.mark.parametrize(("options", "match"), [
    ({"size": -1}, "size"), ({"width": 5000}, "width"), ({"limit": 0}, "limit"), ({"channels": 2}, "channels"),
    ({"symmetry": ("flip",)}, "flip_x"),
])
def test_bad_options(options, match):
    with pytest.raises(UsageError, match=match):
        ImageCodec(config.make(ImageConfig, options))


def test_config_help_covers_every_field():
    found = config.help_of("morphogen.codecs.image", ImageCodec.Config.__name__)
    assert len(found) == 7 and all(text for _, text in found.values())


def test_channels_are_found():
    flat = np.repeat(noise(channels=1), 3, 2)
    assert fitted([flat, noise(channels=1, seed=1)]).shape[0] == 1
    assert fitted([flat, noise()]).shape[0] == 3
    opaque = np.concatenate([noise(), np.full((12, 10, 1), 255, np.uint8)], 2)
    assert fitted([opaque, noise()]).shape[0] == 3
    assert fitted([noise(channels=4), noise()]).shape[0] == 4


def test_no_variation_one_picture_and_none():
    with pytest.raises(DataError, match="no variation"):
        fitted([noise()] * 3)
    assert any("single" in note for note in fitted([noise()]).notes)
    with pytest.raises(DataError, match="no pictures"):
        fitted([])
    with pytest.raises(UsageError, match="rot90"):
        fitted([noise(), noise(seed=1)], symmetry=("rot90",))
    assert fitted([noise(8, 8), noise(8, 8, seed=1)], symmetry=("rot90",)).space == Array((3, 8, 8), ("rot90",))


@pytest.mark.parametrize("bad", [
    np.zeros((3, 3, 2), np.uint8), np.zeros((3, 3, 3)), np.zeros((0, 3, 3), np.uint8), np.zeros(3, np.uint8), "x",
])
def test_odd_raws_are_refused(bad):
    codec = fitted([noise(), noise(seed=1)])
    with pytest.raises(DataError, match="expected uint8"):
        codec.encode(bad)


# ------------------------------------------------------------------- round trips
@pytest.mark.parametrize("channels", [1, 3, 4])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(channels, data):
    raw = data.draw(arrays(np.uint8, (5, 4, channels)))
    codec = fitted([noise(5, 4, channels), noise(5, 4, channels, 1)], channels=channels)
    before = raw.copy()
    x = codec.encode(raw)
    assert x.shape == (channels, 5, 4) and x.dtype == np.float32 and x.flags.c_contiguous and abs(x).max() <= 1
    assert np.array_equal(raw, before)
    back = codec.decode(x)
    seen = raw[..., 3:] > 0 if channels == 4 else np.ones((5, 4, 1), bool)
    assert back.dtype == np.uint8 and np.array_equal(back * seen, raw * seen)


def test_invisible_colour_carries_nothing():
    raw = noise(channels=4)
    other = raw.copy()
    raw[..., 3] = other[..., 3] = np.arange(10) % 2 * 255
    other[..., :3] = np.where(other[..., 3:] == 0, 255 - other[..., :3], other[..., :3])
    codec = fitted([raw, noise()])
    assert np.array_equal(codec.encode(raw), codec.encode(other))
    assert codec.levels[1] == [0, 255]
    assert set(codec.decode(codec.encode(raw) + 0.3)[..., 3].ravel()) == {0, 255}


def test_few_grey_levels_come_back():
    levels = np.rint(np.arange(17) * 255 / 16).astype(np.uint8)
    raws = [levels[np.random.default_rng(i).integers(0, 17, (8, 8, 1))] for i in range(40)]
    codec = fitted(raws)
    assert codec.levels[0] == levels.tolist()
    drawn = codec.decode(np.random.default_rng(5).normal(size=(1, 8, 8)))
    assert set(drawn.ravel()) <= set(levels)
    for k in range(17):  # each level's neighbourhood is the half-way one
        x = np.full((1, 8, 8), (int(levels[k]) + 7) / 127.5 - 1)
        assert set(codec.decode(x).ravel()) == {levels[k]}
    assert fitted([noise(2, 2), noise(2, 2, seed=1)]).levels == [[], []]


def test_decode_refuses_nan():
    codec = fitted([noise(), noise(seed=1)])
    with pytest.raises(DataError, match="no numbers"):
        codec.decode(np.full((3, 12, 10), np.nan, np.float32))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channel_conversions(channels):
    codec = fitted([noise(), noise(seed=1)], channels=channels)
    for raw in (noise(channels=1), noise(channels=3), noise(channels=4)):
        assert codec.encode(raw).shape == (channels, 12, 10)
    flat = np.repeat(noise(channels=1), 3, 2)
    assert np.array_equal(codec.encode(flat), codec.encode(flat[..., :1]))
    clear = np.zeros((12, 10, 4), np.uint8)
    if channels < 4:
        assert (codec.encode(clear) == 1).all()


def test_resize_crops_the_middle():
    raw = np.zeros((16, 48, 1), np.uint8)
    raw[:, 16:32] = 255
    assert (fitted([raw, noise(16, 48, 1)], size=8).encode(raw) == 1).all()


def test_state_round_trip_and_pickle():
    codec = fitted([noise(8, 8, 4), noise(8, 8, 4, 1)], symmetry=("flip_x",))
    other = ImageCodec()
    other.load(json.loads(json.dumps(codec.state())))
    raw = noise(30, 20, 4, 2)
    assert other.space == codec.space and other.state() == codec.state()
    assert np.array_equal(other.encode(raw), pickle.loads(pickle.dumps(codec)).encode(raw))


# ------------------------------------------------------------------- given, write, preview, features
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_given_reads_transparency_as_unknown(tmp_path, channels):
    codec = fitted([noise(8, 8), noise(8, 8, seed=1)], channels=channels)
    raw = noise(8, 8, 4)
    raw[..., 3] = 255
    raw[:3, :, 3] = 0
    Image.fromarray(raw).save(tmp_path / "x.png")
    for source in (raw, tmp_path / "x.png", str(tmp_path / "x.png")):
        got = codec.given(source)
        assert got.known.shape == (1, 8, 8) and got.known.dtype == bool and got.x.dtype == np.float32
        assert np.array_equal(~got.known[0], raw[..., 3] == 0) and (got.x[:, :3] == 0).all()
        assert np.array_equal(got.x[:, 3:], codec.encode(raw[..., :3])[:, 3:])
    assert codec.given(noise(8, 8)).known.all()
    big = codec.given(np.repeat(np.repeat(raw, 2, 0), 2, 1))
    assert np.array_equal(big.known[0], raw[..., 3] > 0)


def test_write_and_read_back(tmp_path):
    raws = [noise(seed=i) for i in range(3)]
    codec = fitted(raws)
    meta = [{"label": "a", "score": np.float32(0.5), "bad": float("nan"), "ids": np.arange(2)}, {"caption": "é"}]
    paths = codec.write(raws, tmp_path / "out", meta)
    assert [p.name for p in paths] == ["00000.png", "00001.png", "00002.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    rows = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text("utf-8").splitlines()]
    assert rows == [{"file_name": "00000.png", "label": "a", "score": 0.5, "bad": None, "ids": [0, 1]},
                    {"file_name": "00001.png", "caption": "é"}, {"file_name": "00002.png"}]
    back = list(ImageCodec().read(scan(tmp_path / "out")))
    assert all(np.array_equal(item.raw, raw) for item, raw in zip(back, raws)) and back[1].cond == {"caption": "é"}


def test_a_failed_write_leaves_nothing(tmp_path):
    codec = fitted([noise(), noise(seed=1)])
    with pytest.raises(MorphogenError):
        codec.write([noise(), np.zeros((2, 2))], tmp_path / "out", [])
    assert list(tmp_path.iterdir()) == []


def test_preview_is_png():
    raws = [noise(channels=c) for c in (1, 3, 4)]
    shown = fitted([noise(), noise(seed=1)]).preview(raws)
    assert shown["kind"] == "image"
    assert all(np.array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(raw.shape), raw) for data, raw in zip(shown["png"], raws))


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (12, 10, 3), (37, 64, 4)])
def test_features(shape):
    raws = [noise(*shape, seed=i) for i in range(4)]
    codec = fitted(raws)
    found = codec.features(raws)
    assert found.dtype == np.float32 and np.isfinite(found).all() and len(found) == 4
    assert np.allclose(codec.features(raws[1:2]), found[1:2], atol=1e-5)
    assert codec.size_of(raws[0]) == (shape[0] * shape[1] * codec.shape[0], "dimension")
    with pytest.raises(UsageError):
        codec.features([])


def test_features_see_shapes():
    """Strokes of one direction are nearer to each other, shifted by a pixel, than to strokes of the other."""
    down, shifted, across = np.zeros((3, 16, 16, 1), np.uint8)
    down[:, 7:9], shifted[:, 8:10], across[7:9] = 255, 255, 255
    a, b, c = fitted([down, shifted, across]).features([down, shifted, across])
    assert np.linalg.norm(a - b) < 0.7 * np.linalg.norm(a - c)


def test_claims(tmp_path):
    (tmp_path / "1.png").write_bytes(GOOD)
    (tmp_path / "metadata.csv").write_text("file_name\n1.png\n")
    assert ImageCodec.claims(scan(tmp_path)).score == 1
    (tmp_path / "rows.csv").write_text("a\n")
    assert ImageCodec.claims(scan(tmp_path)).score == 0.5
    assert ImageCodec.claims(scan([{"a": 1}])).score == 0


def test_a_sample_of_many_pictures_is_learned_from_when_time_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from morphogen.codecs import image
    from morphogen.plan import read

    monkeypatch.setattr(image, "FIRST", 20)
    slow = image.read_each
    monkeypatch.setattr(image, "read_each", lambda paths, kept: (time.sleep(0.002) or one for one in slow(paths, kept)))
    for i in range(400):
        Image.fromarray(np.full((4, 4), i % 256, np.uint8)).save(tmp_path / f"{i:03d}.png")

    def names(room: float | None, **config: Any) -> tuple[list[str], Any]:
        _, _, _, codec, items = read(tmp_path, "image", config, room=room)
        return [item.source for item in items], codec

    every, codec = names(None)
    assert len(every) == 400 and codec.config.pictures == 0
    assert len(names(math.inf)[0]) == 400, "--steps have no time to keep to"
    some, codec = names(0.02)  # minutes: 15 % of 1.2 s
    assert 20 <= len(some) < 200 and some == sorted(some) and some[0] < "100" and some[-1] > "300"
    assert codec.config.pictures == len(some) and any("a uniform sample" in note for note in codec.notes)
    assert names(5.0, pictures=len(some))[0] == some, "a resumed run reads the same ones"
    assert len(names(None, pictures=len(some))[0]) == 400, "what is scored or compared is read whole"
