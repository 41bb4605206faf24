"""Safetensors, in one file or in shards with an index: read lazily from mapped files after a strict check, written atomically."""

from __future__ import annotations

import json
import mmap
import os
import re
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from morphogen.errors import DataError, FormatError, ResourceError, UsageError
from morphogen.files import new_file, write_json
from morphogen.formats.header import BYTES, LARGEST_INDEX, MOST_TENSORS, Entry, map_file, read_header, strict_json
from morphogen.formats.recognise import PICKLES, refuse_foreign, regular_file, short

NAME = "model.safetensors"
TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16,
    "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64,
    "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in TORCH.items()}


class Shards(Mapping[str, Tensor]):
    """Tensors by name over `model.safetensors` or `model.safetensors.index.json`, of a folder or a file.

    Nothing is read before it is asked for. A tensor shares the pages of the mapped file (aligned ones; others are copied). The map
    is private: changing a tensor in place never changes the file. Tensors of a shard that the index does not name are left out.
    `shapes`, `dtypes`: of every tensor, without touching it. `metadata`: text by name, as the files say. `files`: what was read.
    Raises DataError when there is nothing to read, FormatError naming the tensor or shard when it is damaged or unsafe.
    """

    def __init__(self, path: Path | str) -> None:
        source = find_weights(Path(path).expanduser())
        self.path, self.metadata = source, {}
        self._entries: dict[str, tuple[Entry, mmap.mmap]] = {}
        wanted = read_index(source) if source.name.endswith(".json") else {source.name: None}
        self.files = [source.parent / name for name in wanted]
        for file, names in zip(self.files, wanted.values()):
            if names is not None and not file.exists():
                raise FormatError(f"the shard {short(file.name)} is missing", where=source, remedy="fetch all files of the model")
            data = map_file(file)
            entries, metadata = read_header(data, file)
            self.metadata |= metadata
            for name in entries if names is None else names:
                if name not in entries:
                    what = f"the index names the tensor {short(name)}, which {short(file.name)} does not hold"
                    raise FormatError(what, where=source, remedy="index and shards are of different models: fetch them again")
                self._entries[name] = entries[name], data
        self.shapes = {name: entry.shape for name, (entry, _) in self._entries.items()}
        self.dtypes = {name: TORCH[entry.dtype] for name, (entry, _) in self._entries.items()}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._entries:
            raise FormatError(f"there is no tensor {short(name)}", where=self.path, remedy="the files are of another model")
        entry, data = self._entries[name]
        dtype, size = TORCH[entry.dtype], BYTES[entry.dtype]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        if dtype == torch.bool:  # a byte of 7 in a bool tensor is undefined behaviour
            return torch.frombuffer(data, dtype=torch.uint8, count=entry.end - entry.start, offset=entry.start).ne(0).view(entry.shape)
        if entry.start % size:
            return torch.frombuffer(bytearray(data[entry.start : entry.end]), dtype=dtype).view(entry.shape)
        return torch.frombuffer(data, dtype=dtype, count=(entry.end - entry.start) // size, offset=entry.start).view(entry.shape)

    def get(self, name: str, default: Any = None) -> Any:
        """The tensor, or `default` where there is none (a missing name is a FormatError elsewhere, not a KeyError)."""
        return self[name] if name in self._entries else default

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def find_weights(path: Path) -> Path:
    """The file to begin with: a .safetensors file or an index. Raises DataError or FormatError saying what lies there instead."""
    if not path.is_dir():
        regular_file(path)
        if path.suffix == ".json" and not path.name.endswith(".safetensors.index.json"):
            raise FormatError("not an index of shards", where=path, remedy="give the model's folder")
        return path
    for pattern in (NAME, NAME + ".index.json", "*.safetensors.index.json", "*.safetensors"):
        found = sorted(p for p in path.glob(pattern) if p.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(p.name for p in found[:4])
            raise FormatError(f"{len(found)} models lie there ({names})", where=path, remedy="give one of the files")
    for file in sorted(path.iterdir()):
        if file.suffix in PICKLES:
            what = f"the weights are in {short(file.name)}, a pickle file, which can run code when it is opened"
            raise FormatError(what, where=path, remedy="convert it to safetensors elsewhere")
        if file.suffix == ".gguf":
            raise FormatError("a GGUF file lies there", where=path, remedy=f"give the file itself: {file.name}")
    raise FormatError("no model.safetensors", where=path, remedy="give the folder of a model")


def read_index(path: Path) -> dict[str, list[str]]:
    """Names of tensors by shard. Raises FormatError for shards outside the index's own folder."""
    try:
        with path.open("rb") as file:
            blob = file.read(LARGEST_INDEX + 1)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path, remedy="check the file and your rights") from None
    if blob.lstrip()[:1] != b"{":
        raise refuse_foreign(blob[:512], path, "index of shards")
    if len(blob) > LARGEST_INDEX:
        raise FormatError(f"the index is larger than {LARGEST_INDEX >> 20} MiB", where=path, remedy="fetch it again")
    index = strict_json(blob, path)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise FormatError("the index has no weight_map", where=path, remedy="fetch it again")
    shards: dict[str, list[str]] = {}
    for name, file in weights.items():
        # Only a plain name: no folder, no drive, no stream, so that nothing outside of the model's folder is ever opened.
        if not isinstance(file, str) or not file.endswith(".safetensors") or any(c in file for c in '/\\:\0') or not 12 < len(file) < 256:
            what = f"weight_map sends the tensor {short(name)} to {short(file)}"
            raise FormatError(what, where=path, remedy="only .safetensors files beside the index are read")
        shards.setdefault(file, []).append(name)
    return shards


# ---------------------------------------------------------------- writing
def write_shards(folder: Path | str, tensors: Mapping[str, Tensor], *, limit_bytes: int = 5 << 30) -> list[Path]:
    """Write `model.safetensors`, or shards of at most `limit_bytes` and their index; returns the files of weights.

    Tensors that are the same memory (tied weights) are written once, under the first of their names. Tensors are written one
    after the other, without a second copy of the model. An older model in the folder is replaced, never mixed with this one.
    Raises UsageError for what the format cannot hold, ResourceError when the disk refuses.
    """
    folder = Path(folder)
    plan = _plan(tensors, limit_bytes)
    names = [NAME] if len(plan) == 1 else [f"model-{i + 1:05}-of-{len(plan):05}.safetensors" for i in range(len(plan))]
    index = folder / (NAME + ".index.json")
    if len(plan) == 1:  # readers look for this file first: from here on it is the model
        with new_file(folder / NAME) as file:
            _write_file(file, tensors, plan[0])
        _remove(folder, names, index)
        return [folder / NAME]
    staged = [folder / f".{name}.part" for name in names]
    try:
        for path, shard in zip(staged, plan):
            with new_file(path) as file:
                _write_file(file, tensors, shard)
        # Without its index an older sharded model is no model: a stop between these renames leaves none, never a mixture.
        _remove(folder, names, index)
        for part, name in zip(staged, names):
            os.replace(part, folder / name)
    except OSError as error:
        raise ResourceError(f"cannot write ({error.strerror or error})", where=folder, remedy="choose another place") from None
    finally:
        for part in staged:
            part.unlink(missing_ok=True)
    total = sum(entry.end - entry.start for shard in plan for entry in shard.values())
    where = {name: file for file, shard in zip(names, plan) for name in shard}
    write_json(index, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})
    return [folder / name for name in names]


