"""What a report shows, as plain values: the page and its sections. The look is in `templates/`."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from morphogen.evaluation.metric import Metric

Preview: TypeAlias = Mapping[str, Any]
"""{"kind": "image", "png": [PNG, GIF or WebP bytes], and maybe "texts": [a line each], "audio": [WAV bytes]}
| {"kind": "table", "columns", "rows"} | {"kind": "text", "texts"}."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Short statements: what was found in the data and picked, or advice. A line is text, or (term, text)."""

    title: str
    lines: Sequence[str | tuple[str, str]]
    kind: ClassVar[str] = "lines"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Generated items, each with a caption where there is one."""

    title: str
    preview: Preview
    captions: Sequence[str] = ()
    note: str = ""
    kind: ClassVar[str] = "samples"


@dataclass(frozen=True, kw_only=True)
class Strips:
    """The same draws over training: (step, preview) in order."""

    title: str
    steps: Sequence[tuple[int, Preview]]
    note: str = ""
    kind: ClassVar[str] = "strips"


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Metrics as cards, the details in a table below."""

    title: str
    metrics: Sequence[Metric]
    note: str = ""
    kind: ClassVar[str] = "measures"


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Series over `x`, one chart each; rows are the dicts of metrics.jsonl. `keys` empty draws every number there is."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    keys: Sequence[str] = ()
    x: str = "step"
    kind: ClassVar[str] = "curves"


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Generated items beside their nearest training items; `distances` count in held-out medians."""

    title: str
    generated: Preview
    nearest: Preview
    distances: Sequence[float]
    note: str = ""
    kind: ClassVar[str] = "copies"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Keys and values: the model card."""

    title: str
    facts: Mapping[str, Any]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Something to paste into a shell."""

    title: str
    command: str
    note: str = ""
    kind: ClassVar[str] = "command"


Section: TypeAlias = Lines | Samples | Strips | Measures | Curves | Copies | Facts | Command


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report: a verdict above all, then sections in order."""

    title: str
    verdict: str
    date: str
    "As it should read; the caller's clock, so that a replayed run gives the same page."
    tone: str = "unknown"
    "good, fair, poor or unknown."
    subtitle: str = ""
    sections: Sequence[Section] = field(default_factory=list)
    footer: str = "Made by morphogen. Figures carry 95% intervals; real-against-real is the best anyone can do on average."


@dataclass(frozen=True, kw_only=True)
class Row:
    """One family of a comparison."""

    family: str
    metrics: Sequence[Metric]
    seconds: float
    preview: Preview | None = None
    verdict: str = ""
    tone: str = "unknown"
    classical: bool = False
    failed: str = ""
    "Why there is no result, when there is none."
