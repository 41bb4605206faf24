"""Balanced brackets: every string is legal, whoever writes it, and the law is the model's own, renormalised step by step."""
from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Given, Grammar, Request
from morphogen.families.autoregressive import Autoregressive, AutoregressiveConfig
from morphogen.families.ngram import Ngram, NgramConfig
from morphogen.families.seq2seq import Seq2Seq, Seq2SeqConfig
from morphogen.sampling import draws
from morphogen.sampling.grammar import Guide, first_fault
from morphogen.spaces import Tokens

OPEN, CLOSE, END = 0, 1, 2
NET = NetConfig(size="tiny", width=16, depth=1, heads=2)


class Brackets:
    """Depth is the state. A string ends when all are closed, within the length."""

    def start(self) -> int:
        return 0

    def allowed(self, state: int, left: int) -> np.ndarray:
        return np.array([state + 2 < left, state > 0, state == 0])

    def advance(self, state: int, token: int) -> int:
        return state + (1 if token == OPEN else -1)


def legal(row: list[int]) -> bool:
    depth = 0
    for i, token in enumerate(row):
        if token == END:
            return depth == 0 and all(t == END for t in row[i:])
        depth += 1 if token == OPEN else -1
        if depth < 0:
            return False
    return False


def family(kind: str, length: int) -> Any:
    space = Tokens(3, length, end=END)
    torch.manual_seed(0)
    if kind == "ngram":
        made = Ngram(space, {}, NgramConfig(order=3, smoothing="witten-bell"))
        x = torch.tensor([[OPEN, CLOSE, OPEN, *[END] * length][:length], [CLOSE, OPEN, *[END] * length][:length]])
        made.fit([Batch(x, draws.seeded(0, 2), torch.ones(2))])
        return made
    built = Autoregressive(space, {}, AutoregressiveConfig(net=NET)) if kind == "autoregressive" else (
        Seq2Seq(space, {}, Seq2SeqConfig(net=NET)))
    with torch.no_grad():
        for p in built.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return built.eval()


def drawn(made: Any, n: int, grammar: Grammar | None, **more: Any) -> list[list[int]]:
    *_, last = made.stream(Request(draws.seeded(1, n), sampling=made.Sampling(), grammar=grammar, **more))
    return last.x.tolist()


@pytest.mark.parametrize("kind", ["autoregressive", "ngram", "seq2seq"])
@pytest.mark.parametrize("length", [1, 2, 3, 12])
def test_every_string_is_legal_also_when_room_is_short(kind: str, length: int) -> None:
    made = family(kind, length)
    rows = drawn(made, 64, Brackets())
    assert all(map(legal, rows))
    if length == 12:
        assert not all(map(legal, drawn(made, 64, None))), "the grammar must have had something to do"
        assert all(legal(row) and row[5] == END for row in drawn(made, 64, Brackets(), length=6))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["autoregressive", "ngram"])
def test_the_law_is_the_models_own_renormalised(kind: str) -> None:
    made, length, n = family(kind, 6), 6, 6000
    expected = {}
    for row in product((OPEN, CLOSE, END), repeat=length):
        if legal(list(row)):
            p, depth = 1.0, 0
            state = made.start(Request(draws.seeded(0, 1)))
            logits = made.step(state, torch.zeros(1, 0, dtype=torch.int64) if kind == "autoregressive" else torch.tensor([3]))
            for i, token in enumerate(row):
                allowed = torch.from_numpy(Brackets().allowed(depth, length - i))
                p *= float(logits[0].masked_fill(~allowed, -torch.inf).softmax(0)[token])
                if token == END:
                    break
                depth = Brackets().advance(depth, token)
                logits = made.step(state, torch.tensor([[token]]))
            expected[row] = p
    assert abs(sum(expected.values()) - 1) < 1e-5
    rows = [tuple(r) for r in drawn(made, n, Brackets())]
    for row, p in expected.items():
        assert abs(rows.count(row) / n - p) < 4.5 * (p * (1 - p) / n) ** 0.5 + 1e-3


def given(rows: list[list[int | None]], length: int) -> Given:
    x, known = torch.zeros(len(rows), length, dtype=torch.int64), torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        for j, token in enumerate(row):
            if token is not None:
                x[i, j], known[i, j] = token, True
    return Given(x, known)


@pytest.mark.parametrize("kind", ["autoregressive", "ngram", "seq2seq"])
def test_a_known_beginning_moves_the_grammar_on(kind: str) -> None:
    begun = given([[OPEN, OPEN], [OPEN, CLOSE, OPEN], [OPEN] * 5, []] * 4, 12)
    rows = drawn(family(kind, 12), 16, Brackets(), given=begun)
    assert all(map(legal, rows))
    starts = ([OPEN, OPEN], [OPEN, CLOSE, OPEN], [OPEN] * 5, []) * 4
    assert all(row[: len(start)] == start for row, start in zip(rows, starts))


def test_what_is_known_outranks_the_grammar() -> None:
    made = family("seq2seq", 8)
    for row in drawn(made, 32, Brackets(), given=given([[CLOSE]] * 32, 8)):
        assert row[0] == CLOSE
    for row in drawn(made, 32, Brackets(), given=given([[None, None, CLOSE, CLOSE, None, None, OPEN]] * 32, 8)):
        assert [row[2], row[3], row[6]] == [CLOSE, CLOSE, OPEN]


def test_a_model_without_a_legal_wish_still_writes_legally() -> None:
    guide = Guide(Brackets(), 2, END)
    masked = guide.mask(torch.tensor([[-torch.inf, 0.0, -torch.inf], [1.0, 2.0, 3.0]]), 6)
    assert masked.tolist() == [[0.0, -torch.inf, 0.0], [1.0, -torch.inf, 3.0]]


def test_the_first_fault_of_a_beginning_is_found() -> None:
    def at(row: list[int], known: int, length: int = 8) -> int | None:
        return first_fault(Brackets(), Given(np.array(row), np.arange(len(row)) < known), length, END)

    assert at([OPEN, CLOSE, CLOSE], 3) == 2 and at([OPEN, CLOSE, CLOSE], 2) is None and at([OPEN, CLOSE, END, CLOSE], 4) is None
    assert at([OPEN] * 5, 5) == 3, "a beginning too deep to be closed is at fault where it becomes so"
