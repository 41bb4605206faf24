"""One answer: the model works on a thread, the screen follows on this one, Ctrl-C stops without loss."""
from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from morphogen.cli.terminal.printer import Printer

SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass
class Answer:
    """What was said, why it ended, and how fast it came."""

    text: str = ""
    tokens: int = 0
    reason: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    first: float = 0.0  # seconds to the first text
    seconds: float = 0.0

    def rate(self) -> float:
        """Tokens a second after the first one."""
        return float(self.stats.get("decode_tok_s") or (self.tokens - 1) / max(1e-9, self.seconds - self.first))

    def status(self, prompt: int, context: int) -> str:
        """One quiet line: tokens, rate, wait, share of the context in use."""
        prompt = int(self.stats.get("prompt_tokens") or prompt)
        parts = [f"{self.tokens:,} token{'s' * (self.tokens != 1)}"]
        if self.tokens > 1:
            parts.append(f"{self.rate():.1f} tok/s")
        if self.text:
            parts.append(f"first after {self.first:.2f} s")
        if context:
            parts.append(f"{(prompt + self.tokens) / context:.0%} of {context:,}")
        why = {"cancelled": "stopped", "length": "cut at the length limit"}.get(self.reason)
        return " · ".join(([why] if why else []) + parts)

    def record(self) -> dict[str, Any]:
        """What `--json` prints."""
        stats = {k: v for k, v in self.stats.items() if isinstance(v, int | float | str)}
        return {"text": self.text, "tokens": self.tokens, "reason": self.reason, "first_s": round(self.first, 4),
                "decode_tok_s": round(self.rate(), 2) if self.tokens > 1 else None} | stats


_END = object()


def draw(pieces: Callable[[], Iterator[Any]], out: Printer, *, prompt: int = 0) -> Answer:
    """Stream an answer to a printer. Raises what the model raised; Ctrl-C ends it with the reason "cancelled"."""
    answer, begun = Answer(), time.monotonic()
    stop, line = threading.Event(), queue.Queue()
    worker = threading.Thread(target=_work, args=(pieces, line, stop), daemon=True)
    with _interrupts(stop), _no_cursor():
        worker.start()
        turn, progress = 0, ""
        while True:
            try:
                piece = line.get(timeout=0.1)
            except queue.Empty:
                if not answer.text or stop.is_set():
                    what = "stopping" if stop.is_set() else progress or _reading(prompt)
                    out.note(f"{SPIN[turn % len(SPIN)]} {what}" + (f" {time.monotonic() - begun:.0f} s" if turn > 20 else ""))
                    turn += 1
                else:
                    out.note("")
                continue
            if piece is _END:
                break
            if isinstance(piece, BaseException):
                out.finish()
                raise piece
            progress = _take(piece, answer, begun) or progress
            out.feed(piece.text)
    answer.seconds = time.monotonic() - begun
    if stop.is_set() and answer.reason in ("", "cancelled"):
        answer.reason = "cancelled"
    out.finish()
    return answer


def _take(piece: Any, answer: Answer, begun: float) -> str:
    """Add a piece to the answer; the progress of reading when the piece says it."""
    if piece.text and not answer.text:
        answer.first = time.monotonic() - begun
    answer.text += piece.text
    answer.tokens += len(piece.ids)
    stats = piece.stats or {}
    if piece.done:
        answer.reason, answer.stats = piece.reason, dict(stats)
        answer.tokens = int(stats.get("tokens") or answer.tokens)
    elif stats.get("prompt_tokens") and "prefilled" in stats:
        return f"{_reading(stats['prompt_tokens'])} {min(1.0, stats['prefilled'] / stats['prompt_tokens']):.0%}"
    return ""


def _reading(prompt: int) -> str:
    return f"reading {prompt:,} tokens" if prompt else "reading"


def _work(pieces: Callable[[], Iterator[Any]], line: queue.Queue, stop: threading.Event) -> None:
    """Only this thread touches the iterator: one that is running cannot be closed from another."""
    try:
        iterator = pieces()
        for piece in iterator:
            line.put(piece)
            if stop.is_set():
                if not piece.done:
                    close = getattr(iterator, "close", None)
                    if close:
                        close()
                break
        line.put(_END)
    except BaseException as error:
        line.put(error)


@contextlib.contextmanager
def _interrupts(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C asks to stop; a third one leaves, should the model hang."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    times = 0

    def asked(*_: Any) -> None:
        nonlocal times
        times += 1
        stop.set()
        if times > 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _no_cursor() -> Iterator[None]:
    """A cursor that jumps about in an answer is a nuisance."""
    if not sys.stdout.isatty():
        yield
        return
    try:
        sys.stdout.write("\x1b[?25l")
        sys.stdout.flush()
        yield
    finally:
        sys.stdout.write("\x1b[?25h")
        sys.stdout.flush()
