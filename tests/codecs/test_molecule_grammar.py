"""Under the grammar every finished string is a molecule, real molecules are legal, and there is always a way to finish."""
from __future__ import annotations

import numpy as np
import pytest

Chem = pytest.importorskip("rdkit.Chem")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from morphogen.codecs.molecule.atoms import Alphabet  # noqa: E402
from morphogen.codecs.molecule.chemistry import parse  # noqa: E402
from morphogen.codecs.molecule.grammar import SelfiesGrammar, SmilesGrammar  # noqa: E402
from morphogen.codecs.molecule.spelling import cut  # noqa: E402

DRUGS = [
    "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "CN1CCC[C@H]1c1cccnc1",
    "O=C1CN=C(c2ccccc2)c2cc(Cl)ccc2N1", "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O", "C[N+](C)(C)CC(=O)[O-]",
    "O=[N+]([O-])c1ccc(Nc2ncccn2)cc1", "c1ccc2c(c1)-c1ccccc1C2", "c1ccc2c(c1)ccc1ccccc12", "O=c1[nH]cnc2[nH]cnc12", "C[n+]1ccccc1",
    "c1ccn2cccc2c1", "CC/C=C\\C/C=C/CO", "N#Cc1ccc(-c2nnc(S)o2)cc1", "CS(=O)(=O)c1ccc(C2=C(c3ccccc3)C(=O)OC2)cc1",
    "FC(F)(F)c1ccc2[nH]ccc2c1", "CCOP(=O)(OCC)OCC", "O=C(O)c1cccc(I)c1Br", "c1cc2cc3ccc(cc4nc(cc5ccc(cc1n2)[nH]5)C=C4)[nH]3",
    "O=S1(=O)NCc2ccccc21", "C1C2CC3CC1CC(C2)C3", "c1cnc2ccc3ncccc3c2c1", "O=c1ccc2ccccc2o1", "CC1=CC(=O)c2ccccc2C1=O",
    "c1ccc(-c2ccc(-c3ccccc3)s2)cc1",
]
VOCAB = list(dict.fromkeys(t for s in DRUGS for t in cut(s)))
GRAMMAR = SmilesGrammar(VOCAB)
END = len(VOCAB)


def refused(grammar: SmilesGrammar, vocab: list[str], smiles: str, length: int = 90) -> str:
    """Where the grammar forbids a string ("" = nowhere)."""
    state, parts = grammar.start(), cut(smiles)
    for i, token in enumerate([*(vocab.index(t) for t in parts), len(vocab)]):
        if not grammar.allowed(state, length - i)[token]:
            return "".join(parts[:i]) + " >> " + (vocab[token] if token < len(vocab) else "end")
        state = grammar.advance(state, token)
    return ""


def walk(grammar: SmilesGrammar, vocab: list[str], seed: int, length: int) -> str:
    """A random legal string; rings, aromatic atoms and length are favoured, since that is where it is hard."""
    rng, state, out = np.random.default_rng(seed), grammar.start(), []
    base = np.array([3.0 if t.isdigit() or t.islower() else 1.0 for t in vocab] + [0.05])
    for left in range(length, 0, -1):
        allowed = grammar.allowed(state, left)
        assert allowed.any(), "".join(out)
        weight = base * allowed
        token = int(rng.choice(len(weight), p=weight / weight.sum()))
        state = grammar.advance(state, token)
        assert state.core is not None, "a legal token leads to a state with a finish"
        if token == len(vocab):
            return "".join(out)
        out.append(vocab[token])
    raise AssertionError(f"the end did not fit: {''.join(out)}")


@pytest.mark.parametrize("smiles", DRUGS)
def test_real_molecules_are_legal(smiles):
    canonical = Chem.CanonSmiles(smiles)
    if all(t in VOCAB for t in cut(canonical)):
        assert refused(GRAMMAR, VOCAB, canonical) == ""
    kekule = Chem.MolFromSmiles(smiles)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    text = Chem.MolToSmiles(kekule)
    if all(t in VOCAB for t in cut(text)):
        assert refused(GRAMMAR, VOCAB, text) == ""


