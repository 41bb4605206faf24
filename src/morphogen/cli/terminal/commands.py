"""What begins with a slash. Each command is a function of the chat and the words behind it; errors are raised, the chat shows them."""
from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphogen.cli.terminal import options, transcript
from morphogen.errors import UsageError, suggest

if TYPE_CHECKING:
    from morphogen.cli.terminal.session import Chat

COMMANDS = {
    "help": "what can be done here",
    "system": "TEXT gives the model instructions; alone shows them, off takes them away",
    "save": "FILE keeps the conversation as JSON, or as Markdown to read when it ends .md",
    "load": "FILE goes on with a saved conversation",
    "regenerate": "another answer to the last question",
    "edit": "write the question in your editor",
    "undo": "take the last step back: an exchange, /regenerate, /clear or /load",
    "clear": "begin anew; instructions and options stay",
    "set": "temperature 0.7 sets an option; alone shows all, NAME off gives it back to the model",
    "seed": "N sets the next seed: the same words and seed give the same answer",
    "schema": "FILE makes answers follow a JSON schema; off ends it",
    "copy": "the last answer to the clipboard; /copy code takes its last code block",
    "tokens": "how full the context is",
    "quit": "leave (also Ctrl-D)",
}
ALSO = {"exit": "quit", "bye": "quit", "q": "quit", "?": "help", "retry": "regenerate", "new": "clear", "reset": "clear"}
KEYS = ("Enter sends. Alt+Enter, Ctrl-J or a trailing \\ begins a new line; \"\"\" opens and closes a block.\n"
        "Ctrl-C stops an answer and keeps what was said; at the prompt it clears the line. Up and Ctrl-R look back.")
CLIPBOARD = 74_000  # bytes; terminals drop longer sequences


def dispatch(chat: Chat, line: str) -> str:
    """Run a command line. Returns "quit", "ask" (generate an answer to the last question) or "". Raises UsageError for what is unknown."""
    name, _, rest = line[1:].partition(" ")
    name, rest = name.strip().lower(), rest.strip()
    name = ALSO.get(name, name)
    if name not in COMMANDS:
        near = suggest(name, COMMANDS)
        near = near.replace("'", "'/", 1) if near.startswith("did") else "/help shows what there is"
        raise UsageError(f"no command '/{name[:40]}'", remedy=near)
    if "\n" in rest and name not in ("system", "edit"):
        raise UsageError(f"/{name} is one line", remedy="a question that begins with a slash is written with two: //")
    return RUN[name](chat, rest) or ""


