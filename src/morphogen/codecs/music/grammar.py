"""What may be written next so that every bar fills the metre exactly. No torch here.

Time counts in eighths of a unit (`GRAIN`). Shorter bars stand where `score.wrong_bars` finds them right: an upbeat before the first
bar line of a section; before a section's bar line a bar that lacks x, if an upbeat of x was there or is then made to follow.
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import chain
from math import inf
from typing import NamedTuple

import numpy as np

from morphogen.codecs.music.abc import GRAIN, LENGTHS
from morphogen.codecs.music.score import Bar, Ending, Metre, Tuplet
from morphogen.codecs.music.theory import Key, bar_length, unit_of
from morphogen.codecs.music.tokens import ATOMS, CLOSE, END, OPEN, REST, TIE, VOCAB, Degree, Sign, id_of

ONE = int(1 / GRAIN)
TICKS = {id_of(length): int(length / GRAIN) for length in LENGTHS}
PITCHES = np.array([isinstance(atom, Degree) for atom in ATOMS] + [False])
KEYS = np.array([isinstance(atom, Key) for atom in ATOMS] + [False])
METRES = np.array([isinstance(atom, Metre) for atom in ATOMS] + [False])
BARS = tuple((i, atom.kind) for i, atom in enumerate(ATOMS) if isinstance(atom, Bar))
ENDINGS = {atom.number: i for i, atom in enumerate(ATOMS) if isinstance(atom, Ending)}
TUPLETS = tuple((i, atom) for i, atom in enumerate(ATOMS) if isinstance(atom, Tuplet))
FREE = 1 << 20  # what remains of a bar that has no measure
CHORD = 8  # notes
FAR = 96  # positions left from which on nothing is scarce


class State(NamedTuple):
    """Where the writing stands. `rest`: what the bar still holds; `full`: what a whole one does; `opening`: a section begins, so this
    bar may be an upbeat; `owed`: it must be the upbeat that the bar before the section lacked; `upbeat`, `first`: those of the
    section and the tune; `last`: kind of the last token; `open`: notes of an open chord; `tuplet`: p, q, notes to come, time
    written; `pending`: a note stands whose length may still follow.
    """

    stage: int = 0
    unit: int = 8
    full: int = 0
    rest: int = 0
    written: bool = False  # something stands in this bar
    begun: bool = False  # the first bar line after notes has come
    opening: bool = True
    owed: bool = False
    upbeat: int = 0
    first: int = 0
    ending: int = 0
    may_end: bool = False
    last: str = "head"
    pending: bool = False
    open: tuple[int, ...] = ()
    tuplet: tuple[int, int, int, int] = (1, 1, 0, 0)


# ------------------------------------------------------------------ how many tokens it takes
@cache
def _fill(time: int) -> float:
    """The fewest tokens that fill a time."""
    if time <= 0 or time >= FREE // 2:
        return 0.0 if time >= 0 else inf
    return min([1 + _fill(time - ONE) if time >= ONE else inf, *(2 + _fill(time - t) for t in TICKS.values() if t <= time)])


@cache
def _notes(count: int, time: int) -> float:
    """The fewest tokens of so many notes that last so long together."""
    if count == 0:
        return 0.0 if time == 0 else inf
    if time < count:
        return inf
    plain = 1 + _notes(count - 1, time - ONE) if time >= ONE else inf
    return min([plain, *(2 + _notes(count - 1, time - t) for t in TICKS.values() if t <= time)])


@cache
def _finish(tuplet: tuple[int, int, int, int], rest: int) -> float:
    """The fewest tokens that end a tuplet and fill the rest of the bar; infinite when neither can be done."""
    p, q, left, written = tuplet
    if not left:
        return _fill(rest)
    most = min(rest * p // q, written + 16 * ONE)
    sums = range(-(-(written + left) // p) * p, most + 1, p)
    return min((_notes(left, s - written) + _fill(rest - q * s // p) for s in sums), default=inf)


@lru_cache(maxsize=1 << 18)
def cost(state: State) -> float:
    """The fewest tokens, the end included, that make a legal end; infinite when none is left."""
    if state.stage < 2:
        afters = [_head(state, ATOMS[i]) for i in np.flatnonzero(METRES | KEYS).tolist()]
        return 1 + min(cost(after) for after in set(afters) if after)
    if state.last == "bar" and state.may_end:
        return 1.0
    missing = max(0, 2 - len(state.open)) + 1 if state.last in ("open", "inner") else 0
    missing += 1 + _fill(state.full) if state.owed else 0  # no tune ends with an upbeat
    if state.last in ("open", "inner") or state.pending:
        return missing + _sized(state.tuplet, state.rest, _given(state, written=True)) + 2
    need_note = not state.written and not state.tuplet[2] and state.rest >= FREE // 2
    return missing + need_note + _close(state.tuplet, state.rest, _given(state, written=state.written)) + 2


def _given(state: State, *, written: bool) -> tuple[int, ...]:
    """Times that the bar may lack at the end, because an upbeat gives them."""
    if state.opening or state.owed:
        return (0,)
    return tuple({0, *(u for u in (state.upbeat, state.first) if u < state.rest or written)})


@lru_cache(maxsize=1 << 18)
def _close(tuplet: tuple[int, int, int, int], rest: int, given: tuple[int, ...]) -> float:
    """The fewest tokens that fill the bar, or all of it that an upbeat does not give."""
    return min(_finish(tuplet, rest - time) if time <= rest else inf for time in given)


@lru_cache(maxsize=1 << 18)
def _sized(tuplet: tuple[int, int, int, int], rest: int, given: tuple[int, ...]) -> float:
    """The same while a note's length may still follow."""
    best = inf
    for time in (ONE, *TICKS.values()):
        after, left = _taken(tuplet, rest, time)
        if left >= 0:
            best = min(best, (time != ONE) + _close(after, left, given))
    return best


