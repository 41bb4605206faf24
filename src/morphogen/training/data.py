"""Encoded items as tensors, and the batches made of them: order, augmentation and hidden parts are functions of keys."""
from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphogen.codecs.held import conds_of, given_in
from morphogen.contracts import Batch, Given, Item, Packs, Pairs, Sample
from morphogen.errors import UsageError
from morphogen.model import Model, collate, join, pick, rows_of, stack, to
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Space, Tokens


class Dataset:
    """All items in the codec's Space, on the host; `batch` brings some of them into the family's Space.

    A codec that `Packs` keeps them small until then. Bridges run once here, unless augmentation or drawn `given` masks make
    each visit different, or there would be no room for what they make.
    """

    def __init__(self, model: Model, items: Sequence[Item], chunk: int = 1024) -> None:
        self.model, self.n = model, len(items)
        self.known: Any = None
        self.x: Any = None
        self.mask: Tensor | None = None
        self.packed: Any = None
        if packs(model.codec, items):
            self.packed = model.codec.pack(items)
        else:
            samples, self.known = samples_of(model, items)
            self.x, self.mask = collate(samples, model.codec.space)
        self.lengths = None if self.mask is None else self.mask.sum(1)
        said = conds_of(items) if model.conditions else []
        self.cond: dict[str, Tensor] = to(model.cond({name: [cond.get(name) for cond in said] for name in model.conditions}), "cpu")
        self.with_given = bool(getattr(model.family.config, "given", False))
        self.symmetry = model.codec.space.symmetry if isinstance(model.codec.space, Array) else ()
        self._inner: tuple[Any, Tensor | None] | None = None
        self._mark: str | None = None
        if len(model.bridges) and not self.with_given and (not self.symmetry or self.known is not None) and self.n:
            first = self._inward(torch.arange(1))
            if self.n * sum(t.numel() * t.element_size() for _, t in _flat({"x": first[0], "mask": first[1]})) <= ROOM:
                parts = [self._inward(torch.arange(i, min(i + chunk, self.n))) for i in range(0, self.n, chunk)]
                self._inner = (join([p[0] for p in parts]), join([p[1] for p in parts]))

    def rows(self, ids: Tensor) -> Any:
        """These items in the codec's Space."""
        if self.packed is None:
            return pick(self.x, ids)
        return tensors(self.model.codec.unpack(self.packed, ids.numpy()))

    def _inward(self, ids: Tensor) -> tuple[Any, Tensor | None]:
        with torch.no_grad():
            x, mask = self.model.inward(to(self.rows(ids), self.model.device), to(pick(self.mask, ids), self.model.device))
        return to(x, "cpu"), to(mask, "cpu")

    def batch(self, ids: Tensor, keys: Tensor, weight: Tensor | None = None, *, plain: bool = False) -> Batch:
        """Items `ids` with draw keys `keys`. `plain`: no augmentation, nothing hidden (held-out loss, calibration)."""
        device = self.model.device
        weight = torch.ones(len(ids)) if weight is None else weight
        given = None
        if self._inner is not None:
            x, mask = pick(self._inner[0], ids), pick(self._inner[1], ids)
            if self.known is not None:
                given = self.model.given_inward(Given(to(self.rows(ids), device), to(pick(self.known, ids), device)))
        else:
            x, mask = self.rows(ids), pick(self.mask, ids)
            if not plain and isinstance(x, Tensor) and self.known is None:
                x = augment(x, keys, self.symmetry)
            x, mask = to(x, device), to(mask, device)
            known = to(pick(self.known, ids), device)
            if self.with_given and not plain:
                known = either(known, to(hide(self.model.codec.space, keys, rows_of(x)), device))
            if known is not None:
                given = self.model.given_inward(Given(x, known))
            with torch.no_grad():
                x, mask = self.model.inward(x, mask)
        return Batch(to(x, device), keys.to(device), weight.to(device), to(mask, device), to(pick(self.cond, ids), device), given)

    def fingerprint(self) -> str:
        """A short hash of all items as they are trained on."""
        if self._mark is None:
            digest = hashlib.sha256()
            packed = self.packed if isinstance(self.packed, dict) else {"": self.packed}
            for array in (np.ascontiguousarray(a) for k in sorted(packed) for a in _arrays(packed[k])):
                digest.update(f"{array.shape}{array.dtype}".encode())
                digest.update(array.reshape(-1).view(np.uint8).data)
            for name, tensor in _flat({"x": self.x, "mask": self.mask, "known": self.known, "cond": self.cond}):
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
            self._mark = digest.hexdigest()[:16]
        return self._mark

    def batches(self, size: int, seed: int = 0, most: int | None = None) -> Iterator[Batch]:
        """One pass in order, nothing hidden: what classical families fit on. Of more than `most` items, a uniform sample."""
        every = torch.from_numpy(sampled(self.n, most, seed))
        for ids in every.split(size):
            yield self.batch(ids, draws.derive(ids, f"pass.{seed}"), plain=True)


