"""Molecules: what is read and what is refused, exact round trips, honest groups, what is given, what is written."""
from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest

Chem = pytest.importorskip("rdkit.Chem")
pytest.importorskip("selfies")

from morphogen.codecs.molecule import MoleculeCodec, MoleculeConfig, chemistry, outputs, spelling  # noqa: E402
from morphogen.codecs.sources import scan  # noqa: E402
from morphogen.codecs.workers import each  # noqa: E402
from morphogen.contracts import Checks, Derives, Features, HasGrammar, Item  # noqa: E402
from morphogen.errors import DataError, FormatError, ResourceError, UsageError  # noqa: E402
from morphogen.plan import claim  # noqa: E402
from morphogen.testing import check_codec  # noqa: E402
from morphogen.training.split import split  # noqa: E402

CORES = ["c1ccc({})cc1", "c1ccnc({})c1", "C1CCN({})CC1", "c1ccc2[nH]c({})cc2c1", "C1CCC({})CC1", "c1csc({})n1", "O=C1CCCN1{}", "CC(C){}"]
TAILS = ["C", "CC", "CCO", "C(=O)N", "C(=O)OC", "CC#N", "CCl", "C(F)(F)F", "S(C)(=O)=O", "CCN(C)C", "C(C)C", "c1ccccc1"]
SMILES = [Chem.CanonSmiles(core.format(tail)) for core in CORES for tail in TAILS]
LISTED = list(dict.fromkeys(SMILES))


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, **config):
    codec = MoleculeCodec(MoleculeConfig(**config))
    return codec, list(codec.read(scan(path)))


def fitted(**config):
    codec = MoleculeCodec(MoleculeConfig(**{"augment": 0, **config}))
    codec.fit([Item(s) for s in LISTED])
    return codec


PLAIN, SELFIES = fitted(), fitted(notation="selfies")


# ------------------------------------------------------------------- strings
@pytest.mark.parametrize("codec", [PLAIN, SELFIES], ids=["smiles", "selfies"])
def test_molecules_come_back_and_the_codec_keeps_its_promises(codec, tmp_path):
    assert all(codec.decode(codec.encode(s)) == s for s in LISTED)
    check_codec(lambda: MoleculeCodec(codec.config), [Item(s) for s in LISTED[:24]], tmp_path)
    assert isinstance(codec, Checks) and isinstance(codec, Derives) and isinstance(codec, Features) and isinstance(codec, HasGrammar)


def test_tokens_are_atoms_bonds_and_rings():
    text = "C[C@@H](Cl)c1ccc(Br)cc1-c1[nH+]c2%10ccc/C=C\\%10"
    cut = spelling.cut(text)
    assert "".join(cut) == text and {"[C@@H]", "Cl", "Br", "[nH+]", "%10", "/", "\\"} <= set(cut) and "l" not in cut
    with pytest.raises(DataError, match="character 3 is not SMILES"):
        spelling.cut("CC?C")
    with pytest.raises(DataError, match="'C' at character 4 is not SELFIES"):
        spelling.cut("[C]C", "selfies")


def test_another_atom_order_is_another_string_and_the_same_molecule():
    assert PLAIN.encode("Cc1ccccc1").tolist() != PLAIN.encode("c1ccccc1C").tolist()
    assert PLAIN.decode(PLAIN.encode("c1ccccc1C")) == "Cc1ccccc1"


def test_what_is_no_molecule_stays_as_drawn_and_fails_its_check():
    ids = [PLAIN.tokens.index(t) for t in spelling.cut("C1CC(")]
    assert PLAIN.decode(ids) == "C1CC(" and PLAIN.checks("C1CC(", {}) == {"valid": False}
    assert PLAIN.checks("CCO", {}) == {"valid": True} and PLAIN.checks("", {}) == {"valid": False}


def test_unknown_tokens_and_long_molecules_are_refused():
    with pytest.raises(DataError, match=r"'\[Si\]' is not among"):
        PLAIN.encode("C[Si](C)C")
    with pytest.raises(DataError, match="the model takes"):
        PLAIN.encode("C" * 200)


