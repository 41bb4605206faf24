"""Molecules <-> Tokens: SMILES (Weininger 1988) by atoms, or SELFIES (Krenn et al. 2020). No torch here.

SELFIES could look like a bridge, but bridges map tensors on the device, and this maps a string to a string on the host:
so it is a choice of how the codec spells a molecule. The raw item is canonical SMILES either way.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from morphogen import spaces
from morphogen.codecs.molecule import chemistry, outputs, rows, spelling
from morphogen.codecs.rows import FILES
from morphogen.codecs.sources import Listing, Skips
from morphogen.codecs.workers import each
from morphogen.contracts import Claim, Given, Grammar, Item
from morphogen.errors import DataError, FormatError, UsageError, suggest
from morphogen.spaces import Tokens

MASK = re.compile(r"<mask(?::([0-9]{1,5}))?>")
SYMBOLS = re.compile(r"(\[[^\[\]]+\])+")
LONGEST = 512  # tokens
MANY = 10_000  # molecules from which on other ways to write them teach little
COPIES = 10
ENOUGH = 50_000  # strings


@dataclass(frozen=True, kw_only=True)
class MoleculeConfig:
    """How molecules are read and spelt."""

    notation: str = "smiles"
    "smiles, or selfies: every string of its symbols is a molecule, but strings are longer and further from chemists' habits."
    augment: int = -1
    "Other ways to write each training molecule (random atom orders) to learn from as well; -1: up to 10 below 10,000 molecules."
    length: int = 0
    "Most tokens of a molecule, the end included; longer ones are left out. 0: all but the odd giant, at most 512."
    column: str = ""
    "The table's column of SMILES, where it is not found."
    mixtures: str = "skip"
    "Salts and mixtures: skip, or largest to keep the largest part."


class MoleculeCodec:
    """A canonical SMILES <-> atom-level tokens closed by an end id. Molecules of one Bemis-Murcko scaffold share a group."""

    name: ClassVar[str] = "molecule"
    Config: ClassVar[type] = MoleculeConfig
    feature_name: ClassVar[str] = "Morgan fingerprint counts (radius 2, folded to 512, square roots) and 7 descriptors"
    derived: ClassVar[dict[str, str]] = chemistry.DERIVED

    def __init__(self, config: MoleculeConfig | None = None) -> None:
        self.config = config or MoleculeConfig()
        _check(self.config)
        self.space: spaces.Space = Tokens(3, 64, end=2)
        self.tokens: list[str] = ["C", "O"]
        self.skips, self.notes = Skips(), []
        self._ids = {t: i for i, t in enumerate(self.tokens)}
        self._spelt: dict[str, str] = {}
        self._varied: dict[str, list[str]] = {}
        self._grammar: Grammar | None = None

    # ---------------------------------------------------------------- files
    @staticmethod
    def claims(listing: Listing) -> Claim:
        """Structure files, and tables of a column of SMILES with few other columns or numbers beside it."""
        return Claim(*rows.claim_of(listing))

    def read(self, listing: Listing) -> Iterator[Item]:
        """Yield canonical molecules; what is none goes to `skips` with its row and why. Raises DataError when little is left."""
        self.skips, self.notes = Skips(), []
        found = list(rows.rows_of(listing, self.config.column, self.skips))
        texts = [row.text for row in found]
        surveyed = list(each(chemistry.survey, texts, notation=self.config.notation, mixtures=self.config.mixtures))
        said = rows.conditions(found)
        items = [(row, one, cond) for row, one, cond in zip(found, surveyed, said) if self._usable(row, one)]
        items = self._not_too_long(items)
        self.skips.check(len(items) + self.skips.count)
        if not items:
            raise DataError("there are no molecules", where=listing.root, remedy="give a column or a file of SMILES")
        if self.config.notation == "selfies":
            self._spelt = {one[0]: one[3] for _, one, _ in items}
        scaffolds = {one[1] for _, one, _ in items}
        self._tell(items, len(scaffolds))
        for row, (smiles, scaffold, _, _), cond in items:
            yield Item(smiles, cond, scaffold if scaffold and len(scaffolds) > 1 else smiles, row.where)

    def _usable(self, row: rows.Row, one: Sequence[str]) -> bool:
        if one[2]:
            self.skips.add(row.where, one[2] + (f" ({row.text[:40]})" if row.text and "\n" not in row.text else ""))
        return not one[2]

    def _not_too_long(self, items: list[Any]) -> list[Any]:
        sizes = [len(one[3] or one[0]) for _, one, _ in items]
        usual = 1.5 * sorted(sizes)[int(0.99 * (len(sizes) - 1))] if sizes else 0
        most = self.config.length - 1 if self.config.length else LONGEST - 1
        out, left = [], 0
        for size, item in zip(sizes, items):
            giant = size > max(usual, 100) and not self.config.length
            n = len(spelling.cut(item[1][3] or item[1][0], self.config.notation)) if giant or size > most else 0
            if n > most or giant:
                left += bool(self.config.length)
                if not self.config.length:
                    self.skips.add(item[0].where, f"{n} tokens, far longer than the others (--set codec.length={n + 1} keeps it)")
            else:
                out.append(item)
        if left:
            self.notes.append(f"{left:,} molecules of more than {most:,} tokens were left out")
        return out

    def _tell(self, items: list[Any], scaffolds: int) -> None:
        """What a person should know about what was read."""
        changed = sum(row.text != one[0] for row, one, _ in items)
        distinct = len({one[0] for _, one, _ in items})
        anew = f"{changed:,} of {len(items):,} were written anew as canonical SMILES"
        self.notes.append(anew if changed else "all SMILES were canonical")
        if distinct < len(items):
            self.notes.append(f"{len(items) - distinct:,} molecules occur more than once")
        self.notes.append(f"{scaffolds:,} Bemis-Murcko scaffolds; the held-out part has others than the training part")

    # ---------------------------------------------------------------- learning
    def fit(self, items: Sequence[Item]) -> None:
        """Collect the tokens, measure the length. Raises DataError for fewer than two molecules."""
        if len(items) < 2:
            raise DataError(f"{len(items)} molecule{'s' * (len(items) != 1)} to learn from", remedy="give at least a few dozen")
        strings = [self._spell(item.raw) for item in items]
        strings += [self._spell(copy) for copies in self._copies(items).values() for copy in copies]
        counts: Counter[str] = Counter()
        longest = 0
        for string in strings:
            parts = spelling.cut(string, self.config.notation)
            counts.update(parts)
            longest = max(longest, len(parts))
        self._adopt([token for token, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))],
                    self.config.length or -(-(longest + 1) // 8) * 8)

    def _adopt(self, tokens: list[str], length: int) -> None:
        self.tokens, self._ids, self._grammar = tokens, {t: i for i, t in enumerate(tokens)}, None
        self.space = Tokens(len(tokens) + 1, length, end=len(tokens))

    def _copies(self, items: Sequence[Item]) -> dict[str, list[str]]:
        """Each molecule's other spellings, as many as `augment` says."""
        distinct = list(dict.fromkeys(item.raw for item in items))
        n = self.config.augment
        if n < 0:
            n = min(COPIES, ENOUGH // max(1, len(distinct))) if len(distinct) < MANY else 0
        new = [raw for raw in distinct if raw not in self._varied] if n else []
        for raw, found in zip(new, each(chemistry.vary, new, least=2000, copies=n, notation=self.config.notation)):
            # a string longer than the model is no use, and one far longer would stretch it
            most = (self.config.length or LONGEST) - 1
            fits = [pair for pair in found if len(spelling.cut(pair[1] or pair[0], self.config.notation)) <= most]
            self._varied[raw] = [smiles for smiles, _ in fits]
            self._spelt.update({smiles: spelt for smiles, spelt in fits if spelt})
        return {raw: self._varied[raw] for raw in distinct} if n else {}

    def augmented(self, items: Sequence[Item]) -> list[Item]:
        """More items to train on: the same molecules written from other atoms, with the same conditions and group.

        A function of each molecule alone. Meant for the training part, after the split: held-out items would be repeated, and
        whoever reads other data with this codec wants each molecule once; so `read` does not yield them.
        """
        copies = self._copies(items)
        return [Item(copy, item.cond, item.group, item.source) for item in items for copy in copies.get(item.raw, ())]

    def describe(self) -> list[str]:
        """What was decided, one line each."""
        assert isinstance(self.space, Tokens)
        lines = [f"{self.config.notation.upper()} of {len(self.tokens)} kinds of tokens, at most {self.space.length} a molecule"]
        if copies := sum(map(len, self._varied.values())):
            lines.append(f"{copies:,} further spellings with other atom orders (--set codec.augment=0 leaves them out)")
        return lines

    # ---------------------------------------------------------------- tokens
    def _spell(self, smiles: str) -> str:
        if self.config.notation == "smiles":
            return smiles
        spelt = self._spelt.get(smiles) or chemistry.to_selfies(smiles)
        if not spelt:
            raise DataError("no SELFIES for this molecule", where=smiles[:80], remedy="use --set codec.notation=smiles")
        return spelt

    def encode(self, raw: str) -> np.ndarray:
        """(n,) int64 ids, the end id last. Raises DataError for a token the model does not know and for what is too long."""
        assert isinstance(self.space, Tokens)
        ids = [*self._known(self._spell(raw)), self.space.end]
        if len(ids) > self.space.length:
            raise DataError(f"{len(ids)} tokens; the model takes {self.space.length}", where=raw[:80], remedy="leave the molecule out")
        return np.array(ids, np.int64)

    def _known(self, string: str) -> list[int]:
        parts = spelling.cut(string, self.config.notation)
        for part in parts:
            if part not in self._ids:
                what = f"token '{part}' is not among those the model learned"
                raise DataError(what, where=string[:80], remedy=suggest(part, self.tokens))
        return [self._ids[part] for part in parts]

    def decode(self, x: Any) -> str:
        """The canonical SMILES of what stands before the first end; what is no molecule stays as it was drawn."""
        assert isinstance(self.space, Tokens)
        ids = np.asarray(x).tolist()
        ids = ids[: ids.index(self.space.end)] if self.space.end in ids else ids
        string = "".join(self.tokens[i] for i in ids)
        smiles = chemistry.from_selfies(string) if self.config.notation == "selfies" else string
        return chemistry.canonical(smiles) or smiles

    def given(self, raw: str) -> Given:
        """What is known of a molecule: a beginning with an open end, or text with `<mask>` (`<mask:12>`) for unknown tokens.

        A whole molecule is a scaffold to grow: it is written so that its last atom has room for more. `*` marks the atom
        to grow from (c1ccc(*)cc1). With SELFIES, masked text is SELFIES, too.
        Raises UsageError for more than one `*` and for what does not fit the length, DataError for unknown tokens.
        """
        assert isinstance(self.space, Tokens)
        masked = MASK.search(raw) is not None
        string = raw if masked else self._beginning(raw)
        ids: list[int] = []
        known: list[bool] = []
        for i, part in enumerate(MASK.split(string)):  # text, count or None, text, ...
            new = self._known(part) if i % 2 == 0 else [self.space.end or 0] * int(part or 1)
            ids, known = ids + new, known + [i % 2 == 0] * len(new)
        if len(ids) > self.space.length:
            raise UsageError(f"{len(ids):,} tokens do not fit the model's {self.space.length:,}", remedy="shorten what is given")
        x, mask = np.full(self.space.length, self.space.end, np.int64), np.full(self.space.length, masked)
        x[: len(ids)], mask[: len(ids)] = ids, known
        return Given(x, mask)

    def _beginning(self, raw: str) -> str:
        """A prefix in the codec's notation."""
        if raw.count("*") > 1:
            raise UsageError("more than one * in what is given", where=raw, remedy="mark one atom, or use <mask:n> for unknown stretches")
        if self.config.notation == "smiles":
            return chemistry.growing(raw) or raw
        return raw if SYMBOLS.fullmatch(raw) else self._spell(chemistry.growing(raw) or raw)

    def read_given(self, path: Path) -> list[str]:
        """What `generate --given` completes: the SMILES of a table, else every line of a file."""
        if path.suffix.lower() in {*rows.TABLES, *rows.LINES, *FILES}:
            return [row.text for row in rows.rows_of(Listing(path.parent, (path,)), self.config.column, self.skips)]
        return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def grammar(self) -> Grammar:
        """What makes every string drawn a molecule: valences, rings and aromaticity of SMILES; of SELFIES, to begin with an atom."""
        from morphogen.codecs.molecule.grammar import SelfiesGrammar, SmilesGrammar

        if self._grammar is None:
            self._grammar = (SelfiesGrammar if self.config.notation == "selfies" else SmilesGrammar)(self.tokens)
        return self._grammar

    # ---------------------------------------------------------------- outputs
    def write(self, raws: Sequence[str], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]:
        """`.smi`, `.csv`, `.jsonl`, `.sdf` (with three-dimensional shapes), or a folder of drawings and molecules.csv."""
        return outputs.write(raws, Path(out), meta)

    def preview(self, raws: Sequence[str]) -> dict[str, Any]:
        """Drawings with SMILES, QED and logP under them."""
        return outputs.preview(raws)

    def checks(self, raw: str, cond: dict[str, Any]) -> dict[str, bool]:
        """{"valid": whether RDKit parses and sanitises it}."""
        return {"valid": chemistry.parse(raw) is not None}

    def derive(self, raws: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """The named properties of each molecule; None for what is none."""
        distinct = list(dict.fromkeys(raws))
        found = dict(zip(distinct, each(chemistry.derive, distinct, names=list(names))))
        return [dict(found[raw]) for raw in raws]

    def features(self, raws: Sequence[str]) -> np.ndarray:
        """(N, 520) float32; see `feature_name`. What is no molecule is far from all that are."""
        return np.array(list(each(chemistry.features, list(raws))), np.float32).reshape(len(raws), chemistry.BINS + 8)

    def size_of(self, raw: str) -> tuple[int, str]:
        """Characters of the SMILES, whatever the notation, so that bits per character compare."""
        return max(1, len(raw)), "character"

    def state(self) -> dict[str, Any]:
        """All that `load` needs, as JSON."""
        return {"space": spaces.to_json(self.space), "tokens": self.tokens, "notation": self.config.notation}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Raises FormatError when the vocabulary is damaged."""
        space, tokens = spaces.from_json(state["space"]), state["tokens"]
        if not isinstance(space, Tokens) or not all(isinstance(t, str) for t in tokens) or len({*tokens}) != space.vocab - 1:
            raise FormatError("the vocabulary does not fit its space", remedy="restore codec/state.json of the run")
        self.config = replace(self.config, notation=state["notation"])
        self._adopt(list(tokens), space.length)


def _check(config: MoleculeConfig) -> None:
    for name, known in (("notation", ("smiles", "selfies")), ("mixtures", ("skip", "largest"))):
        if getattr(config, name) not in known:
            raise UsageError(f"unknown {name} '{getattr(config, name)}'", remedy=suggest(getattr(config, name), known))
    if not -1 <= config.augment <= 1000:
        raise UsageError(f"codec.augment = {config.augment}", remedy="give 0 to 1000, or -1 to let it be found")
    if config.length and not 4 <= config.length <= 4096:
        raise UsageError(f"codec.length = {config.length}", remedy="give 4 to 4096, or 0 to let it be found")
