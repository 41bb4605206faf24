"""Hashes and stamps of odd files."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from morphogen.errors import FormatError
from morphogen.trust import provenance


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="names are text there")
def test_a_file_name_may_be_any_bytes(tmp_path: Path) -> None:
    files = [tmp_path / os.fsdecode(name) for name in (b"caf\xe9.txt", b"caf\xea.txt")]
    for file in files:
        file.write_text("x")
    assert provenance.hash_data((files[0],), tmp_path) != provenance.hash_data((files[1],), tmp_path)


def test_a_changed_file_is_refused_by_its_sidecar(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n1\n")
    provenance.stamp(file, {"seed": 1})
    assert provenance.read(file) == {"seed": 1}
    file.write_text("a\n2\n")
    with pytest.raises(FormatError, match="changed after it was made"):
        provenance.read(file)
