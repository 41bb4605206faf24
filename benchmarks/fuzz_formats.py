"""What `benchmarks.fuzz` damages: undamaged cases of every format that is read, and how the package reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mutation
from benchmarks.fuzz import Format
from benchmarks.fuzz_models import PROSE, checkpoint, gguf, safetensors, use_checkpoint, use_gguf, use_safetensors, use_tokenizer

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "C1CC1C#N", "O=C([O-])CC[NH3+]", "Clc1ccncc1Br", "F/C=C/F"] * 4
ABC = "X:1\nT:A jig\nM:6/8\nL:1/8\nK:G\nd|GABd2e|dBGA2B|cBAG2A|BGEE2d:|\n|:g|(3gfgage|d>BGA<2B|[cBA]G2A-|ABGG2z:|\n\n"
ROOMS = ["#######\n#@ $ .#\n#######", "#######\n#     #\n# $.  #\n#  @  #\n#######", "######\n#.   #\n# $@ #\n#    #\n######"]


def single(*files: tuple[str, bytes]) -> Callable[[Path], list[tuple[Path, str]]]:
    """Cases of one file each."""

    def make(place: Path) -> list[tuple[Path, str]]:
        out = []
        for i, (name, data) in enumerate(files):
            folder = place / str(i)
            folder.mkdir(parents=True)
            (folder / name).write_bytes(data)
            out.append((folder, name))
        return out

    return make


def made(build: Callable[[], Iterable[tuple[str, bytes]]]) -> Callable[[Path], list[tuple[Path, str]]]:
    """As `single`, built when they are asked for."""
    return lambda place: single(*build())(place)


def data(codec: str, whole: bool = False, **config: Any) -> Callable[[Path], Any]:
    """As `train` and `inspect` read data: scan, read, fit, encode. `whole`: the folder, not the file."""

    def use(path: Path) -> None:
        from morphogen.plan import read

        *_, reader, items = read(path.parent if whole else path, codec, config)
        reader.fit(items)
        for item in items[:100]:
            reader.encode(item.raw)

    return use


# ------------------------------------------------------------------ pictures
def picture(kind: str, *modes: str, **options: Any) -> Callable[[], Iterable[tuple[str, bytes]]]:
    """Small pictures of noise and flat parts in several modes."""

    def build() -> Iterable[tuple[str, bytes]]:
        import io

        from PIL import Image

        rng = np.random.default_rng(0)
        for n, mode in enumerate(modes):
            pixels = rng.integers(0, 256, (24 + 9 * n, 40, 4), np.uint8)
            pixels[:12] = 200
            image = Image.fromarray(pixels[..., :3])
            image = Image.fromarray(pixels) if mode == "RGBA" else image.quantize(16) if mode == "P" else image.convert(mode.split(".")[0])
            more = {"progressive": True} if mode.endswith(".progressive") else {"compression": mode.split(".")[1]} if "." in mode else {}
            frames = {"save_all": True, "append_images": [image] * 2} if kind in ("GIF", "WEBP") and n == 0 else {}
            buffer = io.BytesIO()
            image.save(buffer, kind, **options, **more, **frames)
            yield f"a.{kind.lower()}", buffer.getvalue()

    return build


def png(data: bytes, rng: random.Random) -> bytes:
    """Half of them with checksums made right again, so that what lies behind these is reached."""
    import zlib

    out = mutation.binary(data, rng)
    if rng.random() < 0.5:
        return out
    parts, at = [data[:8]], 8
    while at + 12 <= len(out):
        size = int.from_bytes(out[at : at + 4], "big")
        body = out[at + 4 : at + 8 + size]
        parts += [out[at : at + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        at += 12 + size
    return b"".join(parts)


def captions(place: Path) -> list[tuple[Path, str]]:
    from PIL import Image

    cases = made(picture("PNG", "RGB", "L"))(place)
    for i, name in enumerate(("metadata.jsonl", "metadata.csv")):
        folder = cases[i][0]
        for n in range(4):
            Image.new("L", (9, 9), 40 * n).save(folder / f"{n}.png")
        rows = [{"file_name": f"{n}.png", "text": f"picture {n}", "label": "ab"[n % 2], "size": n / 2} for n in range(4)]
        (folder / "a.png").unlink()
        lines = [json.dumps(r) for r in rows] if i == 0 else ["file_name,text,label,size", *(",".join(map(str, r.values())) for r in rows)]
        (folder / name).write_text("\n".join(lines) + "\n")
        cases[i] = (folder, name)
    return cases


# ------------------------------------------------------------------ tables and texts
def rows() -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            "name": rng.choice(["ann", "bob", "cy"]),
            "age": rng.randrange(90),
            "height": round(rng.gauss(1.7, 0.1), 3),
            "born": f"19{rng.randrange(10, 99)}-0{rng.randrange(1, 9)}-1{rng.randrange(9)}",
            "ok": rng.random() < 0.5,
            "note": None if rng.random() < 0.2 else rng.choice("xyz"),
        }
        for _ in range(60)
    ]


def sheet(delimiter: str, name: str) -> tuple[str, bytes]:
    table = rows()
    lines = [
        delimiter.join(table[0]),
        *(delimiter.join("" if v is None else f'"{v}"' if i % 9 == 0 else str(v) for v in r.values()) for i, r in enumerate(table)),
    ]
    return name, ("\n".join(lines) + "\n").encode()


def parquet() -> Iterable[tuple[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for compression in ("none", "snappy", "zstd"):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows()), sink, compression=compression)
        yield "a.parquet", sink.getvalue().to_pybytes()


def lines(values: Iterable[Any]) -> bytes:
    return "".join(json.dumps(v) + "\n" for v in values).encode()


CHATS = [{"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"it is {n * n}"}]} for n in range(30)]
PROMPTS = [{"prompt": f"{n} plus {n} is", "completion": f" {2 * n}"} for n in range(30)]


# ------------------------------------------------------------------ molecules, music, levels
def sdf() -> Iterable[tuple[str, bytes]]:
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    for text in (
        "".join(Chem.MolToMolBlock(Chem.MolFromSmiles(s)) + ">  <logP>\n1.5\n\n$$$$\n" for s in SMILES[:6]),
        "".join(Chem.MolToV3KMolBlock(Chem.MolFromSmiles(s)) + "$$$$\n" for s in SMILES[:4]),
    ):
        yield "a.sdf", text.encode()


def midi() -> Iterable[tuple[str, bytes]]:
    import struct

    meta = b"\x00\xff\x58\x04\x06\x03\x18\x08\x00\xff\x59\x02\x01\x00\x00\xff\x51\x03\x07\xa1\x20\x00\xff\x03\x04tune\x00\xc0\x01"
    for n in (1, 2):
        notes = b"".join(bytes((0, 0x90, p, 64, 48, 0x80, p, 0)) for p in range(60, 60 + 12 * n))
        body = meta + notes + b"\x00\xff\x2f\x00"
        yield f"{n}.mid", b"MThd" + struct.pack(">IHHH", 6, 1, n, 96) + n * (b"MTrk" + struct.pack(">I", len(body)) + body)


def tiled() -> Iterable[tuple[str, bytes]]:
    for n in range(3):
        flat = [2 if x in (0, 7) or y in (0, 4 + n) else 1 + n * (x == y == 2) for y in range(5 + n) for x in range(8)]
        layer = {"type": "tilelayer", "name": "ground", "width": 8, "height": 5 + n, "x": 0, "y": 0, "data": flat}
        yield (
            f"{n}.json",
            json.dumps(
                {
                    "type": "map",
                    "version": "1.10",
                    "orientation": "orthogonal",
                    "width": 8,
                    "height": 5 + n,
                    "tilewidth": 16,
                    "tileheight": 16,
                    "infinite": False,
                    "layers": [layer],
                    "tilesets": [],
                }
            ).encode(),
        )


# ------------------------------------------------------------------ our own files
def trained(place: Path) -> Path:
    """A run of little text by a small net, made once."""
    import morphogen

    (place / "text.txt").write_text(PROSE * 30)
    options = {"net": {"width": 16, "depth": 1}, "codec": {"tokens": "bytes", "length": 64}}
    morphogen.train(place / "text.txt", place / "run", family="autoregressive", steps=2, options=options)
    return place / "run"


def runs(place: Path) -> list[tuple[Path, str]]:
    place.mkdir(parents=True)
    run = trained(place)
    return [
        (run, "recipe.toml"),
        (run, "recipe.toml"),
        (run, "codec/state.json"),
        (run, "provenance.json"),
        (run, "metrics.jsonl"),
        (run, "model.safetensors"),
    ]


def use_run(path: Path) -> None:
    from morphogen.api.inspect import inspect
    from morphogen.run import Run

    while not (path / "provenance.json").exists() and not (path / "recipe.toml").exists():
        path = path.parent
    inspect(path)
    Run.load(path).model("cpu")


def use_recipe(path: Path) -> None:
    from morphogen.api.train import recorded_wishes
    from morphogen.plan import make_plan
    from morphogen.run import read_recipe

    make_plan([{"x": i, "y": "ab"[i % 2]} for i in range(50)], **recorded_wishes(read_recipe(path)))


RECIPE = b"""# what the plan of a table takes over
[data]
seed = 3
[codec]
name = "table"
[codec.config]
max_columns = 50
[family]
name = "cart"
[family.config]
[training]
steps = 20
batch = 32
"""


class _Container:
    """Compressed files: as they come, and with their digest made right again, so that what lies behind it is reached."""

    run: Any = None

    def make(self, place: Path) -> list[tuple[Path, str]]:
        import morphogen

        place.mkdir(parents=True)
        self.run = trained(place)
        out = []
        for i, source in enumerate(("one", "two")):
            folder = place / source
            (folder / "sub").mkdir(parents=True)
            (folder / "a.txt").write_text(PROSE * (2 - i))
            (folder / "sub" / "b.txt").write_text("other words\n")
            (place / f"case{i}").mkdir()
            morphogen.compress(folder if i else folder / "a.txt", self.run, place / f"case{i}" / "a.mgc")
            out.append((place / f"case{i}", "a.mgc"))
        return out

    def use(self, path: Path) -> None:
        import shutil

        import morphogen

        out = path.parent.parent / "out"
        morphogen.decompress(path, self.run, out)
        assert out.exists()
        shutil.rmtree(out) if out.is_dir() else out.unlink()

    @staticmethod
    def damage(data: bytes, rng: random.Random) -> bytes:
        import hashlib
        import lzma
        import struct

        from morphogen.coding.container import _FILTERS

        way = rng.randrange(4)
        if way == 0:
            return mutation.binary(data, rng)
        small, _ = struct.unpack_from("<II", data, 4)
        head, blocks = data[12 : 12 + small], data[12 + small : -16]
        if way == 1:
            blocks = mutation.binary(blocks, rng)
        elif way == 2:
            head = mutation.binary(head, rng)
        else:
            text = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(head)
            text = mutation.structured(text, rng)
            head = lzma.compress(text, lzma.FORMAT_RAW, filters=_FILTERS)
            data = data[:4] + struct.pack("<II", len(head), len(text))
        body = data[:4] + struct.pack("<I", len(head)) + data[8:12] + head + blocks
        return body + hashlib.blake2b(body, digest_size=16).digest()


CONTAINER = _Container()


def beside(build: Callable[[], Iterable[tuple[str, bytes]]]) -> Callable[[Path], list[tuple[Path, str]]]:
    """Cases in one folder: codecs that want more than one file see the others undamaged."""

    def make(place: Path) -> list[tuple[Path, str]]:
        place.mkdir(parents=True)
        out = []
        for name, content in build():
            (place / name).write_bytes(content)
            out.append((place, name))
        return out

    return make


BINARY, TEXT, JSON = mutation.binary, mutation.written, mutation.structured
_ALL = [
    Format("png", made(picture("PNG", "RGB", "L", "P", "RGBA", "I;16", "1")), data("image"), png),
    Format("jpeg", made(picture("JPEG", "RGB", "L", "CMYK", "RGB.progressive")), data("image"), BINARY),
    Format("gif", made(picture("GIF", "P", "L")), data("image"), BINARY),
    Format("webp", made(picture("WEBP", "RGB", "RGBA")), data("image"), BINARY),
    Format("bmp", made(picture("BMP", "RGB", "L", "P", "1")), data("image"), BINARY),
    Format(
        "tiff",
        made(picture("TIFF", "RGB", "L.tiff_lzw", "F", "P.packbits", "1.group4", "RGB.tiff_adobe_deflate", "RGB.jpeg", "CMYK")),
        data("image"),
        BINARY,
    ),
    Format("metadata", captions, data("image", whole=True), TEXT),
    Format("csv", single(sheet(",", "a.csv"), sheet(";", "b.csv")), data("table"), TEXT),
    Format("tsv", single(sheet("\t", "a.tsv")), data("table"), TEXT),
    Format("parquet", made(parquet), data("table"), BINARY),
    Format("jsonl", single(("a.jsonl", lines(rows()))), data("table"), TEXT),
    Format("chat", single(("a.jsonl", lines(CHATS)), ("b.jsonl", lines(PROMPTS))), data("text"), TEXT),
    Format("txt", single(("a.txt", (PROSE * 20).encode()), ("b.txt", PROSE.encode("utf-16") * 10)), data("text"), TEXT),
    Format("smi", single(("a.smi", "".join(f"{s} m{i}\n" for i, s in enumerate(SMILES)).encode())), data("molecule"), TEXT),
    Format("sdf", made(sdf), data("molecule"), TEXT),
    Format("abc", single(("a.abc", (ABC * 3).encode())), data("music"), TEXT),
    Format("midi", beside(midi), data("music", whole=True), BINARY),
    Format("sok", single(("a.sok", "\n\n".join(ROOMS * 2).encode()), ("b.txt", "\n\n".join(ROOMS).encode())), data("level"), TEXT),
    Format("tiled", beside(tiled), data("level", whole=True), JSON),
    Format("safetensors", safetensors, use_safetensors, BINARY, 10_000),
    Format("gguf", gguf, use_gguf, BINARY, 10_000),
    Format("config", checkpoint("config.json"), use_checkpoint, JSON, 10_000),
    Format("generation config", checkpoint("generation_config.json"), use_checkpoint, JSON),
    Format("tokenizer config", checkpoint("tokenizer_config.json"), use_checkpoint, JSON),
    Format("tokenizer", checkpoint("tokenizer.json"), use_tokenizer, JSON, 10_000),
    Format("recipe", single(("recipe.toml", RECIPE)), use_recipe, TEXT),
    Format("run", runs, use_run, lambda data, rng: (JSON if data[:1] == b"{" else TEXT if b"\0" not in data[:64] else BINARY)(data, rng)),
    Format("container", CONTAINER.make, CONTAINER.use, CONTAINER.damage),
]
FORMATS = {form.name: form for form in _ALL}
