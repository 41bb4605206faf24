"""SMILES from left to right such that every finished string parses and sanitises.

What is still open is kept by `moves.py`. The price of certainty is a finish that is always known: each state carries one, and
a token is legal only if one was found for what follows it and fits the length that is left.
"""
from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Remembered:
    """A dictionary that forgets what was not asked for in a long while. What was just put in stays: promises rest on it."""

    def __init__(self) -> None:
        self.new: dict[Core, Any] = {}
        self.old: dict[Core, Any] = {}

    def get(self, core: Core) -> Any:
        """The value, None when there is none."""
        found = self.new.get(core)
        if found is None and (found := self.old.get(core)) is not None:
            self.new[core] = found
        return found

    def put(self, core: Core, value: Any) -> None:
        """Keep a value; when there are too many, those not used since the last time go."""
        if len(self.new) >= REMEMBERED:
            self.new, self.old = {}, self.new
        self.new[core] = value


class SmilesGrammar:
    """`contracts.Grammar` over a SMILES vocabulary. A string forced off it (by known values) allows everything from there on."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.alphabet = Alphabet.of(tokens)
        self.moves = Moves(self.alphabet)
        self._finish: Remembered = Remembered()
        self._table: Remembered = Remembered()

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
            need = self._needs(state.core)
            self._table.put(state.core, need)
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
        if core is None or core.phase == ENDED:
            return State(core, ())
        known = [self.finish(core), self._judged(state.core, token)]
        known += [state.finish[1:]] if state.finish[:1] == (token,) else []
        fitting = [finish for finish in known if finish is not None]
        return State(core, min(fitting, key=len)) if fitting else State(None, ())

    def _judged(self, before: Core, token: int) -> tuple[int, ...] | None:
        """The finish by which `_needs` judged a token, where that was another one's."""
        if token in self.alphabet.rings:
            first = self._first_ring(before)
            is_open = any(token == ring for entry in before.entries for ring, _ in entry.rings)
            other = None if first < 0 or is_open else self.moves.step(before, first)
            found = None if other is None else self.finish(other)
            swap = {first: token, token: first}  # ring numbers are names: another is as good
            return None if found is None else tuple(swap.get(t, t) for t in found)
        if not any(token in tokens for _, tokens in self.alphabet.plain):
            return None
        for _, tokens in self.alphabet.plain:
            if token in tokens:
                break
            less = self.moves.step(before, tokens[0])
            if less is not None and (found := self.finish(less)) is not None:
                return found
        return None

    def _first_ring(self, core: Core) -> int:
        """The first ring id that is not open, -1 when all are."""
        used = {ring for entry in core.entries for ring, _ in entry.rings}
        return next((ring for ring in self.alphabet.rings if ring not in used), -1)

    def _needs(self, core: Core) -> np.ndarray:
        """(V,) how many tokens must follow each token, the end included; NEVER where it is illegal."""
        out, a = np.full(self.alphabet.size, NEVER, np.int16), self.alphabet
        first = self._first_ring(core)
        fresh = self._need(core, first) if first >= 0 else NEVER
        used = {ring for entry in core.entries for ring, _ in entry.rings}
        for token in range(a.size):
            if token not in a.atoms:
                out[token] = fresh if token in a.rings and token not in used else self._need(core, token)
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
        known = self._finish.get(core)
        if known is not None:
            return known or None
        path, rest = self._search(core)
        if rest is None:
            self._finish.put(core, ())
            return None
        for at, tokens in reversed(path):
            rest = tokens + rest
            self._finish.put(at, rest)
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
                known = () if after.phase == ENDED else self._finish.get(after) or None
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