def path_of(text: str) -> Path:
    """A path as typed: ~ expanded, quotes around it taken away. Raises UsageError when there is none."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    if not text or "\0" in text:
        raise UsageError("a file name is needed", remedy="for example /save talk.json")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"no home folder for '{text}'", remedy="write the whole path") from None


def _help(chat: Chat, rest: str) -> None:
    chat.table([(f"/{name}", what) for name, what in COMMANDS.items()])
    chat.say("\n" + KEYS, "dim")


def _system(chat: Chat, rest: str) -> None:
    if rest:
        chat.transcript.system = "" if rest == "off" else rest
        chat.say("instructions taken away" if rest == "off" else "the model gets these instructions first", "dim")
    else:
        chat.say(chat.transcript.system or "no instructions: /system TEXT gives some", "dim")


def _save(chat: Chat, rest: str) -> None:
    force = rest.startswith("--force")
    rest = rest.removeprefix("--force").strip()
    path = path_of(rest) if rest or chat.file is None else chat.file
    if path.is_dir():
        raise UsageError("a folder, not a file", where=path, remedy="add a name")
    if path.exists() and not force and path != chat.file:
        raise UsageError("the file exists", where=path, remedy=f"choose another name or say /save --force {path}")
    transcript.save(chat.transcript, path, model=chat.model.name, options=chat.options, schema=chat.schema)
    if path.suffix.lower() not in (".md", ".markdown"):
        chat.file = path
    chat.say(f"saved {path}", "dim")


def _load(chat: Chat, rest: str) -> None:
    path = path_of(rest)
    loaded, wished, schema = transcript.load(path)
    checked = {name: options.check(name, value) for name, value in wished.items()}
    loaded.past = [*chat.transcript.past, list(chat.transcript.messages), *loaded.past]
    chat.transcript, chat.options, chat.schema, chat.file = loaded, checked, schema, path
    count = len(loaded.turns())
    chat.say(f"loaded {count} exchange{'s' * (count != 1)} from {path}", "dim")
    for message in loaded.messages[-2:]:
        chat.repeat(message)


def _regenerate(chat: Chat, rest: str) -> str:
    if not chat.transcript.messages:
        raise UsageError("nothing was asked yet", remedy="ask first")
    if chat.options.get("temperature") == 0:
        chat.say("the temperature is 0: the answer will be the same", "dim")
    return "again"


def _edit(chat: Chat, rest: str) -> None:
    from morphogen.cli.terminal.input import edit

    chat.default = edit(rest or chat.transcript.question())


def _undo(chat: Chat, rest: str) -> None:
    if not chat.transcript.undo():
        raise UsageError("nothing to take back")
    last = chat.transcript.question()
    chat.say(f"taken back; the last question is now: {last[:60]}" if last else "taken back; nothing has been asked", "dim")


def _clear(chat: Chat, rest: str) -> None:
    chat.transcript.step()
    chat.transcript.messages = []
    chat.said_left_out = 0
    chat.say("a new conversation; /undo brings the old one back", "dim")


def _set(chat: Chat, rest: str) -> None:
    words = rest.replace("=", " ").split()
    if not words:
        known = {"max_tokens": "what fits"} | chat.options | {"seed": chat.seed()}
        chat.table([(name, str(known.get(name, "model's own")), option.what) for name, option in options.OPTIONS.items()])
        return
    if len(words) != 2:
        raise UsageError("a name and a value are needed", remedy="for example /set temperature 0.7")
    name = words[0].replace("-", "_")
    if words[1] == "off" and name in options.OPTIONS:
        chat.options.pop(name, None)
        chat.say(f"{name} is the model's own", "dim")
        return
    value = options.parse(name, words[1])
    if name == "seed":
        chat.answers = 0
    chat.options[name] = value
    chat.say(f"{name} {value}", "dim")


def _seed(chat: Chat, rest: str) -> None:
    _set(chat, f"seed {rest}" if rest else "")


def _schema(chat: Chat, rest: str) -> None:
    if rest == "off":
        chat.schema = None
        chat.say("answers are free again", "dim")
    elif not rest:
        import json

        text = "no schema: /schema FILE sets one" if chat.schema is None else json.dumps(chat.schema, indent=2, ensure_ascii=False)
        chat.say(text, "dim")
    else:
        value = transcript.read(path_of(rest))
        if not isinstance(value, dict | bool):
            raise UsageError("a JSON schema is an object", where=rest)
        chat.schema = value
        chat.say(f"answers follow {rest}; /schema off ends it", "dim")


def _copy(chat: Chat, rest: str) -> None:
    text = chat.transcript.answer()
    if not text:
        raise UsageError("nothing was answered yet")
    what = "the last answer"
    if rest == "code":
        found = re.findall(r"^(`{3,}|~{3,})[^\n]*\n(.*?)(?:^\1\s*$|\Z)", text, re.DOTALL | re.MULTILINE)
        if not found:
            raise UsageError("no code block in the last answer", remedy="/copy takes all of it")
        text, what = found[-1][1], "the last code block"
    data = text.encode("utf-8", "replace")
    if len(data) > CLIPBOARD:
        raise UsageError(f"{what} is too long for a terminal's clipboard ({len(data):,} bytes)", remedy="/save FILE keeps it")
    chat.raw(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
    chat.say(f"{what} is on the clipboard, if the terminal allows it (OSC 52)", "dim")


def _tokens(chat: Chat, rest: str) -> None:
    turns, context = chat.transcript.turns(), chat.model.context
    used = chat.count(chat.transcript.sent()) if turns or chat.transcript.system else 0
    chat.say(f"{used:,} of {context:,} tokens ({used / context:.0%}) in {len(turns)} exchange{'s' * (len(turns) != 1)}", "dim")
    left = chat.said_left_out
    if left:
        chat.say(f"the oldest {left} no longer fit and are left out of what the model reads", "dim")


def _quit(chat: Chat, rest: str) -> str:
    return "quit"


RUN: dict[str, Callable[[Any, str], str | None]] = {
    "help": _help, "system": _system, "save": _save, "load": _load, "regenerate": _regenerate, "edit": _edit, "undo": _undo,
    "clear": _clear, "set": _set, "seed": _seed, "schema": _schema, "copy": _copy, "tokens": _tokens, "quit": _quit,
}
