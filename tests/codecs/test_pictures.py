"""Picture files: every bad input of the promises ends typed and counted, every kind of pixel becomes 8-bit."""
from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from morphogen.codecs.image import ImageCodec, ImageConfig
from morphogen.codecs.pictures import header_size, read_picture, sniff
from morphogen.codecs.sources import scan
from morphogen.contracts import Item
from morphogen.errors import DataError

RNG = np.random.default_rng(0)


def noise(height=12, width=10, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def fitted(raws, **options):
    codec = ImageCodec(ImageConfig(**options))
    codec.fit([Item(raw) for raw in raws])
    return codec


def bytes_of(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(noise())).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth=8, colour=2, data=b""):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def webp_claim(width, height):
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


GOOD = bytes_of("PNG")
LOOP = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 5) + struct.pack("<I", 8)
BAD = {
    "empty": b"",
    "truncated png": GOOD[: len(GOOD) // 2],
    "truncated jpeg": bytes_of("JPEG")[:-200],
    "truncated webp": bytes_of("WEBP", lossless=True)[:60],
    "truncated gif": bytes_of("GIF")[:40],
    "truncated bmp": bytes_of("BMP")[:100],
    "only the signature": GOOD[:8],
    "bad checksum": GOOD[:18] + b"\xff" + GOOD[19:],
    "damaged data": GOOD[:60] + bytes(20) + GOOD[80:],
    "no width": png(0, 5),
    "no height": png(5, 0),
    "2^31 sides": png(2**31 - 1, 2**31 - 1),
    "negative sides": png(2**32 - 1, 1),
    "bomb": png(20_000, 20_000, 1, 0, bytes(100)),
    "just over": png(8001, 8000),
    "gif bomb": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,",
    "webp bomb": webp_claim(16383, 16383),
    "bmp bomb": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 100_000, -100_000, 1, 24) + bytes(40),
    "svg": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif",
    "web page": b"<!DOCTYPE html><html><svg></svg></html>",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "text": b"hello, I am no picture",
    "tiff loop": LOOP,
    "nan": bytes_of("TIFF", Image.fromarray(np.full((4, 4), np.nan, np.float32))),
    "zip": b"PK\x03\x04" + bytes(40),
    "riff of nothing": b"RIFF\x04\0\0\0WEBP",
}


