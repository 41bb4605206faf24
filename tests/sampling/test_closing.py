"""An answer under a grammar ends whole within its length, whatever the model wants."""
from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny import Tiny

from morphogen.language.drawing import Drawing, Writer
from morphogen.sampling import draws
from morphogen.sampling.closing import closers, closing
from morphogen.sampling.structured import constraint_maker

TINY = Tiny()
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "n": {"type": "integer"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
                                            "additionalProperties": False}},
    },
    "required": ["name", "n", "list"],
    "additionalProperties": False,
}


def piece(i: int) -> bytes:
    return TINY.text([i]).encode() if i not in TINY.special.values() else b""


def test_the_shortest_way_out_closes_what_is_open() -> None:
    constraint = constraint_maker(TINY, schema=SCHEMA)()
    for token in TINY.ids('{"name":"ab'):
        constraint.advance(token)
    plan = closing(constraint, closers(piece, TINY.size), 40)
    assert plan is not None and not constraint.complete
    value = json.loads('{"name":"ab' + TINY.text(plan))
    assert value["name"] == "ab" and value["list"] == []
    assert closing(constraint, closers(piece, TINY.size), len(plan)) == plan
    assert closing(constraint, closers(piece, TINY.size), len(plan) - 1) is None


class Stubborn(Tiny):
    """A tokenizer as Writer wants it."""

    def piece(self, i: int) -> bytes:
        return piece(i)

    def decoder(self) -> Any:
        return type("Plain", (), {"feed": lambda _, i: TINY.text([i]), "flush": lambda _: ""})()


@pytest.mark.parametrize("most", [60, 75, 120])
def test_whatever_the_logits_say_the_answer_is_whole(most: int) -> None:
    tokenizer: Any = Stubborn()
    make = constraint_maker(TINY, schema=SCHEMA)
    for seed in range(6):
        writer = Writer(tokenizer, Drawing(max_tokens=most, temperature=1.0), draws.seeded(seed, 1), [], make())
        for n in range(most):
            logits = torch.randn(TINY.size, generator=torch.Generator().manual_seed(1000 * seed + n))
            logits[TINY.ids("}")[0]] = logits[TINY.ids('"')[0]] = -20.0  # a model that never wants to end
            if writer.done(writer.choose(logits, n)):
                break
        writer.flush()
        assert set(json.loads(writer.text)) == {"name", "n", "list"} and len(writer.ids) <= most
