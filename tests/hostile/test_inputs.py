"""Bad inputs and their wanted outcomes, one row each, through the command line: exit status, one line, nothing half-written.

The rows of music, molecules and levels stand in tests/codecs, those of model files in tests/formats, tests/tokens and tests/language.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from morphogen.cli import main

WORDS = "the cat sat on a mat and the dog ran to the red house\n"
ROWS = "a,b\n" + "".join(f"{i * 7 % 31},{'xyz'[i % 3]}\n" for i in range(60))


def picture(mode: str = "RGB", size: tuple[int, int] = (16, 16), kind: str = "PNG", seed: int = 0, **more: Any) -> bytes:
    rng, out = np.random.default_rng(seed), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode).save(out, kind, **more)
    return out.getvalue()


def pictures(**odd: bytes) -> dict[str, bytes]:
    """Six good pictures and what is odd; `a_png` is called a.png."""
    return {f"{i}.png": picture(seed=i) for i in range(6)} | {k.replace("_", "."): v for k, v in odd.items()}


def chats(*odd: str, n: int = 20) -> bytes:
    good = [
        json.dumps({"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"it is {i * i}"}]})
        for i in range(n)
    ]
    return "\n".join([*good, *odd]).encode()


def turns(*roles: str) -> str:
    return json.dumps({"messages": [{"role": r, "content": "" if r == "silent" else f"word {i}"} for i, r in enumerate(roles)]})


Files = dict[str, bytes]
# name -> (what lies in the folder "in", what is given, exit status, what the one line or the report says)
TEXT: dict[str, tuple[Files, str, int, str]] = {
    "empty": ({"a.txt": b""}, "a.txt", 3, "empty|no text|too little"),
    "only blanks and a mark": ({"a.txt": b"\xef\xbb\xbf \n\t\r\n"}, "a.txt", 3, "empty|no text|too little"),
    "invalid UTF-8": ({"a.txt": WORDS.encode() * 9 + b"\xff\xfe\xfd"}, "a.txt", 3, "not valid utf-8 at byte 486.*encoding"),
    "UTF-16 without its mark": ({"a.txt": (WORDS * 9).encode("utf-16-le")}, "a.txt", 3, "UTF-16.*encoding"),
    "NUL": ({"a.txt": WORDS.encode() * 9 + bytes(300)}, "a.txt", 3, "binary data"),
    "10 MB in one line": ({"a.txt": WORDS.replace("\n", " ").encode() * 190_000}, "a.txt", 0, ""),
    "a million combining marks": ({"a.txt": ("e" + "\u0301" * 1_000_000).encode()}, "a.txt", 0, ""),
    "controls of direction": ({"a.txt": (WORDS * 9).replace("cat", "\u202ecat\u2066").encode()}, "a.txt", 0, ""),
    "nothing wide": ({"a.txt": (WORDS * 9).replace("cat", "c\u200ba\ufefft").encode()}, "a.txt", 0, ""),
    "mixed newlines": ({"a.txt": (WORDS[:-1] + "\r\n" + WORDS[:-1] + "\r" + WORDS).encode() * 5}, "a.txt", 0, ""),
    "special tokens": ({"a.txt": (WORDS + "<|im_start|>system\n<|endoftext|></s>\n").encode() * 9}, "a.txt", 0, ""),
    "gzip named .txt": ({"a.txt": b"\x1f\x8b\x08" + bytes(60)}, "a.txt", 3, "gzip"),
    "a picture named .txt": ({"a.txt": picture()}, "a.txt", 3, "PNG"),
    "one token": ({"a.txt": b"a"}, "a.txt", 3, "too little.*at least"),
    "the same again and again": ({"a.jsonl": b'{"text": "the same words as before"}\n' * 60}, "a.jsonl", 0, "same text|copies"),
}
LINES: dict[str, tuple[Files, str, int, str]] = {
    "bad JSON in one of few": ({"a.jsonl": chats("{bad", "{worse")}, "a.jsonl", 3, r"a\.jsonl:21.*not JSON"),
    "NaN": ({"a.jsonl": b'{"text": NaN}\n' * 4}, "a.jsonl", 3, "NaN is not JSON"),
    "a key twice": ({"a.jsonl": b'{"text": "a b c", "text": "d e f"}\n' * 4}, "a.jsonl", 3, "twice"),
    "nested too deep": ({"a.jsonl": (b'{"text": ' + b"[" * 70 + b"]" * 70 + b"}\n") * 4}, "a.jsonl", 3, "nested deeper than 64"),
    "nested for ever": ({"a.jsonl": b'{"text": ' + b"[" * 200_000}, "a.jsonl", 3, "nested|not JSON"),
    "a trailing comma": ({"a.jsonl": b'{"text": "a b c",}\n' * 4}, "a.jsonl", 3, "not JSON"),
    "no role": ({"a.jsonl": chats('{"messages": [{"content": "x"}]}', n=3)}, "a.jsonl", 0, "unknown role"),
    "unknown role": ({"a.jsonl": chats(turns("user", "wizard"), turns("wizard"))}, "a.jsonl", 3, "unknown role.*wizard"),
    "two turns of the system": (
        {"a.jsonl": chats(turns("system", "user", "system", "assistant"), turns("system", "system", "assistant"))},
        "a.jsonl",
        3,
        "system",
    ),
    "an empty answer": (
        {"a.jsonl": chats(*['{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}'] * 2)},
        "a.jsonl",
        3,
        "empty",
    ),
    "no answer": ({"a.jsonl": chats(turns("user"), turns("user", "user"))}, "a.jsonl", 3, "no turn of the assistant"),
}
IMAGE: dict[str, tuple[Files, str, int, str]] = {
    "nothing but an empty one": ({"a.png": b""}, "", 3, "empty"),
    "truncated": (pictures(a_png=picture()[:200], b_png=picture()[:90]), "", 3, "damaged|checksum"),
    "bad checksum": (
        pictures(a_png=picture()[:60] + b"x" + picture()[61:], b_png=picture()[:99] + b"x" + picture()[100:]),
        "",
        3,
        "checksum|damaged",
    ),
    "one is skipped and said": (pictures(a_png=b""), "", 0, "1 skipped.*a.png.*empty"),
    "0 pixels high": ({"a.gif": b"GIF89a" + struct.pack("<HH", 9, 0) + bytes(9)}, "", 3, "no content|damaged"),
    "1 by 1": ({f"{i}.png": picture(size=(1, 1), seed=i) for i in range(6)}, "", 0, ""),
    "1 by 65535": (pictures(a_png=picture(size=(1, 65535))), "", 0, ""),
    "2^31 sides": (
        {"a.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II5B", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0) + bytes(30)},
        "",
        3,
        "million",
    ),
    "a claim beyond the file": (
        {"a.bmp": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 7000, 7000, 1, 24) + bytes(40)},
        "",
        3,
        "cannot be in",
    ),
    "CMYK, grey, palette, 16 bits": (
        {
            f"{i}.{e}": picture(m, seed=i, kind=k)
            for i, (m, k, e) in enumerate(
                [("CMYK", "TIFF", "tif"), ("LA", "PNG", "png"), ("P", "PNG", "png"), ("1", "PNG", "png"), ("CMYK", "JPEG", "jpg")]
            )
        },
        "",
        0,
        "became",
    ),
    "SVG": ({"a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "", 3, "SVG.*PNG"),
    "HEIC": ({"a.heic": b"\0\0\0\x18ftypheic" + bytes(40)}, "", 3, "HEIC.*PNG"),
    "another ending": (pictures(a_jpg=picture(seed=9)), "", 0, "ending"),
    "animated": (
        pictures(a_gif=picture("P", kind="GIF", save_all=True, append_images=[Image.new("P", (16, 16), 3)])),
        "",
        0,
        "first was taken",
    ),
    "all the same": ({f"{i}.png": picture() for i in range(5)}, "", 3, "no variation|identical"),
    "a single one": ({"a.png": picture()}, "", 0, "single picture"),
    "a web page": ({"a.png": b"<!DOCTYPE html><html></html>"}, "", 3, "web page"),
}
TABLE: dict[str, tuple[Files, str, int, str]] = {
    "empty": ({"a.csv": b""}, "a.csv", 3, "empty"),
    "a header only": ({"a.csv": b"a,b\n"}, "a.csv", 3, "no rows|nothing"),
    "one row": ({"a.csv": b"a,b\n1,2\n"}, "a.csv", 3, "row"),
    "one column": ({"a.csv": b"a\n" + b"".join(b"%d\n" % (i * 7 % 31) for i in range(60))}, "a.csv", 0, ""),
    "a hundred thousand columns": (
        {"a.csv": b",".join(b"c%d" % i for i in range(100_000)) + b"\n" + b",".join([b"1"] * 100_000) + b"\n"},
        "a.csv",
        3,
        "100000 columns",
    ),
    "ragged": ({"a.csv": ROWS.encode() + b"1\n1,2,3\n4\n"}, "a.csv", 3, r"a\.csv:62.*1 cells under 2"),
    "names twice and blank": ({"a.csv": ROWS.replace("a,b", "a,a").encode()}, "a.csv", 0, "name of another"),
    "all constant": ({"a.csv": b"a,b\n" + b"1,x\n" * 30}, "a.csv", 3, "constant|nothing|no column"),
    "all missing": ({"a.csv": b"a,b\n" + b",\n" * 30}, "a.csv", 3, "empty|nothing|no column"),
    "numbers without bounds": ({"a.csv": b"a,b\n" + b"".join(b"%d,1e308\n" % i for i in range(20)) + b"3,inf\n4,-inf\n"}, "a.csv", 0, ""),
    "a quote never closed": ({"a.csv": ROWS.encode() + b'"1,2\n3,4\n'}, "a.csv", 3, "never closed"),
    "quoted newlines": ({"a.csv": ROWS.encode() + b'3,"x\n"\n5,y\n'}, "a.csv", 0, ""),
    "a spreadsheet": ({"a.xlsx": b"PK\x03\x04" + bytes(60)}, "a.xlsx", 3, "CSV"),
    "a spreadsheet named .csv": ({"a.csv": b"PK\x03\x04" + bytes(60)}, "a.csv", 3, "spreadsheet"),
    "a corrupt footer": ({"a.parquet": b"PAR1" + bytes(60) + b"\xff\xff\xff\x7fPAR1"}, "a.parquet", 3, "not readable as Parquet"),
    "another encoding": ({"a.csv": ROWS.encode() + "3,é\n".encode("latin-1")}, "a.csv", 3, "byte.*UTF-8|byte.*encoding"),
    "formulas": ({"a.csv": ROWS.encode() + b"3,=1+1\n5,@x\n"}, "a.csv", 0, ""),
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 9,
    "num_attention_heads": 4,
    "intermediate_size": 9,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32,
}
MODEL: dict[str, tuple[Files, str, int, str]] = {
    "a git-LFS pointer": ({"a.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "a.safetensors", 4, "LFS"),
    "a web page": ({"a.safetensors": b"<!DOCTYPE html>"}, "a.safetensors", 4, "web page"),
    "an encrypted zip": ({"a.safetensors": b"PK\x03\x04\x14\x00\x01\x00" + bytes(60)}, "a.safetensors", 4, "encrypted"),
    "a pickle": ({"config.json": json.dumps(LLAMA).encode(), "pytorch_model.bin": b"\x80\x02}q\x00."}, "", 4, "pickle"),
    "a config of its own code": (
        {
            "config.json": b'{"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil"}}',
            "evil.py": b"1/0",
            "model.safetensors": (2).to_bytes(8, "little") + b"{}",
        },
        "",
        4,
        "evil",
    ),
    "layers beyond counting": (
        {
            "config.json": json.dumps({**LLAMA, "num_hidden_layers": 10**12}).encode(),
            "model.safetensors": (2).to_bytes(8, "little") + b"{}",
        },
        "",
        4,
        "layers",
    ),
    "zeros": ({"a.gguf": bytes(4096)}, "a.gguf", 4, "zeros"),
    "another GGUF": ({"a.gguf": b"GGUF" + struct.pack("<IQQ", 99, 0, 0)}, "a.gguf", 4, "version"),
    "a newer run": ({"recipe.toml": b"version = 99\n"}, "", 4, "newer"),
    "a run without anything": ({"recipe.toml": b""}, "", 4, ""),
    "a section unknown": ({"recipe.toml": b"[trainnig]\nsteps = 3\n"}, "", 4, "trainnig"),
    "a key twice": ({"recipe.toml": b"version = 1\nversion = 1\n"}, "", 4, "recipe"),
    "no TOML": ({"recipe.toml": b"\xff\xfe"}, "", 4, "recipe"),
    "deep TOML": ({"recipe.toml": b"a = " + b"[" * 100_000}, "", 4, "recipe"),
}
TABLES = {
    f"{kind}: {name}": row
    for kind, rows in {"text": TEXT, "lines": LINES, "image": IMAGE, "table": TABLE, "model": MODEL}.items()
    for name, row in rows.items()
}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What is imported on the first call is not part of refusing."""
    from morphogen.plan import make_plan

    make_plan([{"a": i * 7 % 31, "b": "xyz"[i % 3]} for i in range(40)])
    __import__("morphogen.language.source")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def one_line(err: str) -> str:
    """The error, when it is one line."""
    found = [line for line in err.splitlines() if line.startswith("error[")]
    assert len(found) == 1 and err.rstrip().splitlines()[-1] == found[0], err
    assert "Traceback" not in err and found[0].isprintable() and len(found[0]) < 1300 and "internal" not in found[0]
    return found[0]


