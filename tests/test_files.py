"""Where an output may go: never over or into an input, never over what would be lost by it."""
from __future__ import annotations

from pathlib import Path

import pytest

from morphogen.errors import UsageError
from morphogen.files import check_output, nearby


def test_an_output_that_holds_the_input_is_not_replaced(tmp_path: Path) -> None:
    """`decompress here/a.mgc --out here --force` would take away what it reads."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.mgc").write_bytes(b"x")
    with pytest.raises(UsageError, match="inside the output"):
        check_output(tmp_path / "here", force=True, inputs=(tmp_path / "here" / "a.mgc",))
    check_output(tmp_path / "here" / "b", inputs=(tmp_path / "here" / "a.mgc",))


def test_nothing_is_put_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    with pytest.raises(UsageError, match="a file, so that nothing can be put into it"):
        check_output(tmp_path / "rows.csv" / "runs" / "x")


def test_an_output_is_not_its_input(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="the output is the input"):
        check_output(tmp_path / "b" / ".." / "a.png", force=True, inputs=(tmp_path / "a.png",))
    check_output(tmp_path / "b.png", inputs=([1, 2], None, object()))  # what is no path is no place


def test_the_name_beside_it_is_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert nearby(tmp_path / "digts") == "did you mean 'digits'?" and nearby(tmp_path / "no" / "where") == "check the path"
