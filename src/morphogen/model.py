"""Where a codec and a family meet: raw items in, raw items out. No other room holds both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphogen.config import cores
from morphogen.contracts import Batch, Given, HasGrammar, HasLatent, HasLogProb, Partial, Raw, Request, Sample
from morphogen.errors import UsageError
from morphogen.spaces import Array, Record, Space, Tokens


# ------------------------------------------------------------------ trees of tensors (a Record is a dict)
def stack(samples: Sequence[Sample]) -> Any:
    """Samples of equal shape to one tensor (or dict of tensors) with a leading batch axis."""
    if isinstance(samples[0], dict):
        return {k: stack([s[k] for s in samples]) for k in samples[0]}  # type: ignore[index]
    return torch.from_numpy(np.stack(samples))  # type: ignore[arg-type]


def pick(tree: Any, i: Any) -> Any:
    """Index the batch axis of a tensor, a dict of tensors or None."""
    if isinstance(tree, dict):
        return {k: pick(v, i) for k, v in tree.items()}
    return None if tree is None else tree[i]


def to(tree: Any, device: torch.device | str) -> Any:
    """Move a tree to a device."""
    if isinstance(tree, dict):
        return {k: to(v, device) for k, v in tree.items()}
    return None if tree is None else tree.to(device)


def join(trees: Sequence[Any]) -> Any:
    """Concatenate trees along the batch axis."""
    if isinstance(trees[0], dict):
        return {k: join([t[k] for t in trees]) for k in trees[0]}
    return None if trees[0] is None else torch.cat(list(trees))


def rows_of(tree: Any) -> int:
    """How many rows a tree holds."""
    return rows_of(next(iter(tree.values()))) if isinstance(tree, dict) else len(tree)


def paste(x: Any, value: Any, known: Any) -> Any:
    """`value` where known, else x."""
    if isinstance(x, dict):
        return {k: paste(x[k], value[k], known[k]) for k in x}
    return torch.where(known, value.to(x.dtype), x)


def sample_of(tree: Any, i: int) -> Sample:
    """Row i as a host-side sample: float32 or int64 numpy."""
    if isinstance(tree, dict):
        return {k: sample_of(v, i) for k, v in tree.items()}
    row = tree[i].detach().cpu()
    return (row.float() if row.is_floating_point() else row).numpy()


def said(codec: Any, value: Any) -> np.ndarray:
    """A condition's value as the nets read it; None is what they know as "nothing said"."""
    if value is not None:
        return codec.encode(value)
    space: Space = codec.space
    if isinstance(space, Tokens):
        return np.full(space.length, -1, np.int64)
    assert isinstance(space, Array)
    return np.full([n or 1 for n in space.shape], np.nan, np.float32)


def collate(samples: Sequence[Sample], space: Space) -> tuple[Any, Tensor | None]:
    """Samples to tensors of one shape. Ragged tokens are padded with their end id; the mask is true up to the first end."""
    if isinstance(space, Record):
        return {k: collate([s[k] for s in samples], field)[0] for k, field in space.fields}, None  # type: ignore[index]
    if not isinstance(space, Tokens) or space.end is None:
        return stack(samples), None
    x = np.full((len(samples), space.length), space.end, np.int64)
    for row, sample in zip(x, samples):
        row[: len(sample)] = sample  # type: ignore[assignment]
    tokens = torch.from_numpy(x)
    return tokens, real_positions(tokens, space.end)


def real_positions(tokens: Tensor, end: int) -> Tensor:
    """(B, L) True up to and including the first end."""
    is_end = tokens == end
    return (is_end.cumsum(1) == 0) | ((is_end.cumsum(1) == 1) & is_end)


@dataclass
class Scores:
    """Log-probabilities of raw items in nats, in the codec's own Space; `kind` says what they are."""

    total: np.ndarray
    kind: str


