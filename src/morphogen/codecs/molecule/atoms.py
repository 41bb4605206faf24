"""What each token of a SMILES vocabulary may do. The valences are asked of RDKit once, so that both always agree."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from morphogen.codecs.molecule.chemistry import quiet

BONDS = {"-": 1, "=": 2, "#": 3, "$": 4, "/": 5, "\\": 5}  # 5: a single bond with a direction
DIRECTED = 5
UNMATCHED, MATCHED, OUTSIDE = 0, 1, 2
SYMBOL = re.compile(r"\[?[0-9]*([A-Za-z])")


@dataclass(frozen=True)
class Atom:
    """A kind of atom. `most`: largest sum of bond orders. Aromatic ones: which (bonds, where the double bond is) are legal.

    An aromatic atom's bonds are counted as single; its double bond is in the ring (MATCHED), to a neighbour outside
    (OUTSIDE), or absent (UNMATCHED).
    """

    aromatic: bool
    most: int
    legal: frozenset[tuple[int, int]] = frozenset()

    def may_become(self, bonds: int, where: int) -> bool:
        """Whether an aromatic atom with so many bonds now can still end legally (more bonds, or a double bond to come)."""
        return any(b >= bonds and (w == where or where == UNMATCHED) for b, w in self.legal)


@dataclass(frozen=True)
class Alphabet:
    """A vocabulary by what its tokens do: id -> kind of atom, bond order, ring number; brackets; the end id.

    `plain`: (most bonds, ids) of the plain kinds, few bonds first; `aromatic`: ids of each aromatic kind.
    """

    kinds: tuple[Atom, ...]
    atoms: dict[int, int]
    bonds: dict[int, int]
    rings: tuple[int, ...]
    opening: int | None
    closing: int | None
    end: int
    size: int
    plain: tuple[tuple[int, list[int]], ...]
    aromatic: tuple[list[int], ...]

    @classmethod
    def of(cls, tokens: Sequence[str]) -> Alphabet:
        """The alphabet of a vocabulary; the end id follows its last token."""
        with quiet() as chem:
            found = {i: _probe(chem, t) for i, t in enumerate(tokens) if t[0] in "[" or t[0].isalpha()}
        kinds = tuple(dict.fromkeys(atom for atom in found.values() if atom is not None))
        atoms = {i: kinds.index(atom) for i, atom in found.items() if atom is not None}
        bonds = {i: BONDS[t] for i, t in enumerate(tokens) if t in BONDS}
        rings = tuple(i for i, t in enumerate(tokens) if t[0] == "%" or t.isdigit())
        places = {t: i for i, t in enumerate(tokens)}
        like = [[i for i, k in atoms.items() if k == kind] for kind in range(len(kinds))]
        plain = sorted(((kinds[k].most, ids) for k, ids in enumerate(like) if not kinds[k].aromatic), key=lambda pair: pair[0])
        aromatic = tuple(ids for k, ids in enumerate(like) if kinds[k].aromatic)
        return cls(kinds, atoms, bonds, rings, places.get("("), places.get(")"), len(tokens), len(tokens) + 1, tuple(plain), aromatic)


def _probe(chem: Any, token: str) -> Atom | None:
    """What RDKit lets a token do, found by writing small molecules around it. None when it takes it nowhere."""

    def fine(smiles: str) -> bool:
        return chem.MolFromSmiles(smiles) is not None

    match = SYMBOL.match(token)
    if match is None:
        return None
    if match.group(1).isupper():
        most = 0
        while most < 8 and fine(token + "(C)" * (most + 1)):
            most += 1
        return Atom(False, most) if fine(token) else None
    odd, even = "1{}ccccc1", "1{}cccc1"  # with five neighbours in the ring the sixth atom must take part, with four it cannot
    legal = set()
    for bonds, extra in ((2, ""), (3, "(C)")):
        legal |= {(bonds, where) for where, ring in ((MATCHED, odd), (UNMATCHED, even)) if fine(token + ring.format(extra))}
    if fine(token + even.format("(=C)")):
        legal.add((3, OUTSIDE))
    return Atom(True, max(b for b, _ in legal), frozenset(legal)) if legal else None
