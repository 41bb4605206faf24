"""GGUF: what gguf-py writes is read, what is written gguf-py reads, and every rule of the reader refuses its own hostile file."""

from __future__ import annotations

import struct
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.errors import DataError, FormatError, UsageError
from morphogen.formats.gguf import Typed, read_gguf, write_gguf
from morphogen.formats.gguf.read import TYPES

KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]


def peer(path: Path) -> gguf.GGUFReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gguf.GGUFReader(path)


# ---------------------------------------------------------------- against gguf-py
def test_files_of_gguf_py_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    values: dict[str, Any] = {}
    for name, value in [("uint8", 200), ("int8", -3), ("uint16", 60_000), ("int16", -3), ("uint32", 4_000_000_000), ("int32", -3),
                        ("uint64", 1 << 60), ("int64", -(1 << 60)), ("float32", 0.5), ("float64", 0.1), ("bool", True),
                        ("string", "ä 😀\n")]:  # fmt: skip
        values[f"one.{name}"] = value
        getattr(writer, f"add_{name}")(f"one.{name}", value)
    for name, value in [("texts", ["a", "", "😀"]), ("whole", [1, -2, 3]), ("fractions", [0.5, -1.5]), ("truths", [True, False])]:
        values[f"many.{name}"] = value
        writer.add_array(f"many.{name}", value)
    arrays = {}
    for kind in KINDS:
        x = rng.standard_normal((3, 5, 64)).astype(np.float32)
        qtype = gguf.GGMLQuantizationType[kind]
        raw = gguf.quants.quantize(x, qtype)
        writer.add_tensor(f"t.{kind}", raw, raw_dtype=qtype)
        arrays[f"t.{kind}"] = gguf.quants.dequantize(raw, qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(tmp_path / "a.gguf")
    assert file.version == 3 and file.metadata == {"general.architecture": "llama", **values}
    assert list(file.tensors) == list(arrays)
    for name, tensor in file.tensors.items():
        assert tensor.shape == (3, 5, 64) and f"t.{tensor.kind}" == name
        assert tensor.load().numpy().tobytes() == arrays[name].tobytes()


def test_what_is_written_gguf_py_reads(tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", "llama.block_count": 2, "llama.eps": 1e-5, "flag": False, "negative": -1, "large": 1 << 40,
                "tokens": ["a", "b"], "types": [1, 3], "scores": [0.0, -1.5], "empty": [], "wide": [1 << 31], "wider": [-(1 << 40)],
                "said": Typed(7, "int8"), "saids": Typed([7, 8], "uint8")}  # fmt: skip
    tensors = {f"t.{kind}": (torch.randn(7, 32, generator=torch.Generator().manual_seed(1)), kind) for kind in KINDS}
    write_gguf(tmp_path / "a.gguf", metadata, tensors)
    reader = peer(tmp_path / "a.gguf")
    types = {key: "/".join(t.name.lower() for t in field.types) for key, field in reader.fields.items()}
    assert types | {"general.architecture": "string", "llama.block_count": "uint32", "llama.eps": "float32", "flag": "bool",
                    "negative": "int32", "large": "uint64", "tokens": "array/string", "types": "array/int32", "scores": "array/float32",
                    "wide": "array/uint32", "wider": "array/int64", "said": "int8", "saids": "array/uint8"} == types  # fmt: skip
    plain = {k: v.value if isinstance(v, Typed) else v for k, v in metadata.items()}
    for key, value in plain.items():
        if key != "empty":  # gguf-py cannot tell an empty array's type
            assert reader.fields[key].contents() == pytest.approx(value) if key == "llama.eps" else reader.fields[key].contents() == value
    ours = read_gguf(tmp_path / "a.gguf")
    assert ours.metadata == plain | {"llama.eps": float(np.float32(1e-5))}
    for tensor in reader.tensors:
        x, kind = tensors[tensor.name]
        assert tensor.tensor_type.name == kind and tensor.data_offset % 32 == 0 and tuple(tensor.shape) == (32, 7)
        assert tensor.data.tobytes() == gguf.quants.quantize(x.numpy(), tensor.tensor_type).tobytes()
        assert ours.tensors[tensor.name].bytes.tobytes() == tensor.data.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.integers(1, 4), max_size=3)), max_size=5), st.sampled_from([1, 8, 32, 4096]))
