"""What a half-written SMILES still owes, and how each token changes it.

Valences, branches and ring closures are counted. Aromatic rings are held by what makes them legal, a Kekulé structure: the
state keeps every way to place the double bonds so far, seen at the atoms that can still get bonds (a bit an atom, a set of
such patterns), so the alternatives are followed together, and a ring that cannot be kekulised is never closed.
An aromatic atom, and an aromatic bond, must come to lie in an aromatic ring before its branch ends.

Stricter than RDKit where a left-to-right reader cannot be sure: ring numbers close inside the branch that opened them,
and an aromatic bond that closes a ring goes around aromatic bonds only.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from morphogen.codecs.molecule.atoms import DIRECTED, MATCHED, OUTSIDE, UNMATCHED, Alphabet

START, ATOM, AFTER, BOND, AFTER_BOND, OPEN, OPEN_BOND, ENDED = range(8)
FOLLOWS_BOND = {ATOM: BOND, AFTER: AFTER_BOND, OPEN: OPEN_BOND}
PATTERNS = 256  # more ways to place double bonds than this are a monster that RDKit's search would give up on, too
MOST_OPEN = 8
CHAIN = 4
PLAIN, MARK = -2, -1
NOTHING = frozenset({0})


class Entry(NamedTuple):
    """An atom on the way from the first to the current one that still matters.

    `kind`: PLAIN; MARK, for atoms that are done but for a ring that must yet close around them; or which aromatic kind.
    `count`: of a plain atom the bond orders it has room for, of an aromatic one the bonds it has (each as one).
    `outside`: its double bond leaves the ring. `rings`: (ring id, order said or 0) opened here. `branch`: one is open here.
    `atom`, `edge`: the atom, the bond before it, must still come to lie in an aromatic ring. `linked`: aromatic bonds alone
    lead here from the entry before.
    """

    kind: int
    count: int
    outside: bool = False
    rings: tuple[tuple[int, int], ...] = ()
    branch: bool = False
    atom: bool = False
    edge: bool = False
    linked: bool = False


class Core(NamedTuple):
    """`order` of a bond just written; `patterns`: sets of atoms that have their double bond; `near`: bonded to the last (bits)."""

    phase: int
    order: int
    entries: tuple[Entry, ...]
    patterns: frozenset[int]
    near: int


END = Core(ENDED, 0, (), NOTHING, 0)
MARKS = {linked: Entry(MARK, 0, atom=True, linked=linked) for linked in (False, True)}


class Moves:
    """One token further: pure functions of `Core`."""

    def __init__(self, alphabet: Alphabet) -> None:
        self.a = alphabet
        self.fillers = _fillers(alphabet)
        self.double = next((i for i, order in alphabet.bonds.items() if order == 2), None)
        wheres = (UNMATCHED, MATCHED, OUTSIDE)
        # by kind and bonds: where the double bond may lie if the atom ends so, or may yet end legally
        self.fine = [[tuple((n, w) in k.legal for w in wheres) for n in range(8)] for k in alphabet.kinds]
        self.alive = [[tuple(k.may_become(n, w) for w in wheres) for n in range(8)] for k in alphabet.kinds]

    def step(self, core: Core, token: int) -> Core | None:
        """The state after `token`, None when it may not stand there or when no finish can follow."""
        a, phase = self.a, core.phase
        if phase == ENDED:
            return None
        if token in a.atoms:
            after = self._atom(core, a.atoms[token])
        elif token == a.end:
            return self._end(core)
        elif token in a.bonds:
            return Core(FOLLOWS_BOND[phase], a.bonds[token], *core[2:]) if phase in FOLLOWS_BOND else None
        elif token in a.rings:
            after = self._ring(core, token) if phase in (ATOM, BOND) and core.order != DIRECTED else None
        elif token == a.opening:
            if phase not in (ATOM, AFTER):
                return None
            last = core.entries[-1]._replace(branch=True)
            return Core(OPEN, 0, (*core.entries[:-1], last), core.patterns, core.near)
        else:
            after = self._close(core) if phase in (ATOM, AFTER) else None
        return after if after is not None and self._hopeful(after) else None

    # ---------------------------------------------------------------- bonds
    def _atom(self, core: Core, kind: int) -> Core | None:
        known = self.a.kinds[kind]
        new = Entry(kind, 0, atom=True) if known.aromatic else Entry(PLAIN, known.most)
        if core.phase == START:
            return Core(ATOM, 0, (new,), NOTHING, 0)
        at, entries = len(core.entries), [*core.entries, new]
        patterns = self._join(entries, core.patterns, at - 1, at, core.order)
        if patterns is None:
            return None
        if core.order == 0 and known.aromatic and entries[at - 1].kind >= 0:
            entries[at] = entries[at]._replace(edge=True, linked=True)
        return self._moved_on(entries, patterns)

    def _moved_on(self, entries: list[Entry], patterns: frozenset[int]) -> Core | None:
        """After an atom: forget the one before, if it gets no more bonds. (`_settle` for the commonest case.)"""
        k = len(entries) - 2
        gone = entries[k]
        if gone.branch or gone.rings:
            return Core(ATOM, 0, tuple(entries), patterns, 1 << k)
        patterns = self._cleared(gone, patterns, k)
        if not patterns:
            return None
        if (gone.atom or gone.edge) and not (gone.linked and k and entries[k - 1].kind == MARK):
            entries[k] = MARKS[gone.linked]
            return Core(ATOM, 0, tuple(entries), patterns, 1 << k)
        last = entries[-1] if gone.linked or not entries[-1].linked else entries[-1]._replace(linked=False)
        low = (1 << k) - 1
        patterns = patterns if patterns == NOTHING else frozenset(p & low | p >> 1 & ~low for p in patterns)
        return Core(ATOM, 0, (*entries[:k], last), patterns, 0)

    def _join(self, entries: list[Entry], patterns: frozenset[int], i: int, j: int, order: int, held: int = 0) -> frozenset[int] | None:
        """Bond two of `entries` (changed in place); `held` of the order is already counted at i. None when a valence forbids it."""
        both = entries[i].kind >= 0 and entries[j].kind >= 0
        if order == DIRECTED and both:
            return None
        size = 1 if order in (0, DIRECTED) else order
        for at, counted in ((i, held), (j, 0)):
            kind, count, outside, rings, branch, atom, edge, linked = entries[at]
            if kind == PLAIN:
                count += counted - size
                if count < 0:
                    return None
            else:
                if size > 2 or (size == 2 and outside):
                    return None
                if size == 2:  # the double bond leaves the ring: where it already lies inside, there is no room
                    patterns = frozenset(p for p in patterns if not p >> at & 1)
                    outside = True
                count += 1 - min(counted, 1)
            entries[at] = Entry(kind, count, outside, rings, branch, atom, edge, linked)
        if both and order == 0 and not entries[i].outside and not entries[j].outside:
            bits = 1 << i | 1 << j
            patterns = patterns | {p | bits for p in patterns if not p & bits}
        for at in (i, j):
            patterns = self._kept(entries[at], patterns, at, self.alive)
        return patterns if patterns and len(patterns) <= PATTERNS else None

    @staticmethod
    def _kept(entry: Entry, patterns: frozenset[int], at: int, table: list[list[tuple[bool, ...]]]) -> frozenset[int]:
        """The patterns that `table` allows an atom."""
        if entry.kind < 0:
            return patterns
        fine = table[entry.kind][entry.count]
        if entry.outside:
            return patterns if fine[OUTSIDE] else frozenset()
        return patterns if fine[0] and fine[1] else frozenset(p for p in patterns if fine[p >> at & 1])

    # ---------------------------------------------------------------- rings
    def _ring(self, core: Core, ring: int) -> Core | None:
        for i, entry in enumerate(core.entries):
            for open_ring, said in entry.rings:
                if open_ring == ring:
                    return self._close_ring(core, ring, i, said)
        last = core.entries[-1]
        if sum(len(e.rings) for e in core.entries) >= MOST_OPEN or (last.kind >= 0 and core.order > 1):
            return None
        count = last.count + 1 if last.kind >= 0 else last.count - max(1, core.order)
        if count < 0 or (last.kind >= 0 and count > self.a.kinds[last.kind].most):
            return None
        entries = (*core.entries[:-1], last._replace(count=count, rings=(*last.rings, (ring, core.order))))
        patterns = self._kept(entries[-1], core.patterns, len(entries) - 1, self.alive)
        return Core(ATOM, 0, entries, patterns, core.near) if patterns else None

    def _close_ring(self, core: Core, ring: int, i: int, said: int) -> Core | None:
        j = len(core.entries) - 1
        if i == j or core.near >> i & 1 or (said and core.order and said != core.order):
            return None
        order, entries = said or core.order, list(core.entries)
        aromatic = order == 0 and entries[i].kind >= 0 and entries[j].kind >= 0
        if aromatic and not all(e.linked for e in entries[i + 1 :]):
            return None
        patterns = self._join(entries, core.patterns, i, j, order, held=max(1, said))
        if patterns is None:
            return None
        opener = entries[i]
        entries[i] = opener._replace(rings=tuple(r for r in opener.rings if r[0] != ring), atom=opener.atom and not aromatic)
        if aromatic:
            for k in range(i + 1, j + 1):
                if entries[k].atom or entries[k].edge:
                    entries[k] = entries[k]._replace(atom=False, edge=False)
        return self._settle(entries, patterns, core.near | 1 << i)

    # ---------------------------------------------------------------- closing
    def _close(self, core: Core) -> Core | None:
        entries, patterns = core.entries, core.patterns
        top = len(entries) - 1
        while top >= 0 and not entries[top].branch:
            if entries[top].rings or entries[top].atom or entries[top].edge:
                return None
            top -= 1
        if top < 0 or top == len(entries) - 1:
            return None
        for k in range(top + 1, len(entries)):
            patterns = self._cleared(entries[k], patterns, k)
        return Core(AFTER, 0, (*entries[:top], entries[top]._replace(branch=False)), patterns, 0) if patterns else None

    def _end(self, core: Core) -> Core | None:
        patterns = core.patterns
        if core.phase not in (ATOM, AFTER) or any(e.branch or e.rings or e.atom or e.edge for e in core.entries):
            return None
        for k, entry in enumerate(core.entries):
            patterns = self._cleared(entry, patterns, k)
        return END if patterns else None

    def _cleared(self, entry: Entry, patterns: frozenset[int], at: int) -> frozenset[int]:
        """Patterns under which an atom that gets no more bonds is legal; its bit is cleared."""
        if entry.kind < 0:
            return patterns
        return frozenset(p & ~(1 << at) for p in self._kept(entry, patterns, at, self.fine))

    def _settle(self, entries: list[Entry], patterns: frozenset[int], near: int) -> Core | None:
        """Forget atoms that get no more bonds; those still waiting for a ring leave one mark."""
        last = len(entries) - 1
        kept: list[Entry] = []
        places: list[int] = []
        linked = True
        for k, entry in enumerate(entries):
            linked = linked and entry.linked
            if k < last and not entry.branch and not entry.rings:
                if entry.kind >= 0:
                    patterns = self._cleared(entry, patterns, k)
                if not (entry.atom or entry.edge) or (kept and linked and kept[-1].kind == MARK):
                    continue
                entry = MARKS[linked]
            kept.append(entry if entry.linked == linked else entry._replace(linked=linked))
            places.append(k)
            linked = True
        if not patterns:
            return None
        if len(places) <= last:
            patterns = patterns if patterns == NOTHING else frozenset(_gathered(p, places) for p in patterns)
            near = _gathered(near, places)
        return Core(ATOM, 0, tuple(kept), patterns, near)

    # ---------------------------------------------------------------- hope
    def _hopeful(self, core: Core) -> bool:
        """Whether each atom that waits for an aromatic ring has one open around it and a place from which it can be closed."""
        entries, last = core.entries, len(core.entries) - 1
        for k, entry in enumerate(entries):
            if not (entry.atom or entry.edge):
                continue
            own = not entry.edge and entry.kind >= 0  # the ring may be this atom's own
            above = k if own else k - 1 if entry.linked else -1
            while above >= 0 and not entries[above].rings:
                above = above - 1 if entries[above].linked else -1
            if above < 0:
                if k == last and own and core.phase == ATOM:
                    continue
                return False
            below = k
            while not ((below == last or entries[below].branch) and self._grows(entries[below])):
                below += 1
                if below > last or not entries[below].linked:
                    return False
        return True

    def _grows(self, entry: Entry) -> bool:
        return entry.kind >= 0 and entry.count < self.a.kinds[entry.kind].most

    # ---------------------------------------------------------------- towards an end
    def ways(self, core: Core) -> Iterator[tuple[tuple[int, ...], Core]]:
        """Ways to close something, (tokens, state after them): the end, a branch, a ring after some more atoms, a double bond."""
        rings = [ring for entry in reversed(core.entries) for ring, _ in entry.rings]
        for token in (self.a.end, self.a.closing, *rings):
            after = None if token is None else self.step(core, token)
            if token is not None and after is not None:
                yield (token,), after
        last = core.entries[-1] if core.entries else None
        if last is not None and last.atom and not last.rings and core.phase == ATOM:
            new = next((ring for ring in self.a.rings if ring not in rings), None)
            after = None if new is None else self.step(core, new)
            if new is not None and after is not None:
                yield from (((new, *tokens), at) for tokens, at in self._chains(after, [new]))
        yield from self._chains(core, rings[:1])
        # a double bond to the outside saves an aromatic atom that has none and cannot get one in its ring
        if last is not None and last.kind >= 0 and self.double is not None and (bond := self.step(core, self.double)) is not None:
            yield from (((self.double, f), after) for f in self.fillers if (after := self.step(bond, f)) is not None)

    def _chains(self, core: Core, rings: list[int]) -> Iterator[tuple[tuple[int, ...], Core]]:
        """A few like atoms and then the closing of a ring; the first of them alone, too."""
        inside = bool(core.entries) and core.entries[-1].kind >= 0 and core.order == 0
        for filler in self.fillers:
            aromatic = self.a.kinds[self.a.atoms[filler]].aromatic
            if aromatic and not inside and len(self.fillers) > 1:  # it would need a ring of its own
                continue
            tokens, at = (), core
            for i in range(CHAIN if aromatic else 2):
                after = self.step(at, filler)
                if after is None:
                    break
                at, tokens = after, (*tokens, filler)
                for ring in rings:
                    if (closed := self.step(at, ring)) is not None:
                        yield (*tokens, ring), closed
                if i == 0:
                    yield tokens, at


def _gathered(bits: int, places: list[int]) -> int:
    """The bits at `places`, moved together."""
    out = 0
    for i, place in enumerate(places):
        out |= (bits >> place & 1) << i
    return out


def _fillers(a: Alphabet) -> tuple[int, ...]:
    """Atoms to finish with: the most accommodating aromatic kind (carbon), and the plain kind nearest to four bonds (carbon)."""
    aromatic = [i for i, k in a.atoms.items() if a.kinds[k].aromatic and (2, MATCHED) in a.kinds[k].legal]
    plain = [i for i, k in a.atoms.items() if not a.kinds[k].aromatic]
    first = sorted(aromatic, key=lambda i: (-len(a.kinds[a.atoms[i]].legal), i))[:1]
    return (*first, *sorted(plain, key=lambda i: (abs(a.kinds[a.atoms[i]].most - 4), i))[:1])
