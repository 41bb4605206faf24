"""A chat with a scripted model: questions, commands, stops, one question from a pipe, and the whole in a terminal."""
from __future__ import annotations

import base64
import io
import json
import os
import re
import select
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest
from scripted import STORY, Scripted

from morphogen.cli import main
from morphogen.cli.terminal import input as keys
from morphogen.cli.terminal.commands import COMMANDS, RUN
from morphogen.cli.terminal.options import check, parse
from morphogen.cli.terminal.session import Chat, greet, turn
from morphogen.errors import UsageError


def chat(*answers: str, **options: object) -> Chat:
    made = Chat(Scripted(*answers, **options), file=io.StringIO())  # type: ignore[arg-type]
    made.console.width = 200
    return made


def said(made: Chat, *lines: str) -> str:
    begin = len(made.out.getvalue())  # type: ignore[attr-defined]
    for line in lines:
        turn(made, line)
    return made.out.getvalue()[begin:]  # type: ignore[attr-defined]


def test_questions_and_answers_add_up() -> None:
    made = chat("one", "two")
    out = said(made, "/system be brief", "first", "second")
    assert "one\n" in out and "two\n" in out and re.search(r"1 token · first after 0\.\d\d s · \d+% of 2,048", out)
    assert made.model.seen[1][0] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "first"},
                                     {"role": "assistant", "content": "one"}, {"role": "user", "content": "second"}]


def test_options_reach_the_model_and_seeds_count_on() -> None:
    made = chat("a")
    said(made, "/set temperature 0.7", "/set top-k 5", "/set max_tokens 9", "/seed 40", "x", "y", "/set top_k off", "/regenerate")
    assert [s["seed"] for _, s in made.model.seen] == [40, 41, 42]
    assert made.model.seen[0][1] == {"temperature": 0.7, "top_k": 5, "max_tokens": 9, "seed": 40}
    assert "top_k" not in made.model.seen[2][1]
    assert "temperature" in said(made, "/set") and "0.7" in said(made, "/set")


def test_the_answer_has_what_is_left_of_the_context() -> None:
    made = chat("a", context=100)
    said(made, "x" * 60)
    assert made.model.seen[0][1]["max_tokens"] == 100 - 13


def test_oldest_turns_are_left_out_with_a_note_and_stay_in_the_transcript() -> None:
    made = chat("word " * 20, context=100)
    out = said(made, *["question " * 4] * 5)
    assert "no longer fit in 100 tokens" in out and len(made.transcript.messages) == 10
    assert len(made.model.seen[-1][0]) < 9 and "left out" in said(made, "/tokens")


def test_a_message_too_long_is_refused_with_the_numbers_and_comes_back() -> None:
    made = chat("a", context=50)
    out = said(made, "long " * 100)
    assert "take 104 tokens and the model reads 50: shorten by at least 55 tokens" in " ".join(out.split())
    assert made.transcript.messages == [] and made.default.startswith("long") and not made.model.seen


def test_regenerate_undo_clear() -> None:
    made = chat("one", "two", "three")
    said(made, "q", "/regenerate")
    assert made.transcript.answer() == "two"
    said(made, "/undo")
    assert made.transcript.answer() == "one"
    said(made, "/clear")
    assert made.transcript.messages == []
    said(made, "/undo")
    assert made.transcript.answer() == "one"
    said(made, "/undo")
    assert made.transcript.messages == [] and "nothing to take back" in said(made, "/undo")
    assert "ask first" in said(made, "/regenerate")


def test_a_failing_model_ends_nothing() -> None:
    made = chat("fine", "!out of luck")
    assert "RuntimeError: out of luck" in said(made, "q", "again") and made.default == "again"
    assert made.transcript.answer() == "fine" and len(made.transcript.messages) == 2
    said(made, "more")
    assert "out of luck" in said(made, "/regenerate") and made.transcript.question() == "more" and made.default == ""