def write_file(file: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file bit by bit into an open file, with no copy of the whole. Raises UsageError for what it cannot hold."""
    _write_file(file, tensors, _plan(tensors, sys.maxsize)[0])


def _remove(folder: Path, keep: list[str], index: Path) -> None:
    """Take away the index and the files of an older model, except those about to be replaced."""
    index.unlink(missing_ok=True)
    for old in folder.glob("model*.safetensors"):
        if old.name not in keep and re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", old.name):
            old.unlink()


def _plan(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Entry]]:
    """Which tensor goes into which shard and where, in the order given; inside a shard wide types first, so that all are aligned."""
    if not tensors or len(tensors) > MOST_TENSORS:
        raise UsageError(f"{len(tensors)} tensors cannot be written", remedy=f"give 1 to {MOST_TENSORS}")
    groups: list[dict[str, tuple[str, tuple[int, ...], int]]] = [{}]
    seen: dict[tuple[Any, ...], weakref.ref[Tensor]] = {}
    used = 0
    for name, tensor in tensors.items():
        if name == "__metadata__" or tensor.dtype not in _NAMES or tensor.layout != torch.strided or tensor.is_meta:
            what = f"tensor {short(name)} ({str(tensor.dtype).removeprefix('torch.')}, {tensor.device}) cannot be written"
            raise UsageError(what, remedy="safetensors holds dense tensors of " + ", ".join(BYTES))
        same = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        size = tensor.numel() * tensor.element_size()
        tied = seen.get(same)
        # A mapping may make its tensors when asked, at addresses that are used again: only what still lives is shared.
        if size and tied is not None and tied() is not None:
            continue
        seen[same] = weakref.ref(tensor)
        if groups[-1] and used + size > limit:
            groups.append({})
            used = 0
        groups[-1][name] = _NAMES[tensor.dtype], tuple(tensor.shape), size
        used += size
    plan = []
    for group in groups:
        at, shard = 0, {}
        for name, (dtype, shape, size) in sorted(group.items(), key=lambda pair: (-BYTES[pair[1][0]], pair[0])):
            shard[name] = Entry(dtype, shape, at, at + size)
            at += size
        plan.append(shard)
    return plan


def _write_file(file: BinaryIO, tensors: Mapping[str, Tensor], shard: dict[str, Entry]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header |= {name: {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [e.start, e.end]} for name, e in shard.items()}
    blob = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    blob += b" " * (-len(blob) % 8)
    file.write(len(blob).to_bytes(8, "little") + blob)
    for name, entry in shard.items():
        if entry.end > entry.start:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(flat.numpy().data)
