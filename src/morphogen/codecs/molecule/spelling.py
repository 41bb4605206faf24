"""SMILES and SELFIES as strings: cutting them into tokens, and telling them from other text without a chemistry library."""
from __future__ import annotations

import re
from collections.abc import Sequence

from morphogen.errors import DataError

TOKEN = re.compile(r"\[[^\[\]\s]{1,40}\]|Br|Cl|[BCNOPSFI]|[bcnops]|%[0-9]{2}|[0-9]|[()=#$:/\\-]")
SELFIE = re.compile(r"\[[^\[\]\s]{1,40}\]")
# what may stand in a SMILES column that is not one molecule, too: mixtures and wildcards are recognised, then refused by name
LOOSE = re.compile(r"(?:\[[^\[\]\s]{1,40}\]|Br|Cl|[BCNOPSFI*]|[bcnops]|%[0-9]{2}|[0-9]|[()=#$:/\\.~-])+")
BRACKET = re.compile(r"\[[^\[\]]*\]")
LONGEST = 2000  # characters: no molecule of a few hundred atoms needs more
WORTH = re.compile(r"[()=#\[\]0-9/\\]")


def cut(text: str, notation: str = "smiles") -> list[str]:
    """The tokens of a string: atoms (two letters, brackets), bonds, branches, ring numbers; or SELFIES symbols.

    Raises DataError naming the place where it is no such string.
    """
    pattern, at, out = SELFIE if notation == "selfies" else TOKEN, 0, []
    for match in pattern.finditer(text):
        if match.start() != at:
            break
        out.append(match.group())
        at = match.end()
    if at < len(text):
        what = f"'{text[at : at + 12]}' at character {at + 1} is not {notation.upper()}"
        raise DataError(what, where=_short(text), remedy="check the string")
    return out


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def refusal(text: str) -> str:
    """Why a cell is not one molecule, as far as its characters say ("" = it may be one)."""
    if not text:
        return "empty"
    if text.startswith(("InChI=", "1S/", "1/")):
        return "an InChI, not a SMILES"
    if len(text) > LONGEST:
        return f"{len(text):,} characters; at most {LONGEST:,} are read"
    if ">" in text:
        return "a reaction, not one molecule"
    if "*" in text or re.search(r"\[R[0-9]*\]", text):
        return "has a wildcard atom"
    return "" if LOOSE.fullmatch(text) else "not a SMILES"


def looks_like(text: str) -> bool:
    """Whether a string could be a SMILES: legal symbols, an atom first, brackets and ring numbers in pairs."""
    if not text or len(text) > LONGEST or not (text[0].isalpha() or text[0] in "[*") or not LOOSE.fullmatch(text):
        return False
    bare, depth = BRACKET.sub("", text), 0
    for c in bare:
        depth += (c == "(") - (c == ")")
        if depth < 0:
            return False
    rings = re.findall(r"%[0-9]{2}|[0-9]", bare)
    return depth == 0 and not any(rings.count(r) % 2 for r in set(rings))


def looks_like_column(values: Sequence[str], named: bool) -> bool:
    """Whether a column's values are SMILES. A telling name needs half of them; without one nearly all, and not mere letters."""
    filled = [v.strip().split()[0] for v in values if v.strip()]
    if not filled:
        return False
    share = sum(looks_like(v) for v in filled) / len(filled)
    if named:
        return share >= 0.5
    worth = sum(bool(WORTH.search(v)) for v in filled) / len(filled)
    return share >= 0.9 and worth >= 0.5 and sum(map(len, filled)) / len(filled) >= 5
