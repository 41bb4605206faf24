"""When a run is saved and stopped: now and then, between steps, whatever the disk and the keyboard do."""
from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphogen.errors import ResourceError

if TYPE_CHECKING:
    from morphogen.training.trainer import Trainer


class Saving:
    """Checkpoints now and then, and what is done when the disk refuses: wait, say it once, try again later."""

    def __init__(self, trainer: Trainer, folder: Path | None, every: float, warn: Callable[[str], None] | None) -> None:
        self.trainer, self.folder, self.every, self.warn = trainer, folder, every, warn or (lambda line: None)
        self.last, self.refused = time.monotonic(), False

    def now_and_then(self) -> None:
        """Save when it is time, unless the run is at its end."""
        done = self.trainer.steps >= self.trainer.config.steps
        if self.folder is None or done or not self.trainer.lanes.tell(time.monotonic() - self.last > self.every):
            return
        try:
            self.trainer.save(self.folder)
        except ResourceError as error:
            if not self.refused:
                self.warn(f"checkpoints pause, training goes on: {error}")
            self.refused = True
        else:
            if self.refused:
                self.warn(f"checkpoints are written again, from step {self.trainer.steps} on")
            self.refused = False
        self.last = time.monotonic()


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM wait for the call of what this gives, which then raises KeyboardInterrupt; the second one does not wait.

    A step that is broken off leaves weights that no step count describes. Outside of the main thread nothing changes.
    """
    asked: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def stop() -> None:
        if asked:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    # A handler of somebody else's stays: they know better when to stop. SIGTERM's default ends the process without a word.
    ours = [s for s in (signal.SIGINT, signal.SIGTERM) if main and signal.getsignal(s) in (signal.default_int_handler, signal.SIG_DFL)]
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
