"""Chat templates: a conversation to the ids the model was trained on. No torch here.

The template is the model's, a program in Jinja; it runs in a confined process (`chat_worker.py`). What people wrote is never a special
token: every special token's text inside messages is broken by a private character before rendering, only whole ones count afterwards,
and the private character leaves before encoding. A template that changes the case of a text, or writes a special token's other half before
or after it, makes none either; one that takes characters out of a text's middle could.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import struct
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from morphogen.errors import DataError, FormatError, ResourceError
from morphogen.tokens.strict import read_bytes, read_object
from morphogen.tokens.tokenizer import Tokenizer

TEMPLATE = 64 << 10  # characters a template may have
INPUT = 4 << 20  # bytes a conversation may have
SECONDS = 0.9  # a rendering may take; ending the process takes the rest of a second
ROLES = ("system", "user", "assistant", "tool")
KEYS = frozenset(("role", "content", "name", "tool_calls", "tool_call_id", "thinking", "reasoning_content"))


class _Worker:
    """The confined process: started at first use, kept warm, ended when it takes too long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def _start(self) -> subprocess.Popen[bytes]:
        import jinja2
        import markupsafe

        places = sorted({str(Path(m.__file__ or "").resolve().parent.parent) for m in (jinja2, markupsafe)})
        command = [sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("chat_worker.py")), *places]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=os.sep,
                env={"LC_ALL": "C.UTF-8", "PATH": "", **{k: os.environ[k] for k in ("SYSTEMROOT", "TZ") if k in os.environ}},
            )
        except OSError as error:
            raise ResourceError(f"cannot start the process that renders chat templates ({error.strerror or error})") from None
        self._process, self._owner = process, os.getpid()
        if self._read(process, 20.0) is None:
            self.close()
            raise ResourceError("the process that renders chat templates does not start", remedy="is jinja2 installed?")
        return process

    def _read(self, process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """One answer, or None when the process ended or was ended because time was up."""
        assert process.stdout is not None
        clock = threading.Timer(seconds, process.kill)
        clock.daemon = True
        clock.start()
        try:
            head = process.stdout.read(4)
            if len(head) < 4:
                return None
            size = struct.unpack("<I", head)[0]
            data = process.stdout.read(size)
            return data if len(data) == size else None
        finally:
            clock.cancel()

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The worker's answer; None when it ran out of time or memory and was ended. Raises ResourceError when it cannot start."""
        data = json.dumps(request).encode("ascii")
        with self._lock:
            process = self._process
            if process is None or self._owner != os.getpid() or process.poll() is not None:
                self.close()
                process = self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(struct.pack("<I", len(data)) + data)
                process.stdin.flush()
                reply = self._read(process, SECONDS)
            except OSError:
                reply = None
            except BaseException:  # an interrupt between question and answer: the next question must not get this answer
                self.close()
                raise
            if reply is None:
                self.close()
                return None
            answer = json.loads(reply)
            if answer.get("spent"):
                self.close()
            return answer

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            process.wait()


_worker = _Worker()
atexit.register(_worker.close)


class Template:
    """A model's chat template. `tools_source`: the template to take when tools are given, where a model has two.

    Raises FormatError when it is larger than 64 KiB; what it may not do is refused at the first rendering, or by `check`.
    """

    def __init__(self, source: str, *, tools_source: str | None = None) -> None:
        for text in (source, tools_source or ""):
            if not isinstance(text, str) or len(text) > TEMPLATE:
                raise FormatError(f"a chat template of more than {TEMPLATE:,} characters", remedy="it is no chat template")
        self.source, self.tools_source = source, tools_source

    def check(self) -> None:
        """Parse it and hold it against the allow-lists. Raises FormatError."""
        self._ask(self.source, None)

    def _ask(self, source: str, values: dict[str, Any] | None) -> str:
        request: dict[str, Any] = {"source": source}
        if values is not None:
            given = _told(values, "the conversation")
            if len(given) > INPUT:
                raise DataError(f"a conversation of {len(given):,} bytes, at most {INPUT:,}", remedy="shorten it")
            request |= {"values": values, "limit": 4 * len(given) + (64 << 10)}
        answer = _worker.ask(request)
        if answer is None:
            raise FormatError(
                "the chat template takes more time or memory than a conversation needs", remedy="it was stopped; use another template"
            )
        if "raised" in answer:
            raise DataError(f"the model's chat template refuses this conversation: {answer['raised']}", remedy="change the messages")
        if "text" not in answer:
            raise FormatError(
                f"the chat template is not usable: {answer.get('refused') or answer.get('failed')}", remedy="use another template"
            )
        return str(answer["text"])

    def _render(self, values: dict[str, Any]) -> str:
        return self._ask(self.tools_source if values.get("tools") and self.tools_source else self.source, values)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, tokenizer: Tokenizer | None = None, tools: Any = None, reply: bool = True
    ) -> str:
        """The conversation as text, for people to look at: special tokens in messages look like the template's own.

        `reply`: end with the beginning of the assistant's turn. Raises DataError naming the message at fault, FormatError for the template.
        """
        return self._render(_values(check_messages(messages), tools, reply, tokenizer))

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], *, tools: Any = None, reply: bool = True) -> list[int]:
        """The conversation as ids. Nothing inside messages or tools becomes a special token. Raises as `render`."""
        given = check_messages(messages)
        told = "".join([_told([given, tools], "tools", ascii=False), self.source, self.tools_source or "", *tokenizer.special])
        mark = next((c for c in map(chr, range(0xF8FF, 0xDFFF, -1)) if c not in told), None)
        if mark is None:
            raise DataError("a conversation with every private character of Unicode in it", remedy="take some out")
        breaker = _Breaker(tokenizer.special, mark)
        try:
            values = _values(breaker.messages(given), breaker.value(tools), reply, tokenizer)
        except RecursionError:
            raise DataError("lists or dicts nested too deep", where="messages or tools", remedy="make them flatter") from None
        return tokenizer.marked(self._render(values), mark)