def _written(state: State, time: int) -> State:
    """The pending note lasts so long. A negative rest: it does not fit."""
    tuplet, rest = _taken(state.tuplet, state.rest, time)
    return state._replace(pending=False, written=True, tuplet=tuplet, rest=rest)


def _taken(tuplet: tuple[int, int, int, int], rest: int, time: int) -> tuple[tuple[int, int, int, int], int]:
    """Tuplet and rest of the bar after a note of that time."""
    p, q, left, written = tuplet
    free = rest >= FREE // 2
    if not left:
        return tuplet, rest if free else rest - time
    left, written = left - 1, written + time
    if left:
        return (p, q, left, written), rest if q * written <= p * rest else -1
    return (1, 1, 0, 0), -1 if written % p else rest if free else rest - q * written // p


# ------------------------------------------------------------------ bar lines
def _bar(state: State, kind: str) -> State | None:
    """The state after a bar line, None where it may not stand. The same rules as `score.wrong_bars`."""
    x, plain = state.rest, kind == "|"
    if not state.written:
        return state._replace(last="bar") if kind == "|:" and state.last == "head" else None
    after = state._replace(rest=state.full, written=False, begun=True, opening=not plain, owed=False, last="bar")
    after = after._replace(may_end=kind not in ("|:", "::"), ending=state.ending if kind in ("|", ":|") else 0)
    if state.full >= FREE // 2:
        return after
    if x == 0:
        if state.owed:
            return after._replace(may_end=False) if plain else None
        return after._replace(upbeat=0) if state.opening else after
    if state.opening:  # an upbeat
        written = state.full - x
        return after._replace(upbeat=written, first=state.first if state.begun else written, may_end=False)
    if plain or state.owed:
        return None
    if x in (state.upbeat, state.first):
        return after
    return after._replace(rest=x, opening=False, owed=True, upbeat=x, may_end=False)


def _settled(state: State) -> State:
    """A pending note is a plain one."""
    return _written(state, ONE) if state.pending else state


def step(state: State, token: int) -> State | None:
    """The state after a token, None where the token may not stand."""
    if token == END:
        return state if state.last == "bar" and state.may_end else None
    atom = ATOMS[token]
    if state.stage < 2:
        return _head(state, atom)
    if state.last in ("open", "inner"):
        return _inner(state, token)
    if token in TICKS:
        return _written(state, TICKS[token])._replace(last="sized") if state.pending else None
    if isinstance(atom, Sign) and atom == TIE:
        return _settled(state)._replace(last="tied") if state.last in ("note", "sized") else None
    state = _settled(state)
    if state.rest < 0:
        return None
    if isinstance(atom, Degree) or (isinstance(atom, Sign) and atom == REST):
        if not state.rest:
            return None
        return state._replace(last="note" if isinstance(atom, Degree) else "rest", pending=True, may_end=False)
    if isinstance(atom, Sign) and atom == OPEN:
        return state._replace(last="open", may_end=False) if state.rest else None
    if state.tuplet[2]:
        return None
    if isinstance(atom, Tuplet):
        return state._replace(tuplet=(atom.p, atom.q, atom.r, 0), last="tuplet", may_end=False) if state.rest else None
    return _bar(state, atom.kind) if isinstance(atom, Bar) else _after_bar(state, atom)


