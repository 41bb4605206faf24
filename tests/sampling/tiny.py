"""A byte-level tokenizer of a few hundred ids, in memory: what structured output asks of a tokenizer and no more."""
from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

MERGES = ["a b", "c d", "ab cd", '" :', "{ \"", "1 2", "t r", "u e", "tr ue", "} ,", "Ġ Ġ"]


class Tiny:
    """All bytes, a few merges, three special tokens of which two end a text."""

    def __init__(self) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        merges = [tuple(m.split(" ")) for m in MERGES]
        names = [*alphabet, *("".join(m) for m in merges)]
        made = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(["<|start|>", "<|end|>", "<|over|>"])
        self.inner = made
        self.size = made.get_vocab_size()
        self.special = {name: made.token_to_id(name) for name in ("<|start|>", "<|end|>", "<|over|>")}
        self.eos = (self.special["<|end|>"], self.special["<|over|>"])

    def content(self) -> str:
        return self.inner.to_str()

    def ids(self, text: str) -> list[int]:
        return self.inner.encode(text).ids

    def text(self, ids: list[int]) -> str:
        return self.inner.decode(ids)
