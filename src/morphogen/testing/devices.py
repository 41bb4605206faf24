"""What bridges and families promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from morphogen.contracts import Batch, Given, HasLogProb, HasOddity, Inverts, Loss, Request, Varies
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Tokens


def check_bridge(make: Callable[[], Any], x: Any, mask: Tensor | None = None) -> None:
    """Fit, encode into the target, decode deterministically by key, load from a state dict, pass or refuse known values."""
    bridge = make()
    bridge.fit(x, mask)
    z, _ = bridge.encode(x, mask)
    keys = draws.seeded(0, _rows(x))
    _inside(z, bridge.target)
    back = bridge.decode(z, keys)
    _equal(back, bridge.decode(z, keys), "decode must be a function of (z, keys)")
    _equal(_pick(back, slice(0, 3)), bridge.decode(_pick(z, slice(0, 3)), keys[:3]), "decode must not mix rows")
    again = make()
    again.load_state_dict(bridge.state_dict())
    assert again.target == bridge.target, "load_state_dict must restore the target Space"
    _equal(again.encode(x, mask)[0], z, "load_state_dict must restore encode")
    _equal(bridge.encode(back, mask)[0], z, "encode must undo decode")
    volume = bridge.volume(x)
    assert volume is None or volume.shape == keys.shape, "volume is one number a row, or None"
    _check_parts(bridge, x, z)


def _check_parts(bridge: Any, x: Any, z: Any) -> None:
    """Numbers for the target's elements, brought back to the source's, lie as the source does and lose nothing."""
    if isinstance(z, dict):
        return
    each = draws.uniform(draws.seeded(0, len(z)), "parts", 0, tuple(z.shape[1:]))
    parts = bridge.parts(each)
    if parts is None:
        return
    leaves = [(parts[k], x[k]) for k in parts] if isinstance(parts, dict) else [(parts, x)]
    assert not isinstance(parts, dict) or set(parts) == set(x), "parts name the source's fields"
    assert all(p.shape[0] == len(z) and p.shape[1:] == v.shape[1:] for p, v in leaves), "parts lie as the source does"
    total = torch.stack([p.flatten(1).sum(1) for p, _ in leaves]).sum(0)
    assert torch.allclose(total, each.flatten(1).sum(1), rtol=1e-4), "parts add up to what was given"


def check_family(make: Callable[[], Any], batch: Batch) -> Any:
    """A dozen promises on one batch; returns the family. `make()` must give equal weights each time. Raises AssertionError."""
    family = make()
    if family.phases:
        check_loss(family, batch)
        check_gradients(family, batch)
    else:
        family.fit([batch])
    check_draws(family, batch)
    check_saved(family, make, batch)
    check_given(family, batch)
    check_items(family, batch)
    if isinstance(family, HasLogProb):
        p = family.log_prob(batch)
        assert p.total.shape == batch.key.shape and torch.isfinite(p.total).all(), "log_prob is one finite number a row"
    return family


def check_items(family: Any, batch: Batch) -> None:
    """What a family says of given rows is finite, one answer a row, and does not depend on the neighbours."""
    family.eval()
    n = len(batch.key)
    few = dataclasses.replace(
        batch, x=_pick(batch.x, slice(0, 5)), key=batch.key[:5], weight=batch.weight[:5],
        mask=None if batch.mask is None else batch.mask[:5], cond={k: v[:5] for k, v in batch.cond.items()},
    )
    with torch.no_grad():
        if isinstance(family, HasOddity):
            odd, again = family.oddity(batch), family.oddity(few)
            assert odd.views.shape[0] == n and odd.views.ndim == 2 and torch.isfinite(odd.views).all(), "views are (B, K), finite"
            assert torch.allclose(odd.views[:5], again.views, rtol=1e-3, atol=1e-3), "oddity must not mix rows"
            assert odd.parts is None or odd.parts.shape == batch.x.shape, "parts lie as the row does"
        if isinstance(family, Inverts):
            z = family.invert(batch)
            back = family.redraw(z, batch.cond)
            assert len(z) == n and back.shape == batch.x.shape and torch.isfinite(back).all(), "redraw(invert(x)) lies as x does"
        if isinstance(family, Varies):
            near, far = family.vary(batch, 0.0), family.vary(batch, 0.5)
            assert near.shape == far.shape == batch.x.shape and torch.isfinite(far).all(), "variations lie as the row does"
            assert torch.equal(far, family.vary(batch, 0.5)), "vary is a function of rows, keys and level"
            assert family.vary(batch, 1.0).shape == far.shape, "level 1 is allowed"


def check_loss(family: Any, batch: Batch) -> None:
    """The loss is a finite sum over weight units, deterministic by key, and rows of weight 0 count nothing."""
    family.train()
    for phase in family.phases:
        torch.manual_seed(0)
        loss: Loss = family(batch, phase.name)
        assert torch.isfinite(loss.total) and float(loss.weight) > 0, f"{phase.name}: the loss must be finite"
        assert loss.total.shape == (), f"{phase.name}: the loss is one number"
    family.eval()
    for phase in family.phases:
        whole, again = family(batch, phase.name), family(batch, phase.name)
        assert torch.equal(whole.total, again.total), f"{phase.name}: the loss must be a function of the batch and its keys"
        if getattr(family, "additive", True):
            half = len(batch.key) // 2
            parts = [family(_slice(batch, s), phase.name) for s in (slice(0, half), slice(half, None))]
            torch.testing.assert_close(
                parts[0].total + parts[1].total, whole.total, rtol=2e-3, atol=1e-3, msg="losses must add over windows"
            )
        weight = batch.weight.clone()
        weight[-2:] = 0
        fewer = family(dataclasses.replace(batch, weight=weight), phase.name)
        assert float(fewer.weight) < float(whole.weight), f"{phase.name}: rows of weight 0 must not count"


def check_gradients(family: Any, batch: Batch) -> None:
    """Each phase's loss reaches each of its parameters, and there is no parameter without a phase."""
    family.train()
    reached: set[str] = set()
    for phase in family.phases:
        family.zero_grad(set_to_none=True)
        family(batch, phase.name).total.backward()
        for name, parameter in family.named_parameters():
            if name.startswith(phase.params):
                assert parameter.grad is not None, f"{phase.name}: no gradient reaches {name}"
                reached.add(name)
            assert parameter.ndim > 0, f"{name} has no axis to shard"
    assert reached == {name for name, _ in family.named_parameters()}, "every parameter belongs to a phase"
    family.zero_grad(set_to_none=True)


