"""Where a file came from, inside the file where it has room (PNG), beside it elsewhere. Holds no time: a replay is byte-equal."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from morphogen.errors import FormatError
from morphogen.files import read_json, write_bytes

KEYWORD = b"morphogen"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def sidecar(path: Path) -> Path:
    """Where the stamp of a file without room for one lies."""
    return path.with_name(path.name + ".provenance.json")


def stamp(path: Path, facts: dict[str, Any], *, settled: bool = True) -> None:
    """Write `facts` into a PNG (an iTXt chunk; pixels untouched) or into the sidecar of any other file.

    `settled`: whole or not at all, and on disk; without it the file is one that nobody sees yet.
    """
    put = write_bytes if settled else Path.write_bytes
    if path.suffix.lower() != ".png":
        text = json.dumps({**facts, "sha256": hash_file(path)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        put(sidecar(path), text.encode())
        return
    data = path.read_bytes()
    if data[:8] != SIGNATURE:
        raise FormatError("not a PNG file", where=path, remedy="its name says PNG")
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
    body = b"iTXt" + KEYWORD + b"\0\0\0\0\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = 8 + 25  # the signature and the IHDR chunk, which must stay first
    put(path, data[:end] + chunk + data[end:])


def restamp(path: Path, facts: dict[str, Any]) -> None:
    """Replace the stamp of a file by `facts`."""
    if path.suffix.lower() == ".png":
        kept = [
            (kind, body) for kind, body in _chunks(path.read_bytes(), path) if not (kind == b"iTXt" and body.startswith(KEYWORD + b"\0"))
        ]
        packed = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in kept]
        write_bytes(path, SIGNATURE + b"".join(packed))
    stamp(path, facts)


def read(path: Path) -> dict[str, Any]:
    """The stamp of a file. Raises FormatError when it has none, or when a sidecar does not match its file."""
    path = Path(path)
    if path.suffix.lower() == ".png" and path.is_file():
        for kind, body in _chunks(path.read_bytes(), path):
            if kind == b"iTXt" and body.startswith(KEYWORD + b"\0"):
                return _object(body[len(KEYWORD) + 5 :], path)
    elif sidecar(path).is_file() and path.is_file():
        facts = _checked(read_json(sidecar(path)), path)
        if facts.pop("sha256", None) != hash_file(path):
            raise FormatError("the file was changed after it was made", where=path, remedy="its provenance no longer applies")
        return facts
    raise FormatError("no provenance found", where=path, remedy="only files written by morphogen generate carry it")


def _object(text: bytes, path: Path) -> dict[str, Any]:
    try:
        return _checked(json.loads(text), path)
    except (ValueError, RecursionError):
        raise FormatError("its provenance cannot be read", where=path, remedy="the file is damaged: generate it again") from None


def _checked(facts: Any, path: Path) -> dict[str, Any]:
    if not isinstance(facts, dict):
        raise FormatError("its provenance is none", where=path, remedy="the file is damaged: generate it again")
    return facts


def _chunks(data: bytes, path: Path) -> list[tuple[bytes, bytes]]:
    at, out = 8, []
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + size > len(data):
            raise FormatError("damaged PNG", where=f"{path}: byte {at}", remedy="generate it again")
        out.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return out


def environment() -> dict[str, Any]:
    """What bit-equality of training depends on: versions, threads, instruction set."""
    import torch

    return {**build(), "threads": torch.get_num_threads(), "cores": os.cpu_count() or 0}


def build() -> dict[str, Any]:
    """The part of it that is the same for every run on this machine: versions and instruction set. No names of users or hosts."""
    import torch

    from morphogen import __version__

    return {
        "morphogen": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": version("numpy"),
        "pillow": version("pillow"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "isa": os.environ.get("ATEN_CPU_CAPABILITY", "") or os.environ.get("ONEDNN_MAX_CPU_ISA", "") or "default",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def hash_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def hash_data(files: tuple[Path, ...], root: Path, known: Mapping[Path, bytes] = MappingProxyType({})) -> str:
    """One hash over names and contents of a listing; `known`: hashes of files that were read already."""
    digest = hashlib.sha256()
    for file in files:
        own = known[file].hex() if file in known else hash_file(file)
        digest.update(f"{file.relative_to(root).as_posix()}\0{own}\n".encode("utf-8", "surrogateescape"))  # a name may be any bytes
    return digest.hexdigest()
