"""The one decode loop: sequences take slots, a step carries prompt chunks, single tokens and drafts alike as rows.

A row is (token, slot, position, adapter). The loop knows ids and logits only; what a sequence wants of its logits (choice,
grammar, stop) is its own business, handed in as `choose`.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from morphogen.engine.cache import Run, SlotCache
from morphogen.errors import UsageError
from morphogen.sampling.lookup import MOST, Lookup, accept

CHUNK = 256  # rows of a prompt read in one step: enough to be worth a matrix product, few enough that others do not wait long


@dataclass
class Sequence_:
    """One text under way. `choose(logits (V,), position) -> id` is asked once for every new token, in order.

    `done(id) -> bool` is told each new token and says whether it was the last. `most`: how many new tokens at most.
    """

    prompt: Sequence[int]
    choose: Callable[[Tensor, int], int]
    done: Callable[[int], bool]
    most: int
    adapter: str | None = None
    draft: Callable[[list[int], int], list[int]] | None = None
    lookup: bool = False
    ids: list[int] = field(default_factory=list)
    new: int = 0
    finished: bool = False
    reason: str = ""
    read: int = 0
    "How many ids the cache holds."
    prompt_seconds: float = 0.0
    seconds: float = 0.0
    index: Lookup | None = None

    def __post_init__(self) -> None:
        self.ids = list(self.prompt)
        if self.lookup:
            self.index = Lookup()
            self.index.extend(self.ids)

    def proposals(self) -> list[int]:
        """Ids that may come next, to be checked in the same step."""
        room = min(MOST, self.most - self.new - 1)
        if room < 1:
            return []
        if self.draft is not None:
            return self.draft(self.ids, room)[:room]
        return self.index.propose(room) if self.index is not None else []

    def take(self, logits: Tensor, drafted: list[int]) -> list[int]:
        """New ids from logits (1 + drafted, V), by the lossless rule; the sequence may end in the middle of a draft."""
        gained = accept(logits, drafted, self._add, lambda: self.finished)
        if self.index is not None:
            self.index.extend(gained)
            self.index.accepted(sum(a == b for a, b in zip(gained, drafted)), len(drafted))
        return gained

    def _add(self, row: Tensor, _: int) -> int:
        token = self.choose(row, len(self.ids))
        self.ids.append(token)
        self.new += 1
        if self.done(token):
            self.finished, self.reason = True, "stop"
        elif self.new >= self.most:
            self.finished, self.reason = True, "length"
        return token


class Engine:
    """Runs a causal net over many sequences. `slots`: how many at a time; `limit`: positions each may have.

    `adapting(name)`: opens the adapter of that name around a forward; sequences of one step share one. `near`: up to here
    positions turn alike in all texts; past it as far as the step's last position reaches, so such texts go through it alone.
    `again`: a text that gets past it is read anew from its beginning, as transformers does.
    """

    def __init__(self, net: nn.Module, *, slots: int = 1, limit: int = 1 << 20, dtype: torch.dtype = torch.float32,
                 adapting: Callable[[str | None], AbstractContextManager[object]] | None = None) -> None:
        self.net, self.slots, self.limit = net, slots, limit
        self.cache = SlotCache(slots, limit, dtype)
        rotary = getattr(getattr(net, "architecture", None), "rotary", None)
        self.near = rotary.original if rotary is not None and rotary.kind in ("dynamic", "longrope") else 1 << 62
        self.again = rotary is not None and rotary.kind == "longrope"
        self.adapting = adapting or (lambda name: nullcontext())

    def run(self, sequences: Iterable[Sequence_]) -> Generator[tuple[Sequence_, list[int]], None, None]:
        """(sequence, its new ids) as they come; a finished sequence gives its slot to the next one waiting.

        Closing the iterator cancels everything. A sequence's text depends on nothing but itself and `slots`.
        """
        waiting, free, active = deque(sequences), list(range(self.slots)), {}
        if waiting and not free:
            raise UsageError(f"{self.slots} slots for {len(waiting)} sequences", remedy="give at least one")
        while waiting or active:
            while waiting and free:
                active[free.pop(0)] = waiting.popleft()
            together: dict[tuple[str | None, int], dict[int, Sequence_]] = {}
            for slot, s in active.items():
                together.setdefault((s.adapter, slot if self._far(s) else -1), {})[slot] = s
            for (adapter, _), chosen in together.items():
                for slot, ids in self.step(chosen, adapter):
                    yield chosen[slot], ids
            for slot in [slot for slot, s in active.items() if s.finished]:
                del active[slot]
                free.append(slot)
                free.sort()

    def _far(self, s: Sequence_) -> bool:
        return len(s.prompt) + s.most > self.near

    def step(self, active: dict[int, Sequence_], adapter: str | None = None) -> list[tuple[int, list[int]]]:
        """One forward for all active sequences; what each gained: nothing while a prompt longer than a chunk is read."""
        began = time.perf_counter()
        rows: list[int] = []
        runs: list[Run] = []
        wanted: list[int] = []
        plans: list[tuple[int, Sequence_, list[int], int]] = []
        for slot, s in active.items():
            far = self._far(s)
            if self.again and s.read <= self.near < len(s.ids):
                s.read = 0
            whole = far or len(s.ids) - s.read <= CHUNK
            drafted = s.proposals() if whole and s.new and not far else []
            feed = s.ids[s.read: len(s.ids) if far else s.read + CHUNK] + drafted
            runs.append(Run(len(rows), len(rows) + len(feed), slot, s.read))
            asked = 1 + len(drafted) if whole else 0
            wanted += range(len(rows) + len(feed) - asked, len(rows) + len(feed))
            plans.append((slot, s, drafted, asked))
            rows += feed
        logits = self.forward(rows, runs, wanted, adapter)
        out, at = [], 0
        for (slot, s, drafted, asked), run in zip(plans, runs):
            first = s.new == 0
            if asked:
                gained = s.take(logits[at: at + asked], drafted)
                at += asked
                s.read = len(s.ids) - 1
                out.append((slot, gained))
            else:
                s.read += run.stop - run.start
                out.append((slot, []))  # nothing new yet, but a sign of life
            spent = time.perf_counter() - began
            if first:
                s.prompt_seconds += spent
            else:
                s.seconds += spent
        return out

    @torch.inference_mode()
    def forward(self, rows: list[int], runs: list[Run], wanted: list[int], adapter: str | None = None) -> Tensor:
        """(wanted, V) float32 logits of a step's rows."""
        self.cache.begin(runs)
        device = next((p.device for p in self.net.parameters()), torch.device("cpu"))  # packed nets have buffers only
        at = torch.tensor([wanted], dtype=torch.int64, device=device)
        with self.adapting(adapter):
            return self.net(torch.tensor([rows], device=device), cache=self.cache, at=at)[0].float()
