"""What a bridge promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from morphogen.contracts import Given
from morphogen.sampling import draws
from morphogen.testing.promise import must, promised, untouched
from morphogen.testing.trees import clone, close, equal, filled, inside, pick, rows


@promised("a bridge must do what its protocol says without an error")
def check_bridge(make: Callable[[], Any], x: Any, mask: Tensor | None = None) -> Any:
    """Fit, encode into the target, decode deterministically by key, load from a state dict, pass or refuse known values.

    `x`: a batch of the source Space. Returns the fitted bridge. Raises BrokenPromise (an AssertionError) with one sentence.
    """
    before = clone(x)
    with promised("a bridge must be built, and fitted to a batch, without an error"), untouched("a bridge's fit"):
        bridge = make()
        bridge.fit(x, mask)
    must(equal(x, before), "fit must not change the batch it is given")
    with untouched("a bridge"), promised("encode and decode must take what they are made for"):
        z, target_mask = bridge.encode(x, mask)
        inside(z, bridge.target, "what a bridge encodes")
        keys = draws.seeded(0, rows(x))
        back = bridge.decode(z, keys)
        inside(back, bridge.source, "what a bridge decodes")
        must(target_mask is None or (target_mask.dtype == torch.bool and len(target_mask) == len(keys)), "a mask is bool, a row an item")
        must(equal(x, before), "a bridge must not change the batch it is given")
        must(equal(back, bridge.decode(z, keys)), "decode must be a function of (z, keys)")
        must(equal(z, bridge.encode(x, mask)[0]), "encode must be a function of x")
        some = slice(1, 4)  # what takes its measure from the first row, or from the last, would not show in those
        close(pick(back, some), bridge.decode(pick(z, some), keys[some]), "decode must not mix rows", 1e-4)
        few = bridge.encode(pick(x, some), pick(mask, some))[0]
        close(pick(z, some), few, "encode must not mix rows", 1e-4)
        close(bridge.encode(back, mask)[0], z, "encode must undo decode", 1e-3)
    _check_saved(bridge, make, x, mask)
    _check_volume(bridge, x, keys)
    _check_given(bridge, x, z)
    _check_parts(bridge, x, z)
    return bridge


def _check_saved(bridge: Any, make: Callable[[], Any], x: Any, mask: Tensor | None) -> None:
    from safetensors.torch import load, save

    with promised("a fresh bridge must load the state dict of a fitted one, through a file"):
        again = make()
        again.load_state_dict(load(save({k: v.detach().contiguous().clone() for k, v in bridge.state_dict().items()})))
    must(again.target == bridge.target, "load_state_dict must restore the target Space")
    with promised("a loaded bridge must encode and decode"):
        z, keys = bridge.encode(x, mask)[0], draws.seeded(0, rows(x))
        close(again.encode(x, mask)[0], z, "load_state_dict must restore encode", 1e-6)
        close(again.decode(z, keys), bridge.decode(z, keys), "load_state_dict must restore decode", 1e-6)


def _check_volume(bridge: Any, x: Any, keys: Tensor) -> None:
    with promised("volume must take a batch of the source"):
        volume = bridge.volume(x)
    must(volume is None or (volume.shape == keys.shape and torch.isfinite(volume).all()), "volume is one finite number a row, or None")


def _check_given(bridge: Any, x: Any, z: Any) -> None:
    """Everything known stays known and is what encode says; nothing known stays nothing."""
    full = filled(x, True)
    with promised("given must pass known values on, or answer None"):
        passed = bridge.given(Given(x, full))
        none = bridge.given(Given(x, filled(x, False)))
    must((passed is None) == (none is None), "given must pass known values always or never")
    if passed is None:
        return
    must(_all(passed.known, True), "given must know all of the target where all of the source is known")
    close(passed.x, z, "given must carry the values that encode gives", 1e-4)
    must(_all(none.known, False), "given must know nothing of the target where nothing of the source is known")


def _all(known: Any, value: bool) -> bool:
    return all(_all(v, value) for v in known.values()) if isinstance(known, dict) else bool((known == value).all())


def _check_parts(bridge: Any, x: Any, z: Any) -> None:
    """Numbers for the target's elements, brought back to the source's, lie as the source does and lose nothing."""
    if isinstance(z, dict):
        return
    each = draws.uniform(draws.seeded(0, len(z)), "parts", 0, tuple(z.shape[1:]))
    with promised("parts must take numbers in the layout of the target"):
        parts = bridge.parts(each)
    if parts is None:
        return
    names = [set(tree) if isinstance(tree, dict) else None for tree in (parts, x)]
    must(names[0] == names[1], "parts name the source's fields")
    leaves = [(parts[k], x[k]) for k in parts] if isinstance(parts, dict) else [(parts, x)]
    must(all(p.shape == v.shape for p, v in leaves), "parts lie as the source does")
    total = torch.stack([p.flatten(1).sum(1) for p, _ in leaves]).sum(0)
    must(torch.allclose(total, each.flatten(1).sum(1), rtol=1e-4), "parts add up to what was given")
