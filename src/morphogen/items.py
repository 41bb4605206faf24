"""What a model does with items it is given: how odd they are, what it makes of them, others near them. Raw items in and out.

The other half of `model.py`, which draws. Rows always come in tiles of one size, so an answer never depends on the neighbours.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphogen.config import cores
from morphogen.contracts import Batch, Given, HasLatent, HasLogProb, HasOddity, Inverts, Oddity, Raw, Request, Sample, Varies
from morphogen.errors import UsageError
from morphogen.model import Model, collate, join, pick, real_positions, sample_of, to
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Space, Tokens

TILE = 16  # rows at a time on a processor: few items are usual here, and padding them further is work for nothing
WINDOW = 16  # tokens of the worst stretch of a text
FOLDS = 16  # parts in which an item is filled again
Tell = Callable[[float], None]


@dataclass
class Odds:
    """`views` (N, K), higher = odder, each in its own unit; `kind` says what they are; `parts` one sample-shaped array an item;
    `size` (N,) how many tokens each had, where that differs."""

    views: np.ndarray
    kind: str
    parts: list[Sample] | None
    size: np.ndarray | None


def by_tile(model: Model, n: int, work: Callable[[Tensor], Any], tell: Tell | None = None) -> Any:
    """`work` on row numbers (TILE,) until all n had their turn, joined; short tiles are padded with their first row.

    On a processor a tile has one thread, and as many tiles are worked on as there are cores: sums do not depend on the machine.
    """

    def one(start: int) -> Any:
        rows = torch.arange(start, min(start + tile, n))
        with torch.no_grad():
            return pick(work(torch.cat([rows, rows[:1].expand(tile - len(rows))])), slice(0, len(rows)))

    tile = TILE if model.device.type == "cpu" else model.tile
    starts, out = range(0, n, tile), []
    if model.device.type != "cpu":
        return join([one(start) for start in starts])
    with ThreadPoolExecutor(max(1, min(cores(), len(starts))), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for done in pool.map(one, starts):
                out.append(done)
                if tell:
                    tell(len(out) / len(starts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return join(out)


def _batch(model: Model, raws: Sequence[Raw], keys: Tensor, cond: dict[str, Any] | None, i: Tensor) -> Batch:
    some: dict[str, Sequence[Any]] = {k: [v[j] for j in i.tolist()] for k, v in (cond or {}).items()}
    return model.batch([raws[j] for j in i.tolist()], keys[i], some)


# ---------------------------------------------------------------- how odd
def odds(model: Model, raws: Sequence[Raw], cond: dict[str, Any] | None = None, *, seed: int = 0, tell: Tell | None = None) -> Odds | None:
    """How odd raw items are to the model; None when the family can say nothing. All items meet the same noise."""
    if not isinstance(model.family, HasOddity | HasLogProb) or not len(raws):
        return None
    model.eval()
    keys = draws.seeded(seed, 1).expand(len(raws))
    kinds: set[str] = set()

    def work(i: Tensor) -> dict[str, Any]:
        some = [raws[j] for j in i.tolist()]
        x, mask = collate([model.codec.encode(raw) for raw in some], model.codec.space)
        batch, volume = _inward(model, to(x, model.device), to(mask, model.device))
        said = model.cond({k: [v[j] for j in i.tolist()] for k, v in (cond or {}).items()})
        batch = Batch(batch.x, keys[i].to(model.device), batch.weight, batch.mask, said)
        found = model.family.oddity(batch) if isinstance(model.family, HasOddity) else _from_log_prob(model, batch, volume)
        kinds.add(found.kind)
        views, parts = found.views, found.parts
        if found.size is not None and parts is not None:
            views = torch.cat([views, _worst_stretch(parts, found.size)[:, None]], 1)
        for bridge in reversed(model.bridges):
            parts = None if parts is None else bridge.parts(parts)
        return {"views": views.double(), "parts": parts, "size": found.size}

    got = by_tile(model, len(raws), work, tell)
    parts = None if got["parts"] is None else [sample_of(to(got["parts"], "cpu"), j) for j in range(len(raws))]
    size = None if got["size"] is None else got["size"].cpu().numpy()
    return Odds(np.nan_to_num(got["views"].cpu().numpy(), posinf=1e12, neginf=-1e12), kinds.pop(), parts, size)


def _inward(model: Model, x: Any, mask: Tensor | None) -> tuple[Batch, Tensor | None]:
    """The batch in the family's Space, and what to add to its log-probability; None where that is not comparable."""
    steps = getattr(model.codec, "quantised", False)
    n = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
    total: Tensor | None = torch.zeros(n, device=model.device)
    exact = any(getattr(bridge, "exact", False) for bridge in model.bridges)
    for bridge in model.bridges:
        volume = None if steps and exact else bridge.volume(x)
        total = total if steps and exact else None if total is None or volume is None else total + volume
        x, mask = bridge.encode(x, mask)
    batch = Batch(x, torch.zeros(n, dtype=torch.int64), torch.ones(n, device=model.device), mask)
    return batch, None if steps and not exact else total