FINISHING = 20_000  # items that `finish` of a family goes over: more do not change what it fits


def sampled(n: int, most: int | None, seed: int = 0) -> np.ndarray:
    """The positions 0..n-1, or `most` of them drawn uniformly, ascending."""
    return np.arange(n) if most is None or n <= most else np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def packs(codec: Any, items: Sequence[Item]) -> bool:
    """Whether these items are kept packed."""
    return isinstance(codec, Packs) and len(items) > 0 and not given_in(items)


def samples(codec: Any, items: Sequence[Item]) -> tuple[Any, Tensor | None]:
    """(items in the codec's Space as tensors, mask); what is known beforehand is not told apart."""
    if packs(codec, items):
        return tensors(codec.unpack(codec.pack(items), np.arange(len(items)))), None
    return collate([codec.encode(item.raw) for item in items], codec.space)


def tensors(tree: Any) -> Any:
    """A tree of arrays as one of tensors."""
    return {k: tensors(v) for k, v in tree.items()} if isinstance(tree, dict) else torch.from_numpy(tree)


def _arrays(packed: Any) -> Iterator[np.ndarray]:
    if packed is not None:
        yield from packed if isinstance(packed, list) else [packed]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dictionaries, in order of their names."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _flat(value[key], f"{name}.{key}")
    elif value is not None:
        yield name, value


def samples_of(model: Model, items: Sequence[Item]) -> tuple[list[Sample], Any]:
    """(samples, which of their parts are known beforehand (N, ...) bool, or None when no item says so).

    Raises UsageError when the model cannot leave known parts out of its loss.
    """
    codec: Any = model.codec
    pairs = isinstance(codec, Pairs)
    if not any(item.given is not None for item in items):
        return [codec.encode(item.raw) for item in items], None
    samples, parts = [], []
    for item in items:
        if item.given is None:
            sample = codec.encode(item.raw)
            both = Given(sample, _nothing(codec.space, sample))
        elif pairs:
            both = codec.pair(item.given, item.raw)
        else:
            both = Given(codec.encode(item.raw), codec.given(item.given).known)
        samples.append(both.x)
        parts.append(both)
    if not model.keeps(parts[0]):
        raise UsageError("this model cannot learn the answers alone: it takes no known values", remedy="use data without prompts")
    if not isinstance(codec.space, Tokens):
        return samples, stack([part.known for part in parts])
    known = np.zeros((len(items), codec.space.length), bool)
    for row, part in zip(known, parts, strict=True):
        row[: len(part.known)] = part.known[: codec.space.length]
    return samples, torch.from_numpy(known)


def _nothing(space: Space, sample: Any) -> Any:
    if isinstance(space, Record):
        return {k: _nothing(field, sample[k]) for k, field in space.fields}
    return np.zeros(len(sample), bool) if isinstance(space, Tokens) else np.zeros((1, *sample.shape[1:]), bool)


def either(a: Any, b: Any) -> Any:
    """Known in one or the other."""
    if a is None or b is None:
        return b if a is None else a
    return {k: either(a[k], b[k]) for k in a} if isinstance(a, dict) else a | b


ROOM = 1 << 28  # bytes of what bridges make that are kept
POOL = 32  # batches whose items are sorted by length together


