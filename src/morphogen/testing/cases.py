"""One small example of each kind of Space, and the cases in which a family or a bridge is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from morphogen.config import make
from morphogen.contracts import Batch
from morphogen.sampling import draws
from morphogen.sampling.choice import until_end
from morphogen.spaces import Array, Record, Space, Tokens

TINY = {"size": "tiny", "width": 32, "depth": 1}
SPACES: dict[str, Space] = {
    "picture": Array((1, 8, 8)),
    "signal": Array((2, 12)),
    "vector": Array((5,)),
    "text": Tokens(12, 10, end=11),
    "slots": Tokens(9, 3, slots=((0, 3), (3, 5), (5, 9))),
    "grid": Tokens(4, 12, grid=(3, 4)),
    "row": Record((("kind", Tokens(3, 1)), ("size", Array((1,))), ("age", Array((1,))))),
}
CONDITIONS: dict[str, dict[str, Space]] = {
    "none": {}, "label": {"label": Tokens(3, 1)}, "both": {"label": Tokens(3, 1), "weight": Array((1,)), "caption": Tokens(7, 4, end=6)},
}


@dataclass(frozen=True)
class Case:
    """What is tried: `make` builds it afresh with equal weights, `batch` is what it is given."""

    name: str
    make: Callable[[], Any]
    batch: Batch

    def __str__(self) -> str:
        return self.name


def sample(space: Space, keys: Tensor, name: str = "x") -> Any:
    """Some samples of a Space, a batch with one row a key."""
    match space:
        case Array():
            return draws.normal(keys, name, 0, tuple(n or 6 for n in space.shape))
        case Tokens():
            u = draws.uniform(keys, name, 0, (space.length,))
            if space.slots:
                low, high = torch.tensor(space.slots).unbind(1)
                return torch.minimum(low + (u * (high - low)).long(), high - 1)
            x = (u * space.vocab).long().clamp(max=space.vocab - 1)
            return x if space.end is None else torch.where(until_end(x, space.end), x, space.end)
        case Record():
            return {k: sample(s, keys, k) for k, s in space.fields}


def batch_of(space: Space, conditions: dict[str, Space] | None = None, n: int = 12) -> Batch:
    """A batch of `n` samples with their conditions, weight 1 each."""
    keys = draws.seeded(0, n)
    x = sample(space, keys)
    mask = until_end(x, space.end) if isinstance(space, Tokens) and space.end is not None else None
    return Batch(x, keys, torch.ones(n), mask, {k: sample(s, keys, f"c.{k}") for k, s in (conditions or {}).items()})


def family_cases(kind: Any, config: dict[str, Any] | None = None) -> list[Case]:
    """Every Space a family accepts, without conditions and with some; nets as small as they get.

    Spaces whose needs the family refuses with a UsageError when it is built are left out; one must be left.
    """
    from morphogen.errors import UsageError

    values = {**({"net": TINY} if "net" in kind.Config.__dataclass_fields__ else {}), **(config or {})}
    cases = []
    for name, space in SPACES.items():
        for conditions in CONDITIONS if name in ("picture", "text") else ("none", "label"):
            if not isinstance(space, tuple(kind.accepts)):
                continue

            def build(space: Space = space, conditions: dict[str, Space] = CONDITIONS[conditions]) -> Any:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)  # equal weights each time
                    return kind(space, conditions, make(kind.Config, values))

            try:
                build()
            except UsageError:
                continue
            cases.append(Case(f"{name}-{conditions}", build, batch_of(space, CONDITIONS[conditions])))
    if not cases:
        raise AssertionError(f"{kind.__name__} can be built for none of the example Spaces it says it accepts")
    return cases


def bridge_cases(kind: Any, n: int = 80) -> list[Case]:
    """Every example Space of the type a bridge leads from."""
    sources = {name: space for name, space in SPACES.items() if isinstance(space, kind.leads[0])}
    cases = [Case(name, lambda space=space: kind(space), batch_of(space, n=n)) for name, space in sources.items()]
    if not cases:
        raise AssertionError(f"{kind.__name__} leads from {kind.leads[0].__name__}, of which there is no example")
    return cases
