"""Drafts by a smaller model: it writes ahead in its own slot, the large one checks (Leviathan et al. 2023, arXiv 2211.17192).

The rule by which drafts hold is the house's own: a draft token holds iff it is the token that would be chosen there. The
small model chooses with the same key at the same position, so both choose alike where their distributions are alike.
"""
from __future__ import annotations

from torch import Tensor

from morphogen.engine.cache import Run
from morphogen.engine.loop import CHUNK, Engine
from morphogen.sampling.choice import Choice, choose_token


class Drafter:
    """Called with all ids so far and how many to guess; keeps what it has read and takes back what did not hold.

    `size`: ids below it are guessed. A model may have more rows than its tokenizer, and the large one fewer than the small.
    """

    def __init__(self, engine: Engine, choice: Choice, key: Tensor, size: int) -> None:
        self.engine, self.choice, self.key, self.size = engine, choice, key, size
        self.read: list[int] = []

    def __call__(self, ids: list[int], room: int) -> list[int]:
        """At most `room` ids that may follow."""
        same = 0
        for a, b in zip(self.read, ids):
            if a != b:
                break
            same += 1
        del self.read[min(same, len(ids) - 1):]
        if len(ids) + room > self.engine.limit:
            return []
        out: list[int] = []
        for _ in range(room):
            logits = self._logits([*ids, *out])[:, : self.size]
            out.append(int(choose_token(logits, self.key, len(ids) + len(out), self.choice)))
        return out

    def _logits(self, ids: list[int]) -> Tensor:
        while True:
            feed = ids[len(self.read): len(self.read) + CHUNK]
            last = len(self.read) + len(feed) == len(ids)
            logits = self.engine.forward(feed, [Run(0, len(feed), 0, len(self.read))], [len(feed) - 1])
            self.read += feed
            if last:
                return logits