def test_state_is_json_and_a_damaged_one_is_refused():
    for codec in (PLAIN, SELFIES):
        fresh = MoleculeCodec()
        fresh.load(json.loads(json.dumps(codec.state())))
        assert fresh.space == codec.space and fresh.encode(LISTED[5]).tolist() == codec.encode(LISTED[5]).tolist()
        assert pickle.loads(pickle.dumps(codec)).decode(codec.encode(LISTED[0])) == LISTED[0]
    for tokens in (["C"], ["C"] * len(PLAIN.tokens), [1, 2]):
        with pytest.raises(FormatError):
            MoleculeCodec().load({**PLAIN.state(), "tokens": tokens})


def test_any_selfies_string_is_a_molecule():
    rng = np.random.default_rng(0)
    odd = ["[N+1]", "[S-1]", "[=P]", "[Si]", "[C@@H1]", "[NH3+1]", "[I+1]", "[B-1]", "[/C]"]
    first, symbols = SELFIES.grammar().allowed(False, 30), [*SELFIES.tokens, *odd]
    starts = [t for t, ok in zip(SELFIES.tokens, first) if ok]
    for _ in range(300):
        text = str(rng.choice(starts)) + "".join(rng.choice(symbols, rng.integers(0, 30)))
        assert chemistry.parse(chemistry.from_selfies(text)) is not None, text


def test_bond_constraints_of_selfies_are_put_back():
    import selfies

    before = selfies.get_semantic_constraints()
    chemistry.to_selfies("CCO")
    assert selfies.get_semantic_constraints() == before


# ------------------------------------------------------------------- whose data
@pytest.mark.parametrize("name, content", [
    ("a.csv", "SMILES\n" + "\n".join(LISTED)),
    ("a.csv", "id,canonical_smiles,logP\n" + "\n".join(f"m{i},{s},{i}" for i, s in enumerate(LISTED))),
    ("a.tsv", "x\ty\n" + "\n".join(f"{s}\t{i / 2}" for i, s in enumerate(LISTED))),
    ("a.smi", "\n".join(f"{s} name{i}" for i, s in enumerate(LISTED))),
    ("a.txt", "\n".join(LISTED)), ("a.jsonl", "\n".join(json.dumps({"smiles": s, "text": "x"}) for s in LISTED)),
    ("a.csv", "\n".join(LISTED)),
])
def test_molecules_are_recognised(tmp_path, name, content):
    listing = scan(write(tmp_path, name, content))
    assert claim(listing)[0] == "molecule"
    codec, items = read(listing.files[0])
    assert [i.raw for i in items] == LISTED and not codec.skips.count


@pytest.mark.parametrize("name, content", [
    ("words.csv", "code,n\n" + "\n".join(f"{c},{i}" for i, c in enumerate(["NO", "CN", "IS", "FI", "SC", "CO", "BO"]))),
    ("ids.csv", "id,x\n" + "\n".join(f"C{i},{i}" for i in range(50))), ("prose.txt", "Once upon a time (no).\nIn Cork.\n"),
    ("formulas.csv", "formula,x\n" + "\n".join(f"C{i}H{i}O2,1" for i in range(30))), ("peptides.csv", "seq\nACDEFGHIKL\nKLMNPQRSTV\n"),
    ("wide.csv", ",".join(["smiles", *(f"c{i}" for i in range(9))]) + "\n" + "\n".join(",".join([s, *"abcdefghi"]) for s in LISTED)),
])
def test_other_tables_are_left_to_others(tmp_path, name, content):
    assert claim(scan(write(tmp_path, name, content)))[0] != "molecule"