def check_draws(family: Any, batch: Batch) -> None:
    """Streams end with done, are functions of keys, do not mix rows, and leave the consumer's grad mode alone."""
    request = Request(batch.key, batch.cond)
    parts = []
    for part in family.stream(request):
        assert torch.is_grad_enabled(), "a stream must not leave gradients switched off"
        parts.append(part)
    assert parts and parts[-1].done and not any(p.done for p in parts[:-1]), "the last Partial is done, and only it"
    final = parts[-1].x
    _inside(final, family.space)
    _close(final, _last(family, request), "drawing must be a function of the keys")
    order = torch.arange(len(batch.key)).flip(0)
    turned = Request(batch.key[order], {k: v[order] for k, v in batch.cond.items()})
    _close(_pick(_last(family, turned), order), final, "a row must not depend on its place in the batch")
    if len(batch.key) > 1:
        assert not _all_equal(final), "different keys must give different draws"
    next(iter(family.stream(request)))  # an early stop must leak nothing


def check_saved(family: Any, make: Callable[[], Any], batch: Batch) -> None:
    """A fresh instance that loads the state dict draws the same."""
    fresh = make()
    state = {k: v.clone() for k, v in family.state_dict().items()}
    fresh.load_state_dict(state)
    request = Request(batch.key, batch.cond)
    _close(_last(family, request), _last(fresh, request), "load_state_dict must restore the draws")


def check_given(family: Any, batch: Batch) -> None:
    """Known values are kept exactly by families that take them."""
    if family.infill == "none":
        return
    known = _prefix(batch.x) if family.infill == "prefix" else _half(batch.x, batch.key)
    out = _last(family, Request(batch.key, batch.cond, Given(batch.x, known)))
    _kept(out, batch.x, known)


# ------------------------------------------------------------------ helpers
def _last(family: Any, request: Request) -> Any:
    *_, part = family.stream(request)
    return part.x


def _rows(x: Any) -> int:
    return _rows(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def _pick(x: Any, i: Any) -> Any:
    return {k: _pick(v, i) for k, v in x.items()} if isinstance(x, dict) else x[i]


def _slice(batch: Batch, s: slice) -> Batch:
    given = None if batch.given is None else Given(_pick(batch.given.x, s), _pick(batch.given.known, s))
    mask = None if batch.mask is None else batch.mask[s]
    return Batch(_pick(batch.x, s), batch.key[s], batch.weight[s], mask, {k: v[s] for k, v in batch.cond.items()}, given)


def _inside(x: Any, space: Any) -> None:
    match space:
        case Array():
            assert x.is_floating_point() and torch.isfinite(x).all() and x.ndim == len(space.shape) + 1, "an Array is finite, of its rank"
        case Tokens():
            assert x.dtype == torch.int64 and (x >= 0).all() and (x < space.vocab).all(), "Tokens are below vocab"
            if space.slots and x.shape[1] == space.length:
                low, high = torch.tensor(space.slots).unbind(1)
                assert ((x >= low) & (x < high)).all(), "Tokens keep their slots"
        case Record():
            for name, field in space.fields:
                _inside(x[name], field)


def _equal(a: Any, b: Any, why: str) -> None:
    if isinstance(a, dict):
        for k in a:
            _equal(a[k], b[k], f"{why} ({k})")
        return
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=why)


def _close(a: Any, b: Any, why: str) -> None:
    if isinstance(a, dict):
        for k in a:
            _close(a[k], b[k], f"{why} ({k})")
    elif a.is_floating_point():
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3, msg=why)
    else:
        assert torch.equal(a, b), why


def _all_equal(x: Any) -> bool:
    return all(_all_equal(v) for v in x.values()) if isinstance(x, dict) else bool((x == x[:1]).all())


def _prefix(x: Tensor) -> Tensor:
    known = torch.zeros(x.shape, dtype=torch.bool)
    known[:, : x.shape[1] // 2] = True
    return known


def _half(x: Any, keys: Tensor) -> Any:
    if isinstance(x, dict):
        return {k: (draws.uniform(keys, k) < 0.5)[:, None].expand_as(v) for k, v in x.items()}
    return draws.uniform(keys, "known", 0, tuple(x.shape[1:])) < 0.5


def _kept(out: Any, x: Any, known: Any) -> None:
    if isinstance(out, dict):
        for k in out:
            _kept(out[k], x[k], known[k])
        return
    assert torch.equal(out[known], x[known].to(out.dtype)), "known values must come back exactly"
