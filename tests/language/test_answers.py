"""A language model's answers in files: resumed, stamped, and made again."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from morphogen import api
from morphogen.api.answers import answer, answers
from morphogen.api.common import Watch
from morphogen.errors import FormatError
from morphogen.language import load
from morphogen.trust import provenance

WORDS = ("quick", "brown", "fox", "jumps", "over", "lazy", "dog", "small", "model", "words", "café")
PROMPTS = [{"prompt": f"the {word}"} for word in WORDS]


@pytest.fixture()
def place(llama: tuple[Path, Any], tmp_path: Path) -> Path:
    """A folder with a model and prompts of its own, so that ways from file to file are short."""
    shutil.copytree(llama[0], tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return tmp_path


def test_answers_to_a_file_of_prompts_are_made_again(place: Path) -> None:
    out, model = place / "answers.jsonl", load(place / "model")
    answers(model, place / "prompts.jsonl", out, temperature=0.9, seed=3, max_tokens=6, logit_bias={5: 2.0})
    facts = provenance.read(out)
    assert facts["asked"]["seed"] == 3 and facts["run"] == "model" and facts["asked"]["input"]["file"] == "prompts.jsonl"
    assert str(place) not in json.dumps(facts)
    again = api.replay(out, place / "again.jsonl")
    assert again.read_bytes() == out.read_bytes() and provenance.read(again)["asked"] == facts["asked"]
    shutil.move(place / "model", place / "moved")
    with pytest.raises(FormatError, match="is not there.*--run"):
        api.replay(out, place / "third.jsonl")
    assert api.replay(out, place / "third.jsonl", run=place / "moved").read_bytes() == out.read_bytes()
    (place / "prompts.jsonl").write_text('{"prompt": "another"}\n')
    with pytest.raises(FormatError, match="gone or changed"):
        api.replay(out, place / "fourth.jsonl", run=place / "moved")
    (place / "moved" / "config.json").write_text((place / "moved" / "config.json").read_text() + "\n")
    with pytest.raises(FormatError, match="another model lies there"):
        api.replay(out, place / "fourth.jsonl", run=place / "moved")
    assert not (place / "fourth.jsonl").exists()


def test_one_answer_is_made_again_and_differences_are_told(place: Path) -> None:
    out, heard = place / "answer.txt", []

    class Ear(Watch):
        def say(self, line: str, kind: str = "info") -> None:
            heard.append(line)

    found = answer(load(place / "model"), "the quick", out, seed=1, max_tokens=8, stop=["\n\n"])
    assert out.read_text() == found[0].text + "\n"
    assert api.replay(out, place / "again.txt", watch=Ear()).read_bytes() == out.read_bytes() and not heard
    facts = provenance.read(out)
    out.write_text("something else\n")
    provenance.stamp(out, {**facts, "made_with": {**facts["made_with"], "torch": "1.0"}})
    api.replay(out, place / "again.txt", force=True, watch=Ear())
    assert any(line.startswith("torch: 1.0 then") for line in heard)


def test_what_was_asked_can_be_left_out(place: Path) -> None:
    out = place / "answer.txt"
    answer(load(place / "model"), "a secret", out, metadata=False, seed=1, max_tokens=4, regex="(yes|no)")
    assert "secret" not in provenance.sidecar(out).read_text() and provenance.read(out)["asked"] == {"seed": 1, "max_tokens": 4}
    with pytest.raises(FormatError, match="what was asked was left out"):
        api.replay(out, place / "again.txt")
    rows = answers(load(place / "model"), place / "prompts.jsonl", place / "answers.jsonl", metadata=False, max_tokens=2)
    assert all(set(json.loads(line)) == {"text", "reason", "tokens"} for line in rows.read_text().splitlines())


@pytest.mark.parametrize(
    "change", [{"asked": None}, {"run": 3}, {"made_with": None}, {"asked": {"seed": 1}}, {"asked": {"prompt": "x", "force": True}}]
)
def test_a_damaged_stamp_is_one_line(place: Path, change: dict[str, Any]) -> None:
    out = place / "answer.txt"
    answer(load(place / "model"), "the quick", out, seed=1, max_tokens=2)
    provenance.stamp(out, {**provenance.read(out), **change})
    with pytest.raises(FormatError, match="damaged") as caught:
        api.replay(out, place / "again.txt")
    assert "\n" not in str(caught.value) and not (place / "again.txt").exists()


def test_a_begun_file_goes_on_only_with_the_same_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = load(place / "model"), place / "answers.jsonl"
    whole = answers(model, place / "prompts.jsonl", place / "whole.jsonl", seed=2, max_tokens=4).read_bytes()
    real, drawn = model.answers, []

    def cut(prompts: Any, **options: Any) -> Any:
        drawn.append(len(prompts))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return real(prompts, **options)

    monkeypatch.setattr(model, "answers", cut)
    with pytest.raises(KeyboardInterrupt):
        answers(model, place / "prompts.jsonl", out, seed=2, max_tokens=4)
    assert not out.exists()
    answers(model, place / "prompts.jsonl", out, seed=2, max_tokens=4)
    assert out.read_bytes() == whole and drawn == [8, 3, 3]  # the first eight were there
