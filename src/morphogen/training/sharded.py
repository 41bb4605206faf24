"""Checkpoints written by several processes: a safetensors file each, one manifest that says where every part belongs.

They are read on any number of processes: parts are put together by their offsets, never by who wrote them.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from morphogen.errors import ResourceError
from morphogen.files import new_folder
from morphogen.formats.shards import write_file

NAME = "state-{:05d}-of-{:05d}.safetensors"


def write(crew: Any, folder: Path, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
    """Save parts and JSON `facts` as folder/step-N: whole, or not at all when any process fails. Raises ResourceError in all.

    `crew`: `parallel.Crew`. Whole tensors, which all processes hold alike, are dealt out among them by size.
    """
    from morphogen.training import checkpoint

    target = checkpoint.folder_of(folder, step)
    if crew.once(lambda: target.is_dir() and checkpoint.verified(target) is not None):
        return
    with contextlib.ExitStack() as stack:
        place = Path(crew.once(lambda: str(stack.enter_context(new_folder(target)))))
        parts = crew.collect(_write_part(place, crew.rank, crew.world, tensors))
        for part in parts:
            if "error" in part:
                raise ResourceError(part["error"], where=target, remedy="free space or choose another place")
        crew.once(lambda: checkpoint.seal(place, _manifest(step, parts, tensors, facts)))
        crew.once(stack.close)  # fsync, and the name
        crew.once(lambda: checkpoint.prune(folder, target))


def _write_part(place: Path, rank: int, world: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write this process's file; its entry in the manifest, or what went wrong: the others wait to hear it."""
    from morphogen.training.checkpoint import Hashed

    mine, offsets = {}, {}
    for name, offset, tensor in _own(rank, world, tensors):
        mine[name], offsets[name] = tensor, offset
    if not mine:
        return {"offsets": {}}
    try:
        with (place / NAME.format(rank, world)).open("xb") as file:
            hashed = Hashed(file)
            write_file(hashed, mine)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return {"error": f"cannot write ({error.strerror or error})"}
    return {"file": NAME.format(rank, world), "sha256": hashed.digest.hexdigest(), "bytes": hashed.size, "offsets": offsets}


def _own(rank: int, world: int, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, list[int], Tensor]]:
    """(name, offset, tensor) of what this process writes."""
    loads = [0] * world
    for name in sorted(tensors, key=lambda k: (-tensors[k].numel(), k)):
        tensor: Any = tensors[name].detach()
        if hasattr(tensor, "to_local"):
            from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

            _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
            local = tensor.to_local()
            if local.numel():
                yield name, list(offset), local.cpu().contiguous().clone()
            continue
        owner = loads.index(min(loads))
        loads[owner] += tensor.numel() + 1
        if owner == rank:
            yield name, [0] * tensor.ndim, tensor.cpu().contiguous().clone()


def _manifest(step: int, parts: list[Any], tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> dict[str, Any]:
    return {"step": step, "world": len(parts), "files": parts, "shapes": {k: list(t.shape) for k, t in tensors.items()}, "facts": facts}


def check(path: Path, manifest: dict[str, Any]) -> None:
    """Raises OSError, ValueError, KeyError or TypeError unless every file is there with its hash, and the parts cover every tensor."""
    for part in _files(manifest):
        with (path / Path(part["file"]).name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != part["sha256"]:
                raise ValueError(f"hash of {part['file']} differs")


def _files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in manifest["files"] if part["offsets"]]


class Pieces(Mapping[str, Tensor]):
    """Tensors of a checkpoint of several files, each put together when it is asked for: never all in memory at once."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.shapes: dict[str, list[int]] = manifest["shapes"]
        self.found: dict[str, list[tuple[Any, list[int]]]] = {name: [] for name in self.shapes}
        for part in _files(manifest):
            file: Any = safe_open(path / Path(part["file"]).name, framework="pt")
            for name, offset in part["offsets"].items():
                self.found[name].append((file, offset))
            if set(part["offsets"]) != set(file.keys()):
                raise ValueError(f"{part['file']} does not hold what the manifest says")
        for name, shape in self.shapes.items():
            sizes = [math.prod(file.get_slice(name).get_shape()) for file, _ in self.found[name]]
            if sum(sizes) != math.prod(shape):
                raise ValueError(f"parts of {name} are missing")

    def __getitem__(self, name: str) -> Tensor:
        parts = [(file.get_tensor(name), offset) for file, offset in self.found[name]]
        if not parts:  # a tensor without numbers has no part
            return torch.empty(self.shapes[name])
        out = torch.empty(self.shapes[name], dtype=parts[0][0].dtype)
        for part, offset in parts:
            out[tuple(slice(a, a + n) for a, n in zip(offset, part.shape, strict=True))] = part
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
