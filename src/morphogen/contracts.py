"""The values the rooms hand to each other, and the protocols they meet. No torch at run time."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from morphogen.spaces import Space

if TYPE_CHECKING:
    from torch import Tensor

Raw: TypeAlias = Any
Sample: TypeAlias = "np.ndarray | dict[str, Any]"
Tree: TypeAlias = "Tensor | dict[str, Any]"


# ---------------------------------------------------------------- host side
@dataclass(frozen=True)
class Item:
    """One thing of the user's. `cond`: what is said about it. `group`: items of one group stay on one side of a split.

    `source`: the file, or file and row, it was read from; for people. `given`: the part of `raw` that is known beforehand, as
    `Codec.given` reads it (a prompt): seen in training and not learned.
    """

    raw: Raw
    cond: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    source: str = ""
    given: Raw = None


@dataclass(frozen=True)
class Claim:
    """How sure a codec is (0 = not mine .. 1) that it should read a listing, and why in plain words."""

    score: float
    why: str = ""


@dataclass(frozen=True)
class Given:
    """Values and which of them are known (bool, True = seen), both in the sample's own layout.

    `known` is (1|C, *space) for an Array, (L,) for Tokens, a dict by field for a Record; with a batch axis on the device.
    """

    x: Any
    known: Any


class Codec(Protocol):
    """Raw file content <-> sample of a Space, on the host, one item at a time; picklable; torch-free."""

    name: ClassVar[str]
    space: Space

    @staticmethod
    def claims(listing: Any) -> Claim: ...
    def read(self, listing: Any) -> Iterator[Item]: ...
    def fit(self, items: Sequence[Item]) -> None: ...
    def encode(self, raw: Raw) -> Sample: ...
    def decode(self, x: Sample) -> Raw: ...
    def write(self, raws: Sequence[Raw], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]: ...
    def given(self, raw: Raw) -> Given: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Checks(Protocol):
    def checks(self, raw: Raw, cond: dict[str, Any]) -> dict[str, bool]: ...


@runtime_checkable
class Holds(Protocol):
    """Reads a listing into a Sequence whose items are made when they are asked for (`codecs.held`), so that millions fit."""

    def hold(self, listing: Any) -> Sequence[Item]: ...


@runtime_checkable
class Packs(Protocol):
    """Keeps samples small between steps: `unpack` gives the rows `ids` of what `pack` made, stacked, exactly as `encode` makes them."""

    def pack(self, items: Sequence[Item]) -> Any: ...
    def unpack(self, packed: Any, ids: np.ndarray) -> Sample: ...


@runtime_checkable
class Features(Protocol):
    def features(self, raws: Sequence[Raw]) -> np.ndarray: ...


@runtime_checkable
class Derives(Protocol):
    """Computes what can be said of an item from the item itself: to train on, to ask for, and to check outputs by.

    `derived`: name -> one line in words. `derive`: one dict a raw item; None where a value cannot be had.
    """

    derived: ClassVar[dict[str, str]]

    def derive(self, raws: Sequence[Raw], names: Sequence[str]) -> list[dict[str, Any]]: ...


@runtime_checkable
class Pairs(Protocol):
    """Samples of items with a known part (`Item.given`) whose layout depends on where that part ends.

    `pair`: x is the whole sample of `raw` and `known` its part that is given. Raises DataError when both do not fit.
    """

    def pair(self, given: Raw, raw: Raw) -> Given: ...


@runtime_checkable
class Augments(Protocol):
    """Further items made of some: other spellings, other orientations. For training only: held out they would be copies."""

    def augmented(self, items: Sequence[Item]) -> list[Item]: ...


@runtime_checkable
class Faults(Protocol):
    """Says what to keep of a faulty item: None = no fault. Later attempts (0, 1, ...) keep less."""

    def faults(self, raw: Raw, attempt: int) -> Given | None: ...


@runtime_checkable
class Explains(Protocol):
    """Names the parts of an item that a person knows, with the sum of what each got (`parts` in the sample's own layout)."""

    def explain(self, raw: Raw, parts: Sample) -> list[tuple[str, float]]: ...


@runtime_checkable
class Identifies(Protocol):
    """`identity(raw)` is equal for one thing written in different ways (a canonical form); copies are counted by it."""

    def identity(self, raw: Raw) -> str: ...


@runtime_checkable
class HasRunning(Protocol):
    """A codec whose files can be taken as one running string of tokens, bytes and all: what lossless coding likes best.

    `tokens_of` None: these bytes would not come back. `seam`: the token between items. `alike`: all ids (no end), neighbours alike.
    """

    @property
    def seam(self) -> int: ...
    @property
    def alike(self) -> list[int]: ...
    def tokens_of(self, data: bytes) -> np.ndarray | None: ...
    def bytes_of(self, ids: Any) -> bytes: ...


class Grammar(Protocol):
    """Left-to-right legality of token strings. States are immutable values.

    `allowed(state, left)`: (V,) bool, never all False, such that a legal ending within `left` positions (this one counted)
    always remains.
    """

    def start(self) -> Any: ...
    def allowed(self, state: Any, left: int) -> np.ndarray: ...
    def advance(self, state: Any, token: int) -> Any: ...


@runtime_checkable
class HasGrammar(Protocol):
    """`grammar()` is None when strings of this codec need none (every string is legal) or none is known."""

    def grammar(self) -> Grammar | None: ...


# -------------------------------------------------------------- device side
@dataclass
class Cond:
    """What the nets get to know: one vector a row, a sequence with its mask, maps aligned with the sample."""

    vector: Tensor | None = None
    sequence: Tensor | None = None
    mask: Tensor | None = None
    aligned: Tensor | None = None


@dataclass
class Batch:
    """`key` (B,) int64 names every draw; `weight` (B,) 1 counts, 0 is a padding row; `mask` (B, L) True = real position.

    `cond` maps names to tensors in the conditions' own Spaces; a missing name is "nothing said".
    `given`: seen and not counted. `extra`: what a wrapper needs (a rejected answer ...).
    """

    x: Any
    key: Tensor
    weight: Tensor
    mask: Tensor | None = None
    cond: dict[str, Tensor] = field(default_factory=dict)
    given: Given | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Loss:
    """`total` and `stats` are SUMS over `weight` units, so windows and ranks add up; the trainer divides once.

    `parts`: named detached sums for the log.
    """

    total: Tensor
    weight: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class LogProb:
    """Natural-log probability. `total` (B,); `parts` (B, ...) where the family has them."""

    total: Tensor
    kind: Literal["exact", "bound", "estimate"]
    parts: Tensor | None = None


@dataclass
class Oddity:
    """How unlike what was learned each row is. `views` (B, K): one or more looks at it, higher = odder, each in its own unit.

    `parts`: the share of single numbers or tokens, in the layout of `Batch.x`, where there is one. `size` (B,): how many
    tokens were looked at, where rows differ in that. `kind`: what the views are made of.
    """

    views: Tensor
    kind: Literal["exact", "bound", "estimate", "reconstruction"]
    parts: Tensor | None = None
    size: Tensor | None = None


@dataclass
class Request:
    """What to draw: n = len(key). `cond` and `given` are batched tensors in the conditions' / the family's Space.

    `grammar`: families that write from left to right choose legal tokens only; others leave it unread.
    """

    key: Tensor
    cond: dict[str, Tensor] = field(default_factory=dict)
    given: Given | None = None
    length: int | None = None
    sampling: Any = None
    adapter: str | None = None
    grammar: Grammar | None = None


@dataclass
class Partial:
    """A step of a stream: positions < `settled` never change again; `progress` in 0..1."""

    x: Any
    settled: int = 0
    progress: float = 1.0
    done: bool = True


@dataclass(frozen=True)
class Phase:
    """One optimiser's share of a step. `params`: name prefixes relative to the family; `every`: run each n-th step."""

    name: str = "main"
    params: tuple[str, ...] = ("",)
    every: int = 1
    lr: float = 1.0
    "Multiplies the run's learning rate."
    betas: tuple[float, float] | None = None


class Bridge(Protocol):
    """Space -> Space in batches on the device (an nn.Module). Built as `Kind(source)`; class: `leads` (source and target type).

    `volume(x)`: (B,) to add to log p(encoded x) so that it is log p(x); None = not comparable.
    `given`: None when known values do not pass through. `parts`: numbers for each element of the target, summed for the
    elements of the source they came from; None when no element is the source's own.
    """

    source: Space
    target: Space

    def fit(self, x: Tree, mask: Tensor | None) -> None: ...
    def encode(self, x: Tree, mask: Tensor | None = None) -> tuple[Tree, Tensor | None]: ...
    def decode(self, x: Tree, keys: Tensor) -> Tree: ...
    def given(self, given: Given) -> Given | None: ...
    def parts(self, each: Tensor) -> Tree | None: ...
    def volume(self, x: Tree) -> Tensor | None: ...


class Family(Protocol):
    """A loss and a draw (an nn.Module). Built as `Kind(space, conditions, config)`.

    Class: `accepts` (Space types), `Config` and `Sampling` dataclasses. Instance: `space`, `config` (every derived
    value filled in), `infill` ("none" | "prefix" | "any"), `phases` (() for classical families, which have `fit`).
    Class: `compiles = False` when the loss is not one graph for torch.compile, `game = True` when two sides' losses tell no quality.
    """

    accepts: ClassVar[tuple[type, ...]]
    Config: ClassVar[type]
    Sampling: ClassVar[type]
    space: Space
    config: Any
    infill: str
    phases: tuple[Phase, ...]

    def forward(self, batch: Batch, phase: str = "main") -> Loss: ...
    def stream(self, request: Request) -> Iterator[Partial]: ...


@runtime_checkable
class HasLogProb(Protocol):
    def log_prob(self, batch: Batch) -> LogProb: ...


@runtime_checkable
class HasSteps(Protocol):
    def start(self, request: Request) -> Any: ...
    def step(self, state: Any, ids: Tensor) -> Tensor: ...


@runtime_checkable
class HasWholeNumbers(Protocol):
    """`portable()`: `steps()` gives next-token weights and `counts(seam)` n-grams, both in whole numbers: alike on every machine."""

    def portable(self) -> Any: ...


@runtime_checkable
class HasLatent(Protocol):
    latent: Space

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class HasOddity(Protocol):
    """A family's own way to say how odd a row is, where that is better than its log-probability, or there is none.

    A row's answer does not depend on its neighbours; draws are named by `batch.key`.
    """

    def oddity(self, batch: Batch) -> Oddity: ...


@runtime_checkable
class Inverts(Protocol):
    """Rows <-> numbers (B, ...) whose blends are rows again; `redraw(invert(x))` is x, as well as the family can."""

    def invert(self, batch: Batch) -> Tensor: ...
    def redraw(self, z: Tensor, cond: dict[str, Tensor]) -> Tensor: ...


@runtime_checkable
class Varies(Protocol):
    """Rows near given ones: `level` 0 is as near as the family comes, 1 a draw of its own. Draws are named by `batch.key`."""

    def vary(self, batch: Batch, level: float) -> Tensor: ...


@runtime_checkable
class Calibrates(Protocol):
    """Sets data-dependent buffers once, from a large first batch, before training."""

    def calibrate(self, batch: Batch) -> None: ...


@runtime_checkable
class Adapts(Protocol):
    """Changes buffers between optimiser steps; `stats` are the summed stats of the step."""

    def after_step(self, step: int, progress: float, stats: dict[str, Tensor]) -> None: ...


class Health(NamedTuple):
    share: float
    "From 1 (well) to 0 (nothing left of the data)."
    words: str
    remedy: str


@runtime_checkable
class Ails(Protocol):
    """Can go wrong though its losses look fine, and can tell what and what helps: a run then goes back to a state that was well."""

    def health(self) -> Health: ...
