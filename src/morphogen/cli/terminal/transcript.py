"""A conversation: what was said, what of it fits the model, and its files."""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morphogen.errors import DataError, FormatError, UsageError
from morphogen.files import write_json, write_text

FORMAT, VERSION = "morphogen chat", 1
ROLES = ("system", "user", "assistant")
LARGEST = 64 << 20  # bytes of a file; a conversation of years is smaller
Message = dict[str, Any]
Count = Callable[[list[Message]], int]


@dataclass
class Transcript:
    """Messages in order (the system's words apart), and the states before each step so that a step can be taken back."""

    system: str = ""
    messages: list[Message] = field(default_factory=list)
    past: list[list[Message]] = field(default_factory=list)

    def step(self) -> None:
        """Remember the state: what follows can be undone."""
        self.past.append(list(self.messages))

    def undo(self) -> bool:
        """Take the last step back. False when there is none."""
        while self.past:
            before = self.past.pop()
            if before != self.messages:
                self.messages = before
                return True
        return False

    def question(self) -> str:
        """What was asked last."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")

    def answer(self) -> str:
        """What was answered last."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "assistant"), "")

    def sent(self, left_out: int = 0) -> list[Message]:
        """The messages a model gets, without the oldest `left_out` turns and without our notes on them."""
        turns = self.turns()
        kept = [m for turn in turns[left_out:] for m in turn]
        head = [{"role": "system", "content": self.system}] if self.system else []
        return head + [{"role": m["role"], "content": m["content"]} for m in kept]

    def turns(self) -> list[list[Message]]:
        """Questions, each with what was said to it."""
        out: list[list[Message]] = []
        for message in self.messages:
            if message["role"] == "user" or not out:
                out.append([])
            out[-1].append(message)
        return out


def fitting(transcript: Transcript, count: Count, context: int, wish: int | None) -> tuple[int, int]:
    """(turns to leave out, tokens of what is left) so that an answer has room.

    Room is `wish` tokens, at most half the context; a quarter of it (512 at most) when nothing is wished. The last message is never left
    out: when it alone is too long, DataError says the numbers.
    """
    room = min(wish or 512, max(1, context // 2 if wish else context // 4))
    used = count(transcript.sent())
    if used + room <= context:
        return 0, used
    low, high = 1, len(transcript.turns()) - 1  # the smallest number that fits, by halving: templates are slow to render
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(transcript.sent(middle)) + room <= context else (middle + 1, high)
    left_out = max(0, high)
    used = count(transcript.sent(left_out))
    if used >= context:
        raise DataError(f"the message and the system prompt take {used:,} tokens and the model reads {context:,}",
                        remedy=f"shorten by at least {used - context + 1:,} tokens")
    return left_out, used


def counter(model: Any) -> Count:
    """How many tokens messages take: exactly through the model's template, closely without one."""
    def count(messages: list[Message]) -> int:
        template, tokenizer = getattr(model, "template", None), getattr(model, "tokenizer", None)
        if template is not None and hasattr(template, "encode") and tokenizer is not None:
            return len(template.encode(tokenizer, messages))
        return sum(len(model.encode(m["content"])) + 1 for m in messages)

    return count


def save(transcript: Transcript, path: Path, *, model: str, options: dict[str, Any], schema: Any = None) -> None:
    """Write the conversation whole or not at all: JSON that `load` reads, or Markdown for people when the name ends .md."""
    if path.suffix.lower() in (".md", ".markdown"):
        write_text(path, markdown(transcript, model))
        return
    head = [{"role": "system", "content": transcript.system}] if transcript.system else []
    value = {"format": FORMAT, "version": VERSION, "model": model, "options": options, "messages": head + transcript.messages}
    write_json(path, value | ({} if schema is None else {"schema": schema}))


def markdown(transcript: Transcript, model: str) -> str:
    """The conversation to read."""
    parts = [f"# Conversation with {model}"]
    if transcript.system:
        parts.append("**System**\n\n" + transcript.system)
    for message in transcript.messages:
        who = "You" if message["role"] == "user" else "Model" + (" (stopped)" if message.get("stopped") else "")
        parts.append(f"**{who}**\n\n{message['content']}")
    return "\n\n---\n\n".join(parts) + "\n"


def load(path: Path) -> tuple[Transcript, dict[str, Any], Any]:
    """(transcript, options, schema) of a file that `save` wrote, or of any JSON object with `messages`. Raises FormatError."""
    value = read(path)
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise FormatError("no conversation: an object with a list 'messages' is needed", where=path,
                          remedy="choose a file that /save wrote")
    known = {"format", "version", "model", "options", "schema", "messages"}
    if "format" in value:
        if value["format"] != FORMAT or value.get("version") != VERSION:
            raise FormatError(f"format {str(value['format'])[:40]!r} version {str(value.get('version'))[:10]} is not known",
                              where=path, remedy=f"this program reads '{FORMAT}' version {VERSION}")
        if set(value) - known:
            raise FormatError(f"unknown field {min(set(value) - known)!r}", where=path,
                              remedy="it was written by another version, or changed")
    options = value.get("options", {})
    if not isinstance(options, dict):
        raise FormatError("'options' must be an object", where=path)
    transcript = Transcript()
    messages = [_message(m, i, path) for i, m in enumerate(value["messages"])]
    if messages and messages[0]["role"] == "system":
        transcript.system = messages.pop(0)["content"]
    for i, message in enumerate(messages):
        if message["role"] != ("user", "assistant")[i % 2]:
            raise FormatError(f"message {i + 1} is of the role '{message['role']}'", where=path,
                              remedy="user and assistant must take turns")
    if messages and messages[-1]["role"] == "user":
        messages.pop()  # a question nobody answered: asking it again is for the person
    transcript.past = [messages[:i] for i in range(0, len(messages), 2)]
    transcript.messages = messages
    return transcript, options, value.get("schema")


def _message(value: Any, index: int, path: Path) -> Message:
    where = f"{path}, message {index + 1}"
    if not isinstance(value, dict) or value.get("role") not in ROLES or not isinstance(value.get("content"), str):
        raise FormatError("a message needs a role (system, user, assistant) and its text as content", where=where)
    kinds = {"role": str, "content": str, "stopped": bool, "seed": int, "tokens": int}
    for name, item in value.items():
        if name not in kinds or type(item) is not kinds[name]:
            raise FormatError(f"field {name!r} is unknown or of the wrong kind", where=where)
    return dict(value)


def read(path: Path) -> Any:
    """JSON as it should be: no NaN, no name twice, of bounded size and depth. Raises FormatError."""
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return made

    try:
        if not path.is_file():
            raise UsageError("no such file", where=path, remedy="check the name; Tab completes it")
        if path.stat().st_size > LARGEST:
            raise FormatError(f"larger than {LARGEST >> 20} MiB", where=path)
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse, object_pairs_hook=unique)
    except RecursionError:
        raise FormatError("nested too deeply", where=path) from None
    except (ValueError, OSError) as error:
        raise FormatError(f"not readable as JSON ({error})", where=path, remedy="check the file") from None
