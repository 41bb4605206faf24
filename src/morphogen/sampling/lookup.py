"""Drafts looked up in the text itself (prompt lookup, Saxena 2023), and the lossless rule by which drafts are taken."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

MOST = 7
_REST, _LONG_REST = 4, 64


class Lookup:
    """What came after the last two or three tokens when they stood together before; O(1) a token.

    The length follows what was accepted: two more after a draft that held, as many as held (or half) after one that did not;
    a draft nothing of which held halves it, and at 0 there is a rest, twice as long each time, before one token is tried.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.after: dict[tuple[int, ...], int] = {}  # 2- or 3-gram -> where its latest continuation begins
        self.length = 4
        self.wait, self.rest = 0, _REST

    def extend(self, ids: Iterable[int]) -> None:
        """Take in ids that were read or written."""
        own, after = self.ids, self.after
        for i in ids:
            n = len(own)
            if n >= 2:
                after[own[-2], own[-1]] = n
            if n >= 3:
                after[own[-3], own[-2], own[-1]] = n
            own.append(i)

    def propose(self, most: int = MOST) -> list[int]:
        """At most `most` ids that may come next; none when the text has not been here before or drafts did not pay."""
        if self.wait > 0:
            self.wait -= 1
            return []
        own = self.ids
        at = self.after.get(tuple(own[-3:])) if len(own) >= 3 else None
        if at is None and len(own) >= 2:
            at = self.after.get((own[-2], own[-1]))
        if at is None:
            return []
        draft: list[int] = []
        for j in range(at, at + min(most, self.length, MOST)):  # past the end the draft continues itself: loops are followed
            draft.append(own[j] if j < len(own) else draft[j - len(own)])
        return draft

    def accepted(self, n: int, of: int) -> None:
        """`n` of the `of` ids proposed held."""
        if of == 0:
            return
        if n == of:
            self.length, self.rest = min(MOST, self.length + 2) if of >= self.length else self.length, _REST
        else:
            self.length = max(n, self.length // 2)
            if self.length == 0:
                self.wait, self.rest, self.length = self.rest, min(2 * self.rest, _LONG_REST), 1


def accept(logits: Tensor, draft: Tensor | Sequence[int], choose: Callable[[Tensor, int], int],
           over: Callable[[], bool] = lambda: False) -> list[int]:
    """The tokens a draft gains: exactly those that choosing one after the other would give.

    logits (k + 1, V) after the text and after each id of the draft (k,); `choose(row, i)` gives the token i places on. A draft
    token holds iff it is the token chosen at its place; the first that is not is replaced by the choice and ends it; when all
    hold the last row gives one more. So 1 to k + 1 tokens, and the law is untouched. `over`: the text has ended meanwhile.
    """
    wanted = [int(i) for i in draft]
    taken: list[int] = []
    for i, row in enumerate(logits):
        taken.append(choose(row, i))
        if over() or i >= len(wanted) or taken[-1] != wanted[i]:
            break
    return taken
