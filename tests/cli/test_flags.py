"""Flags of the command line: nothing that is said is passed over, and what is wrong is one line before any work."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from morphogen.cli import main


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """(exit code, the one line on stderr) of a command that must not succeed."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and stop.value.code, (stop.value.code, out, err)
    return int(stop.value.code), err


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a family without top_k."""
    import morphogen

    folder = tmp_path_factory.mktemp("flags")
    (folder / "rows.csv").write_text("kind,size\n" + "".join(f"{'ab'[i % 2]},{i % 7}.5\n" for i in range(40)))
    morphogen.train(folder / "rows.csv", folder / "run", family="cart")
    return folder / "run"


@pytest.mark.parametrize("flag", ["--top-k", "--top-p", "--min-p", "--temperature"])
def test_choices_of_tokens_are_refused_where_no_tokens_are_chosen(
    flag: str, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, "generate", lines, "--out", tmp_path / "a.csv", flag, "1")
    assert code == 2 and f"cart has no {flag}" in said and not list(tmp_path.iterdir())


def test_choices_of_tokens_reach_the_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from morphogen import api

    heard: dict[str, Any] = {}
    monkeypatch.setattr(api, "generate", lambda *_, **more: heard.update(more) or [])
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path), "--out", str(tmp_path / "x"), "--top-k", "3", "--temperature", "0.5"])
    assert {k: v for k, v in heard["sampling"].items() if v is not None} == {"top_k": 3, "temperature": 0.5}


@pytest.mark.parametrize("flag", [["--cond", "a=b"], ["--valid"], ["--steps", "3"], ["--guidance", "2"], ["--batch", "2"]])
def test_flags_of_drawing_are_refused_with_a_prompt(flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "generate", tmp_path, "--prompt", "once", *flag)
    assert code == 2 and f"{flag[0]} is for things drawn from a run" in said


def test_a_flag_said_twice_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "train", "data", "--out", "run", "--steps", "5", "--steps", "6")
    assert code == 2 and "multiple times: see morphogen train --help" in said


def test_a_run_that_is_not_there_is_looked_for_beside(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "generate", lines.with_name("runn"), "--out", "x.csv")
    assert code == 4 and "no such run folder" in said and "did you mean 'run'?" in said
