"""The prompt: several lines, history in a private file, completion, the usual editing keys."""
from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.history import History as PromptHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from morphogen.cli.terminal.markdown import clean
from morphogen.cli.terminal.options import OPTIONS

QUOTES = '"""'
STYLE = Style.from_dict({
    "mark": "ansicyan bold", "more": "ansibrightblack", "placeholder": "ansibrightblack", "auto-suggestion": "ansibrightblack",
    "completion-menu.completion": "bg:default fg:default", "completion-menu.completion.current": "reverse",
    "completion-menu.meta.completion": "bg:default fg:ansibrightblack", "completion-menu.meta.completion.current": "bg:default",
})


class PrivateHistory(PromptHistory):
    """A history file that only its owner reads; a disk that refuses does not end the chat."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = FileHistory(str(path))

    def load_history_strings(self) -> Iterable[str]:
        """Newest first."""
        try:
            return list(self.file.load_history_strings())
        except (OSError, ValueError):
            return []

    def store_string(self, string: str) -> None:
        """Append one entry."""
        with contextlib.suppress(OSError, ValueError):
            self.file.store_string(string)


def history_path() -> Path:
    """Where questions are remembered: the state folder of the user, XDG_STATE_HOME on Linux."""
    from platformdirs import user_state_path

    return user_state_path("morphogen", appauthor=False) / "chat_history"


def open_history(wanted: bool) -> PromptHistory:
    """The file when it can be had, else memory alone."""
    if not wanted:
        return InMemoryHistory()
    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
    except OSError:
        return InMemoryHistory()
    return PrivateHistory(path)


class Words(Completer):
    """/commands, their files and options; nothing while a question is written."""

    def __init__(self, commands: dict[str, str]) -> None:
        self.commands = commands
        self.paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Completions of the word at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for command, what in self.commands.items():
                if command.startswith(name[1:]):
                    yield Completion("/" + command, -len(name), display_meta=what)
        elif name in ("/save", "/load", "/schema"):
            yield from self.paths.get_completions(Document(rest.lstrip()), complete_event)
        elif name == "/set" and " " not in rest.lstrip():
            word = rest.lstrip()
            for option, spec in OPTIONS.items():
                if option.startswith(word):
                    yield Completion(option, -len(word), display_meta=spec.what)


def unfinished(text: str) -> bool:
    """Whether Enter should begin a new line: an open block of three quotes."""
    return not text.startswith("/") and text.lstrip().startswith(QUOTES) and text.count(QUOTES) % 2 == 1


def unquoted(text: str) -> str:
    """The text without the three quotes that held it together."""
    body = text.strip()
    if body.startswith(QUOTES) and body.endswith(QUOTES) and len(body) >= 6:
        return body[3:-3].strip("\n")
    return text


def keys() -> KeyBindings:
    """Enter sends, Alt+Enter or Ctrl-J or a trailing backslash begins a line, Ctrl-C clears the line or leaves."""
    bind = KeyBindings()

    @bind.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        at_end = buffer.cursor_position == len(buffer.text)
        if buffer.text.endswith("\\") and at_end and not buffer.text.startswith("/"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif unfinished(buffer.text):
            buffer.insert_text("\n")
        elif buffer.text.strip():
            buffer.validate_and_handle()

    @bind.add("escape", "enter")
    @bind.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bind.add("c-c")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text:
            buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return bind


class Prompt:
    """Asks for the next line."""

    def __init__(self, commands: dict[str, str], *, history: bool = True, hint: str = "") -> None:
        self.mark = "› " if "utf" in (sys.stdout.encoding or "").lower() else "> "
        self.hint = hint
        self.session: PromptSession[str] = PromptSession(
            history=open_history(history), completer=Words(commands), complete_while_typing=True, key_bindings=keys(), multiline=True,
            style=STYLE, prompt_continuation=self._more, enable_open_in_editor=True, reserve_space_for_menu=6,
            auto_suggest=_suggest(),
        )

    def ask(self, default: str = "") -> str:
        """One question or command. Raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C on an empty line."""
        def hint() -> Any:  # gone when the line is sent or left
            return FormattedText([] if get_app().is_done else [("class:placeholder", self.hint)])

        text = self.session.prompt(FormattedText([("class:mark", self.mark)]), default=default, placeholder=hint)
        return unquoted(text)

    def _more(self, width: int, number: int, wrapped: int) -> Any:
        return FormattedText([("class:more", "· ".rjust(width) if not wrapped else " " * width)])


class PlainPrompt:
    """Asks on terminals that cannot move their cursor: lines as they come, a trailing backslash or three quotes for more."""

    def ask(self, default: str = "") -> str:
        """One question or command. Raises EOFError and KeyboardInterrupt."""
        text = input("> ")
        while text.endswith("\\") or unfinished(text):
            text = text.removesuffix("\\") + "\n" + input(". ")
        return unquoted(text)


@contextlib.contextmanager
def terminal_mode(silent: bool) -> Iterator[None]:
    """Keys typed between prompts: silent keeps them, unseen and as they were struck, for the next prompt; not silent is how programs
    expect a terminal to be."""
    try:
        import termios

        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (ImportError, OSError, ValueError, termios.error):  # Windows, or no terminal
        yield
        return
    wanted = termios.tcgetattr(handle)
    if silent:
        wanted[0] &= ~termios.ICRNL
        wanted[3] &= ~(termios.ECHO | termios.ICANON)
    else:
        wanted[0] |= termios.ICRNL
        wanted[3] |= termios.ECHO | termios.ICANON | termios.ISIG
    termios.tcsetattr(handle, termios.TCSADRAIN, wanted)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def _suggest() -> Any:
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory

    return AutoSuggestFromHistory()


def edit(text: str, run: Callable[[list[str]], int] | None = None) -> str:
    """The text as the user's editor leaves it. Raises UsageError when there is none or it fails."""
    import shlex
    import shutil
    import subprocess
    import tempfile

    from morphogen.errors import UsageError

    wish = os.environ.get("VISUAL") or os.environ.get("EDITOR") or next((e for e in ("nano", "vim", "vi") if shutil.which(e)), "")
    command = shlex.split(wish)
    if not command or not shutil.which(command[0]):
        raise UsageError(f"no editor{f' {command[0]!r}' if command else ''}", remedy="set EDITOR, for example EDITOR=nano")
    with tempfile.TemporaryDirectory(prefix="morphogen-") as folder:
        path = Path(folder) / "question.md"
        path.write_text(text, encoding="utf-8")
        with terminal_mode(silent=False):
            status = (run or subprocess.call)([*command, str(path)])
        if status:
            raise UsageError(f"{command[0]} ended with status {status}", remedy="the question is as it was")
        return clean(path.read_text(encoding="utf-8", errors="replace")).strip("\n")
