"""Everything that asks RDKit or SELFIES about molecules. Imports happen inside functions: `import morphogen` needs neither."""
from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from morphogen.codecs.molecule.spelling import refusal
from morphogen.errors import UsageError, needs

ATOMS = 500  # heavier molecules are skipped: polymers and proteins are no drug-like structures, and drawing them takes minutes
BINS = 512
DERIVED = {
    "qed": "drug-likeness, 0 to 1 (Bickerton et al. 2012)",
    "logp": "octanol-water partition, log10 (Wildman and Crippen 1999)",
    "weight": "molecular weight in g/mol",
    "rings": "number of rings",
    "tpsa": "topological polar surface area in Å² (Ertl et al. 2000)",
    "donors": "hydrogen-bond donors",
    "acceptors": "hydrogen-bond acceptors",
    "rotatable": "rotatable bonds",
    "complexity": "structural complexity (Bertz 1981), a stand-in for the effort of synthesis",
}
LOCK = threading.Lock()


@contextmanager
def quiet() -> Iterator[Any]:
    """`rdkit.Chem` with its log held back. Raises ResourceError naming the extra when RDKit is absent."""
    chem = needs("rdkit.Chem", "molecule", "reading molecules")
    from rdkit import rdBase

    block = rdBase.BlockLogs()
    try:
        yield chem
    finally:
        del block


def parse(text: str) -> Any:
    """An RDKit molecule that passes sanitisation and has at least one atom, or None."""
    with quiet() as chem:
        return _parse(chem, text)


def _parse(chem: Any, text: str) -> Any:
    if len(text) > 4 * 2000:  # a parser must not be handed what no molecule needs
        return None
    mol = chem.MolFromSmiles(text)
    return mol if mol is not None and mol.GetNumAtoms() else None


def canonical(text: str) -> str | None:
    """The canonical SMILES of a molecule, None when the string is no molecule."""
    with quiet() as chem:
        mol = _parse(chem, text)
        return None if mol is None else chem.MolToSmiles(mol)


# ------------------------------------------------------------------- reading
def survey(texts: Sequence[str], notation: str = "smiles", mixtures: str = "skip") -> list[list[str]]:
    """[canonical SMILES, scaffold, why not, spelling] of each SMILES or mol block (anything of several lines).

    The scaffold is that of Bemis and Murcko (1996), "" for chains. The spelling is the SELFIES, or "".
    """
    with quiet() as chem:
        found = [_survey(chem, text, mixtures) for text in texts]
    if notation == "selfies":
        with _selfies() as library:
            for one in found:
                one[3] = "" if one[2] else _encoded(library, one[0])
                one[2] = one[2] or ("" if one[3] else "has no SELFIES")
    return found


def _survey(chem: Any, text: str, mixtures: str) -> list[str]:
    block = "\n" in text
    why = "" if block else refusal(text)
    if why:
        return ["", "", why, ""]
    mol = chem.MolFromMolBlock(text) if block else chem.MolFromSmiles(text)
    if mol is None:
        return ["", "", _fault(chem, text, block), ""]
    if not mol.GetNumAtoms():
        return ["", "", "no atoms", ""]
    if len(frags := chem.GetMolFrags(mol)) > 1:
        if mixtures == "skip":
            return ["", "", f"a salt or mixture of {len(frags)} parts (--set codec.mixtures=largest keeps the largest)", ""]
        mol = max(chem.GetMolFrags(mol, asMols=True), key=lambda m: (m.GetNumHeavyAtoms(), chem.MolToSmiles(m)))
    if mol.GetNumAtoms() > ATOMS:
        return ["", "", f"{mol.GetNumAtoms():,} atoms; at most {ATOMS} are read", ""]
    if block or ":" in text:
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
    smiles = chem.MolToSmiles(mol)
    if "*" in smiles:
        return ["", "", "has a wildcard atom", ""]
    return [smiles, _scaffold(mol), "", ""]


def _scaffold(mol: Any) -> str:
    from rdkit.Chem import rdMolHash

    return rdMolHash.MolHash(mol, rdMolHash.HashFunction.MurckoScaffold)