def test_claims_import_no_chemistry(tmp_path):
    import subprocess

    path = write(tmp_path, "a.csv", "smiles\n" + "\n".join(LISTED))
    script = f"""
import sys
from morphogen.codecs.molecule import MoleculeCodec
from morphogen.codecs.sources import scan
assert MoleculeCodec.claims(scan({str(path)!r})).score > 0.95
assert not {{"rdkit", "torch", "selfies", "pandas"}} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_rdkit_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(ResourceError, match=r"pip install 'morphogen\[molecule\]'"):
        PLAIN.checks("C", {})


def test_frames_and_lists():
    frame = [{"smiles": s, "activity": i / 7, "series": "ab"[i % 2], "name": f"n{i}"} for i, s in enumerate(LISTED)]
    assert claim(scan(frame))[0] == "molecule"
    codec, items = read(frame)
    assert items[3].cond == {"activity": 3 / 7, "series": "b"} and items[3].raw == LISTED[3] and items[3].source == "row 4"
    pandas = pytest.importorskip("pandas")
    assert [i.raw for i in read(pandas.DataFrame(frame))[1]] == LISTED
    assert claim(scan(LISTED))[0] == "molecule" and [i.raw for i in read(LISTED)[1]] == LISTED


def test_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"smiles": LISTED, "y": range(len(LISTED))}).to_parquet(tmp_path / "a.parquet")
    listing = scan(tmp_path / "a.parquet")
    assert claim(listing)[0] == "molecule"
    items = read(tmp_path / "a.parquet")[1]
    assert items[2].raw == LISTED[2] and items[2].cond == {"y": 2}


# ------------------------------------------------------------------- groups, copies
def test_scaffolds_stay_on_one_side():
    items = read([{"smiles": s} for s in LISTED])[1]
    assert items[0].group == "c1ccccc1" and len({i.group for i in items}) < len(items)
    chains = [i for i in items if not any(c.isdigit() for c in i.raw)]
    assert chains and all(i.group == i.raw for i in chains)  # chains have no scaffold: they are not one big group
    train, held = split(items)
    assert held and not {items[i].group for i in held} & {items[i].group for i in train}
    same = read([{"smiles": "c1ccccc1" + "C" * n} for n in range(1, 40)])[1]
    assert len({i.group for i in same}) == 39  # one scaffold alone cannot be split by scaffold


def test_other_spellings_are_for_the_training_part_alone():
    codec, items = read([{"smiles": s, "y": i} for i, s in enumerate(LISTED)], augment=4)
    codec.fit(items)
    assert len(items) == len(LISTED)  # nothing that is held out is repeated
    train, held = split(items)
    more = codec.augmented([items[i] for i in train])
    assert len(train) < len(more) <= 4 * len(train) and len({i.raw for i in more}) == len(more)
    assert {Chem.CanonSmiles(i.raw) for i in more} <= {items[i].raw for i in train}
    assert all(codec.decode(codec.encode(i.raw)) in LISTED for i in more[:50])  # the vocabulary covers them
    by_raw = {i.raw: i for i in items}
    assert all(by_raw[Chem.CanonSmiles(i.raw)].cond == i.cond and by_raw[Chem.CanonSmiles(i.raw)].group == i.group for i in more)
    again = MoleculeCodec(codec.config).augmented([items[i] for i in reversed(train)])
    assert {i.raw for i in again} == {i.raw for i in more}  # a function of the molecule, not of its place
    assert fitted(augment=0).augmented(items) == [] and MoleculeCodec().augmented(items)


# ------------------------------------------------------------------- bad inputs
BAD = {
    "C1CC": "an open ring", "C(C)(C)(C)(C)C": "valence", "CC(": "an open ring, branch", "c1cccc1": "kekulize", "CCO.Cl": "salt or mixture",
    "CC*": "wildcard", "[R1]CC": "wildcard", "CCO>>CC=O": "reaction", "InChI=1S/CH4/h1H4": "InChI", "[" * 100_000: "characters",
    "acgtacgt": "not a SMILES", "XBZ*": "wildcard", "": "empty", "C" * 1500: "atoms",
}


def test_bad_rows_are_skipped_by_number_and_reason(tmp_path):
    many = [f"C{'C' * (i % 20)}O" for i in range(1600)]
    path = write(tmp_path, "a.csv", "id,smiles\n" + "\n".join(f"{i},{s}" for i, s in enumerate([*many, *BAD])))
    codec, items = read(path)
    assert len(items) == len(many) and codec.skips.count == len(BAD)
    assert f"a.csv:{len(many) + 2}: " in codec.skips.first[0]
    for text, why in BAD.items():
        _, _, found, _ = chemistry.survey([text])[0]
        assert why.lower() in found.lower(), (text[:20], found)


def test_too_many_bad_rows_are_an_error_that_shows_them(tmp_path):
    path = write(tmp_path, "a.smi", "\n".join([*LISTED, "C1CC", "CCO.[Na+]", "CC"]))
    with pytest.raises(DataError, match=r"2 of 98 items cannot be used, a.smi:96: .*open ring.*a.smi:97: a salt.*codec.mixtures=largest"):
        read(path)
    items = read(write(tmp_path, "b.smi", "\n".join([*LISTED, "CCO.[Na+]", "c1ccccc1.CCO"])), mixtures="largest")[1]
    assert [i.raw for i in items[-2:]] == ["CCO", "c1ccccc1"]


@pytest.mark.parametrize("content", ["", "smiles\n", "\n\n", "smiles\n\n"])
def test_empty_tables(tmp_path, content):
    with pytest.raises(DataError):
        read(write(tmp_path, "a.csv", content))


def test_isotopes_charges_and_stereo_are_kept_atom_maps_are_not():
    found = chemistry.survey(["[2H]C([2H])O", "C[N+](C)(C)C", "C[C@H](N)C(=O)O", "F/C=C/F", "[CH3:1][OH:2]", "OC"])
    assert [f[0] for f in found] == ["[2H]C([2H])O", "C[N+](C)(C)C", "C[C@H](N)C(=O)O", "F/C=C/F", "CO", "CO"]


def test_what_was_changed_is_said(tmp_path):
    codec, items = read(write(tmp_path, "a.smi", "\n".join([*LISTED, "OCC", "OCC"])))
    assert read(write(tmp_path, "b.smi", "\n".join(LISTED)))[0].notes[0] == "all SMILES were canonical"
    assert items[-1].raw == "CCO" and "2 of 97 were written anew" in codec.notes[0] and "1 molecules occur more than once" in codec.notes[1]


def test_length_cap(tmp_path):
    peptide = "NCC(=O)" * 40 + "O"
    path = write(tmp_path, "a.smi", "\n".join([*LISTED, peptide]))
    codec, items = read(path)
    assert len(items) == len(LISTED) and "far longer than the others" in codec.skips.first[0]
    codec, items = read(path, length=400)
    assert len(items) == len(LISTED) + 1
    codec, items = read(path, length=14)
    assert 0 < len(items) < len(LISTED) and any("left out" in note for note in codec.notes)
    codec.fit(items)
    assert codec.space.length == 14


@pytest.mark.parametrize("config", [{"notation": "inchi"}, {"mixtures": "all"}, {"augment": -2}, {"length": 3}])
def test_impossible_settings(config):
    with pytest.raises(UsageError):
        MoleculeCodec(MoleculeConfig(**config))


def test_a_column_can_be_named_and_a_wrong_one_is_suggested(tmp_path):
    path = write(tmp_path, "a.csv", "smiles,product\n" + "\n".join(f"{s},C" for s in LISTED))
    assert {i.raw for i in read(path, column="product")[1]} == {"C"}
    with pytest.raises(UsageError, match="did you mean 'product'"):
        read(path, column="produkt")
    with pytest.raises(DataError, match="no column of SMILES"):
        read(write(tmp_path, "b.csv", "a,b\n1,2\n3,4\n"))


# ------------------------------------------------------------------- SDF
def sdf(*smiles, field="LogP"):
    blocks = []
    for i, s in enumerate(smiles):
        blocks.append(Chem.MolToMolBlock(Chem.MolFromSmiles(s)) + f">  <{field}>\n{i / 4}\n\n>  <Name>\nm{i}\n\n$$$$\n")
    return "".join(blocks)


def test_sdf_with_properties(tmp_path):
    path = write(tmp_path, "a.sdf", sdf(*LISTED))
    assert claim(scan(path))[0] == "molecule"
    items = read(path)[1]
    assert [i.raw for i in items] == LISTED and items[5].cond == {"LogP": 1.25} and items[5].source == "a.sdf (record 6)"


def test_counts_that_lie_are_skipped(tmp_path):
    good = sdf(*LISTED, *LISTED, *LISTED)
    lie = sdf("CCO").replace("  3  2  0", "999  2  0")
    counts = "M  V30 BEGIN CTAB\nM  V30 COUNTS 1000000000 0 0 0 0\nM  V30 END CTAB\nM  END\n$$$$\n"
    v3000 = "\n\n\n  0  0  0     0  0            999 V3000\n" + counts
    with pytest.raises(DataError, match="record 286.*damaged mol block.*record 287"):
        read(write(tmp_path, "a.sdf", good + lie + v3000 + lie + lie))
    codec, items = read(write(tmp_path, "b.sdf", good + lie + "\n".join(["x" * 10] * 30_000)))
    assert len(items) == 3 * len(LISTED) and codec.skips.count == 2 and "more than 20,000 lines" in codec.skips.first[0]
    codec, items = read(write(tmp_path, "c.sdf", good + sdf("C" * 600)))
    assert codec.skips.count == 1 and "600 atoms" in codec.skips.first[0]


# ------------------------------------------------------------------- known parts
def known(codec, text):
    g = codec.given(text)
    n = int(((g.x != codec.space.end) if g.known[-1] else g.known).nonzero()[0].max()) + 1
    return "".join(codec.tokens[t] if k else "_" for t, k in zip(g.x[:n], g.known[:n])), bool(g.known[-1])


def test_a_beginning_is_a_prefix_with_an_open_end():
    assert known(PLAIN, "CCN(") == ("CCN(", False) and known(PLAIN, "c1ccc2[nH]ccc2c1") == ("c1ccc2[nH]ccc2c1", False)


def test_masks_are_unknown_stretches_and_close_the_end():
    assert known(PLAIN, "Cc1ccc(<mask:3>)cc1") == ("Cc1ccc(___)cc1", True)
    assert known(PLAIN, "C<mask>N") == ("C_N", True)


def test_a_scaffold_grows_from_its_marked_atom_or_one_with_room():
    text, closed = known(PLAIN, "c1cnc(*)cc1")
    assert not closed and Chem.CanonSmiles(text + "Cl") == Chem.CanonSmiles("c1cnc(Cl)cc1")
    text, _ = known(PLAIN, "Cc1ccccc1C(F)(F)F")  # its last atom is full
    grown = Chem.MolFromSmiles(text + "C")
    assert grown is not None and grown.HasSubstructMatch(Chem.MolFromSmiles("Cc1ccccc1C(F)(F)F"))
    with pytest.raises(UsageError, match=r"more than one \*"):
        PLAIN.given("*c1ccc(*)cc1")
    with pytest.raises(UsageError, match="no atom .* has room"):
        PLAIN.given("FC(F)(F)F")
    with pytest.raises(UsageError, match="do not fit"):
        PLAIN.given("C" * 300)


def test_selfies_take_a_molecule_as_the_beginning():
    text, closed = known(SELFIES, "c1ccc(*)cc1")
    assert not closed and Chem.CanonSmiles(chemistry.from_selfies(text)) == "c1ccccc1"
    assert known(SELFIES, "[C][C]<mask>[C]")[0] == "[C][C]_[C]"


def test_read_given(tmp_path):
    assert PLAIN.read_given(write(tmp_path, "a.smi", "c1ccc(*)cc1 x\n\nC<mask>N\n")) == ["c1ccc(*)cc1", "C<mask>N"]
    assert PLAIN.read_given(write(tmp_path, "a.csv", "smiles,n\nc1ccc(*)cc1,1\nCCN,2\n")) == ["c1ccc(*)cc1", "CCN"]


# ------------------------------------------------------------------- what is worked out
def test_derived_properties_are_those_of_rdkit():
    from rdkit.Chem import QED, Descriptors

    found = PLAIN.derive([*LISTED, "C1CC", LISTED[0]], list(PLAIN.derived))
    for smiles, one in zip(LISTED, found):
        mol = Chem.MolFromSmiles(smiles)
        want = {"qed": QED.qed(mol), "logp": Descriptors.MolLogP(mol), "weight": Descriptors.MolWt(mol), "tpsa": Descriptors.TPSA(mol)}
        assert all(one[k] == pytest.approx(v, abs=1e-3) for k, v in want.items()) and one["rings"] == mol.GetRingInfo().NumRings()
    assert set(found[-2].values()) == {None} and found[-1] == found[0]


def test_workers_give_what_one_process_gives(monkeypatch):
    alone = list(each(chemistry.derive, LISTED, names=["logp", "rings"]))
    monkeypatch.setattr("morphogen.codecs.workers.cores", lambda: 2)
    assert list(each(chemistry.derive, LISTED, least=10, names=["logp", "rings"])) == alone
    monkeypatch.setattr(sys, "executable", "/bin/false")  # workers that die at once
    assert list(each(chemistry.derive, LISTED, least=10, names=["logp", "rings"])) == alone
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert list(each(chemistry.derive, LISTED, least=10, names=["logp", "rings"])) == alone


def test_features_do_not_depend_on_the_spelling_and_set_faults_apart():
    a, b, c, bad = PLAIN.features(["Cc1ccccc1", "c1ccccc1C", "CCO", "C1CC"])
    assert np.array_equal(a, b) and len(a) <= 1024 + 8 and np.linalg.norm(a - c) > 1
    assert np.linalg.norm(bad - a) > np.linalg.norm(a - c) and PLAIN.features([]).shape == (0, len(a))


# ------------------------------------------------------------------- files for people
META = [{"seed": 7, "index": i, "qed": 0.5} for i in range(4)]
MADE = ["CCO", "Cc1ccccc1", "C1CC", "=O"]


def test_csv_and_smi(tmp_path):
    PLAIN.write(MADE, tmp_path / "a.csv", META)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "smiles,seed,index,qed" and lines[1] == "CCO,7,0,0.5" and lines[4].startswith("'=O,")
    PLAIN.write(MADE, tmp_path / "a.smi", META)
    assert (tmp_path / "a.smi").read_text().splitlines()[1] == "Cc1ccccc1 molecule-00001"
    with pytest.raises(UsageError, match="not written as '.pdf'"):
        PLAIN.write(MADE, tmp_path / "a.pdf", META)


def test_sdf_out_has_shapes_with_hydrogens_and_says_where_there_is_none(tmp_path, monkeypatch):
    PLAIN.write(MADE, tmp_path / "a.sdf", META)
    first = (tmp_path / "a.sdf").read_bytes()
    PLAIN.write(MADE, tmp_path / "a.sdf", META)
    assert (tmp_path / "a.sdf").read_bytes() == first  # the same molecule has the same shape
    mols = list(Chem.SDMolSupplier(str(tmp_path / "a.sdf"), removeHs=False))
    assert len(mols) == 4 and mols[0].GetNumAtoms() == 9 and mols[0].GetConformer().Is3D()
    assert mols[1].GetProp("smiles") == "Cc1ccccc1" and mols[1].GetProp("index") == "1" and "3-D" in mols[1].GetProp("coordinates")
    assert mols[2].GetNumAtoms() == 0 and mols[2].GetProp("coordinates") == "none: not a molecule"
    back = read(write(tmp_path, "b.sdf", sdf(*LISTED[:3])))[1]
    assert [i.raw for i in back] == LISTED[:3]
    from rdkit.Chem import AllChem

    monkeypatch.setattr(AllChem, "EmbedMolecule", lambda *a: -1)
    assert outputs.shape(["CCO"])[0][1].startswith("2-D")


def test_a_folder_of_drawings(tmp_path):
    paths = PLAIN.write(MADE, tmp_path / "out", META)
    assert [p.name for p in paths] == ["00000.png", "00001.png", "00002.png", "00003.png", "molecules.csv"]
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in paths[:4])
    row = json.loads((tmp_path / "out/metadata.jsonl").read_text().splitlines()[1])
    assert row == {"file_name": "00001.png", "smiles": "Cc1ccccc1", "seed": 7, "index": 1, "qed": 0.5}


def test_preview_shows_structures_with_a_line_each():
    shown = PLAIN.preview(MADE)
    assert shown["kind"] == "image" and len(shown["png"]) == len(shown["texts"]) == 4
    assert shown["texts"][0].startswith("CCO · QED 0.41, logP ") and shown["texts"][2] == "C1CC · not a molecule"


def test_a_mol_block_that_rdkit_cannot_even_judge_is_refused() -> None:
    from rdkit import Chem

    from morphogen.codecs.molecule.chemistry import survey

    block = Chem.MolToMolBlock(Chem.MolFromSmiles("C1CC1C#N")).replace(" C   0  0", " C   0  " + "9" * 40, 1)
    (smiles, _, why, _), = survey([block])
    assert smiles == "" and why