def _from_log_prob(model: Model, batch: Batch, volume: Tensor | None) -> Oddity:
    scored = model.family.log_prob(batch)
    nats = -(scored.total if volume is None else scored.total + volume)
    parts, size, space = None, None, model.family.space
    if scored.parts is not None and isinstance(space, Record) and scored.parts.shape[1:] == (len(space.fields),):
        parts = {name: -scored.parts[:, i : i + 1] for i, (name, _) in enumerate(space.fields)}
    elif scored.parts is not None and torch.is_tensor(batch.x) and scored.parts.shape == batch.x.shape:
        parts = -scored.parts
    if isinstance(space, Tokens) and space.end is not None:
        size = (batch.mask if batch.mask is not None else real_positions(batch.x, space.end)).sum(1)
    return Oddity(nats[:, None], "estimate" if volume is None else scored.kind, parts, size)  # type: ignore[arg-type]


def _worst_stretch(parts: Tensor, size: Tensor) -> Tensor:
    """(B,) the largest sum over WINDOW tokens in a row: one bad line in a long text. In units of a whole text, as the other views."""
    width = min(WINDOW, parts.shape[1])
    sums = torch.nn.functional.pad(parts.double().cumsum(1), (1, 0))
    windows = sums[:, width:] - sums[:, :-width]
    inside = torch.arange(windows.shape[1], device=parts.device) <= (size[:, None] - width).clamp(min=0)
    return windows.masked_fill(~inside, -torch.inf).amax(1) / width * size


# ---------------------------------------------------------------- what it makes of them
def invert(model: Model, raws: Sequence[Raw], cond: dict[str, Any] | None = None) -> Tensor:
    """(N, ...) numbers whose blends are items. Raises UsageError when the family has none."""
    if not isinstance(model.family, Inverts):
        raise UsageError(_lacks(model, "nothing in between two items"), remedy="train with --family vae, diffusion or flow")
    model.eval()
    keys = draws.seeded(0, len(raws))
    return by_tile(model, len(raws), lambda i: model.family.invert(_batch(model, raws, keys, cond, i)))


def redraw(model: Model, z: Tensor, keys: Tensor, cond: dict[str, Any] | None = None, tell: Tell | None = None) -> list[Raw]:
    """The items of such numbers."""

    def work(i: Tensor) -> Any:
        said = model.cond({k: [v[j] for j in i.tolist()] for k, v in (cond or {}).items()})
        return model.outward(model.family.redraw(z[i.to(z.device)], said), keys[i].to(model.device))

    return _decoded(model, by_tile(model, len(z), work, tell))


def vary(
    model: Model, raws: Sequence[Raw], keys: Tensor, level: float, cond: dict[str, Any] | None = None, tell: Tell | None = None
) -> list[Raw]:
    """One item near each raw one: `level` 0 is as near as the model comes, 1 a draw of its own. Raises UsageError."""
    model.eval()
    if isinstance(model.family, Varies):

        def work(i: Tensor) -> Any:
            near = model.family.vary(_batch(model, raws, keys, cond, i), level)
            return model.outward(near, keys[i].to(model.device))

        return _decoded(model, by_tile(model, len(raws), work, tell))
    if model.family.infill == "none":
        raise UsageError(_lacks(model, "no way to begin from an item"), remedy=f"train with --family {CAN_VARY}")
    u = draws.uniform(keys, "vary", 0, (_places(model.codec.space),)).numpy()
    samples = [model.codec.encode(raw) for raw in raws]
    given = [hide(x, model.codec.space, level, u[j], model.family.infill == "prefix") for j, x in enumerate(samples)]
    if given and model.keeps(given[0]):
        return model.generate(keys, cond=cond, given=given, progress=tell)
    return _vary_inside(model, raws, keys, level, cond, tell)


CAN_VARY = "vae, diffusion, flow, masked, autoregressive or cart"
CAN_RECONSTRUCT = "vae, diffusion, flow, masked or cart"


def _vary_inside(
    model: Model, raws: Sequence[Raw], keys: Tensor, level: float, cond: dict[str, Any] | None, tell: Tell | None
) -> list[Raw]:
    """A share of the family's own positions is drawn anew: codes of a latent, which no single value of the data can name."""
    space = model.family.space

    def work(i: Tensor) -> Any:
        batch = _batch(model, raws, keys, cond, i)
        u = draws.uniform(batch.key, "vary", 0, (_places(space),))
        if model.family.infill == "prefix":
            u = 1 - (torch.arange(u.shape[1], device=u.device) + 0.5).expand_as(u) / u.shape[1]
        known = (u >= level)[:, : batch.x.shape[1]] if isinstance(space, Tokens) else (u >= level).view(len(u), 1, *batch.x.shape[2:])
        request = Request(batch.key, batch.cond, Given(batch.x, known), None, model.family.Sampling())
        for part in model.family.stream(request):
            if part.done:
                return model.outward(part.x, batch.key)

    return _decoded(model, by_tile(model, len(raws), work, tell))


