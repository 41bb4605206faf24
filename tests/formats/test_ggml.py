"""GGUF files whose metadata or stacks claim what no model has."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch

from morphogen.errors import FormatError
from morphogen.formats.ggml import open_gguf
from morphogen.formats.gguf import write_gguf


def test_sec_an_architecture_is_a_word(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", {"general.architecture": ["llama"]}, {"a": (torch.ones(32), "F32")})
    with pytest.raises(FormatError, match="is not supported in GGUF"):
        open_gguf(tmp_path / "a.gguf")


def test_sec_a_stack_of_a_million_experts_takes_no_memory(tmp_path: Path) -> None:
    stack = torch.ones(1 << 18, 1, 1)
    metadata = {"general.architecture": "llama", "llama.expert_count": 2}
    write_gguf(tmp_path / "a.gguf", metadata, {"blk.0.ffn_up_exps.weight": (stack, "F16")})
    tracemalloc.start()
    with pytest.raises(FormatError):
        open_gguf(tmp_path / "a.gguf")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 << 20
    many = {f"blk.{i}.ffn_up_exps.weight": (torch.ones(4096, 1, 1), "F16") for i in range(128)}
    write_gguf(tmp_path / "b.gguf", metadata, many)
    with pytest.raises(FormatError, match="tensors and experts"):
        open_gguf(tmp_path / "b.gguf")
