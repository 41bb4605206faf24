"""Every family on every kind of Space it accepts, and every codec on a sample of its data, passes the public checks."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from morphogen.config import NetConfig, make
from morphogen.contracts import Batch
from morphogen.model import real_positions
from morphogen.registry import FAMILIES, resolve
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Space, Tokens
from morphogen.testing import check_codec, check_family

TINY = {"size": "tiny", "width": 32, "depth": 1}
SPACES: dict[str, Space] = {
    "picture": Array((1, 8, 8)),
    "signal": Array((2, 12)),
    "vector": Array((5,)),
    "text": Tokens(12, 10, end=11),
    "slots": Tokens(9, 3, slots=((0, 3), (3, 5), (5, 9))),
    "row": Record((("kind", Tokens(3, 1)), ("size", Array((1,))), ("age", Array((1,))))),
}
CONDITIONS: dict[str, dict[str, Space]] = {
    "none": {}, "label": {"label": Tokens(3, 1)}, "both": {"label": Tokens(3, 1), "weight": Array((1,)), "caption": Tokens(7, 4, end=6)},
}


def sample(space: Space, keys: torch.Tensor, name: str = "x") -> Any:
    match space:
        case Array():
            return draws.normal(keys, name, 0, tuple(n or 6 for n in space.shape))
        case Tokens():
            if space.slots:
                low, high = torch.tensor(space.slots).unbind(1)
                return (low + (draws.uniform(keys, name, 0, (space.length,)) * (high - low)).long()).clamp(max=space.vocab - 1)
            x = (draws.uniform(keys, name, 0, (space.length,)) * space.vocab).long()
            if space.end is not None:
                x = torch.where(real_positions(x, space.end), x, space.end)
            return x
        case Record():
            return {k: sample(s, keys, k) for k, s in space.fields}


def batch_of(space: Space, conditions: dict[str, Space], n: int = 12) -> Batch:
    keys = draws.seeded(0, n)
    x = sample(space, keys)
    mask = real_positions(x, space.end) if isinstance(space, Tokens) and space.end is not None else None
    return Batch(x, keys, torch.ones(n), mask, {k: sample(s, keys, f"c.{k}") for k, s in conditions.items()})


CASES = [
    (family, space, cond)
    for family in FAMILIES
    for space in SPACES
    for cond in CONDITIONS
    if isinstance(SPACES[space], resolve("family", family).accepts)
    and not (cond == "both" and space not in ("picture", "text"))
    and not (family == "seq2seq" and cond != "both" and space == "slots")
]


@pytest.mark.parametrize(("family", "space", "cond"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_family_keeps_its_promises(family: str, space: str, cond: str) -> None:
    kind, where, conditions = resolve("family", family), SPACES[space], CONDITIONS[cond]
    config = {"net": TINY} if "net" in kind.Config.__dataclass_fields__ else {}

    def build() -> Any:
        torch.manual_seed(0)
        return kind(where, conditions, make(kind.Config, config))

    check_family(build, batch_of(where, conditions))


def test_net_config_is_resolved() -> None:
    kind = resolve("family", "flow")
    family = kind(Array((1, 8, 8)), {}, make(kind.Config, {"net": {"size": "tiny"}}))
    net: NetConfig = family.config.net
    assert net.width > 0 and net.depth > 0, "derived values must be filled in, so that they are saved"


@pytest.mark.parametrize("name", ["digits", "emoji", "penguins", "docstrings"])
def test_codec_keeps_its_promises(name: str, samples: dict[str, Path], tmp_path: Path) -> None:
    from morphogen.plan import read

    codec, items = read(samples[name])[-2:]
    check_codec(lambda: type(codec)(codec.config), items[:200], tmp_path)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from morphogen.samples import unpack

    return unpack(tmp_path_factory.mktemp("samples") / "data")
