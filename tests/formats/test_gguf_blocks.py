"""GGML's blocks become the same float32 numbers, bit for bit, as in gguf-py; rounding to them too."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.errors import DataError, UsageError
from morphogen.formats.gguf import GgufTensor
from morphogen.formats.gguf.blocks import BY_CODE, GRIDS, KINDS, UNREAD
from morphogen.formats.gguf.quantise import ROUNDING

QUANTISED = [name for name, kind in KINDS.items() if kind.unpack]


def tensor(kind: str, shape: tuple[int, ...], raw: np.ndarray) -> GgufTensor:
    raw.flags.writeable = False  # as those of a mapped file
    return GgufTensor("x", shape, kind, raw)


def random_blocks(kind: str, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, n * KINDS[kind].layout.itemsize, dtype=np.uint8)


def same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal bits; a NaN is a NaN."""
    nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), nan)
    assert np.array_equal(ours[~nan].view(np.uint32), theirs[~nan].view(np.uint32))


def test_codes_and_sizes_are_those_of_ggml() -> None:
    for name, kind in KINDS.items():
        code = gguf.GGMLQuantizationType[name]
        assert kind.code == code and gguf.GGML_QUANT_SIZES[code] == (kind.size, kind.layout.itemsize)
    for code, name in UNREAD.items():
        assert code not in BY_CODE and (name not in gguf.GGMLQuantizationType.__members__ or gguf.GGMLQuantizationType[name] == code)


@pytest.mark.parametrize("kind", [*QUANTISED, "F32", "F16", "BF16"])
def test_any_bytes_become_the_numbers_of_the_reference(kind: str) -> None:
    how = KINDS[kind]
    for rows, blocks, seed in ((1, 1, 0), (7, 3, 1), (37, 40, 2)):
        raw = random_blocks(kind, rows * blocks, seed)
        with np.errstate(all="ignore"):
            theirs = gguf.quants.dequantize(raw.reshape(rows, -1), gguf.GGMLQuantizationType[kind])
        ours = tensor(kind, (rows, blocks * how.size), raw).load()
        assert ours.shape == theirs.shape
        same(ours.numpy(), theirs)


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "F16"])
def test_pieces_join(kind: str) -> None:
    """More numbers than are turned at a time, and not a multiple of that."""
    how = KINDS[kind]
    raw = random_blocks(kind, 600_000 // how.size, 5)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType[kind])[0]
    same(tensor(kind, theirs.shape, raw).load().numpy(), theirs)


def test_a_block_by_hand() -> None:
    """Q4_0: d = 0.5; byte i holds number i in its low half and number i + 16 in its high half; 8 is zero."""
    raw = np.frombuffer(struct.pack("<e", 0.5) + bytes([0x80 | i for i in range(16)]), np.uint8).copy()
    assert tensor("Q4_0", (32,), raw).load().tolist() == [0.5 * (i - 8) for i in range(16)] + [0.0] * 16


@pytest.mark.parametrize("kind", [*QUANTISED, "F32", "F16", "BF16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_roundings_of_float32(kind: str, dtype: torch.dtype) -> None:
    whole = tensor(kind, (40, 256), random_blocks(kind, 40 * 256 // KINDS[kind].size, 3))
    assert torch.equal(whole.load(dtype).nan_to_num(), whole.load().to(dtype).nan_to_num())
    with pytest.raises(UsageError, match="does not fit"):
        whole.load(torch.int32)


def test_whole_numbers() -> None:
    raw = np.arange(-4, 4, dtype="<i4")
    assert tensor("I32", (2, 4), raw.view(np.uint8)).load(torch.int32).tolist() == raw.reshape(2, 4).tolist()
    assert tensor("I32", (2, 4), raw.view(np.uint8)).load().tolist() == raw.reshape(2, 4).tolist()


# ---------------------------------------------------------------- rounding
scales = st.sampled_from([1e-42, 1e-20, 1e-5, 0.02, 1.0, 300.0, 10_000.0])
patterns = st.sampled_from(["normal", "steps", "zeros", "one"])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ROUNDING)), st.integers(1, 9), st.integers(0, 10_000), scales, patterns)
def test_rounding_is_that_of_the_reference(kind: str, blocks: int, seed: int, scale: float, how: str) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((blocks, 32)).clip(-3, 3)
    if how == "steps":  # many ties of magnitude and halves
        x = rng.integers(-8, 9, (blocks, 32)) / 2
    if how == "zeros":
        x[::2] = 0
    if how == "one":
        x[:] = x[:, :1]
    x = (x * scale).astype(np.float32)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType[kind])
    if kind.startswith("Q") and scale < 1e-40:
        return  # 1 / d is infinite there, and the reference rounds NaN; what we do is the next test's
    assert ROUNDING[kind](x.reshape(-1), "x").tobytes() == theirs.tobytes()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_rounding_stays_within_the_step(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float32)
    back = tensor(kind, x.shape, ROUNDING[kind](x.reshape(-1), "x").copy()).load().numpy()
    step = {"Q8_0": np.abs(x).max(1) / 127, "Q4_0": np.abs(x).max(1) / 8, "Q4_1": (x.max(1) - x.min(1)) / 15}[kind][:, None]
    # Q4_0 has no +8: a number as large as the largest, of the other sign, loses a whole step. The scale is rounded to half precision.
    assert (np.abs(back - x) <= step * (1.01 if kind == "Q4_0" else 0.51) + np.abs(x) * 2e-3).all()
    tiny = np.full(32, 1e-43, np.float32)
    assert not tensor(kind, (32,), ROUNDING[kind](tiny, "x").copy()).load().any()


def test_what_a_kind_cannot_hold_is_refused() -> None:
    large = np.full(32, 1e9, np.float32)
    for kind in ("F16", "Q8_0", "Q4_0"):
        with pytest.raises(DataError, match="'x' needs"):
            ROUNDING[kind](large, "x")
    spread = np.array([-3e38, 3e38] * 16, np.float32)
    for kind in ("Q8_0", "Q4_0", "Q4_1"):
        for bad in (spread, np.full(32, np.nan, np.float32), np.full(32, np.inf, np.float32)):
            with pytest.raises(DataError, match="tensor 'x'"):
                ROUNDING[kind](bad, "x")
    assert np.isinf(tensor("F16", (32,), ROUNDING["F16"](np.full(32, np.inf, np.float32), "x").copy()).load().numpy()).all()


@pytest.mark.parametrize("kind", sorted(GRIDS))
def test_codes_scales_and_offsets_are_the_same_numbers(kind: str) -> None:
    """What is drawn with (`engine/int4.py`) is the matrix that is computed with; rows can be taken and cut apart."""
    data = random_blocks(kind, 48 * 256 // KINDS[kind].size, 5)
    held = tensor(kind, (48, 256), data)
    grid, want = held.grid(), held.load()
    assert grid is not None and grid.shape == want.shape and len(grid) == 48
    finite = want.isfinite()
    assert torch.equal(grid.float()[finite], want[finite])
    a, b = grid.split([16, 32])
    assert torch.equal(torch.cat([a.float(), b.float()])[finite], want[finite])
    assert tensor(kind, (data.size // KINDS[kind].layout.itemsize * KINDS[kind].size,), data).grid() is None