def test_save_and_load(tmp_path: Path) -> None:
    made, path = chat("answer"), tmp_path / "a b.json"
    said(made, "question", f"/save {path}", "/set temperature 0", f"/save '{path}'", "/save")
    assert json.loads(path.read_text())["options"] == {"temperature": 0.0}
    other = chat()
    assert "exists" in said(other, f"/save {path}") and "folder" in said(other, f"/save {tmp_path}")
    assert "answer" in said(other, f"/load {path}") and other.options == {"temperature": 0.0}
    other.options = {}
    path.write_text(path.read_text().replace('"temperature": 0.0', '"temperature": -1'))
    before = list(other.transcript.messages)
    assert "out of range" in said(other, f"/load {path}") and other.options == {} and other.transcript.messages == before
    assert "saved" in said(other, f"/save {tmp_path / 'a.md'}") and "# Conversation" in (tmp_path / "a.md").read_text()
    assert "error" not in said(other, "/load ~nobody/x").lower()


def test_schemas_reach_the_model(tmp_path: Path) -> None:
    made, path = chat('{"a": 1}'), tmp_path / "s.json"
    path.write_text('{"type": "object"}')
    said(made, f"/schema {path}", "q", "/schema off", "q")
    assert made.model.seen[0][1]["schema"] == {"type": "object"} and "schema" not in made.model.seen[1][1]
    path.write_text("[1]")
    assert "object" in said(made, f"/schema {path}") and made.schema is None


def test_copy_sends_the_clipboard_sequence() -> None:
    made = chat("text\n\n```python\nx = 1\n```\nend")
    made.console._force_terminal = True
    said(made, "q")
    assert f"\x1b]52;c;{base64.b64encode(b'x = 1').decode()}" not in said(made, "/copy")
    assert f"\x1b]52;c;{base64.b64encode(b'x = 1' + bytes([10])).decode()}\x07" in said(made, "/copy code")


@pytest.mark.parametrize("line, answer", [
    ("/sav x", "did you mean '/save'?"), ("/xyzzy", "/help"), ("/load a\nb", "one line"), ("/save", "file name"),
    ("/set heat 1", "choose one of"), ("/set temperature hot", "a number is needed"), ("/seed -1", "whole")])
def test_errors_are_one_line_and_the_chat_goes_on(line: str, answer: str) -> None:
    out = said(chat(), line)
    assert answer in out and out.count("\n") == 1


def test_every_command_has_its_line_of_help() -> None:
    assert set(RUN) == set(COMMANDS)
    out = said(chat(), "/help")
    assert all(f"/{name}" in out for name in COMMANDS)


def test_two_slashes_ask_a_question_that_begins_with_one() -> None:
    made = chat("a")
    said(made, "//etc is what?")
    assert made.transcript.question() == "/etc is what?"


def test_an_interrupt_keeps_what_was_said() -> None:
    made = chat("word " * 200, delay=0.01)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    out = said(made, "q")
    last = made.transcript.messages[-1]
    assert last["stopped"] and 3 < len(last["content"].split()) < 100 and "stopped · " in out and made.model.closed == 1
    assert last["content"].strip() in out


def test_an_interrupt_before_the_first_word_gives_the_question_back() -> None:
    made = chat("a", wait=1.0)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    out = said(made, "my question")
    assert made.default == "my question" and made.transcript.messages == [] and "question is back" in out and time.monotonic() - begun < 0.8


def test_edit_uses_the_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", sys.executable + " -c")

    def editor(command: list[str]) -> int:
        return Path(command[-1]).write_text(Path(command[-1]).read_text() + " after\n") * 0

    assert keys.edit("before", editor) == "before after"
    monkeypatch.setenv("VISUAL", "no-such-editor")
    with pytest.raises(UsageError, match="set EDITOR"):
        keys.edit("x")


def test_the_greeting_says_what_and_how_to_get_help() -> None:
    made = chat()
    made.model.template = None
    made.model.encode = lambda text: [0] * len(text)
    greet(made, "145 MB")
    out = made.out.getvalue()  # type: ignore[attr-defined]
    assert "scripted-1 · 145 MB · reads 2,048 tokens · /help" in out and "no chat template" in out
    assert made.count([{"role": "user", "content": "four"}]) == 5


@pytest.mark.parametrize("name, value", [
    ("temperature", float("nan")), ("temperature", -1), ("top_k", 1.5), ("top_p", 2), ("seed", True), ("x", 1)])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError):
        check(name, value)


def test_options_are_plain_digits() -> None:
    assert parse("top-p", "0.9") == 0.9 and parse("seed", "7") == 7
    for text in ("1_0", "٣", "1e999", ""):
        with pytest.raises(UsageError):
            parse("temperature", text)


