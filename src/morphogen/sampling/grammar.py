"""Left-to-right drawing under a grammar: what may come next is kept, everything else has no chance."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphogen.contracts import Given, Grammar


class Guide:
    """The grammar's state of each row of a drawing step: `mask` before a token is chosen, `advance` after.

    A row that took a known token the grammar does not allow is let go: it is written on freely, and checks of the
    finished item say what it is worth. A row that ended is left alone.
    """

    def __init__(self, grammar: Grammar, rows: int, end: int | None) -> None:
        self.grammar, self.end = grammar, end
        self.states: list[Any] = [grammar.start()] * rows
        self.live = np.ones(rows, bool)
        self.allowed: np.ndarray | None = None

    def _look(self, left: int, vocab: int) -> np.ndarray:
        """(B, V) True = may stand here. Computed once a position: `mask` and `advance` ask for the same."""
        if self.allowed is None:
            self.allowed = np.ones((len(self.states), vocab), bool)
            for i in np.flatnonzero(self.live):
                self.allowed[i] = self.grammar.allowed(self.states[i], left)
        return self.allowed

    def mask(self, logits: Tensor, left: int) -> Tensor:
        """(B, V) logits with -inf where illegal; legal tokens are equally likely where the model gives none of them a chance.

        `left`: positions still to write, this one counted.
        """
        allowed = torch.from_numpy(self._look(left, logits.shape[1])).to(logits.device)
        out = logits.masked_fill(~allowed, -torch.inf)
        none = ~(out > -torch.inf).any(1, keepdim=True)
        return torch.where(none & allowed, torch.zeros_like(out), out)

    def release(self, rows: Tensor) -> None:
        """Let rows (B,) bool go."""
        self.live &= ~rows.cpu().numpy()
        self.allowed = None

    def advance(self, tokens: Tensor, left: int, vocab: int) -> None:
        """Take the tokens (B,) that were put at a position."""
        allowed, taken = self._look(left, vocab), tokens.tolist()
        for i in np.flatnonzero(self.live):
            if not allowed[i, taken[i]] or taken[i] == self.end:
                self.live[i] = False
            else:
                self.states[i] = self.grammar.advance(self.states[i], taken[i])
        self.allowed = None


def guide_of(grammar: Grammar | None, rows: int, end: int | None) -> Guide | None:
    """A Guide, or None when nothing guides."""
    return None if grammar is None else Guide(grammar, rows, end)


def first_fault(grammar: Grammar, given: Given, length: int, end: int | None) -> int | None:
    """The position of the first token of a known beginning that no legal string of `length` has there; None when it may begin one.

    `given.x` and `given.known` (L,) are on the host. Known positions after an unknown one are not looked at.
    """
    state = grammar.start()
    for i, (token, known) in enumerate(zip(np.asarray(given.x).tolist(), np.asarray(given.known).tolist(), strict=True)):
        if not known:
            return None
        if i >= length or not grammar.allowed(state, length - i)[token]:
            return i
        if token == end:
            return None
        state = grammar.advance(state, token)
    return None