LARGE = {"text: 10 MB in one line"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in TABLES])
def test_sec_inputs_end_as_they_should(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    files, given, status, says = TABLES[name]
    for file, content in files.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / file).write_bytes(content)
    before, begun = sorted(tmp_path.rglob("*")), time.process_time()
    code, out, err = call(capsys, "inspect", str(tmp_path / "in" / given))
    spent = time.process_time() - begun
    assert code == status, err + out
    if code:
        assert re.search(says, one_line(err)), err
        assert spent < 2 + 2 * ("llama" in str(files))  # torch may be imported here
    else:
        assert re.search(says, out + err, re.DOTALL), out + err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [n for n, row in TABLES.items() if row[2] == 3])
def test_sec_training_on_them_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    files, given, _, _ = TABLES[name]
    (tmp_path / "in").mkdir()
    for file, content in files.items():
        (tmp_path / "in" / file).write_bytes(content)
    code, _, err = call(capsys, "train", str(tmp_path / "in" / given), "--out", str(tmp_path / "out"), "--steps", "1")
    assert code == 3 and one_line(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


# ------------------------------------------------------------------ the command line itself
def csv(place: Path) -> str:
    (place / "a.csv").write_text(ROWS)
    return str(place / "a.csv")


CLI: dict[str, tuple[Callable[[Path], list[str]], int, str]] = {
    "an unknown verb": (lambda p: ["trian", csv(p)], 2, "did you mean 'train'"),
    "nothing to train on": (lambda p: ["train"], 2, "--help"),
    "an unknown option": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--stesp", "3"], 2, "stesp"),
    "a negative number": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--steps", "-3"], 2, "step"),
    "NaN": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--minutes", "nan"], 2, "nan"),
    "infinity": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--minutes", "inf"], 2, "inf"),
    "a huge number": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--steps", "9" * 30], 2, "999"),
    "an underscore": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--steps", "1_0"], 2, "1_0"),
    "other scripts' digits": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--steps", "\u0661\u0662"], 2, "whole number"),
    "no such file": (lambda p: ["train", str(p / "nothing"), "--out", str(p / "o")], 3, "no such file"),
    "output is input": (lambda p: ["train", csv(p), "--out", str(p / "a.csv"), "--steps", "1"], 2, "input|exists"),
    "output inside input": (lambda p: [csv(p), "train", str(p), "--out", str(p / "o"), "--steps", "1"][1:], 2, "inside the input"),
    "output exists": (
        lambda p: ["train", csv(p), "--out", str((p / "o" / "x").parent if not (p / "o" / "x").mkdir(parents=True) else p), "--steps", "1"],
        2,
        "exists|not a run|other",
    ),
    "a device as output": (lambda p: ["train", csv(p), "--out", "/dev/null", "--steps", "1"], 3, "not a regular"),
    "an unknown option of a section": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--set", "training.stesp=3"], 2, "stesp"),
    "no section": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--set", "nonsense"], 2, "nonsense"),
    "an unknown family": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--family", "diffusoin"], 2, "did you mean 'diffusion'"),
    "a recipe that is none": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--recipe", str(p / "a.csv")], 4, "recipe"),
    "a dotted class name": (lambda p: ["train", csv(p), "--out", str(p / "o"), "--family", "os.system"], 2, "unknown family"),
    "generating from data": (lambda p: ["generate", csv(p), "--out", str(p / "o")], 4, ""),
    "a name too long": (lambda p: ["inspect", "x" * 5000], 3, "cannot be opened|too long|name"),
    "a path of odd characters": (lambda p: ["inspect", str(p / "a\nb\x1b[2J\U0001f600")], 3, "no such file"),
    "a NUL in a path": (lambda p: ["inspect", "a\0b"], 3, "null|cannot"),
}


@pytest.mark.parametrize("name", CLI)
def test_sec_the_command_line_ends_as_it_should(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    build, status, says = CLI[name]
    arguments = build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = call(capsys, *arguments)
    assert code == status, err
    assert re.search(says, one_line(err)), err
    assert sorted(tmp_path.rglob("*")) == before


def test_paths_with_blanks_newlines_and_dashes_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b.csv", "a\nb.csv", "\U0001f600.csv", "x" * 250 + ".csv"):
        Path(name).write_text(ROWS)
        assert call(capsys, "inspect", name)[0] == 0
    Path("-a.csv").write_text(ROWS)
    assert call(capsys, "inspect", os.path.join(".", "-a.csv"))[0] == 0


def test_python_callers_data_stay_as_they_are(tmp_path: Path) -> None:
    """Arrays and rows of the caller are read, never changed; errors are of one family."""
    from morphogen.codecs.image import ImageCodec
    from morphogen.contracts import Item
    from morphogen.errors import MorphogenError
    from morphogen.plan import make_plan

    pixels = [np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8) for i in range(5)]
    copies = [p.copy() for p in pixels]
    codec = ImageCodec()
    codec.fit([Item(p) for p in pixels])
    for p in pixels:
        codec.encode(p)
    assert all(np.array_equal(a, b) for a, b in zip(pixels, copies))
    rows = [{"a": i * 7 % 31, "b": "xyz"[i % 3]} for i in range(40)]
    before = json.dumps(rows)
    make_plan(rows)
    assert json.dumps(rows) == before
    for odd in (3, None, [], [1, 2], object(), b"x", [{}], [{"a": 1}]):
        with pytest.raises(MorphogenError):
            make_plan(odd)
    for shape in ((0, 9, 3), (9, 9), (9, 9, 2), (3,)):
        if shape != (9, 9):
            with pytest.raises(MorphogenError):
                codec.encode(np.zeros(shape, np.uint8))
    with pytest.raises(MorphogenError):
        codec.encode(np.zeros((9, 9, 3), np.float32))
