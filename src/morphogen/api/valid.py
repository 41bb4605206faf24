"""Drawing what keeps the codec's rules: check, keep what is good, draw the rest again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from morphogen.api.common import Watch
from morphogen.contracts import Checks, Faults, Given, Raw
from morphogen.errors import UsageError
from morphogen.spaces import Tokens

ATTEMPTS = 12


class Rules:
    """What a model's codec can say about an item, and how it lets one be mended. Raises UsageError when it can say nothing."""

    def __init__(self, model: Any) -> None:
        self.model, self.codec = model, model.codec
        self.grammar = model.grammar() if getattr(model.family, "prefills", False) or model.family.infill == "prefix" else None
        if not isinstance(self.codec, Checks | Faults) and self.grammar is None:
            raise UsageError(f"{self.codec.name} items have no rules to keep", remedy="leave out --valid")

    def holds(self, raw: Raw, cond: dict[str, Any]) -> bool:
        """Whether an item passes: the codec's checks decide; without them, that it names no fault."""
        if isinstance(self.codec, Checks):
            return all(self.codec.checks(raw, cond).values())
        return not isinstance(self.codec, Faults) or self.codec.faults(raw, 0) is None

    def keep(self, raw: Raw, attempt: int, given: Given | None) -> Given | None:
        """What to keep of a faulty item, the user's known values always; None when it must be drawn anew.

        A family that only continues can keep a beginning and nothing else.
        """
        good = self.codec.faults(raw, attempt) if isinstance(self.codec, Faults) else None
        if good is None or not self.model.keeps(good):
            return None
        good = good if given is None else _over(given, good)
        if self.model.family.infill == "prefix" and not _leads(good.known):
            return None
        return good if _any(good.known) else None

    def whole(self, given: Given | None) -> bool:
        """Whether nothing is left to draw."""
        space = self.model.codec.space
        return given is not None and _all(given.known) and not (isinstance(space, Tokens) and len(given.known) < space.length)


def draw_valid(
    model: Any, keys: Any, cond: dict[str, list[Any]] | None, given: Sequence[Raw] | None, sampling: Any, *, batch: int = 0,
    watch: Watch | None = None,
) -> tuple[list[Raw], list[bool]]:
    """One item a key, and for each whether it keeps the rules after at most ATTEMPTS repairs.

    An item and its repairs depend on its own key, condition and known values alone: attempt k draws with the key derived
    by (key, "valid", k), so items may be drawn in any company. Raises UsageError when there are no rules, or when what is
    known of an item cannot begin a legal one.
    """
    from morphogen.sampling import draws

    watch, rules = watch or Watch(), Rules(model)
    own = None if given is None else [model.codec.given(raw) for raw in given]
    _refuse_faulty_beginnings(model, rules, own)
    said = [{k: v[i] for k, v in (cond or {}).items()} for i in range(len(keys))]
    common: dict[str, Any] = {"sampling": sampling, "strict": True, "batch": batch}
    out = model.generate(keys, cond=cond, given=own, progress=lambda share: watch.progress("drawing", share), **common)
    good = [rules.holds(raw, said[i]) for i, raw in enumerate(out)]
    for attempt in range(ATTEMPTS):
        bad = [i for i, fine in enumerate(good) if not fine]
        if not bad:
            break
        watch.progress("repairing", attempt / ATTEMPTS, f"{len(bad)} of {len(out)}")
        kept = {i: rules.keep(out[i], attempt, None if own is None else own[i]) for i in bad}
        for i, one in kept.items():
            if one is not None and rules.whole(one):
                out[i] = model.codec.decode(one.x)
                good[i] = rules.holds(out[i], said[i])
        bad = [i for i in bad if not rules.whole(kept[i])]
        # what is mended and what is drawn anew takes different ways through a family: each goes with its like
        for group in ([i for i in bad if kept[i] is not None], [i for i in bad if kept[i] is None]):
            if not group:
                continue
            fresh = draws.derive(keys[group], "valid", attempt + 1)
            known = [kept[i] for i in group] if kept[group[0]] is not None else own and [own[i] for i in group]
            part = {k: [v[i] for i in group] for k, v in (cond or {}).items()}
            for i, raw in zip(group, model.generate(fresh, cond=part, given=known, **common), strict=True):
                out[i], good[i] = raw, rules.holds(raw, said[i])
    watch.progress("repairing", 1.0)
    return out, good


def _refuse_faulty_beginnings(model: Any, rules: Rules, own: list[Given] | None) -> None:
    from morphogen.sampling.grammar import first_fault

    grammar, space = rules.grammar, model.codec.space
    for row, one in enumerate(own or ()):
        at = None if grammar is None else first_fault(grammar, one, space.length, space.end)
        if at is not None:
            raise UsageError(f"what is given cannot begin a legal item: token {at} breaks its rules", where=f"item {row}",
                             remedy="mend what is given, or leave out --valid")


def _over(user: Given, good: Given) -> Given:
    """Both; where they differ the user is right."""
    if isinstance(user.known, dict):
        parts = {k: _over(Given(user.x[k], user.known[k]), Given(good.x[k], good.known[k])) for k in user.known}
        return Given({k: p.x for k, p in parts.items()}, {k: p.known for k, p in parts.items()})
    x, known = np.asarray(user.x), np.asarray(user.known)
    if x.ndim == 1 and known.ndim == 1 and len(x) != len(good.x):  # open ends differ in length
        n = max(len(x), len(good.x))
        user, good = _padded(user, n), _padded(good, n)
        x, known = user.x, user.known
    return Given(np.where(known, x, good.x), known | np.asarray(good.known))


def _padded(given: Given, n: int) -> Given:
    more = (0, n - len(given.x))
    return Given(np.pad(np.asarray(given.x), more), np.pad(np.asarray(given.known), more))


def _leads(known: Any) -> bool:
    """Whether nothing known follows something unknown."""
    flat = np.asarray(known)
    return flat.ndim == 1 and not (flat & ~np.logical_and.accumulate(flat)).any()


def _any(known: Any) -> bool:
    return any(map(_any, known.values())) if isinstance(known, dict) else bool(np.asarray(known).any())


def _all(known: Any) -> bool:
    return all(map(_all, known.values())) if isinstance(known, dict) else bool(np.asarray(known).all())
