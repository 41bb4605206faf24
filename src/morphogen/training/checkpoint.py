"""Checkpoints that exist wholly or not at all: one safetensors file and a manifest with its hash, in a folder that appears by rename."""
from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from morphogen.errors import FormatError
from morphogen.files import new_folder

KEEP = 2


def write(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Save `tensors` and JSON `facts` as folder/step-N; older ones beyond the last two go. Raises ResourceError."""
    blob = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    manifest = {"step": step, "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob), "facts": facts}
    target = folder / f"step-{step:09d}"
    with new_folder(target) as temporary:
        (temporary / "state.safetensors").write_bytes(blob)
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """(tensors, facts, warnings) of the newest checkpoint whose hash verifies, or None when there is none at all.

    Raises FormatError when checkpoints exist but none of them is whole.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    warnings = []
    for path in found:
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            blob = (path / "state.safetensors").read_bytes()
            if hashlib.sha256(blob).hexdigest() != manifest["sha256"]:
                raise ValueError("hash differs")
            return load(blob), manifest["facts"], warnings
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            warnings.append(f"checkpoint {path.name} is damaged ({error}); trying the one before")
    if found:
        raise FormatError("no checkpoint is whole", where=folder, remedy="train again without --resume")
    return None