def test_round_trips(tmp_path_factory, parts, alignment) -> None:
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    tensors = {f"t{i}": (torch.randn(*shape, 32), kind) for i, (kind, shape) in enumerate(parts)}
    write_gguf(path, {"general.alignment": alignment}, tensors)
    read = read_gguf(path)
    assert {k: (v.shape, v.kind) for k, v in read.tensors.items()} == {k: (tuple(t.shape), kind) for k, (t, kind) in tensors.items()}
    again = path.with_name("b.gguf")
    write_gguf(again, read.metadata, {k: (v.load(), v.kind) for k, v in read.tensors.items() if v.kind in ("F32", "F16", "BF16")})
    for name, tensor in read_gguf(again).tensors.items():  # plain kinds hold their own values exactly
        assert torch.equal(tensor.load(), read.tensors[name].load())
        assert torch.equal(tensor.load(), tensors[name][0]) or tensor.kind != "F32"


def test_half_models_may_be_strided_and_of_any_float(tmp_path: Path) -> None:
    x = torch.randn(32, 64, dtype=torch.float64).T
    write_gguf(tmp_path / "a.gguf", {}, {"x": (x, "F32"), "h": (x.bfloat16(), "BF16"), "p": (torch.nn.Parameter(x.float()), "Q8_0")})
    read = read_gguf(tmp_path / "a.gguf").tensors
    assert torch.equal(read["x"].load(), x.float()) and torch.equal(read["h"].load(torch.bfloat16), x.bfloat16())


def test_vocabularies_are_read_fast(tmp_path: Path) -> None:
    words = [f"word {i} ä" for i in range(150_000)]
    write_gguf(tmp_path / "a.gguf", {"tokens": words, "scores": [float(i) for i in range(150_000)]}, {})
    begun = time.process_time()
    metadata = read_gguf(tmp_path / "a.gguf").metadata
    assert time.process_time() - begun < 0.5
    assert metadata["tokens"] == words and metadata["scores"][-1] == 149_999.0


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", {}, {"x": (torch.zeros(32), "F32")})
    before = (tmp_path / "a.gguf").read_bytes()
    with pytest.raises(DataError, match="'b' holds NaN"):
        write_gguf(tmp_path / "a.gguf", {}, {"a": (torch.zeros(32), "F32"), "b": (torch.full((32,), float("nan")), "Q8_0")})
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"] and (tmp_path / "a.gguf").read_bytes() == before


@pytest.mark.parametrize(("metadata", "tensors", "message"), [
    ({"k": None}, {}, "'k' holds NoneType"), ({"k": {}}, {}, "dict"), ({"k": ["a", 1]}, {}, "int, str"), ({"k": [[1]]}, {}, "list"),
    ({"": 1}, {}, "empty"), ({"k": 1 << 70}, {}, "does not fit"), ({"k": Typed(300, "uint8")}, {}, "does not fit uint8"),
    ({"k": Typed(1, "array")}, {}, "said to be 'array'"), ({"k": Typed(1, "string")}, {}, "no text"), ({"k": "\ud800"}, {}, "no text"),
    ({"k": 1e300}, {}, "does not fit float32"), ({"general.alignment": 24}, {}, "alignment"), ({"k" * 70_000: 1}, {}, "70000 bytes"),
    ({}, {"x": (torch.zeros(33), "Q8_0")}, "no multiple of Q8_0's 32"), ({}, {"x": (torch.zeros(256), "Q6_K")}, "'Q6_K' is not written"),
    ({}, {"x": (torch.zeros(()), "F32")}, "1 to 4 dimensions"), ({}, {"x": (torch.zeros(1, 1, 1, 1, 1), "F32")}, "1 to 4 dimensions"),
    ({}, {"x": (torch.zeros(0, 32), "F32")}, "1 to 4 dimensions"), ({}, {"x": (torch.arange(32), "F32")}, "floating"),
    ({}, {"": (torch.zeros(32), "F32")}, "no name"),
])  # fmt: skip
def test_what_cannot_be_written(tmp_path: Path, metadata: Any, tensors: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_gguf(tmp_path / "a.gguf", metadata, tensors)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- hostile
def text(value: str | bytes) -> bytes:
    blob = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(blob)) + blob


def key(name: str, kind: str, body: bytes) -> bytes:
    return text(name) + struct.pack("<I", TYPES.index(kind)) + body