def _head(state: State, atom: object) -> State | None:
    if state.stage == 0 and isinstance(atom, Metre):
        unit = unit_of(atom.name)
        full = int(bar_length(atom.name) / unit / GRAIN) or FREE
        return State(stage=1, unit=int(1 / unit), full=full, rest=full)
    return state._replace(stage=2) if state.stage == 1 and isinstance(atom, Key) else None


def _inner(state: State, token: int) -> State | None:
    """Inside a chord."""
    atom = ATOMS[token]
    if isinstance(atom, Degree) and token not in state.open and len(state.open) < CHORD:
        return state._replace(last="inner", open=tuple(sorted((*state.open, token))))
    if not isinstance(atom, Sign):
        return None
    if atom == TIE and state.last == "inner":
        return state._replace(last="open")
    if atom == CLOSE and len(state.open) > 1:
        return state._replace(last="note", open=(), pending=True)
    return None


def _after_bar(state: State, atom: object) -> State | None:
    """Endings, and changes of metre and key, stand right after a bar line."""
    if isinstance(atom, Ending) and state.last == "bar" and state.begun:
        follows = state.may_end and atom.number == state.ending + 1
        if not follows:
            return None
        return state._replace(ending=atom.number, last="ending", opening=False, may_end=False)
    twice = "both" if state.last in ("metre", "key") else ""
    if isinstance(atom, Metre) and state.last in ("bar", "ending", "key") and state.begun and not state.owed:
        full = int(bar_length(atom.name) * state.unit / GRAIN) or FREE
        return state._replace(full=full, rest=full, last=twice or "metre", may_end=False)
    if isinstance(atom, Key) and state.last in ("bar", "ending", "metre") and state.begun:
        return state._replace(last=twice or "key", may_end=False)
    return None


class MusicGrammar:
    """`contracts.Grammar` of the tokens of `tokens.py`."""

    def start(self) -> State:
        return State()

    def advance(self, state: State, token: int) -> State:
        """Raises ValueError when the token is not allowed."""
        after = step(state, token)
        if after is None:
            raise ValueError(f"token {token} is not allowed here")
        return after

    def allowed(self, state: State, left: int) -> np.ndarray:
        """(V,) bool: legal tokens after which a legal end within `left` positions remains (when too few are left, just legal ones)."""
        return _allowed(state, min(left, FAR))


FIRST_PITCH, FIRST_KEY = int(np.flatnonzero(PITCHES)[0]), int(np.flatnonzero(KEYS)[0])
IN_CHORD = (FIRST_PITCH, id_of(TIE), id_of(CLOSE))
IN_BAR = (FIRST_PITCH, id_of(REST), id_of(OPEN), id_of(TIE), *(i for i, _ in BARS), *(i for i, _ in TUPLETS))
AFTER_BAR = (END, FIRST_KEY, *ENDINGS.values(), *np.flatnonzero(METRES).tolist())


def _candidates(state: State) -> Iterable[int]:
    """Tokens that are worth a look; the first pitch and the first key stand for all of them."""
    if state.stage < 2:
        return np.flatnonzero(METRES).tolist() if state.stage == 0 else (FIRST_KEY,)
    if state.last in ("open", "inner"):
        return IN_CHORD
    return chain(IN_BAR, TICKS if state.pending else (), AFTER_BAR if state.last in ("bar", "ending", "metre", "key") else ())


@lru_cache(maxsize=1 << 16)
def _allowed(state: State, left: int) -> np.ndarray:
    legal, near = np.zeros(VOCAB, bool), np.zeros(VOCAB, bool)
    for token in _candidates(state):
        mask = PITCHES if token == FIRST_PITCH else KEYS if token == FIRST_KEY else token
        if token == FIRST_PITCH and state.open:
            token = next(i for i in np.flatnonzero(PITCHES).tolist() if i not in state.open)
        after = step(state, token)
        if after is None or after.rest < 0:
            continue
        need = 0.0 if token == END else cost(after)
        if need < inf:
            legal[mask] = True
            near[mask] |= need <= left - 1
    for one in (legal, near):
        one[list(state.open)] = False
        one.setflags(write=False)
    return near if near.any() else legal
