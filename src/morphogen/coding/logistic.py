"""Chances as whole numbers and their log-odds: the same tables on every machine, since no float is in them.

Chances are in 2^16 parts; log-odds ("stretched" chances) in 1/256 nats from -LIMIT to LIMIT.
"""
from __future__ import annotations

from functools import cache

import numpy as np

UNIT = 256
LIMIT = 11 * UNIT
ONE = 1 << 16
COUNTS = 16  # how often a state's chance has been moved, up to this
_FINE = 96
_HALF = 2048


def _squashed(limit: int, total: int) -> np.ndarray:
    """int64 (2 limit + 1,): total / (1 + exp(-x / 256)) for x = -limit .. limit, rounded."""
    one = 1 << _FINE
    step, term, k = 0, one, 0
    while term:  # e^(1/256) by its series in 96-bit fixed point
        step, k = step + term, k + 1
        term //= UNIT * k
    out, power = [total // 2], one
    for _ in range(limit):
        power = power * step >> _FINE  # e^(x/256)
        out.append((total * power + (one + power) // 2) // (one + power))
    upper = np.array(out, np.int64)
    return np.concatenate([total - upper[:0:-1], upper])


@cache
def squash_table() -> np.ndarray:
    """int64 (2 LIMIT + 1,): chances of log-odds -LIMIT .. LIMIT, kept within [1, 2^16 - 1]."""
    return _squashed(LIMIT, ONE).clip(1, ONE - 1)


@cache
def stretch_table() -> np.ndarray:
    """int64 (2^12,): the log-odds of the middle of each 16 parts."""
    return np.searchsorted(squash_table(), np.arange(8, ONE, 16)) - LIMIT


def stretch(p: np.ndarray) -> np.ndarray:
    """Log-odds of chances in [0, 2^16)."""
    return stretch_table()[p >> 4]


# ------------------------------------------------------------------- states
# An adaptive chance is one number of 16 bits: its log-odds + 2048, times 16, plus how often it was moved (up to 15).
NEW_STATE = _HALF * COUNTS


@cache
def state_table() -> np.ndarray:
    """float64 (65536,): the log-odds of a state, a whole number."""
    return (np.arange(1 << 16) // COUNTS - _HALF).astype(np.float64)


@cache
def _state_chances() -> np.ndarray:
    """int64 (4096,) chances in 2^30 parts of log-odds -2048 .. 2047."""
    return _squashed(_HALF, 1 << 30)[:-1]


def _nearest(chance: np.ndarray) -> np.ndarray:
    """The log-odds + 2048 nearest to chances in 2^30 parts."""
    table = _state_chances()
    above = np.searchsorted(table, chance).clip(1, len(table) - 1)
    return above - (chance - table[above - 1] <= table[above] - chance)


@cache
def next_states() -> np.ndarray:
    """uint16 (2 * 65536,): the state after a bit, at bit * 65536 + state: p += (bit - p) / (n + 1.5), n counted up to 15.

    The last count moves by 1/24, so that a settled chance stays settled; a state never stands still against the evidence.
    """
    state = np.arange(1 << 16)
    level, n = state // COUNTS, state % COUNTS
    chance, slow = _state_chances()[level], np.where(n == COUNTS - 1, 48, 2 * n + 3)
    out = []
    for bit in (0, 1):
        moved = _nearest(chance + 2 * (bit * (1 << 30) - chance) // slow)
        moved = np.where(bit, np.maximum(moved, level + 1), np.minimum(moved, level - 1)).clip(0, 2 * _HALF - 1)
        out.append(moved * COUNTS + np.minimum(n + 1, COUNTS - 1))
    return np.concatenate(out).astype(np.uint16)


def counted_states(ones: np.ndarray, n: np.ndarray) -> np.ndarray:
    """uint16 states of chances that saw `ones` of `n` >= 1 bits: (ones + 1/4) / (n + 1/2), where n moves would have led."""
    chance = ((4 * ones + 1) << 30) // (4 * n + 2)
    return (_nearest(chance) * COUNTS + np.minimum(n, COUNTS - 1)).astype(np.uint16)
