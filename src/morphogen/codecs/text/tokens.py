"""Text <-> ids: raw bytes, or byte-level BPE (Sennrich et al. 2016; byte alphabet of Radford et al. 2019). No torch here.

Both give back any text exactly. The end id lies outside the tokeniser, so no text a user writes can become it.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from morphogen.errors import FormatError

LONGEST_PIECE = 24  # a token longer than this is a memorised phrase, not a word


def _alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level tokenizer.json."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    hidden = (b for b in range(256) if b not in set(printable))
    return table | {chr(256 + i): b for i, b in enumerate(hidden)}


def to_bytes(text: str) -> bytes:
    """UTF-8; half surrogates, which no file can hold, become "?"."""
    return text.encode("utf-8", "replace")


class Tokeniser:
    """`content` None: bytes. Else the JSON of a byte-level BPE tokenizer.json (as a dict)."""

    def __init__(self, content: dict[str, Any] | None = None) -> None:
        self.content = content
        self._library: Any = None
        self.pieces = [bytes([b]) for b in range(256)] if content is None else _pieces(content)

    @property
    def size(self) -> int:
        """How many ids; `size` itself is free for the end."""
        return len(self.pieces)

    def ids(self, text: str) -> list[int]:
        """Ids of a text, no end."""
        data = to_bytes(text)
        if self.content is None:
            return list(data)
        if self._library is None:
            self._library = _load(self.content)
        return self._library.encode(data.decode(), add_special_tokens=False).ids

    def text(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 show as U+FFFD."""
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")

    def __getstate__(self) -> dict[str, Any]:
        return {"content": self.content, "_library": None, "pieces": self.pieces}  # loader workers rebuild their own


def train_bpe(texts: Sequence[str], vocab: int) -> Tokeniser:
    """Byte-level BPE with at most `vocab` ids, all 256 bytes among them."""
    # the library warns on every fork after using its own threads; loader workers fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # type: ignore[assignment]
    library.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=2, show_progress=False, special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=LONGEST_PIECE,
    )
    library.train_from_iterator((to_bytes(text).decode() for text in texts), trainer)
    return Tokeniser(json.loads(library.to_str()))


def _load(content: dict[str, Any]) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises bare Exception
        raise FormatError(f"the tokenizer is damaged ({error})", remedy="restore codec/state.json of the run") from None


def _pieces(content: dict[str, Any]) -> list[bytes]:
    """Bytes of each id. Raises FormatError unless ids are 0..n-1 and every piece is made of byte characters."""
    alphabet = _alphabet()
    try:
        vocab = content["model"]["vocab"]
        pieces: list[bytes | None] = [None] * len(vocab)
        for piece, index in vocab.items():
            pieces[index] = bytes(alphabet[c] for c in piece)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise FormatError(f"not a byte-level tokenizer ({error})", remedy="restore codec/state.json of the run") from None
    if any(piece is None for piece in pieces) or len({p for p in pieces if p and len(p) == 1}) < 256:
        raise FormatError("the tokenizer's vocabulary has gaps", remedy="restore codec/state.json of the run")
    return [piece for piece in pieces if piece is not None]


def hashed_grams(data: bytes, bins: int, longest: int) -> np.ndarray:
    """(longest * bins,) square roots of hashed n-gram frequencies, n = 1..longest; each n has length 1, the whole has length 1.

    The square root (Hellinger) keeps frequent grams from drowning the rest.
    """
    out = np.zeros((longest, bins), np.float64)
    codes = np.frombuffer(data, np.uint8).astype(np.uint64)
    grams = np.zeros(0, np.uint64)
    for n in range(longest):
        if len(codes) <= n:
            break
        grams = codes.copy() if n == 0 else grams[:-1] * np.uint64(257) + codes[n:]
        mixed = (grams + np.uint64(n + 1)) * np.uint64(0x9E3779B97F4A7C15)
        out[n] = np.bincount((mixed >> np.uint64(40)).astype(np.int64) % bins, minlength=bins) / len(grams)
    return (np.sqrt(out / longest)).ravel().astype(np.float32)
