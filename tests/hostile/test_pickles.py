"""Forty files that would run code when a pickle reader opens them, under every name a person may give: none does."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import morphogen
from morphogen.errors import MorphogenError
from morphogen.plan import make_plan
from morphogen.run import Run
from morphogen.tokens.load import load_tokenizer


class _Bomb:
    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return open, (self.canary, "w")


def bombs(canary: Path) -> dict[str, bytes]:
    """name -> bytes; opening one as a pickle makes the canary."""
    raw = {n: pickle.dumps(_Bomb(str(canary)), n) for n in range(6)}
    whole = raw[2]
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Bomb(str(canary))], object), allow_pickle=True)
    npy = buffer.getvalue()

    def zipped(*members: tuple[str, bytes]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, data in members:
                file.writestr(name, data)
        return out.getvalue()

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("data.pkl")
        info.size = len(whole)
        tar.addfile(info, io.BytesIO(whole))
    torch_zip = zipped(("archive/data.pkl", whole), ("archive/version", b"3\n"), ("archive/data/0", bytes(64)))
    found = {f"protocol{n}{end}": raw[n] for n, end in enumerate((".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin"))}
    found |= {f"torch{end}": torch_zip for end in (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".gguf", ".zip", ".mar")}
    found |= {
        f"plain{end}": whole
        for end in (
            ".safetensors",
            ".gguf",
            ".json",
            ".csv",
            ".tsv",
            ".jsonl",
            ".parquet",
            ".txt",
            ".png",
            ".abc",
            ".mid",
            ".smi",
            ".sok",
            ".toml",
            ".mgc",
            "",
        )
    }
    found |= {
        "array.npy": npy,
        "arrays.npz": zipped(("a.npy", npy)),
        "model.joblib": whole,
        "packed.pkl.gz": gzip.compress(whole),
        "packed.pkl.bz2": bz2.compress(whole),
        "packed.pkl.xz": lzma.compress(whole),
        "set.tar": out.getvalue(),
        "PYTORCH_MODEL.BIN": torch_zip,
        "tokenizer.model": whole,
        "behind.safetensors": (8).to_bytes(8, "little") + b"{}      " + whole,
        "doubled.pt": bytes(16) + whole,
    }
    return found


NAMES = sorted(bombs(Path("x")))


def readers(folder: Path, file: Path) -> list[Callable[[], object]]:
    """Every way into the package that a path can take."""
    return [
        lambda: morphogen.load(file),
        lambda: morphogen.load(folder),
        lambda: morphogen.inspect(file),
        lambda: make_plan(folder),
        lambda: Run.load(folder).model(),
        lambda: load_tokenizer(file),
        lambda: load_tokenizer(folder),
        lambda: morphogen.decompress(file, folder, folder / "out"),
    ]


def test_there_are_forty_and_they_would_go_off(tmp_path: Path) -> None:
    assert len(NAMES) >= 40
    pickle.loads(bombs(tmp_path / "canary")["protocol2.pt"]).close()
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", NAMES)
def test_sec_no_pickle_is_executed(tmp_path: Path, name: str) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(bombs(canary)[name])
    for read in readers(folder, folder / name):
        with pytest.raises(MorphogenError) as error:
            read()
        assert str(error.value).isprintable() and error.value.code != "internal"
        assert not canary.exists() and [p.name for p in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt"])
def test_sec_weights_in_a_pickle_beside_a_config_are_named_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bombs(tmp_path.parent / "canary")["torch.pt"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(MorphogenError, match="pickle"):
        morphogen.load(tmp_path)
