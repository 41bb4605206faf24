"""One exception family: what happened, where, and what to do about it. No torch here."""
from __future__ import annotations


class MorphogenError(Exception):
    """Base of every error this package raises on purpose.

    `what` says what is wrong and with which value, `where` names the file, line, row or field, `remedy` says
    what to do. `code` is a short stable name for scripts, `exit_code` is what the command line returns.
    """

    code = "internal"
    exit_code = 1

    def __init__(self, what: str, *, where: object = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, str(where), remedy
        super().__init__(self.line())

    def line(self) -> str:
        """`what, where: remedy` on a single line (control characters and endless names cannot break it up)."""
        what, where, remedy = map(_short, (self.what, self.where, self.remedy))
        text = what + (f", {where}" if where else "") + (f": {remedy}" if remedy else "")
        return "".join(c if c.isprintable() else " " for c in text)


def _short(text: str, most: int = 390) -> str:
    return text if len(text) <= most else f"{text[: most - 90]} … {text[-80:]}"


class UsageError(MorphogenError):
    """The call itself is wrong: an unknown name, options that contradict each other."""

    code, exit_code = "usage", 2


class DataError(MorphogenError):
    """The user's data cannot be used as they are."""

    code, exit_code = "data", 3


class FormatError(MorphogenError):
    """A model or run file is damaged, unsafe or of a kind we do not read."""

    code, exit_code = "format", 4


class ResourceError(MorphogenError):
    """Not enough memory, disk or time, or an extra package is missing."""

    code, exit_code = "resources", 5


class NotPermitted(MorphogenError):
    """Refused on purpose: consent, sandbox or safety."""

    code, exit_code = "not-permitted", 6


class Interrupted(MorphogenError):
    """Stopped by the user; what was finished is saved."""

    code, exit_code = "interrupted", 130


def suggest(word: str, known: object) -> str:
    """`Did you mean 'x'?` or the list of what is known, for the remedy of an unknown name."""
    import difflib

    names = sorted(str(k) for k in known)  # type: ignore[attr-defined]
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{close[0]}'?" if close else "choose one of " + ", ".join(names)


def needs(module: str, extra: str, what: str):
    """Import an optional package or say in one line how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ResourceError(f"{what} needs {module}", remedy=f"pip install 'morphogen[{extra}]'") from None
