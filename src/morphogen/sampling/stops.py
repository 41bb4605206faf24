"""Stop strings, also where they lie across tokens: what could still become one is held back until it is known."""
from __future__ import annotations

from collections.abc import Sequence

from morphogen.errors import UsageError

MOST, LONGEST = 4, 64


class Stops:
    """Cuts a running text where the first stop string begins; the string itself is never shown.

    What was shown in the end is `text[:p]`, p = the least place at which a stop string begins, however the text was split.
    Raises UsageError for more than 4 strings, for empty ones and for more than 64 characters.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        self.strings = [strings] if isinstance(strings, str) else list(strings)
        if len(self.strings) > MOST:
            raise UsageError(f"{len(self.strings)} stop strings", remedy=f"give at most {MOST}")
        for s in self.strings:
            if not isinstance(s, str) or not 0 < len(s) <= LONGEST:
                raise UsageError(f"stop string {s!r} is not valid", remedy=f"give 1 to {LONGEST} characters")
        self.held = ""
        self.stopped = False

    def feed(self, text: str) -> tuple[str, bool]:
        """More text -> what is safe to show, and whether a stop string was met. After that nothing is shown any more."""
        if self.stopped:
            return "", True
        self.held += text
        met, open_from = self._met(), self._open()
        if met <= open_from and met < len(self.held):
            self.stopped = True
            open_from = met
        shown, self.held = self.held[:open_from], "" if self.stopped else self.held[open_from:]
        return shown, self.stopped

    def flush(self) -> tuple[str, bool]:
        """The text is over: what was held back, and whether it had a stop string (a longer one that began earlier never came)."""
        met = self._met()
        self.stopped = self.stopped or met < len(self.held)
        shown, self.held = self.held[:met], ""
        return shown, self.stopped

    def _met(self) -> int:
        """Where the first whole stop string begins in what is held; its length when there is none."""
        places = [self.held.find(s) for s in self.strings]
        return min((p for p in places if p >= 0), default=len(self.held))

    def _open(self) -> int:
        """The first place from which all that is held could go on to be a stop string."""
        best = 0
        for s in self.strings:
            best = max(best, next((n for n in range(min(len(s) - 1, len(self.held)), best, -1) if self.held.endswith(s[:n])), 0))
        return len(self.held) - best