def reconstruct(
    model: Model, raws: Sequence[Raw], level: float = 0.3, cond: dict[str, Any] | None = None, *, seed: int = 0, tell: Tell | None = None
) -> tuple[list[Raw], str]:
    """(what the model makes of each item, how in words). Raises UsageError for families that cannot."""
    model.eval()
    keys = draws.seeded(seed, len(raws))
    latent = any(hasattr(bridge, "family") for bridge in model.bridges)
    if isinstance(model.family, HasLatent):
        family: Any = model.family
        code = lambda i: family.decode(family.encode(_batch(model, raws, keys, None, i).x))
        how = "encoded and decoded" + (" through both latents" if latent else "")
    elif isinstance(model.family, Varies):
        return vary(model, raws, keys, level, cond, tell), (
            f"noised to level {level:g} (0 nothing, 1 all) and denoised" + (" in the latent, then decoded" if latent else ""))
    elif latent:
        code = lambda i: _batch(model, raws, keys, None, i).x
        how = "encoded and decoded by the first stage; the second leaves a latent as it is"
    elif model.family.infill == "any":
        return _refilled(model, raws, keys, cond, tell), "each part filled in again from the others"
    else:
        raise UsageError(_lacks(model, "no latent to encode an item into"), remedy=f"train with --family {CAN_RECONSTRUCT}")
    decoded = by_tile(model, len(raws), lambda i: model.outward(code(i), keys[i].to(model.device)), tell)
    return _decoded(model, decoded), how


def _refilled(model: Model, raws: Sequence[Raw], keys: Tensor, cond: dict[str, Any] | None, tell: Tell | None) -> list[Raw]:
    from dataclasses import fields, replace

    space, out = model.codec.space, [model.codec.encode(raw) for raw in raws]
    originals, folds = list(out), min(FOLDS, _places(space))
    sampling = model.family.Sampling()
    if any(f.name == "temperature" for f in fields(sampling)):
        sampling = replace(sampling, temperature=0.0)
    turn = draws.permutation(keys[:1], "fold", _places(space)).numpy()[0] % folds
    for fold in range(folds):
        u = np.where(turn == fold, 0.0, 1.0)
        given = [hide(x, space, 0.5, u, False) for x in originals]
        made = model.generate(keys, cond=cond, given=given, sampling=sampling)
        out = [_filled(x, model.codec.encode(raw), g.known, space) for x, raw, g in zip(out, made, given, strict=True)]
        if tell:
            tell((fold + 1) / folds)
    return [model.codec.decode(x) for x in out]


def _filled(x: Any, made: Any, known: Any, space: Space) -> Any:
    """`made` where it was not known, else x; a text keeps its length."""
    if isinstance(space, Record):
        return {name: _filled(x[name], made[name], known[name], field) for name, field in space.fields}
    if isinstance(space, Tokens) and made.shape != x.shape:
        made = np.concatenate([made, np.full(len(x), space.end or 0, made.dtype)])[: len(x)]
    known = known[: len(x)] if isinstance(space, Tokens) else known
    return np.where(known if known.ndim == x.ndim else known[..., None], x, made)


def _decoded(model: Model, x: Any) -> list[Raw]:
    x = to(x, "cpu")
    n = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
    return [model.codec.decode(sample_of(x, j)) for j in range(n)]


def _lacks(model: Model, what: str) -> str:
    return f"a {type(model.family).__name__.lower()} run has {what}"


# ---------------------------------------------------------------- known and unknown places
def _places(space: Space) -> int:
    """How many places of a sample are known or unknown by themselves: pixels, tokens, fields."""
    match space:
        case Array():
            grid = space.shape[1:] if len(space.shape) > 1 else space.shape
            return int(np.prod([n or 1 for n in grid]))
        case Tokens():
            return space.length
        case Record():
            return len(space.fields)


def hide(x: Any, space: Space, share: float, u: np.ndarray, prefix: bool) -> Given:
    """Known values of a sample when a `share` of its places is not: those with u below it, or with `prefix` the last ones.

    A text keeps its length, unless it is only known from the left.
    """
    if isinstance(space, Record):
        order = np.arange(len(space.fields))
        known = order < round((1 - share) * len(order)) if prefix else u >= share
        return Given(x, {name: np.full(_known_shape(field, x[name]), bool(known[i])) for i, (name, field) in enumerate(space.fields)})
    if isinstance(space, Tokens):
        full = np.concatenate([x, np.full((space.length - len(x), *x.shape[1:]), space.end or 0, x.dtype)])
        n = len(x) - (space.end is not None and x[-1] == space.end)
        place = np.arange(space.length)
        return Given(full, place < round((1 - share) * n) if prefix else (u >= share) | (place >= n))
    shape = _known_shape(space, x)
    order = np.arange(int(np.prod(shape)))
    known = order < round((1 - share) * len(order)) if prefix else u[: len(order)] >= share
    return Given(x, known.reshape(shape))


def _known_shape(space: Space, x: Any) -> tuple[int, ...]:
    if isinstance(space, Tokens):
        return (space.length,)
    return (1, *x.shape[1:]) if x.ndim > 1 else x.shape