def array(kind: str, n: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", TYPES.index(kind), n) + body


def info(name: str = "t", dims: tuple[int, ...] = (32,), code: int = 8, offset: int = 0, count: int | None = None) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims) if count is None else count, *dims, code, offset)


def build(keys: Sequence[bytes] = (), infos: Sequence[bytes] = (), data: int = 34, *, counts: Any = None, version: int = 3) -> bytes:
    """A file of these keys and tensors, with other `counts` (tensors, keys) or `version` than it should have when wanted."""
    n, k = counts or (len(infos), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, n, k) + b"".join(keys) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(data)


ALIGNED = key("general.alignment", "uint32", struct.pack("<I", 64))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "version 1": (build(version=1), "version 1 is not read"),
    "version 0": (build(version=0), "version 0 is not read"),
    "version 4": (build(version=4), "version 4 is not read"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "big-endian magic": (b"FUGG" + bytes(30), "big-endian"),
    "only magic": (b"GGUF", "ends inside the version"),
    "cut": (b"GGUF\3\0\0\0\1\0", "ends inside the number of tensors"),
    "tensor count": (build(counts=(1 << 63, 0)), "9223372036854775808 tensors where at most"),
    "tensor count by a little": (build([], [info()], 0, counts=(3, 0)), "3 tensors where at most"),
    "key count": (build(counts=(0, 1 << 64 - 1)), "keys where at most"),
    "key length": (build([struct.pack("<Q", 1 << 40) + bytes(40)]), "key 0 claims 1099511627776 bytes"),
    "long key": (build([key("k" * 65_536, "uint8", b"\1")]), "key 0 claims 65536 bytes where at most 65535"),
    "empty key": (build([key("", "uint32", bytes(4))]), "key 0 is empty"),
    "same key": (build([key("a", "uint32", bytes(4))] * 2), "the key 'a' appears twice"),
    "key not UTF-8": (build([text(b"\xff\xfe") + struct.pack("<II", 4, 1)]), "key 0 is not UTF-8"),
    "type of value": (build([text("a") + struct.pack("<II", 13, 1)]), "the type of 'a' is 13"),
    "bool": (build([key("a", "bool", b"\2"), key("b", "uint64", bytes(8))]), "'a' is 2, neither true nor false"),
    "bools": (build([key("a", "array", array("bool", 2, b"\1\3"))]), "'a' holds a value that is neither"),
    "value cut": (build([key("a", "uint64", b"")], data=0)[:40], "ends inside 'a'"),
    "string beyond": (build([key("a", "string", struct.pack("<Q", 1 << 62))]), "'a' claims"),
    "string too long": (build([key("a", "string", text(b"x" * ((16 << 20) + 1)))]), "where at most 16777216 can be"),
    "string not UTF-8": (build([key("a", "string", text(b"\xc3"))]), "'a' is not UTF-8"),
    "nested": (build([key("a", "array", array("array", 1, array("uint8", 1, b"\1")))]), "'a' is an array of arrays"),
    "nested deep": (build([key("a", "array", array("array", 1) * 5000)]), "'a' is an array of arrays"),
    "array count": (build([key("a", "array", array("uint32", 1 << 61))]), "2305843009213693952 entries of 'a' where at most"),
    "array of strings": (build([key("a", "array", array("string", 1 << 30))]), "1073741824 entries of 'a' where at most"),
    "string in array": (build([key("a", "array", array("string", 2, text("x") + struct.pack("<Q", 1 << 50)))]), "entry 1 of 'a' claims"),
    "entry not UTF-8": (build([key("a", "array", array("string", 2, text("x") + text(b"\x80")))]), "entry 1 of 'a' is not UTF-8"),
    "array cut": (build([key("a", "array", array("string", 2, text("x" * 20)))], data=0)[:78], "ends inside entry 1 of 'a'"),
    "too many entries": (build([key("a", "array", array("uint8", (1 << 22) + 1, bytes((1 << 22) + 1)))]), "where at most 4194304"),
    "type of entries": (build([key("a", "array", struct.pack("<IQ", 99, 1))]), "entries of 'a' is 99"),
    "alignment 0": (build([key("general.alignment", "uint32", bytes(4))]), "general.alignment is '0'"),
    "alignment 24": (build([key("general.alignment", "uint32", struct.pack("<I", 24))]), "no power of two"),
    "alignment 128 KiB": (build([key("general.alignment", "uint32", struct.pack("<I", 1 << 17))]), "no power of two up to 65536"),
    "alignment text": (build([key("general.alignment", "string", text("32"))]), "general.alignment is '32'"),
    "alignment true": (build([key("general.alignment", "bool", b"\1")]), "general.alignment is 'True'"),
    "alignment negative": (build([key("general.alignment", "int32", struct.pack("<i", -32))]), "general.alignment is '-32'"),
    "split": (build([key("split.count", "uint16", struct.pack("<H", 3))]), "one of 3 parts"),
    "no name": (build([], [info("")]), "tensor 0 has no name"),
    "long name": (build([], [info("n" * 1025)]), "the name of tensor 0 claims 1025 bytes where at most 1024"),
    "same name": (build([], [info(), info(offset=64)], 200), "the tensor 't' appears twice"),
    "0 dims": (build([], [info(dims=())]), "'t' has 0 dimensions"),
    "5 dims": (build([], [info(dims=(1,) * 5)]), "'t' has 5 dimensions"),
    "many dims": (build([], [info(count=(1 << 32) - 1)]), "'t' has 4294967295 dimensions"),
    "dim 0": (build([], [info(dims=(32, 0))]), "'t' has a dimension of 0"),
    "kind": (build([], [info(code=77)]), "'t' is of type 77, which is not read"),
    "known kind": (build([], [info(code=23)]), "'t' is of type IQ4_XS, which is not read"),
    "old kind": (build([], [info(code=4)]), "'t' is of type 4, which is not read"),
    "part of a block": (build([], [info(dims=(33,))], 999), "have 33 numbers, no multiple of Q8_0's 32"),
    "block across rows": (build([], [info(dims=(16, 2))], 999), "no multiple of Q8_0's 32"),
    "off alignment": (build([], [info(offset=8)], 999), "'t' lies at 8, off the alignment of 32"),
    "off own alignment": (build([ALIGNED], [info(offset=32)], 999), "off the alignment of 64"),
    "larger than the file": (build([], [info()], 33), "'t' ends at byte"),
    "offset beyond": (build([], [info(offset=1 << 40)]), "'t' ends at byte"),
    "offset wraps": (build([], [info(offset=(1 << 64) - 32)]), "'t' ends at byte 18446744073709551"),
    "size wraps": (build([], [info(dims=(1 << 32, 1 << 32))]), "'t' ends at byte"),
    "dims wrap": (build([], [info(dims=((1 << 64) - 32,) * 4)]), "'t' ends at byte"),
    "overlap": (build([], [info("a"), info("b", offset=32)], 999), "'b' overlaps another"),
    "empty": (b"", "the file is empty"),
    "zeros": (bytes(100), "zeros only"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
    "web page": (b"<html>", "web page"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "safetensors file"),
    "torch zip": (b"PK\x03\x04" + bytes(26) + b"x/data.pkl", "pickle"),
    "other": (b"hello world", "this is no GGUF file"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_sec_hostile_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    blob, message = HOSTILE[name]
    (tmp_path / "a.gguf").write_bytes(blob)
    begun = time.process_time()
    with pytest.raises(FormatError) as caught:
        read_gguf(tmp_path / "a.gguf")
    line = str(caught.value)
    assert message in line and "\n" not in line and len(line) < 900 and caught.value.remedy
    assert time.process_time() - begun < 1


def test_the_tests_own_builder_makes_good_files(tmp_path: Path) -> None:
    """Otherwise the hostile files might be refused for another reason; versions 2 and 3 are laid out alike."""
    for version in (2, 3):
        keys = [ALIGNED, key("a", "array", array("string", 1, text("x"))), key("b", "array", array("uint8", 0))]
        (tmp_path / "a.gguf").write_bytes(build(keys, [info(), info("u", offset=64)], 200, version=version))
        file = read_gguf(tmp_path / "a.gguf")
        assert file.version == version and file.metadata == {"general.alignment": 64, "a": ["x"], "b": []}
        assert [t.load().sum().item() for t in file.tensors.values()] == [0, 0]


def test_sec_nothing_but_files_is_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(DataError, match="not a regular file"):
        read_gguf(tmp_path)
