"""Range asymmetric numeral systems (Duda 2014, arXiv 1311.2540), many lanes in lock step, in plain integers.

A lane's state x lies in [2^16, 2^32). To code a symbol that owns [start, start + freq) of 2^16: while x >= freq 2^16 put 16 bits
of x out; then x <- (x // freq) 2^16 + x mod freq + start. Decoding undoes this, last symbol first, so the encoder runs backwards
over symbols it has noted. A certain symbol (freq 2^16) leaves x as it is: rows that have ended cost nothing.
All lanes share one string of 16-bit words; a lane costs 3 bytes beyond what its symbols hold.
"""
from __future__ import annotations

import numpy as np

from morphogen.errors import FormatError

BITS = 16
TOTAL = 1 << BITS
LOW = np.uint64(1 << 16)
_16 = np.uint64(16)
_MASK = np.uint64(0xFFFF)


def damaged(what: str) -> FormatError:
    """The one error of all that does not decode."""
    return FormatError(f"the compressed data are damaged ({what})", remedy="take an undamaged copy")


def quantise(weights: np.ndarray) -> np.ndarray:
    """(R, V) weights >= 0 -> int64 frequencies that add up to 2^16: at least 1 where the weight is positive, 0 elsewhere.

    Weights are whole numbers below 2^46 / V each row's sum; the rounding rest goes to the largest. Raises ValueError when a row
    has no positive weight, or more than 2^15 of them.
    """
    w = np.asarray(weights, np.int64)
    legal = w > 0
    count, total = legal.sum(1), w.sum(1)
    if (count == 0).any() or (count > TOTAL // 2).any():
        raise ValueError("every row needs 1 to 2^15 possible symbols")
    # shifted so that no product overflows; the same shift everywhere would lose small rows
    excess = np.maximum(0, np.frexp(total.astype(np.float64))[1] - 46)
    w, total = w >> excess[:, None], np.maximum(1, (w >> excess[:, None]).sum(1))
    freqs = legal + w * (TOTAL - count)[:, None] // total[:, None]
    rest = TOTAL - freqs.sum(1)
    freqs[np.arange(len(w)), freqs.argmax(1)] += rest
    return freqs


class Encoder:
    """Notes what is coded (`add`, in the decoder's order), then writes it all (`finish`)."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.starts: list[np.ndarray] = []
        self.freqs: list[np.ndarray] = []

    def add(self, starts: np.ndarray, freqs: np.ndarray) -> None:
        """(n,) of one step, n a multiple of the lanes: lane j codes elements j, j + lanes, ..."""
        self.starts.append(starts)
        self.freqs.append(freqs)

    def finish(self) -> bytes:
        """The states of all lanes, then the words."""
        none = np.zeros(0, np.uint64)
        starts = np.concatenate([none, *self.starts]).astype(np.uint64).reshape(-1, self.lanes)
        freqs = np.concatenate([none, *self.freqs]).astype(np.uint64).reshape(-1, self.lanes)
        limits, rest = freqs << _16, TOTAL - freqs  # x // f 2^16 + x mod f + start = x + x // f (2^16 - f) + start
        words, at = np.zeros(starts.size, np.uint16), starts.size
        x = np.full(self.lanes, LOW, np.uint64)
        for i in range(len(starts) - 1, -1, -1):
            full = x >= limits[i]
            out = x[full]
            if len(out):
                at -= len(out)
                words[at : at + len(out)] = out & _MASK
                x[full] = out >> _16
            x += x // freqs[i] * rest[i]
            x += starts[i]
        return x.astype("<u4").tobytes() + words[at:].astype("<u2").tobytes()


class Decoder:
    """Reads what `Encoder.finish` wrote. Raises FormatError when the words run out."""

    def __init__(self, data: bytes, lanes: int) -> None:
        if len(data) < 4 * lanes or (len(data) - 4 * lanes) % 2:
            raise damaged("too short")
        self.lanes, self.at = lanes, 0
        self.x = np.frombuffer(data, "<u4", lanes).astype(np.uint64)
        self.words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.uint64)
        if (self.x < LOW).any():
            raise damaged("a state is too small")

    def slots(self) -> np.ndarray:
        """(lanes,) int64 in [0, 2^16): where each lane's next symbol lies."""
        return (self.x & _MASK).astype(np.int64)

    def advance(self, starts: np.ndarray, freqs: np.ndarray) -> None:
        """Take the found symbols (lanes,) off."""
        self.refill(freqs.astype(np.uint64) * (self.x >> _16) + (self.x & _MASK) - starts.astype(np.uint64))

    def refill(self, x: np.ndarray) -> None:
        """Take these states, and words for those that are too small."""
        need = x < LOW
        n = int(np.count_nonzero(need))
        if n:
            if self.at + n > len(self.words):
                raise damaged("it ends early")
            x[need] = (x[need] << _16) | self.words[self.at : self.at + n]
            self.at += n
        self.x = x

    def finish(self) -> None:
        """Raises FormatError unless all was read and every lane is back where it began."""
        if self.at != len(self.words) or (self.x != LOW).any():
            raise damaged("something is left over")


class SymbolEncoder:
    """Codes symbols of known rows with whole frequency tables."""

    def __init__(self, lanes: int) -> None:
        self.coder = Encoder(lanes)

    def code(self, freqs: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """(R, V) frequencies, (R,) symbols: notes them and returns them."""
        assert symbols is not None
        rows = np.arange(len(freqs))
        ends = freqs.cumsum(1)[rows, symbols]
        mine = freqs[rows, symbols]
        if (mine <= 0).any():
            raise ValueError("a symbol that cannot be")
        self.coder.add(ends - mine, mine)
        return symbols


class SymbolDecoder:
    """The mirror of `SymbolEncoder`."""

    def __init__(self, data: bytes, lanes: int) -> None:
        self.coder = Decoder(data, lanes)

    def code(self, freqs: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """(R, V) frequencies -> (R,) symbols. `symbols` is not looked at."""
        ends, lanes = freqs.cumsum(1), self.coder.lanes
        out = np.zeros(len(freqs), np.int64)
        for part in range(len(freqs) // lanes):
            piece = np.arange(part * lanes, (part + 1) * lanes)
            found = (ends[piece] <= self.coder.slots()[:, None]).sum(1)
            mine = freqs[piece, found]
            self.coder.advance(ends[piece, found] - mine, mine)
            out[piece] = found
        return out


class BitEncoder:
    """Codes bits of known rows; `p` is the chance of a 1 in 2^16 parts."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.chances: list[np.ndarray] = []
        self.bits: list[np.ndarray] = []

    def code(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """(R,) chances in [1, 2^16 - 1] (or 2^16: a 1 for sure), (R,) bits: notes and returns them."""
        assert bits is not None
        self.chances.append(p)
        self.bits.append(bits)
        return bits

    def finish(self) -> bytes:
        """All as bytes."""
        coder = Encoder(self.lanes)
        for at in range(0, len(self.bits), 4096):
            p, one = np.concatenate(self.chances[at : at + 4096]), np.concatenate(self.bits[at : at + 4096]) > 0
            coder.add(np.where(one, 0, p), np.where(one, p, TOTAL - p))
        return coder.finish()


class BitDecoder:
    """The mirror of `BitEncoder`."""

    def __init__(self, data: bytes, lanes: int) -> None:
        self.coder = Decoder(data, lanes)

    def code(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """(R,) chances -> (R,) bits. `bits` is not looked at."""
        lanes, coder = self.coder.lanes, self.coder
        out, chances = np.empty(len(p), np.int64), p.astype(np.uint64)
        for at in range(0, len(p), lanes):
            chance, x = chances[at : at + lanes], coder.x
            slots, part = x & _MASK, (x >> _16) * chance
            one = slots < chance
            # a 1 owns the lower part, [0, chance); a 0 the rest
            coder.refill(np.where(one, part + slots, x - part - chance))
            out[at : at + lanes] = one
        return out

    def finish(self) -> None:
        """Raises FormatError when something is left over."""
        self.coder.finish()