# ------------------------------------------------------------------- bad inputs
@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_in_one_line(tmp_path, name):
    file = tmp_path / "x.png"
    file.write_bytes(BAD[name])
    start = time.perf_counter()
    with pytest.raises(DataError) as error:
        read_picture(file)
    assert time.perf_counter() - start < 2
    assert error.value.remedy and str(file) in error.value.where and "\n" not in str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_skipped_and_counted(tmp_path, name):
    for i in range(3):
        Image.fromarray(noise(3, 3, seed=i)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(BAD[name])
    codec = ImageCodec()
    assert len(list(codec.read(scan(tmp_path)))) == 3
    assert codec.skips.count == 1 and codec.skips.first[0].startswith("bad.png: ")


@pytest.mark.parametrize(("name", "remedy"), [("svg", "PNG"), ("heic", "PNG or JPEG"), ("lfs pointer", "git lfs pull"), ("empty", "again")])
def test_nothing_usable(tmp_path, name, remedy):
    (tmp_path / "a.png").write_bytes(BAD[name])
    with pytest.raises(DataError, match=remedy):
        list(ImageCodec().read(scan(tmp_path)))


@pytest.mark.parametrize("suffix", [".svg", ".heic", ".avif"])
def test_refused_kinds_are_claimed_so_that_the_remedy_is_seen(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(BAD[{".svg": "svg", ".heic": "heic", ".avif": "avif"}[suffix]])
    assert ImageCodec.claims(scan(tmp_path)).score == 1
    with pytest.raises(DataError, match="nothing usable"):
        list(ImageCodec().read(scan(tmp_path)))


def test_more_than_one_percent_bad(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(GOOD if i > 1 else b"")
    with pytest.raises(DataError, match="2 of 20 items"):
        list(ImageCodec().read(scan(tmp_path)))


def test_no_pictures_at_all(tmp_path):
    (tmp_path / "a.docx").write_bytes(b"x")
    assert ImageCodec.claims(scan(tmp_path)).score == 0
    with pytest.raises(DataError, match=r"1 \.docx"):
        list(ImageCodec().read(scan(tmp_path)))


def test_unreadable_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(GOOD)
    monkeypatch.setattr("pathlib.Path.open", lambda *a, **k: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(DataError, match="Permission denied"):
        read_picture(tmp_path / "a.png")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]), st.data())
def test_mutants_end_typed(tmp_path_factory, kind, data):
    whole = bytearray(bytes_of(kind))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "mutant"
    file.write_bytes(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    try:
        raw, _ = read_picture(file)
    except DataError:
        return
    assert raw.dtype == np.uint8 and raw.ndim == 3


@given(st.binary(max_size=80))
def test_any_head_has_a_kind(head):
    kind = sniff(head)
    size = header_size(kind, head)
    assert size is None or len(size) == 2


# ------------------------------------------------------------------- conversions
def grey(values=None):
    return Image.fromarray(noise(channels=1)[..., 0] if values is None else values)


PALETTE = Image.fromarray(noise()).convert("P")
KINDS = {
    "black-and-white": (grey().convert("1"), "PNG", {}, 1),
    "grey": (grey(), "PNG", {}, 1),
    "palette": (PALETTE, "PNG", {}, 3),
    "clear palette": (PALETTE, "PNG", {"transparency": 3}, 4),
    "colour key": (Image.fromarray(noise()), "PNG", {"transparency": (1, 2, 3)}, 4),
    "grey with transparency": (grey().convert("LA"), "PNG", {}, 4),
    "16-bit": (grey(RNG.integers(0, 65536, (12, 10)).astype(np.uint16)), "PNG", {}, 1),
    "16-bit tiff": (grey(RNG.integers(0, 65536, (12, 10)).astype(np.uint16)), "TIFF", {}, 1),
    "floating-point": (grey(RNG.normal(size=(12, 10)).astype(np.float32)), "TIFF", {}, 1),
    "32-bit": (grey(RNG.integers(-9, 10**6, (12, 10)).astype(np.int32)), "TIFF", {}, 1),
    "CMYK": (Image.fromarray(noise()).convert("CMYK"), "JPEG", {}, 3),
    "colour": (Image.fromarray(noise()), "BMP", {}, 3),
    "webp": (Image.fromarray(noise(channels=4)), "WEBP", {"lossless": True}, 4),
    "broken colour profile": (Image.fromarray(noise()), "PNG", {"icc_profile": b"nonsense"}, 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_becomes_8_bit(tmp_path, name):
    image, kind, options, channels = KINDS[name]
    (tmp_path / "x").write_bytes(bytes_of(kind, image, **options))
    raw, notes = read_picture(tmp_path / "x")
    assert raw.shape == (12, 10, channels) and raw.dtype == np.uint8
    assert bool(notes) == (name not in ("grey", "colour", "webp", "colour key", "broken colour profile"))
    if channels == 1 and image.mode != "L":
        assert raw.max() > 200 and raw.min() < 50


def test_16_bit_scaling_is_exact(tmp_path):
    values = np.array([[0, 257, 65535, 32896]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png")[0][0, :, 0].tolist() == [0, 1, 255, 128]


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_upright(tmp_path, turn):
    image = Image.fromarray(noise(6, 9))
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "x.png", exif=exif)
    from PIL import ImageOps

    with Image.open(tmp_path / "x.png") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    raw, notes = read_picture(tmp_path / "x.png")
    assert np.array_equal(raw, upright) and bool(notes) == (turn > 1)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_odd_exif_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(noise(6, 9)).save(tmp_path / "x.jpg", exif=exif)
    assert read_picture(tmp_path / "x.jpg")[0].shape == (6, 9, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_many(tmp_path, kind):
    frames = [Image.fromarray(np.full((8, 8, 3), v, np.uint8)) for v in (10, 200, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "x", kind, save_all=True, append_images=frames[1:], **options)
    raw, notes = read_picture(tmp_path / "x")
    assert set(raw.ravel()) == {10} and any("first was taken" in note for note in notes)


def test_content_beats_the_ending(tmp_path):
    (tmp_path / "a.jpg").write_bytes(GOOD)
    (tmp_path / "b").write_bytes(bytes_of("GIF"))
    (tmp_path / "notes.txt").write_text("not a picture")
    codec = ImageCodec()
    assert len(list(codec.read(scan(tmp_path)))) == 2
    assert codec.notes == ["1 files are not of the kind their ending says", "1 palette pictures became RGB"]


def test_strips_and_single_pixels(tmp_path):
    for i, (height, width) in enumerate([(1, 65535), (1, 1), (65535, 1), (30, 20)]):
        Image.fromarray(noise(height, width, 1)[..., 0]).save(tmp_path / f"{i}.png")
    found = list(ImageCodec().read(scan(tmp_path)))
    codec = fitted([item.raw for item in found], size=64)
    assert all(codec.encode(item.raw).shape == (1, 64, 64) for item in found)


def test_big_photos_are_kept_small(tmp_path):
    Image.fromarray(np.repeat(np.repeat(noise(150, 200), 10, 0), 10, 1)).save(tmp_path / "x.jpg")
    Image.fromarray(noise(1500, 2000)).save(tmp_path / "y.png")
    found = list(ImageCodec().read(scan(tmp_path)))
    assert [item.raw.shape[:2] for item in found] == [(128, 170), (128, 171)]
    assert fitted([item.raw for item in found]).shape == (3, 48, 64)