def test_history_is_private_and_never_ends_the_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = keys.open_history(True)
    history.append_string("a question\nof two lines")
    assert stat.S_IMODE(keys.history_path().stat().st_mode) == 0o600
    assert list(keys.open_history(True).load_history_strings()) == ["a question\nof two lines"]
    keys.history_path().unlink()
    keys.history_path().mkdir()
    keys.open_history(True).append_string("lost, and that is all")


def test_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    (tmp_path / "talk.json").touch()
    monkeypatch.chdir(tmp_path)
    words = keys.Words(COMMANDS)

    def given(text: str) -> list[str]:
        return [c.text for c in words.get_completions(Document(text), CompleteEvent())]

    assert given("/se") == ["/set", "/seed"] and given("/load ta") == ["lk.json"] and given("/set top") == ["top_p", "top_k"]
    assert given("hello") == [] and given("/system x") == [] and given("a /se") == []


def test_blocks_of_three_quotes() -> None:
    assert keys.unfinished('"""one') and not keys.unfinished('"""one"""') and not keys.unfinished("/set")
    assert keys.unquoted('"""\none\n\ntwo"""') == "one\n\ntwo" and keys.unquoted("plain") == "plain"


@pytest.fixture
def scripted_verb(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    import morphogen.cli.chat as verb

    model = Scripted("**an** answer")
    monkeypatch.setattr(verb, "_load", lambda path: model)
    return model


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["chat", *arguments])
    return int(done.value.code or 0)


def test_one_question_from_a_pipe(scripted_verb: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("what?\n"))
    assert run("m.gguf", "--temperature", "0", "--system", "s") == 0
    assert capsys.readouterr().out == "**an** answer\n"
    messages, options = scripted_verb.seen[0]
    assert [m["content"] for m in messages] == ["s", "what?"] and options["temperature"] == 0


def test_one_question_as_json(scripted_verb: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("m.gguf", "--prompt", "q", "--json", "--seed", "5") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["text"] == "**an** answer" and value["seed"] == 5 and value["tokens"] == 2 and value["reason"] == "stop"
    assert {"prompt_tokens", "prefill_tok_s", "decode_tok_s"} <= set(value)


def test_what_goes_wrong_has_its_exit_code(
    scripted_verb: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("  \n"))
    assert run("m.gguf") == 2 and run("m", "--prompt", "q", "--top-p", "3") == 2
    scripted_verb.context = 5
    assert run("m", "--prompt", "long " * 9) == 3
    assert "error[data]" in capsys.readouterr().err


@pytest.mark.slow  # waits for words on a screen: on a busy machine they may be drawn over before they are read
@pytest.mark.skipif(os.name == "nt", reason="no pty")
def test_in_a_terminal(tmp_path: Path) -> None:
    """Type a question, stop the second answer, leave: what is on the screen is what was said."""
    import pty

    pid, handle = pty.fork()
    if not pid:
        os.environ |= {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        os.environ.pop("NO_COLOR", None)
        os.execv(sys.executable, [sys.executable, str(Path(__file__).parent / "scripted.py"), "0.002", "0", "2048"])
    got = b""

    def until(word: bytes, after: int = 0) -> int:
        nonlocal got
        end = time.monotonic() + 60
        while word not in got[after:]:
            assert time.monotonic() < end, got[-2000:].decode(errors="replace")
            if select.select([handle], [], [], 0.2)[0]:
                with_more = os.read(handle, 65536)
                got += with_more
                if b"\x1b[6n" in with_more:
                    os.write(handle, b"\x1b[1;1R")
        return len(got)

    try:
        at = until(b"Ask something")
        os.write(handle, b"hello\r")
        at = until(b" of 2,048", at)
        at = until(b"Ask something", at)
        os.write(handle, b"\x1b[200~two\nlines\x1b[201~\r")
        at = until(b"Growth", at)
        os.write(handle, b"\x03")
        at = until(b"stopped \xc2\xb7 ", at)
        at = until(b"Ask something", at)
        os.write(handle, b"\x04")
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(handle)
    assert b"\x1b[?25h" in got and STORY.split("\n")[-1].split("—")[0].strip().encode() in got
    history = next(tmp_path.rglob("chat_history"))
    assert "+two\n+lines" in history.read_text() and stat.S_IMODE(history.stat().st_mode) == 0o600
