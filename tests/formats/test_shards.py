"""Safetensors: the same tensors as the reference library, one or many files, and nothing believed before it is checked."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from morphogen.errors import DataError, FormatError, MorphogenError, ResourceError, UsageError
from morphogen.formats.shards import TORCH, Shards, write_shards
from morphogen.run import read_tensors

BYTES8 = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    """Random bits, so that NaN and infinities are among them."""
    size = torch.empty((), dtype=dtype).element_size()
    count, g = max(1, torch.Size(shape).numel()) * size, torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (count,), generator=g, dtype=torch.uint8)
    raw = raw % 2 if dtype == torch.bool else raw
    return raw.view(dtype)[: torch.Size(shape).numel()].reshape(shape).clone()


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def file_of(header: object, data: bytes = b"", size: int | None = None) -> bytes:
    blob = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(blob) if size is None else size) + blob + data


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
many = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda k: k != "__metadata__"),
                       st.tuples(st.sampled_from(sorted(TORCH)), shapes), min_size=1, max_size=6)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(parts=many, limit=st.integers(1, 400), seed=st.integers(0, 99))
def test_what_is_written_is_read_by_us_and_by_the_reference(tmp_path_factory, parts, limit, seed) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tensors = {name: tensor_of(TORCH[dtype], shape, seed) for name, (dtype, shape) in parts.items()}
    files = write_shards(folder, tensors, limit_bytes=limit)
    shards = Shards(folder)
    reference = {k: v for file in files for k, v in load_file(file).items()}
    assert set(shards) == set(reference) == set(tensors)
    assert shards.shapes == {k: tuple(v.shape) for k, v in tensors.items()} and shards.dtypes == {k: v.dtype for k, v in tensors.items()}
    for name, tensor in tensors.items():
        assert bits(shards[name]) == bits(tensor) == bits(reference[name])
        assert shards[name].shape == tensor.shape and shards[name].dtype == tensor.dtype
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_the_references_files_are_read(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(i + 1, 3) for i in range(5)} | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "note": "ä"})
    for shards in (Shards(tmp_path), Shards(tmp_path / "x.safetensors")):  # a folder with one model under any name
        assert shards.metadata == {"format": "pt", "note": "ä"} and len(shards) == 7
        assert all(torch.equal(shards[k], v) for k, v in tensors.items())
    assert "t0" in shards and "t9" not in shards and shards.get("t9") is None
    with pytest.raises(FormatError, match="no tensor 't9'"):
        shards["t9"]
    assert torch.equal(read_tensors(tmp_path / "x.safetensors", prefix="t1")["t1"], tensors["t1"])


def test_maps_are_lazy_private_and_warn_of_nothing(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": torch.zeros(1000)})
    before = (tmp_path / "model.safetensors").read_bytes()
    shards = Shards(tmp_path)
    assert shards["a"].data_ptr() == shards["a"].data_ptr()  # shared pages, no copy
    shards["a"].fill_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_tensors_off_their_alignment_are_read(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0])
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}
    (tmp_path / "m.safetensors").write_bytes(file_of(header, b"\7" + bits(values)))
    assert torch.equal(Shards(tmp_path)["b"], values)


def test_truth_is_zero_or_one(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(file_of({"b": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, b"\0\1\7"))
    assert bits(Shards(tmp_path)["b"]) == b"\0\1\1"


def test_tied_tensors_are_written_once_and_views_as_values(tmp_path: Path) -> None:
    a = torch.randn(4, 4)
    write_shards(tmp_path, {"embed": a, "head": a, "turned": a.T, "row": a[1]})
    shards = Shards(tmp_path)
    assert set(shards) == {"embed", "turned", "row"} and torch.equal(shards["turned"], a.T) and torch.equal(shards["row"], a[1])


def test_tensors_made_when_asked_are_not_taken_for_tied(tmp_path: Path) -> None:
    """Freed memory is used again, so equal addresses mean nothing for what no longer lives."""

    class Lazy(Mapping[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            return torch.full((64,), float(name))

        def __iter__(self) -> Iterator[str]:
            return iter("0123456789")

        def __len__(self) -> int:
            return 10

    write_shards(tmp_path, Lazy())
    assert {k: v[0].item() for k, v in Shards(tmp_path).items()} == {str(i): i for i in range(10)}


def test_an_older_model_is_replaced_not_mixed(tmp_path: Path) -> None:
    parts = {str(i): torch.full((8,), float(i)) for i in range(4)}
    assert len(write_shards(tmp_path, parts, limit_bytes=32)) == 4
    (tmp_path / "config.json").write_text("{}")
    write_shards(tmp_path, {"one": torch.zeros(1)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"] and list(Shards(tmp_path)) == ["one"]
    write_shards(tmp_path, parts, limit_bytes=64)
    assert len(Shards(tmp_path)) == 4 and not (tmp_path / "model.safetensors").exists()

    class Breaks(dict):  # the second pass, the writing, fails at the last tensor
        def __getitem__(self, name: str) -> Tensor:
            if name == "3":
                raise RuntimeError("lost")
            return super().__getitem__(name)

    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(RuntimeError):
        write_shards(tmp_path, Breaks({k: v + 1 for k, v in parts.items()}), limit_bytes=64)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_shards(tmp_path, {"a": torch.zeros(4)})
    old = (tmp_path / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ResourceError, match="No space left"):
        write_shards(tmp_path, {"a": torch.ones(4)})
    with pytest.raises(ResourceError, match="No space left"):
        write_shards(tmp_path, {"a": torch.ones(4), "b": torch.ones(4)}, limit_bytes=16)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"] and (tmp_path / "model.safetensors").read_bytes() == old


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for tensors in ({}, {"__metadata__": torch.zeros(1)}, {"s": torch.eye(2).to_sparse()}, {"m": torch.zeros(1, device="meta")}):
        with pytest.raises(UsageError):
            write_shards(tmp_path, tensors)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- hostile
TWICE = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}'


def one(**changes: object) -> dict[str, object]:
    return {"a": {**BYTES8, **changes}}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "duplicate": (file_of(TWICE, bytes(8)), "'a' appears twice"),
    "duplicate field": (file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}}', bytes(8)), "appears twice"),
    "hole": (file_of(one(data_offsets=[1, 9]), bytes(9)), "hole of 1 bytes"),
    "trailing": (file_of(one(), bytes(9)), "1 bytes at the end belong to no tensor"),
    "overlap": (file_of({**one(), "b": {**BYTES8, "data_offsets": [4, 12]}}, bytes(12)), "'b' overlaps"),
    "same bytes": (file_of({**one(), "b": BYTES8}, bytes(8)), "overlaps"),
    "beyond": (file_of(one(), bytes(7)), "ends at byte"),
    "far beyond": (file_of(one(shape=[1 << 40], data_offsets=[0, 1 << 40]), bytes(8)), "ends at byte"),
    "shape": (file_of(one(shape=[9]), bytes(8)), "needs 9 bytes but has 8"),
    "wrapping shape": (file_of(one(shape=[1 << 32, 1 << 32]), bytes(8)), "needs 18446744073709551616 bytes"),
    "negative": (file_of(one(shape=[-8]), bytes(8)), "impossible shape"),
    "two negatives": (file_of(one(shape=[-2, -4]), bytes(8)), "impossible shape"),
    "huge of none": (file_of(one(shape=[0, 1 << 60], data_offsets=[0, 0])), "impossible shape"),
    "many dims": (file_of(one(shape=[1] * 60 + [8]), bytes(8)), "impossible shape"),
    "true dim": (file_of(one(shape=[True, 8]), bytes(8)), "impossible shape"),
    "fraction": (file_of(one(shape=[8.0]), bytes(8)), "impossible shape"),
    "text shape": (file_of(one(shape="8"), bytes(8)), "impossible shape"),
    "reversed": (file_of(one(data_offsets=[8, 0]), bytes(8)), "impossible data_offsets"),
    "negative offset": (file_of(one(data_offsets=[-8, 0]), bytes(8)), "impossible data_offsets"),
    "endless offset": (file_of(one(data_offsets=[10**300, 10**300 + 8]), bytes(8)), "impossible data_offsets"),
    "one offset": (file_of(one(data_offsets=[8]), bytes(8)), "no two data_offsets"),
    "null offset": (file_of(one(data_offsets=[None, 8]), bytes(8)), "no two data_offsets"),
    "endless number": (file_of(b'{"a":{"dtype":"U8","shape":[' + b"9" * 6000 + b'],"data_offsets":[0,8]}}', bytes(8)), "JSON"),
    "dtype": (file_of(one(dtype="F4"), bytes(8)), "is of type 'F4'"),
    "dtype list": (file_of(one(dtype=["U8"]), bytes(8)), "is of type"),
    "extra field": (file_of(one(code="x"), bytes(8)), "does not consist of"),
    "no field": (file_of({"a": {}}), "does not consist of"),
    "tensor a list": (file_of({"a": [1]}), "does not consist of"),
    "metadata a number": (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata a list": (file_of({"__metadata__": []}), "__metadata__"),
    "NaN": (file_of(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)), "NaN is no JSON"),
    "surrogate": (file_of(b'{"\\ud800":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', bytes(8)), "no text"),
    "not UTF-8": (file_of(b'{"\xff":1}'), "JSON"),
    "cut JSON": (file_of(b'{"a":'), "JSON"),
    "deep": (file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "JSON"),
    "deep tables": (file_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "JSON"),
    "header beyond": (file_of({}, size=100), "claims 100 bytes where at most 2"),
    "header too large": (file_of(b"{" + b" " * (16 << 20) + b"}"), "claims 16777218 bytes where at most 16777216"),
    "huge header": (file_of({}, size=1 << 63), "no safetensors file"),
    "a million tensors": (file_of(b"{" + b'"":1,' * 3_000_000 + b"}"), "more than 200000 tensors"),
    "empty lists": (file_of(b'{"a":[' + b"[]," * 5_000_000 + b"1]}"), "more than 200000 tensors"),
    "empty": (b"", "empty"),
    "three bytes": (b"abc", "no safetensors file"),
    "zeros": (bytes(4096), "zeros only"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git-LFS pointer"),
    "web page": (b"\n <!DOCTYPE html><html>404</html>", "web page"),
    "pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
    "torch zip": (b"PK\x03\x04" + bytes(22) + b"\x10\0\0\0archive/data.pkl", "pickle"),
    "encrypted zip": (b"PK\x03\x04\x14\0\1\0" + bytes(40), "encrypted zip"),
    "gzip": (b"\x1f\x8b" + bytes(30), "archive"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(16), "GGUF"),
}  # fmt: skip


def line_of(error: MorphogenError) -> str:
    line = str(error)
    assert "\n" not in line and len(line) < 900 and error.what and error.remedy
    return line


@pytest.mark.parametrize("name", HOSTILE)
def test_sec_hostile_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    blob, message = HOSTILE[name]
    (tmp_path / "model.safetensors").write_bytes(blob)
    begun = time.process_time()
    with pytest.raises(FormatError) as caught:
        Shards(tmp_path)
    assert message in line_of(caught.value) and time.process_time() - begun < 2


def test_sec_refusing_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(file_of(b'{"a":[' + b'"x",' * 1_200_000 + b"1]}"))  # just under the count
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            Shards(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def test_a_header_of_640_bytes_is_no_pickle(tmp_path: Path) -> None:
    """Its first two bytes are those of a pickle."""
    blob = json.dumps({"a": BYTES8}).encode()
    (tmp_path / "model.safetensors").write_bytes(file_of(blob + b" " * (0x280 - len(blob)), bytes(8)))
    assert Shards(tmp_path)["a"].shape == (8,)


def test_sec_folders_say_what_lies_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no model.safetensors"):
        Shards(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(FormatError, match="'pytorch_model.bin', a pickle file"):
        Shards(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "m.gguf")
    with pytest.raises(FormatError, match="GGUF"):
        Shards(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        Shards(tmp_path / "absent")
    for name in "ab":
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(FormatError, match="2 models lie there"):
        Shards(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(DataError, match="not a regular file"):
        Shards(tmp_path / "pipe.safetensors")


def write_index(folder: Path, weights: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


@pytest.mark.parametrize("file", [
    "../x.safetensors", "sub/x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "C:x.safetensors", "x.bin", "", ".safetensors",
    "x.safetensors\0", 5, None, ["x.safetensors"]])  # fmt: skip
def test_sec_an_index_stays_in_its_folder(tmp_path: Path, file: object) -> None:
    write_index(tmp_path, {"a.weight": file})
    with pytest.raises(FormatError, match="weight_map sends the tensor 'a.weight' to"):
        Shards(tmp_path)


def test_sec_index_and_shards_must_agree(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), "b": torch.ones(2)}, tmp_path / "s1.safetensors")
    write_index(tmp_path, {"a": "s1.safetensors"})
    assert list(Shards(tmp_path)) == ["a"]  # what the index does not name is left out
    write_index(tmp_path, {"a": "s1.safetensors", "c": "s1.safetensors"})
    with pytest.raises(FormatError, match="names the tensor 'c', which 's1.safetensors' does not hold"):
        Shards(tmp_path)
    write_index(tmp_path, {"a": "s1.safetensors", "c": "s2.safetensors"})
    with pytest.raises(FormatError, match="shard 's2.safetensors' is missing"):
        Shards(tmp_path)
    for weights in ({}, [], None):
        write_index(tmp_path, weights)
        with pytest.raises(FormatError, match="no weight_map"):
            Shards(tmp_path)
    twice = '{"weight_map":{"a":"x","a":"y"}}'
    for text, message in (("<html>", "web page"), (twice, "twice"), ("{", "JSON"), ("[1]", "no index of shards")):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(FormatError, match=message):
            Shards(tmp_path)