def order(n: int, batch: int, seed: int, step: int, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, keys, weight) of training step `step`: a function of its arguments alone, so resume needs no cursor.

    Every epoch is a fresh order of all items; a short last window is topped up with rows of weight 0. When there are
    fewer items than a batch holds, items repeat under different keys. With `lengths` (n,), items of like length meet
    (sorted within pools of 32 batches), and batches hold about equally many tokens, not items: little work is spent on
    padding, and every step costs and counts the same.
    """
    per_epoch = max(1, -(-n // batch))
    epoch, at = divmod(step, per_epoch)
    epoch_order = _epoch(n, -(-batch // n) if n < batch else 1, seed, epoch)[: max(n, batch)]
    if lengths is None:
        window = epoch_order[at * batch : (at + 1) * batch]
    else:
        pool = at // POOL
        mine = epoch_order[pool * POOL * batch : (pool + 1) * POOL * batch]
        mine = mine[lengths[mine % n].argsort(stable=True)]
        full = -(-len(mine) // batch)
        turn = int(draws.derive(torch.arange(full), f"pool.{seed}.{pool}", epoch).argsort()[at % POOL])  # not from short to long
        window = mine[slice(*_cuts(lengths[mine % n], full)[turn : turn + 2])]
        return window % n, draws.derive(window, f"train.{seed}", epoch), torch.ones(len(window))
    weight = torch.ones(batch)
    weight[len(window) :] = 0
    window = torch.cat([window, window[:1].expand(batch - len(window))])
    return window % n, draws.derive(window, f"train.{seed}", epoch), weight


def even(n: int, size: int, lengths: Tensor | None = None) -> list[Tensor]:
    """Items 0 .. n-1 in parts of about `size`; with `lengths` items of like length together, each part about as many tokens."""
    ids = torch.arange(n)
    if lengths is None or n <= size:
        return list(ids.split(size)) if n else []
    ids = lengths[:n].argsort(stable=True)
    cuts = _cuts(lengths[ids], -(-n // size))
    return [ids[a:b] for a, b in itertools.pairwise(cuts)]


@lru_cache(maxsize=2)
def _epoch(n: int, repeats: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch. Kept: to sort millions of items anew for each batch would take longer than most steps."""
    keys = draws.derive(torch.arange(n * repeats), f"train.{seed}", epoch)
    rounds = keys.view(repeats, n).argsort(1) + n * torch.arange(repeats)[:, None]  # whole rounds: no item is left out
    return rounds.flatten()


def _cuts(lengths: Tensor, parts: int) -> list[int]:
    """Where to cut sorted items into parts of about equal total length, none of them empty."""
    total = lengths.clamp(min=1).cumsum(0).double()
    cuts = torch.searchsorted(total, torch.arange(1, parts) * (total[-1] / parts)).tolist()
    for i in range(len(cuts)):  # long items at the end may share one cut: every part keeps at least one item
        cuts[i] = min(max(cuts[i], cuts[i - 1] + 1 if i else 1), len(lengths) - parts + 1 + i)
    return [0, *cuts, len(lengths)]


def augment(x: Tensor, keys: Tensor, symmetry: tuple[str, ...]) -> Tensor:
    """Use the Space's symmetries: each row is transformed or not by its key. x (B, C, *space)."""
    shape = (-1, *[1] * (x.ndim - 1))
    if "flip_x" in symmetry:
        x = torch.where((draws.uniform(keys, "flip_x") < 0.5).view(shape), x.flip(-1), x)
    if "flip_y" in symmetry and x.ndim > 3:
        x = torch.where((draws.uniform(keys, "flip_y") < 0.5).view(shape), x.flip(-2), x)
    if "rot90" in symmetry and x.ndim == 4 and x.shape[-1] == x.shape[-2]:
        turns = (draws.uniform(keys, "rot90") * 4).long().view(shape)
        x = torch.stack([x.rot90(k, (-2, -1)) for k in range(4)]).gather(0, turns.expand_as(x)[None])[0]
    if "shift" in symmetry:
        moved = [torch.roll(row, int(s), -1) for row, s in zip(x, (draws.uniform(keys, "shift") * x.shape[-1]).long())]
        x = torch.stack(moved)
    return x


def hide(space: Space, keys: Tensor, n: int) -> Any:
    """Draw what is known (bool) for each row: half of the rows know nothing, the others a random part.

    Record: each field by a row-wise rate. Array (C, *space): all but a random box, or only the box, broadcast over C.
    Tokens: all but one random span.
    """
    none = draws.uniform(keys, "hide.none") < 0.5
    match space:
        case Record():
            rate = draws.uniform(keys, "hide.rate")
            return {k: ((draws.uniform(keys, f"hide.{k}") < rate) & ~none)[:, None].expand(-1, _width(s)) for k, s in space.fields}
        case Tokens():
            box = _span(keys, "hide.span", space.length)
            return ~box & ~none[:, None]
        case Array():
            sides = [n_ or 1 for n_ in space.shape[1:]]
            box = torch.ones(n, *[1] * len(sides), dtype=torch.bool)
            for axis, side in enumerate(sides):
                view = [n, *[1] * len(sides)]
                view[axis + 1] = side
                box = box & _span(keys, f"hide.{axis}", side).view(view)
            inside = (draws.uniform(keys, "hide.side") < 0.5).view(-1, *[1] * len(sides))
            return (torch.where(inside, box, ~box) & ~none.view(-1, *[1] * len(sides)))[:, None]


def _width(space: Space) -> int:
    return space.length if isinstance(space, Tokens) else (space.shape[0] or 1) if isinstance(space, Array) else 1


def _span(keys: Tensor, name: str, n: int) -> Tensor:
    """(B, n) True inside a random interval."""
    ends = draws.uniform(keys, name, 0, (2,)).sort(1).values * n
    at = torch.arange(n)
    return (at >= ends[:, :1].floor()) & (at <= ends[:, 1:])
