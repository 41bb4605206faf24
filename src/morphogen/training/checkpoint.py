"""Checkpoints that exist wholly or not at all: one safetensors file and a manifest with its hash, in a folder that appears by rename."""
from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from morphogen.errors import FormatError, ResourceError
from morphogen.files import new_folder
from morphogen.formats.shards import write_file
from morphogen.training import sharded

KEEP = 2
STATE, MANIFEST = "state.safetensors", "manifest.json"


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> Path:
    """Save `tensors` and JSON `facts` as folder/step-N; only the one before it stays beside it. Raises ResourceError."""
    target = folder_of(folder, step)
    if target.is_dir() and verified(target) is not None:  # a step's state is a function of the step: it is there already
        return target
    with new_folder(target) as temporary:
        with (temporary / STATE).open("wb") as file:
            hashed = Hashed(file)
            write_file(hashed, _untied(tensors))  # type: ignore[arg-type]
        seal(temporary, {"step": step, "sha256": hashed.digest.hexdigest(), "bytes": hashed.size, "facts": facts})
    prune(folder, target)
    return target


def folder_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def seal(place: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with a hash of itself."""
    text = json.dumps({**manifest, "seal": _seal(manifest)}, indent=2, allow_nan=False)
    (place / MANIFEST).write_text(text, encoding="utf-8")


def prune(folder: Path, target: Path) -> None:
    """Keep a new checkpoint and the one before it. What counts more steps was found damaged, or we would have gone on from there."""
    before = [p for p in _all(folder) if p.name < target.name][: KEEP - 1]
    for old in _all(folder):
        if old != target and old not in before:
            shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> tuple[Mapping[str, Tensor], dict[str, Any], list[str]] | None:
    """(tensors, facts, warnings) of the newest checkpoint whose hashes verify, or None when there is none at all.

    Raises FormatError when checkpoints exist but none of them is whole.
    """
    found, warnings = _all(folder), []
    for path in found:
        try:
            manifest = _manifest(path)
            if "files" in manifest:
                sharded.check(path, manifest)
                return sharded.Pieces(path, manifest), manifest["facts"], warnings
            blob = (path / STATE).read_bytes()
            if hashlib.sha256(blob).hexdigest() != manifest["sha256"]:
                raise ValueError("hash differs")
            tensors = dict(sorted(load(blob).items()))  # the reader has no order, and processes must agree on one
            return tensors, manifest["facts"], warnings
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.append(f"checkpoint {path.name} is damaged ({error}); trying the one before")
    if found:
        raise FormatError("no checkpoint is whole", where=folder, remedy="train again without --resume")
    return None


def check_room(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises ResourceError when the disk has no room for two checkpoints and the one being written."""
    needed = (KEEP + 1) * sum(t.numel() * t.element_size() for t in tensors.values())
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        what = f"checkpoints need {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free"
        raise ResourceError(what, where=folder, remedy="free space, choose another place or a smaller --size")


def _all(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _manifest(path: Path) -> dict[str, Any]:
    """A manifest as it was written. Raises OSError, ValueError, KeyError or TypeError."""
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if manifest.pop("seal") != _seal(manifest):
        raise ValueError("its manifest was changed")
    return manifest


def verified(path: Path) -> dict[str, Any] | None:
    """The manifest of a whole checkpoint, or None."""
    try:
        manifest = _manifest(path)
        if "files" in manifest:
            sharded.check(path, manifest)
            return manifest
        with (path / STATE).open("rb") as file:
            return manifest if hashlib.file_digest(file, "sha256").hexdigest() == manifest["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _untied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights as tensors of their own: a state is read back name by name."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        out[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return out


class Hashed:
    """A file that is hashed as it is written: a disk that keeps less than it was given is found out."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)
