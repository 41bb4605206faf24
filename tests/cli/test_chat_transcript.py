"""Conversations: what fits, what is kept, what files are refused."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.cli.terminal.transcript import Transcript, fitting, load, markdown, save
from morphogen.errors import DataError, FormatError, MorphogenError


def talk(*lengths: int, system: int = 0) -> Transcript:
    made = Transcript(system="s" * system)
    for i, length in enumerate(lengths):
        made.messages.append({"role": ("user", "assistant")[i % 2], "content": "x" * length})
    return made


def count(messages: list[dict]) -> int:
    return sum(len(m["content"]) + 2 for m in messages)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=15).filter(lambda n: len(n) % 2), st.integers(20, 200), st.integers(0, 20))
def test_the_fewest_oldest_turns_are_left_out(lengths: list[int], context: int, system: int) -> None:
    made = talk(*lengths, system=system)
    room, turns = context // 4, len(made.turns())
    fits = [n for n in range(turns) if count(made.sent(n)) + room <= context]
    try:
        left_out, used = fitting(made, count, context, None)
    except DataError as error:
        assert not fits and count(made.sent(turns - 1)) >= context and f"{context:,}" in error.line()
        return
    assert used == count(made.sent(left_out)) < context
    assert left_out == (fits[0] if fits else turns - 1)
    sent = made.sent(left_out)
    assert (sent[0]["role"] == "system") == bool(system) and sent[-1] == made.messages[-1]


def test_a_wish_for_long_answers_makes_room_at_most_half() -> None:
    assert fitting(talk(20, 20, 20), count, 100, 50) == (1, 22)
    assert fitting(talk(20, 20, 20), count, 100, 10_000) == (1, 22)
    assert fitting(talk(20, 20, 20), count, 100, 20) == (0, 66)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    made = Transcript(system="be brief")
    made.messages = [{"role": "user", "content": "hé 🌱\n\x1b"},
                     {"role": "assistant", "content": "so", "stopped": True, "seed": 3, "tokens": 1}]
    save(made, tmp_path / "a.json", model="m", options={"temperature": 0.7}, schema={"type": "object"})
    back, options, schema = load(tmp_path / "a.json")
    assert (back.system, back.messages, options, schema) == (made.system, made.messages, {"temperature": 0.7}, {"type": "object"})
    assert back.undo() and back.messages == [] and not back.undo()
    save(made, tmp_path / "a.md", model="m", options={})
    assert "be brief" in (tmp_path / "a.md").read_text() and "Model (stopped)" in markdown(made, "m")


GOOD = {"format": "morphogen chat", "version": 1, "model": "m", "options": {}, "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize("text, word", [
    ("", "JSON"), ("[]", "messages"), ("{}", "messages"), ('{"messages": 3}', "messages"), ('{"messages": [], "messages": []}', "twice"),
    ('{"messages": [NaN]}', "NaN"), ("[" * 100_000, ""), (json.dumps(GOOD | {"version": 2}), "version"),
    (json.dumps(GOOD | {"extra": 1}), "extra"), (json.dumps(GOOD | {"options": []}), "options"),
    (json.dumps(GOOD | {"messages": [{"role": "root", "content": ""}]}), "message 1"),
    (json.dumps(GOOD | {"messages": [{"role": "user", "content": 3}]}), "message 1"),
    (json.dumps(GOOD | {"messages": [{"role": "user", "content": "", "x": 1}]}), "'x'"),
    (json.dumps(GOOD | {"messages": [{"role": "assistant", "content": ""}]}), "turns"),
    (json.dumps(GOOD | {"messages": [{"role": "user", "content": "", "seed": True}]}), "seed"),
])
def test_what_is_no_conversation_is_refused_in_one_line(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FormatError) as got:
        load(path)
    assert word in got.value.line() and "\n" not in got.value.line()


def test_rows_of_messages_load_too_and_an_open_question_is_left_to_the_person(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant", "user")]}))
    made, _, _ = load(path)
    assert made.system == "system" and [m["role"] for m in made.messages] == ["user", "assistant"]
    with pytest.raises(MorphogenError, match="no such file"):
        load(tmp_path / "none.json")