@pytest.mark.parametrize("text, at", [
    ("C(C)(C)(C)(C)C", "C(C)(C)(C)( >> C"), ("CF(C)C", "CF >> ("), ("C1CC", "C1CC >> end"), ("CC(C", "CC(C >> end"),
    ("C1C1", "C1C >> 1"), ("C11", "C1 >> 1"), ("cC", "c >> C"), ("N=C=C=N=C", "N=C=C=N >> ="), ("C()C", "C( >> )"), ("(C)C", " >> ("),
    ("C==C", "C= >> ="), ("C=)C", "C= >> )"), ("", " >> end"), ("n1cccc1", "n1cccc1 >> end"), ("[nH]1ccccc1", "[nH]1ccccc1 >> end"),
    ("c1ccccc1=O", "c1ccccc1=O >> end"), ("c1cccc1c1cccc1", ""), ("CC)C", "CC >> )"),
])
def test_faulty_strings_are_refused(text, at):
    assert parse(text) is None
    assert refused(GRAMMAR, VOCAB, text), text
    if at.endswith(("end", "1", ")", "(", "=")):
        assert refused(GRAMMAR, VOCAB, text).startswith(at.split(" >> ")[0][:3])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), length=st.integers(4, 32))
def test_every_legal_string_is_a_molecule(seed, length):
    text = walk(GRAMMAR, VOCAB, seed, length)
    assert parse(text) is not None, text


def test_the_shortest_strings_close_in_time():
    for length in (2, 3, 4, 5, 6, 8):
        for seed in range(8):
            text = walk(GRAMMAR, VOCAB, seed, length)
            assert parse(text) is not None and len(cut(text)) < length, text


def test_odd_elements_and_charges():
    odd = ["C", "c", "n", "o", "s", "N", "O", "[n+]", "[nH+]", "[n-]", "[N+]", "[N-]", "[O-]", "[o+]", "[se]", "p", "b", "[C@@H]", "[C@]",
           "/", "\\", "[Si]", "[B-]", "[S+]", "[NH3+]", "[cH-]", "[2H]", "P", "I", "[Na+]", "=", "#", "-", "(", ")", "1", "2", "%10"]
    grammar = SmilesGrammar(odd)
    for seed in range(8):
        text = walk(grammar, odd, seed, 24)
        assert parse(text) is not None, text


def test_what_rdkit_takes_nowhere_is_never_legal():
    kinds = Alphabet.of(["C", "c", "[Xx]", "[C@TH9]", "("])
    assert set(kinds.atoms) == {0, 1} and kinds.kinds[kinds.atoms[0]].most == 4 and kinds.closing is None
    assert not SmilesGrammar(["C", "[Xx]"]).allowed(SmilesGrammar(["C", "[Xx]"]).start(), 9)[1]


def test_a_string_forced_off_is_let_go():
    state = GRAMMAR.advance(GRAMMAR.start(), VOCAB.index(")"))
    assert state.core is None and GRAMMAR.allowed(state, 3).all() and GRAMMAR.advance(state, 0).core is None


def test_states_are_values():
    start = GRAMMAR.start()
    one, again = (GRAMMAR.advance(start, VOCAB.index("C")) for _ in range(2))
    assert GRAMMAR.start() == start and again == one and hash(again) == hash(one)
    before = GRAMMAR.allowed(one, 20)
    before[:] = False
    assert GRAMMAR.allowed(one, 20).any()  # the caller's array is the caller's


def test_forgetting_changes_nothing_that_was_promised(monkeypatch):
    import morphogen.codecs.molecule.grammar as module

    monkeypatch.setattr(module, "REMEMBERED", 500)
    grammar = SmilesGrammar(VOCAB)
    for seed in range(4):
        assert parse(walk(grammar, VOCAB, seed, 18)) is not None
    assert len(grammar._finish.new) <= 500 and grammar._finish.old


def test_selfies_begin_with_an_atom_and_end_in_time():
    grammar = SelfiesGrammar(["[C]", "[Branch1]", "[=Ring1]", "[nop]"])
    assert grammar.allowed(grammar.start(), 5).tolist() == [True, False, False, False, False]
    state = grammar.advance(grammar.start(), 0)
    assert grammar.allowed(state, 4).all() and grammar.allowed(state, 1).tolist() == [False] * 4 + [True]