class _Breaker:
    """Puts a mark into every special token's text, and where a text begins or ends with a part of one (what follows could complete it).

    In any case of letters: templates may change it. `special`: no name with the mark in it; one of a single character is found nowhere.
    """

    def __init__(self, special: Mapping[str, int], mark: str) -> None:
        names = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
        self._mark = mark
        self._whole = re.compile("|".join(map(re.escape, names)), re.IGNORECASE) if names else None
        self._forward = sorted(name.lower() for name in names)
        self._backward = sorted(name.lower()[::-1] for name in names)
        self._longest = max(map(len, names), default=0)

    def _goes_on(self, names: list[str], end: str) -> bool:
        """Whether some name begins with the last characters of `end`, and goes on."""
        for k in range(1, min(self._longest, len(end) + 1)):
            part = end[-k:]
            after = bisect_right(names, part)
            if after < len(names) and names[after].startswith(part):
                return True
        return False

    def text(self, text: str) -> str:
        if self._whole is None:
            return text
        broken, count = text, 1
        while count:  # names may overlap
            broken, count = self._whole.subn(lambda m: m[0][0] + self._mark + m[0][1:], broken)
        body = broken.strip().lower()
        if self._goes_on(self._forward, body):
            end = len(broken.rstrip())
            broken = broken[:end] + self._mark + broken[end:]
        if self._goes_on(self._backward, body[: self._longest][::-1]):
            start = len(broken) - len(broken.lstrip())
            broken = broken[:start] + self._mark + broken[start:]
        return broken

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Checked messages: their own keys and roles are known words, which templates ask for."""
        return [{k: v if k == "role" else self.value(v) for k, v in message.items()} for message in messages]

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(k) if isinstance(k, str) else k: self.value(v) for k, v in value.items()}
        return [self.value(v) for v in value] if isinstance(value, list | tuple) else value


def _values(messages: Any, tools: Any, reply: bool, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The names transformers gives a template."""
    values: dict[str, Any] = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": reply}
    if tokenizer is not None:
        roles = {r: getattr(tokenizer, r) for r in ("bos", "unk", "pad", "mask", "cls", "sep")} | {"eos": next(iter(tokenizer.eos), None)}
        values |= {f"{role}_token": tokenizer.spelling.names[i] for role, i in roles.items() if i is not None}
    return values


def _told(value: Any, where: str, *, ascii: bool = True) -> str:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=ascii)
    except (TypeError, ValueError, RecursionError):
        raise DataError("holds what JSON cannot", where=where, remedy="give text, numbers, lists and dicts") from None


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as plain dicts. Raises DataError naming the message: roles are system, user, assistant, tool; content is text."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise DataError("messages are a list of at least one {'role': ..., 'content': ...}", remedy="give a list")
    found = []
    for index, message in enumerate(messages):
        where = f"message {index}"
        if not isinstance(message, Mapping):
            raise DataError(f"a message that is a {type(message).__name__}", where=where, remedy="give {'role': ..., 'content': ...}")
        role = message.get("role")
        if role not in ROLES:
            raise DataError(f"role {role!r}" if "role" in message else "no role", where=where, remedy="choose one of " + ", ".join(ROLES))
        content = message.get("content")
        if content is None and message.get("tool_calls"):
            content = ""
        if not isinstance(content, str):
            raise DataError(
                f"content is {'missing' if content is None else 'a ' + type(content).__name__}", where=where, remedy="content is text"
            )
        unknown = set(message) - KEYS
        if unknown:
            raise DataError(
                f"unknown key {str(sorted(map(str, unknown))[0])[:40]!r}", where=where, remedy="known are " + ", ".join(sorted(KEYS))
            )
        _told({**message}, where)
        found.append({**message, "content": content})
    return found


def template_of(place: str | Path | Mapping[str, Any]) -> Template | None:
    """The chat template of a model folder or of GGUF metadata; None where there is none. Raises FormatError."""
    if isinstance(place, Mapping):
        return _named(place.get("tokenizer.chat_template"), place.get("tokenizer.chat_template.tool_use"))
    folder = Path(place)
    if (folder / "chat_template.jinja").is_file():
        try:
            return Template(read_bytes(folder / "chat_template.jinja", 4 * TEMPLATE).decode("utf-8"))
        except UnicodeDecodeError:
            raise FormatError("not UTF-8", where=folder / "chat_template.jinja") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = read_object(folder / name).get("chat_template") if (folder / name).is_file() else None
        if isinstance(value, list):
            both = {str(v.get("name")): v.get("template") for v in value if isinstance(v, dict)}
            return _named(both.get("default", next(iter(both.values()), None)), both.get("tool_use"))
        if value is not None:
            return _named(value)
    return None


def _named(source: Any, tools: Any = None) -> Template | None:
    if source is None:
        return None
    if not isinstance(source, str) or not isinstance(tools, str | None):
        raise FormatError("a chat template that is no text", remedy="the file is damaged")
    return Template(source, tools_source=tools)