def _fault(chem: Any, text: str, block: bool) -> str:
    """What is wrong with a molecule that does not parse, in RDKit's words where it has some."""
    mol = chem.MolFromMolBlock(text, sanitize=False) if block else chem.MolFromSmiles(text, sanitize=False)
    if mol is None:
        return "a damaged mol block: its counts or lines do not fit" if block else "not a SMILES: an open ring, branch or bracket"
    try:
        problems = chem.DetectChemistryProblems(mol)
    except RuntimeError:  # a query in place of an atom: RDKit asks for a valence it did not work out
        problems = []
    return problems[0].Message() if problems else "not a possible molecule"


def vary(texts: Sequence[str], copies: int, notation: str = "smiles") -> list[list[list[str]]]:
    """For each molecule up to `copies` other ways to write it, [[SMILES, spelling], ...]: other first atoms, other branches first.

    A function of the molecule alone. Randomised SMILES: Arús-Pous et al. (2019), Bjerrum (2017).
    """
    with quiet() as chem:
        found = [_vary(chem, text, copies) for text in texts]
    if notation != "selfies":
        return [[[s, ""] for s in new] for new in found]
    with _selfies() as library:
        return [[[s, spelt] for s in new if (spelt := _encoded(library, s))] for new in found]


def _vary(chem: Any, text: str, copies: int) -> list[str]:
    mol = _parse(chem, text)
    if mol is None:
        return []
    seed = zlib.crc32(text.encode()) & 0x7FFFFFFF or 1
    return [s for s in dict.fromkeys(chem.MolToRandomSmilesVect(mol, copies, randomSeed=seed)) if s != text]


# ------------------------------------------------------------------- SELFIES
@contextmanager
def _selfies(constraints: dict[str, int] | None = None) -> Iterator[Any]:
    """The selfies library under our bond constraints; they are global there, so they are put back under a lock."""
    library = needs("selfies", "molecule", "SELFIES")
    with LOCK:
        before = library.get_semantic_constraints()
        library.set_semantic_constraints(constraints or _constraints())
        try:
            yield library
        finally:
            library.set_semantic_constraints(before)


@cache
def _constraints() -> dict[str, int]:
    """Most bonds of each element and charge that RDKit takes: what selfies assumes for unusual ones (8) does not sanitise."""
    library, out = needs("selfies", "molecule", "SELFIES"), {}
    base = library.get_preset_constraints("default")
    with quiet() as chem:
        elements = [chem.GetPeriodicTable().GetElementSymbol(z) for z in range(1, 87)]
        for element in elements:
            for charge in (-2, -1, 0, 1, 2, 3):
                name = element + (f"{charge:+d}" if charge else "")
                bracket = f"[{element}{f'{charge:+d}' if charge else ''}]"
                most = 0
                while most < 8 and chem.MolFromSmiles(bracket + "(C)" * (most + 1)) is not None:
                    most += 1
                # for everyday atoms the library's own, lower number is the chemist's usual one
                out[name] = min(base.get(name, most), most)
    return {**out, "?": 0}


def to_selfies(smiles: str) -> str | None:
    """SMILES to SELFIES (Krenn et al. 2020), atoms in the order they are written; None when it cannot be said."""
    with _selfies() as library:
        return _encoded(library, smiles) or None


def _encoded(library: Any, smiles: str) -> str:
    try:
        return library.encoder(smiles)
    except library.EncoderError:
        return ""


def from_selfies(text: str) -> str:
    """SELFIES to SMILES; any string of symbols has one."""
    with _selfies() as library:
        try:
            return library.decoder(text)
        except library.DecoderError:
            return ""


# ------------------------------------------------------------------- what is given to grow
def growing(text: str) -> str | None:
    """A whole molecule written so that its last atom has room for more, or is the one marked by `*`; None for unfinished text.

    Raises UsageError when no atom has room.
    """
    with quiet() as chem:
        mol = _parse(chem, text)
        if mol is None:
            return None
        marked = "*" in text
        if not marked:
            if mol.GetAtomWithIdx(mol.GetNumAtoms() - 1).GetTotalNumHs():
                return text
            free = [(not a.IsInRing(), a.GetIdx()) for a in mol.GetAtoms() if a.GetTotalNumHs()]
            if not free:
                raise UsageError("no atom of what is given has room for more", where=text, remedy="take an atom off, or mask a part")
            mol = chem.RWMol(mol)
            mol.AddBond(min(free)[1], mol.AddAtom(chem.Atom(0)), chem.BondType.SINGLE)
            chem.SanitizeMol(mol)
        # atoms are written in any of many orders; the marked one must come last, on the main chain
        ends = [s[:-1] for s in chem.MolToRandomSmilesVect(mol, 500, randomSeed=1) if s.endswith("*")]
        if not ends:
            raise UsageError("the atom marked * cannot be written last", where=text, remedy="give the beginning of a SMILES instead")
        return min(ends, key=lambda s: (len(s), s))


