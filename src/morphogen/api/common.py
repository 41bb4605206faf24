"""What the verbs share: devices, a listener for progress, parsing of options, pieces of pages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from morphogen.errors import UsageError, suggest

DEVICES = ("auto", "cpu", "cuda", "mps")
SECTIONS = ("codec", "family", "net", "training")


class Watch:
    """Hears what a verb does. This one is silent; the command line shows it."""

    def say(self, line: str, kind: str = "info") -> None:
        """A finished line: kind is info, good, warn or head."""

    def progress(self, what: str, share: float, note: str = "") -> None:
        """`share` (0..1) of the work called `what` is done."""


class Alone:
    """One process that trains by itself: what `training.parallel.Crew` is for several."""

    first, world, kind = True, 1, ""

    def __init__(self, device: str) -> None:
        self.asked = device

    @property
    def device(self) -> str:
        return device_of(self.asked)  # looked for when it is needed: torch is slow to load, and a wrong path is told at once

    def once(self, work: Callable[[], Any]) -> Any:
        return work()

    def same(self, what: str, value: Any) -> None:
        pass


@contextlib.contextmanager
def crew_of(parallel: str | None, device: str) -> Iterator[Any]:
    """The processes that torchrun started, this one among them; `Alone` without it. `parallel`: ddp (the default) or fsdp."""
    if parallel is None and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Alone(device)
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's advice on what `parallel` does on purpose, a line a process
    from morphogen.training.parallel import joined

    with joined(parallel, device_of(device)) as crew:
        yield crew


def leads() -> bool:
    """Whether this process speaks: the only one, or the first of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"


def device_of(name: str) -> str:
    """The device to use. Raises UsageError when it is asked for and not there."""
    import torch

    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"unknown device '{name}'", remedy=suggest(kind, DEVICES))
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not there:
        raise UsageError(f"no {kind} device on this machine", remedy="use --device cpu")
    return name


def parse_options(settings: Iterable[str], sections: Sequence[str] = SECTIONS) -> dict[str, dict[str, Any]]:
    """`section.name=value` strings to nested values; a value is read as TOML when it can be, else as text."""
    out: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        section, _, name = key.partition(".")
        if not equals or not name or section not in sections:
            raise UsageError(f"cannot read --set {setting}", remedy=f"write section.name=value with section one of {', '.join(sections)}")
        out.setdefault(section, {})[name] = _value(text)
    return out


def parse_cond(pairs: Iterable[str]) -> dict[str, str]:
    """`key=value` strings. Raises UsageError for anything else and for a key said twice."""
    out: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"cannot read --cond {pair}", remedy="write --cond name=value")
        key = {"labels": "label", "captions": "caption"}.get(key, key)
        if key in out:
            raise UsageError(f"--cond {key} is given twice", remedy="say it once")
        out[key] = value
    return out


def _value(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def seconds(value: float) -> str:
    """A duration people read: 42 s, 3 min 20 s, 1 h 05 min."""
    value = round(value)
    if value < 90:
        return f"{value} s"
    minutes, rest = divmod(value, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def check_count(n: int, name: str = "n", most: int = 10_000_000) -> int:
    """Refuse numbers of outputs that make no sense."""
    if not 1 <= n <= most:
        raise UsageError(f"--{name} {n} is out of range", remedy=f"give a whole number from 1 to {most:,}")
    return n
