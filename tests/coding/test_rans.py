"""rANS: what goes in comes out, at the size the frequencies promise, and nothing else is accepted."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.coding.rans import TOTAL, BitDecoder, BitEncoder, SymbolDecoder, SymbolEncoder, quantise
from morphogen.errors import FormatError


def tables(rng: np.random.Generator, steps: int, rows: int, vocab: int, kind: str) -> np.ndarray:
    if kind == "even":
        return rng.integers(1, 1000, (steps, rows, vocab))
    if kind == "sharp":  # one symbol has nearly all, others next to nothing
        w = np.ones((steps, rows, vocab), np.int64)
        w[np.arange(steps)[:, None], np.arange(rows), rng.integers(0, vocab, (steps, rows))] = 1 << 40
        return w
    w = rng.integers(0, 2, (steps, rows, vocab)) * rng.integers(1, 1 << 30, (steps, rows, vocab))
    w[..., 0] += w.sum(-1) == 0
    return w


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), steps=st.integers(0, 12), parts=st.integers(1, 3), lanes=st.integers(1, 5), vocab=st.integers(1, 300),
       kind=st.sampled_from(["even", "sharp", "gaps"]))
def test_symbols_come_back_under_any_tables(seed, steps, parts, lanes, vocab, kind):
    rng = np.random.default_rng(seed)
    rows = parts * lanes
    w = tables(rng, steps, rows, vocab, kind)
    freqs = np.stack([quantise(t) for t in w]) if steps else np.zeros((0, rows, vocab), np.int64)
    assert (freqs.sum(-1) == TOTAL).all() and ((freqs > 0) == (w > 0)).all()
    # any symbol that can be, not only likely ones
    symbols = np.array([[rng.choice(np.flatnonzero(row)) for row in step] for step in w]).reshape(steps, rows).astype(np.int64)
    encoder = SymbolEncoder(lanes)
    for step, told in zip(freqs, symbols, strict=True):
        encoder.code(step, told)
    data = encoder.coder.finish()
    decoder = SymbolDecoder(data, lanes)
    for step, told in zip(freqs, symbols, strict=True):
        assert (decoder.code(step, None) == told).all()
    decoder.coder.finish()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 40))
def test_bits_come_back_at_any_chance(seed, rows):
    rng = np.random.default_rng(seed)
    p = rng.choice([1, 2, 100, 1 << 15, TOTAL - 2, TOTAL - 1], (30, rows))
    bits = rng.integers(0, 2, (30, rows))
    p[3], bits[3] = TOTAL, 1  # rows that have ended
    encoder, decoder = BitEncoder(rows), None
    for chance, bit in zip(p, bits, strict=True):
        encoder.code(chance, bit)
    decoder = BitDecoder(encoder.finish(), rows)
    for chance, bit in zip(p, bits, strict=True):
        assert (decoder.code(chance, None) == bit).all()
    decoder.finish()


@pytest.mark.parametrize("kind", ["even", "gaps"])
def test_the_size_is_the_entropy_within_one_percent(kind):
    rng = np.random.default_rng(5)
    w = tables(rng, 1000, 8, 60, kind)
    p = w / w.sum(-1, keepdims=True)
    symbols = (p.cumsum(-1) < rng.random((1000, 8, 1))).sum(-1)
    symbols = np.minimum(symbols, 59)
    symbols = np.where(np.take_along_axis(w, symbols[..., None], -1)[..., 0] > 0, symbols, w.argmax(-1))
    encoder = SymbolEncoder(8)
    for step, told in zip(w, symbols, strict=True):
        encoder.code(quantise(step), told)
    bits = -np.log2(np.take_along_axis(p, symbols[..., None], -1)).sum()
    assert bits / 8 - 40 < len(encoder.coder.finish()) < 1.01 * bits / 8 + 3 * 8


def test_a_certain_symbol_costs_nothing():
    encoder = SymbolEncoder(2)
    for _ in range(1000):
        encoder.code(np.array([[TOTAL, 0], [0, TOTAL]]), np.array([0, 1]))
    assert len(encoder.coder.finish()) == 2 * 4


def test_small_weights_stay_possible_beside_huge_ones():
    freqs = quantise(np.array([[1 << 45, 1, 0], [1, 1, 1]]))
    assert freqs[0].tolist() == [TOTAL - 1, 1, 0] and freqs[1].sum() == TOTAL and freqs[1].min() > 20000
    with pytest.raises(ValueError, match="possible"):
        quantise(np.zeros((1, 3), np.int64))


def test_cut_or_lengthened_words_are_refused():
    freqs, rng = quantise(np.ones((4, 50), np.int64)), np.random.default_rng(0)
    symbols = rng.integers(0, 50, (200, 4))
    encoder = SymbolEncoder(4)
    for told in symbols:
        encoder.code(freqs, told)
    data = encoder.coder.finish()
    for wrong in (data[:-2], data + b"\0\0", data[:10], b"", data[:-1], b"\0" * 16 + data[16:]):
        with pytest.raises(FormatError, match="damaged"):
            decoder = SymbolDecoder(wrong, 4)
            for _ in symbols:
                decoder.code(freqs, None)
            decoder.coder.finish()
