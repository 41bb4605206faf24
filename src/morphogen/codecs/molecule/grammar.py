"""SMILES from left to right such that every finished string parses and sanitises.

What is still open is kept by `moves.py`. The price of certainty is a finish that is always known: each state carries one, and
a token is legal only if one was found for what follows it and fits the length that is left.
"""
from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from morphogen.codecs.molecule.atoms import Alphabet
from morphogen.codecs.molecule.moves import AFTER_BOND, BOND, ENDED, NOTHING, OPEN, OPEN_BOND, START, Core, Moves

SEARCH = 60
REMEMBERED = 200_000
NEVER = 30_000


class State(NamedTuple):
    """Where a string stands, and the tokens of one legal finish (the end included). `core` is None when it is beyond help."""

    core: Core | None
    finish: tuple[int, ...]


class SmilesGrammar:
    """`contracts.Grammar` over a SMILES vocabulary. A string forced off it (by known values) allows everything from there on."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.alphabet = Alphabet.of(tokens)
        self.moves = Moves(self.alphabet)
        self._finish: dict[Core, tuple[int, ...] | None] = {}
        self._table: dict[Core, np.ndarray] = {}

    def start(self) -> State:
        """Before the first token."""
        core = Core(START, 0, (), NOTHING, 0)
        return State(core, self.finish(core) or ())

    def allowed(self, state: State, left: int) -> np.ndarray:
        """(V,) bool: tokens after which the string can still be finished in the rest of `left`."""
        if state.core is None:
            return np.ones(self.alphabet.size, bool)
        need = self._table.get(state.core)
        if need is None:
            if len(self._table) > REMEMBERED:
                self._table.clear()
            need = self._table[state.core] = self._needs(state.core)
        out = need <= left - 1
        if state.finish and len(state.finish) <= left:
            out[state.finish[0]] = True  # the finish promised before, should the one found now be longer
        if not out.any():  # less was left than any molecule needs
            out[self.alphabet.end] = True
        return out

    def advance(self, state: State, token: int) -> State:
        """The state after one more token; padding after the end changes nothing."""
        if state.core is None or state.core.phase == ENDED:
            return state
        core = self.moves.step(state.core, token)
        if core is None:
            return State(None, ())
        found, tail = self._finish_after(state.core, token, core), state.finish[1:] if state.finish[:1] == (token,) else None
        if found is None or (tail is not None and len(tail) < len(found)):
            found = tail
        return State(core, found) if found is not None else State(None, ())

    def _finish_after(self, before: Core, token: int, core: Core) -> tuple[int, ...] | None:
        """A finish of `core`, which is `before` and `token`; that of an atom with fewer bonds will do as well."""
        if core.phase == ENDED:
            return ()
        found = self.finish(core)
        if found is None and token in self.alphabet.atoms:
            for _, tokens in self.alphabet.plain:
                if token in tokens:
                    break
                less = self.moves.step(before, tokens[0])
                if less is not None and (found := self.finish(less)) is not None:
                    break
        return found

    def _needs(self, core: Core) -> np.ndarray:
        """(V,) how many tokens must follow each token, the end included; NEVER where it is illegal."""
        out, a = np.full(self.alphabet.size, NEVER, np.int16), self.alphabet
        used = {ring for entry in core.entries for ring, _ in entry.rings}
        fresh: int | None = None
        for token in range(a.size):
            if token in a.rings and token not in used:
                fresh = self._need(core, token) if fresh is None else fresh
                out[token] = fresh
            elif token not in a.atoms:
                out[token] = self._need(core, token)
        need = NEVER
        for _, tokens in a.plain:  # what finishes an atom of few bonds finishes one of more
            need = self._need(core, tokens[0]) if need == NEVER else need
            out[tokens] = need
        for tokens in a.aromatic:
            out[tokens] = self._need(core, tokens[0])
        return out

    def _need(self, core: Core, token: int) -> int:
        after = self.moves.step(core, token)
        if after is None:
            return NEVER
        finish = () if after.phase == ENDED else self.finish(after)
        return NEVER if finish is None else len(finish)

    def finish(self, core: Core) -> tuple[int, ...] | None:
        """The tokens of a legal finish, not always the shortest; None when none was found."""
        if core in self._finish:
            return self._finish[core]
        if len(self._finish) > REMEMBERED:
            self._finish.clear()
        path, rest = self._search(core)
        if rest is None:
            self._finish[core] = None
            return None
        for at, tokens in reversed(path):
            rest = tokens + rest
            self._finish[at] = rest
        return rest

    def _search(self, core: Core) -> tuple[list[tuple[Core, tuple[int, ...]]], tuple[int, ...] | None]:
        """Best first over ways to close something: ([(state, tokens taken there), ...], the finish after them or None)."""
        queue: list[tuple[int, int, Core]] = [(0, 0, core)]
        back: dict[Core, tuple[Core, tuple[int, ...]] | None] = {core: None}
        depth = {core: 0}
        for _ in range(SEARCH):
            if not queue:
                break
            at = heapq.heappop(queue)[2]
            for tokens, after in self.moves.ways(at):
                if after in back:
                    continue
                back[after], depth[after] = (at, tokens), depth[at] + len(tokens)
                known = () if after.phase == ENDED else self._finish.get(after)
                if known is not None:
                    path, step = [], back[after]
                    while step is not None:
                        path.append(step)
                        step = back[step[0]]
                    return path[::-1], known
                heapq.heappush(queue, (depth[after] + 4 * _debt(after), len(back), after))
        return [], None


def _debt(core: Core) -> int:
    """How many things remain to be closed."""
    waiting = sum(len(e.rings) + e.branch + (e.atom or e.edge) for e in core.entries)
    return waiting + (core.phase in (OPEN, BOND, AFTER_BOND, OPEN_BOND))


class SelfiesGrammar:
    """`contracts.Grammar` over SELFIES: every string of symbols is a molecule, once it begins with an atom. State: begun or not."""

    def __init__(self, tokens: Sequence[str]) -> None:
        first = [not any(word in token for word in ("Branch", "Ring", "nop", ".")) for token in tokens]
        self.first, self.rest = np.array([*first, False]), np.ones(len(tokens) + 1, bool)

    def start(self) -> bool:
        """Nothing is written yet."""
        return False

    def allowed(self, state: bool, left: int) -> np.ndarray:
        """(V,) bool; at the last position only the end, so that the string is closed."""
        if not state:
            return self.first.copy()
        return self.rest.copy() if left > 1 else np.arange(len(self.rest)) == len(self.rest) - 1

    def advance(self, state: bool, token: int) -> bool:
        """Begun."""
        return True