class Model:
    """Codec, condition codecs, bridges and a family, working together on raw items.

    `tile`: rows a drawing step always has (short ones are padded), because kernels round differently at different
    shapes: with it fixed, a sample depends on its key alone and not on its neighbours.
    """

    def __init__(
        self, codec: Any, family: Any, bridges: Sequence[Any] = (), conditions: dict[str, Any] | None = None, tile: int = 16
    ) -> None:
        self.codec, self.family, self.conditions, self.tile = codec, family, dict(conditions or {}), tile
        self.bridges: Any = nn.ModuleList(bridges)
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Model:
        """Move weights; inputs follow by themselves."""
        self.device = torch.device(device)
        self.family.to(device)
        self.bridges.to(device)
        return self

    def eval(self) -> Model:
        self.family.eval()
        self.bridges.eval()
        return self

    # -------------------------------------------------------------- inward: raw -> family Space
    def inward(self, x: Any, mask: Tensor | None = None) -> tuple[Any, Tensor | None]:
        """Codec Space -> family Space through the bridges."""
        for bridge in self.bridges:
            x, mask = bridge.encode(x, mask)
        return x, mask

    def given_inward(self, given: Given | None) -> Given | None:
        """Known values through the bridges; None when one of them cannot pass any."""
        for bridge in self.bridges:
            given = None if given is None else bridge.given(given)
        return given

    def cond(self, cond: dict[str, Sequence[Any]] | None) -> dict[str, Tensor]:
        """Raw condition values (one a row; None: nothing said) to tensors. Raises UsageError for a name this model does not know."""
        for name in cond or {}:
            if name not in self.conditions:
                known = ", ".join(self.conditions) or "nothing: train with --cond first"
                raise UsageError(f"the model has no condition '{name}'", remedy=f"it knows {known}")
        return {k: stack([said(self.conditions[k], v) for v in values]).to(self.device) for k, values in (cond or {}).items()}

    def batch(self, raws: Sequence[Raw], keys: Tensor, cond: dict[str, Sequence[Any]] | None = None) -> Batch:
        """Raw items as a training or scoring batch of weight 1."""
        x, mask = collate([self.codec.encode(r) for r in raws], self.codec.space)
        x, mask = self.inward(to(x, self.device), to(mask, self.device))
        keys = keys.to(self.device)
        return Batch(x, keys, torch.ones(len(raws), device=self.device), mask, self.cond(cond))

    # -------------------------------------------------------------- drawing
    def stream(
        self,
        keys: Tensor,
        *,
        cond: dict[str, Sequence[Any]] | None = None,
        given: Sequence[Raw | Given] | None = None,
        sampling: Any = None,
        length: int | None = None,
        strict: bool = False,
        adapter: str | None = None,
    ) -> Iterator[tuple[Tensor, Partial, Callable[[], list[Raw]]]]:
        """Draw one item a key, tile by tile: (row numbers, Partial, function that decodes these rows now).

        `given`: raw items with unknown parts, or Given in the codec's layout. `strict`: under the codec's grammar, where
        there is one and the family writes in the codec's own Space. `adapter`: the name of a loaded one to draw by. Raises
        UsageError when known values are asked of a model that cannot take them.
        """
        for tile in self._tiles(keys, cond, given, sampling, length, strict, adapter):
            yield from tile()

    def _tiles(
        self,
        keys: Tensor,
        cond: dict[str, Sequence[Any]] | None = None,
        given: Sequence[Raw | Given] | None = None,
        sampling: Any = None,
        length: int | None = None,
        strict: bool = False,
        adapter: str | None = None,
    ) -> list[Callable[[], Iterator[tuple[Tensor, Partial, Callable[[], list[Raw]]]]]]:
        """The pieces of a drawing call. Each may be drawn at any time, in any order and beside others."""
        self.eval()
        keys, conditions, sampling = keys.to(self.device), self.cond(cond), sampling or self.family.Sampling()
        known = self._given(given)
        inner = self.given_inward(known)
        if known is not None and (inner is None or self.family.infill == "none"):
            raise UsageError("this model cannot keep known values", remedy="train with --family masked, diffusion, flow or cart")
        grammar = self.grammar() if strict else None

        def draw(rows: Tensor) -> Iterator[tuple[Tensor, Partial, Callable[[], list[Raw]]]]:
            i = torch.cat([rows, rows[:1].expand(self.tile - len(rows))])
            part_given = None if inner is None else Given(pick(inner.x, i), pick(inner.known, i))
            request = Request(keys[i], pick(conditions, i), part_given, length, sampling, adapter, grammar)
            outer = None if known is None else Given(pick(known.x, i), pick(known.known, i))
            for part in self.family.stream(request):
                yield rows, part, lambda z=part.x: self._raws(z, keys[i], outer, len(rows))

        everything = torch.arange(len(keys), device=self.device)
        groups = [everything] if inner is None or not getattr(self.family, "prefills", False) else _alike(everything, inner.known)
        return [partial(draw, rows) for group in groups for rows in group.split(self.tile)]

    def generate(self, keys: Tensor, *, progress: Callable[[float], None] | None = None, batch: int = 0, **options: Any) -> list[Raw]:
        """Drain `stream`: one raw item a key, in order. `progress` is told the finished share.

        `batch`: tiles in flight, each in a thread of its own; 0: one a core. Shapes stay those of one tile, so the items
        stay the same.
        """
        batch = batch or (cores() if self.device.type == "cpu" else 1)
        tiles = self._tiles(keys, **options)
        out: list[Raw] = [None] * len(keys)
        shares, stop, lock = dict.fromkeys(range(len(tiles)), 0.0), Event(), Lock()

        def drain(number: int) -> None:
            for rows, part, raws in tiles[number]():
                if stop.is_set():
                    return
                with lock:
                    shares[number] = part.progress * len(rows)
                    if progress:
                        progress(sum(shares.values()) / len(keys))
                if part.done:
                    for row, raw in zip(rows.tolist(), raws(), strict=True):
                        out[row] = raw

        if self.device.type != "cpu" and batch < 2:
            for number in shares:
                drain(number)
            return out
        # one thread a tile: sums then never depend on how many cores there are
        with ThreadPoolExecutor(max(1, min(batch, len(tiles))), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting = [pool.submit(drain, number) for number in shares]
            try:
                for finished in as_completed(waiting):
                    finished.result()
            except BaseException:  # an error, or the user's ^C: tiles in flight stop at their next step
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return out

    def keeps(self, given: Given) -> bool:
        """Whether known values of this layout (the codec's, one item) reach the family, which can fill around them."""
        return self.family.infill != "none" and self.given_inward(self._given([given])) is not None

    def grammar(self) -> Any:
        """The codec's grammar where the family writes in the codec's own Space, else None."""
        return self.codec.grammar() if isinstance(self.codec, HasGrammar) and not len(self.bridges) else None

    def _given(self, given: Sequence[Raw | Given] | None) -> Given | None:
        if given is None:
            return None
        parts = [raw if isinstance(raw, Given) else self.codec.given(raw) for raw in given]
        if isinstance(self.codec.space, Tokens):  # open ends differ in length: unknown positions follow
            length = self.codec.space.length
            x, known = np.zeros((len(parts), length), np.int64), np.zeros((len(parts), length), bool)
            for i, p in enumerate(parts):
                x[i, : len(p.x)], known[i, : len(p.known)] = p.x[:length], p.known[:length]
            both = Given(torch.from_numpy(x), torch.from_numpy(known))
        else:
            both = Given(stack([p.x for p in parts]), stack([p.known for p in parts]))
        return Given(to(both.x, self.device), to(both.known, self.device))

    @torch.no_grad()
    def outward(self, z: Any, keys: Tensor) -> Any:
        """Family Space -> codec Space through the bridges."""
        for bridge in reversed(self.bridges):
            z = bridge.decode(z, keys)
        return z

    def _raws(self, z: Any, keys: Tensor, given: Given | None, n: int) -> list[Raw]:
        x = self.outward(z, keys)
        if given is not None and rows_of(x) == rows_of(given.x) and _same_shape(x, given.x):
            x = paste(x, given.x, given.known)
        x = to(x, "cpu")
        return [self.codec.decode(sample_of(x, j)) for j in range(n)]

    # -------------------------------------------------------------- likelihood and latents
    @torch.no_grad()
    def log_prob(self, raws: Sequence[Raw], keys: Tensor, cond: dict[str, Sequence[Any]] | None = None, chunk: int = 64) -> Scores | None:
        """Log-probability in the codec's Space, (N,) nats; None when a bridge or the family makes that not comparable.

        For data that are really steps (a codec says `quantised`: grey levels) it is the probability of the steps. A density
        of them says nothing, since it grows without bound on values that repeat: then, too, the answer is None.
        """
        steps = getattr(self.codec, "quantised", False)
        if not isinstance(self.family, HasLogProb) or (steps and not any(getattr(b, "exact", False) for b in self.bridges)):
            return None
        self.eval()
        totals, kind = [], "exact"
        for start in range(0, len(raws), chunk):
            part = slice(start, start + chunk)
            x, mask = collate([self.codec.encode(r) for r in raws[part]], self.codec.space)
            x, mask = to(x, self.device), to(mask, self.device)
            extra: Tensor | float = 0.0
            for bridge in self.bridges:
                if not (steps and getattr(bridge, "exact", False)):
                    volume = bridge.volume(x)
                    if volume is None:
                        return None
                    extra = extra + volume
                x, mask = bridge.encode(x, mask)
            weight = torch.ones(rows_of(x), device=self.device)
            cond_part = {k: v[part] for k, v in (cond or {}).items()}
            scored = self.family.log_prob(Batch(x, keys[part].to(self.device), weight, mask, self.cond(cond_part)))
            totals.append((scored.total + extra).double().cpu())
            kind = scored.kind
        return Scores(torch.cat(totals).numpy(), kind)

    @torch.no_grad()
    def encode(self, raws: Sequence[Raw]) -> Tensor:
        """The family's latent of raw items. Raises UsageError when it has none."""
        if not isinstance(self.family, HasLatent):
            raise UsageError("this model has no latent", remedy="train with --family vae")
        x, _ = collate([self.codec.encode(r) for r in raws], self.codec.space)
        return self.family.encode(self.inward(to(x, self.device))[0])

    @torch.no_grad()
    def decode(self, z: Tensor, keys: Tensor) -> list[Raw]:
        """Raw items of latents (the inverse of `encode`, as well as the family can)."""
        return self._raws(self.family.decode(z), keys, None, len(z))

    def parameters(self) -> int:
        """Trained numbers in the family (buffers of classical families counted too)."""
        return sum(p.numel() for p in self.family.parameters()) or sum(b.numel() for b in self.family.buffers())


def _alike(rows: Tensor, known: Tensor) -> list[Tensor]:
    """Rows in groups that know equally many positions in front: a tile's shapes follow from its rows alone, not from who is beside."""
    lead = known.long().cumprod(1).sum(1)
    return [rows[lead == n] for n in lead.unique().tolist()]


def _same_shape(x: Any, y: Any) -> bool:
    if isinstance(x, dict):
        return all(_same_shape(x[k], y[k]) for k in x)
    return x.shape[1:] == y.shape[1:]
