"""The chat itself: ask, answer, again. All that is remembered lies in `Chat`; how it looks lies in the printers."""
from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from morphogen.cli.terminal import answer as drawing
from morphogen.cli.terminal import commands, transcript
from morphogen.cli.terminal.markdown import clean
from morphogen.cli.terminal.printer import Printer, printer
from morphogen.cli.terminal.transcript import Transcript
from morphogen.errors import MorphogenError

STYLES = {"": "", "dim": "bright_black", "warn": "yellow", "bad": "red"}


class Chat:
    """A conversation with a model."""

    def __init__(self, model: Any, *, options: dict[str, Any] | None = None, schema: Any = None, system: str = "",
                 file: IO[str] | None = None) -> None:
        self.model, self.options, self.schema = model, dict(options or {}), schema
        self.transcript = Transcript(system=system)
        self.out = file or sys.stdout
        self.console = Console(file=self.out, highlight=False)
        self.count = transcript.counter(model)
        self.base, self.answers = secrets.randbelow(1 << 31), 0
        self.file: Path | None = None  # where it was saved or loaded
        self.default = ""  # what the next prompt begins with
        self.said_left_out = 0

    def seed(self) -> int:
        """The seed of the next answer: answers count on from the first one's."""
        return int(self.options.get("seed", self.base)) + self.answers

    def say(self, line: str, style: str = "") -> None:
        """Words of the program's own."""
        self.console.print(Text(clean(line), STYLES[style]))

    def table(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Names and what they mean, each in its column."""
        grid = Table.grid(padding=(0, 2))
        for i in range(len(rows[0])):
            grid.add_column(style="cyan" if i == 0 else "", no_wrap=i == 0, overflow="fold")
        for row in rows:
            grid.add_row(*(Text(clean(cell)) for cell in row))
        self.console.print(Padding(grid, (0, 0, 0, 2)))

    def fail(self, error: BaseException) -> None:
        """An error in one line; the chat goes on."""
        line = error.line() if isinstance(error, MorphogenError) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.say(line, "bad")

    def raw(self, sequence: str) -> None:
        """A control sequence of ours for the terminal."""
        if self.console.is_terminal:
            self.out.write(sequence)
            self.out.flush()

    def repeat(self, message: dict[str, Any]) -> None:
        """Show a message of a loaded conversation."""
        if message["role"] == "user":
            self.say("› " + message["content"], "dim")
        else:
            made = self.printer()
            made.feed(message["content"])
            made.finish()

    def printer(self) -> Printer:
        """Where an answer goes."""
        return printer(self.out, language="json" if self.schema is not None else "")

    def ask(self, question: str, out: Printer | None = None) -> drawing.Answer | None:
        """Put a question and stream the answer. None when there was none; the question is then back at the prompt."""
        before, steps = list(self.transcript.messages), list(self.transcript.past)
        self.transcript.step()
        self.transcript.messages.append({"role": "user", "content": question})
        try:
            made = self._answer(out)
        except BaseException as error:
            self.transcript.messages, self.transcript.past = before, steps
            self.default = question
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self.fail(error)
            return None
        if not made.text and made.reason == "cancelled":
            self.transcript.messages, self.transcript.past = before, steps
            self.default = question
            self.say("stopped before the first word; the question is back", "dim")
            return None
        note: dict[str, Any] = {"stopped": True} if made.reason == "cancelled" else {}
        self.transcript.messages.append({"role": "assistant", "content": made.text, "tokens": made.tokens, "seed": self.seed()} | note)
        self.answers += 1
        return made

    def again(self) -> drawing.Answer | None:
        """Another answer to the last question; the one before comes back by /undo, and if nothing comes instead."""
        whole = list(self.transcript.messages)
        while self.transcript.messages and self.transcript.messages[-1]["role"] != "user":
            self.transcript.messages.pop()
        question = self.transcript.messages.pop()["content"]
        past = list(self.transcript.past)
        made = self.ask(question)
        if made is None:
            self.transcript.messages, self.default = whole, ""
        self.transcript.past = [*past, whole] if made else past
        return made

    def _answer(self, out: Printer | None) -> drawing.Answer:
        wish = self.options.get("max_tokens")
        left_out, used = transcript.fitting(self.transcript, self.count, self.model.context, wish)
        if left_out != self.said_left_out:
            if left_out:
                self.say(f"the oldest {left_out} exchange{'s' * (left_out != 1)} no longer fit in {self.model.context:,} tokens and "
                         "are left out of what the model reads", "warn")
            self.said_left_out = left_out
        room = max(1, self.model.context - used)
        given = {k: v for k, v in self.options.items() if k not in ("max_tokens", "seed")}
        if self.schema is not None:
            given["schema"] = self.schema
        messages = self.transcript.sent(left_out)
        made = drawing.draw(
            lambda: self.model.stream_chat(messages, max_tokens=min(wish or room, room), seed=self.seed(), **given),
            out or self.printer(), prompt=used)
        made.stats.setdefault("prompt_tokens", used)
        return made


def greet(chat: Chat, size: str) -> None:
    """The first line: which model, how large, how much it reads, where help is."""
    rest = "".join(f" · {part}" for part in (size, f"reads {chat.model.context:,} tokens", "/help") if part)
    chat.console.print(Text.assemble((clean(chat.model.name), "bold"), (rest, "bright_black")))
    if chat.model.template is None:
        chat.say("this model has no chat template: it was not made to converse and will continue your text", "warn")


def converse(chat: Chat, *, history: bool = True) -> int:
    """Ask and answer until the person leaves."""
    from morphogen.cli.terminal.input import PlainPrompt, Prompt, terminal_mode

    for name in ("SIGTERM", "SIGHUP"):  # ended from outside: the terminal is given back as it was
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
    if chat.console.is_dumb_terminal:
        return _loop(chat, PlainPrompt())
    prompt = Prompt(commands.COMMANDS, history=history, hint="Ask something, /help for help")
    with terminal_mode(silent=True):
        return _loop(chat, prompt)


def _loop(chat: Chat, prompt: Any) -> int:
    leaving = False
    while True:
        chat.console.print()
        default, chat.default = chat.default, ""
        try:
            line = prompt.ask(default)
        except EOFError:
            return 0
        except KeyboardInterrupt:
            if leaving:
                return 0
            leaving = True
            chat.say("Ctrl-C once more or Ctrl-D leaves", "dim")
            continue
        leaving = False
        try:
            if turn(chat, line) == "quit":
                return 0
        except KeyboardInterrupt:
            chat.say("stopped", "dim")


def turn(chat: Chat, line: str) -> str:
    """One line of the person: a command or a question. Returns "quit" to leave."""
    if not line.strip():
        return ""
    if line.startswith("/") and not line.startswith("//"):
        try:
            wish = commands.dispatch(chat, line)
        except MorphogenError as error:
            chat.fail(error)
            return ""
        except OSError as error:
            chat.say(f"{error.strerror or error}: {line}", "bad")
            return ""
        if wish != "again":
            return wish
        chat.console.print()
        made = chat.again()
    else:
        chat.console.print()
        made = chat.ask(line[1:] if line.startswith("//") else line)
    if made is not None:
        chat.say(made.status(0, chat.model.context), "dim")
    return ""