# ------------------------------------------------------------------- what can be computed
@cache
def _alerts() -> Any:
    """QED's structural alerts as one catalogue: asked in one call, they take two thirds of the time."""
    from rdkit.Chem import QED, FilterCatalog

    catalog: Any = FilterCatalog.FilterCatalog()
    for i, alert in enumerate(QED.StructuralAlerts):
        catalog.AddEntry(FilterCatalog.FilterCatalogEntry(str(i), FilterCatalog.SmartsMatcher(str(i), alert, 1)))
    return catalog


def _qed(chem: Any, mol: Any, logp: float) -> float:
    """QED (Bickerton et al. 2012): the number RDKit gives, a little sooner."""
    from rdkit.Chem import QED
    from rdkit.Chem import rdMolDescriptors as D

    properties = QED.QEDproperties(
        MW=D._CalcMolWt(mol),
        ALOGP=logp,
        HBA=sum(len(mol.GetSubstructMatches(p)) for p in QED.Acceptors),
        HBD=D.CalcNumHBD(mol),
        PSA=D.CalcTPSA(mol),
        ROTB=D.CalcNumRotatableBonds(mol, D.NumRotatableBondsOptions.Strict),
        AROM=len(chem.GetSSSR(chem.DeleteSubstructs(chem.Mol(mol), QED.AliphaticRings))),
        ALERTS=len(_alerts().GetMatches(mol)),
    )
    return QED.qed(mol, qedProperties=properties)


def derive(texts: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """One dict a molecule with the `names` of DERIVED; None for what is no molecule."""
    with quiet() as chem:
        return [_derive(chem, text, names) for text in texts]


def _derive(chem: Any, text: str, names: Sequence[str]) -> dict[str, Any]:
    mol = _parse(chem, text)
    if mol is None:
        return dict.fromkeys(names)
    from rdkit.Chem import GraphDescriptors
    from rdkit.Chem import rdMolDescriptors as D

    logp = D.CalcCrippenDescriptors(mol)[0] if {"logp", "qed"} & set(names) else 0.0
    how: dict[str, Callable[[], float]] = {
        "qed": lambda: _qed(chem, mol, logp), "logp": lambda: logp, "weight": lambda: D._CalcMolWt(mol),
        "rings": lambda: D.CalcNumRings(mol), "tpsa": lambda: D.CalcTPSA(mol), "donors": lambda: D.CalcNumHBD(mol),
        "acceptors": lambda: D.CalcNumHBA(mol), "rotatable": lambda: D.CalcNumRotatableBonds(mol),
        "complexity": lambda: GraphDescriptors.BertzCT(mol),
    }
    return {name: _rounded(how[name]()) for name in names}


def _rounded(value: float) -> float | int:
    return value if isinstance(value, int) else round(float(value), 4)


def features(texts: Sequence[str]) -> list[list[float]]:
    """520 numbers a molecule: square roots of Morgan counts (radius 2) folded to 512, and 8 descriptors at like scale.

    What is no molecule is far from all that are: only its last number is not 0.
    """
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.Chem import rdMolDescriptors as D

    out = np.zeros((len(texts), BINS + 8), np.float32)
    morgan = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BINS)
    with quiet() as chem:
        for row, text in zip(out, texts):
            mol = _parse(chem, text)
            if mol is None:
                row[-1] = 10
                continue
            row[:BINS] = np.sqrt(morgan.GetCountFingerprintAsNumPy(mol))
            row[BINS:-1] = (D._CalcMolWt(mol) / 100, D.CalcCrippenDescriptors(mol)[0], D.CalcTPSA(mol) / 30, D.CalcNumRings(mol),
                            D.CalcNumRotatableBonds(mol) / 2, D.CalcNumHBD(mol), D.CalcFractionCSP3(mol) * 3)
    return [[round(float(v), 5) for v in row] for row in out]

