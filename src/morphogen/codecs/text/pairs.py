"""Texts of which a part is known beforehand: prompts with completions, and conversations. No torch here."""
from __future__ import annotations

from typing import Any

import numpy as np

from morphogen.codecs.text.tokens import Tokeniser
from morphogen.contracts import Given
from morphogen.errors import DataError
from morphogen.spaces import Tokens

FIELDS = (b'"text"', b'"prompt"', b'"messages"')
ROLES = ("system", "user", "assistant", "tool")


def taken(row: dict[str, Any]) -> list[tuple[str | None, str]]:
    """(what is known or None, the whole text) of a JSON line; takes its fields out of `row`.

    `text`; `prompt` and `completion`; or `messages`, one pair for every turn of the assistant, as written by `transcript`.
    Raises DataError saying what is wrong.
    """
    if "messages" in row:
        return _turns(row.pop("messages"))
    if "prompt" in row or "completion" in row:
        prompt, completion = _text(row.pop("prompt", None), "prompt"), _text(row.pop("completion", None), "completion")
        return [(prompt, prompt + completion)]
    return [(None, _text(row.pop("text", None), "text"))]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"no `{name}`" if value is None else f"`{name}` is empty or not a string")
    if any(0xD800 <= ord(c) < 0xE000 for c in value):
        raise DataError("half a surrogate pair, which is no character")
    return value


def _turns(messages: Any) -> list[tuple[str | None, str]]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise DataError("`messages` is not a list of objects")
    for m in messages:
        if m.get("role") not in ROLES:
            raise DataError(f"unknown role {str(m.get('role'))[:40]!r} (choose from {', '.join(ROLES)})")
        _text(m.get("content"), "content")
    if any(m["role"] == "system" for m in messages[1:]):
        raise DataError("a turn of the system that is not the first")
    out: list[tuple[str | None, str]] = []
    for i, m in enumerate(messages):
        if m["role"] == "assistant":
            before = transcript(messages[:i])
            out.append((before, before + m["content"]))
    if not out:
        raise DataError("`messages` has no turn of the assistant to learn")
    return out


def transcript(messages: list[dict[str, Any]]) -> str:
    """A conversation as plain text up to where the assistant answers: `role: content` lines, then `assistant: `.

    For models that have no chat template of their own.
    """
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: "


def pair(tokeniser: Tokeniser, space: Tokens, given: str, raw: str) -> Given:
    """Ids of the prompt, of what follows it, and the end; the prompt's are known. Raises DataError when they do not fit."""
    if not raw.startswith(given):
        raise DataError("the text does not begin with what is known of it")
    prompt, rest = tokeniser.ids(given), tokeniser.ids(raw[len(given):])
    x = np.array([*prompt, *rest, space.end], np.int64)
    if len(x) > space.length:  # an answer cut short would be learned as one that never ends
        raise DataError(f"{len(x):,} tokens do not fit the model's {space.length:,}")
    return Given(x, np.arange(len(x)) < len(prompt))
