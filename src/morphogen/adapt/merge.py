"""An adapter written into the weights for good: plain modules again, accepted only after they gave what the wrappers gave."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from morphogen.adapt.layers import LowRank, Whole
from morphogen.adapt.lora import Place, adapters_of, places, tied, using
from morphogen.contracts import Batch
from morphogen.errors import FormatError, UsageError, suggest

F = TypeVar("F", bound=nn.Module)
TOLERANCE = 1e-4


def merge(family: F, check: Batch | Callable[[F], Any], *, name: str | None = None, untie: bool = False, tolerance: float = TOLERANCE) -> F:
    """W + s B A in place of every wrapper; all adapters are gone from the family afterwards.

    `check`: a batch, or a function that runs the family and returns what it gives (logits). While it runs, every merged layer is
    compared with its wrapper on the wrapper's own inputs; then the results of the whole are compared. `family.merge_difference`
    is the largest difference found. `untie`: a matrix shared by several modules is copied before one of them is changed.
    Raises UsageError for a tied matrix, FormatError when outputs differ by more than `tolerance`; after any error the family is unchanged.
    """
    adapters = adapters_of(family)
    name = name or adapters.name()
    if name is None:
        raise UsageError("no adapter acts", remedy=suggest("", adapters.numbers))
    number = str(adapters.number(name))
    merged = _merged(family, number, untie)
    was = {m: m.training for m in family.modules()}
    family.eval()
    try:
        with torch.no_grad(), using(family, name):
            worst, before = _watched(family, merged, lambda: run(family, check))
            try:
                for place, module in merged:
                    place.put(module)
                worst = max(worst, _difference(before, run(family, check)))
                if not worst <= tolerance:
                    raise FormatError(f"merged weights give other outputs (difference {worst:.2g}, allowed {tolerance:g})",
                                      remedy="keep the adapter beside the model, or turn the weights to float32 first")
            except BaseException:  # an interrupt too
                for place, _ in merged:
                    place.put(place.module)
                raise
    finally:
        for module, training in was.items():
            module.training = training
    del family.adapters
    for module in family.modules():  # everything can be trained again
        module.requires_grad_(True)
    family.merge_difference = worst  # type: ignore[assignment]
    return family


def run(family: nn.Module, check: Batch | Callable[[Any], Any]) -> list[Tensor]:
    """What the family gives for a check, as flat tensors: a function's result, or the mean loss of every phase on a batch."""
    if isinstance(check, Batch):
        losses = [family(check, phase.name) for phase in family.phases]  # type: ignore[union-attr]
        return [loss.total / loss.weight.clamp(min=1e-9) for loss in losses]
    out = check(family)  # type: ignore[operator]
    out = out if isinstance(out, list | tuple) else [out]
    return [torch.as_tensor(part).detach().clone() for part in out]


def _merged(family: nn.Module, number: str, untie: bool) -> list[tuple[Place, nn.Module]]:
    """Each wrapper's place and the plain module that will stand there."""
    shared, out = tied(family), []
    for place in places(family):
        module: Any = place.module
        if isinstance(module, Whole):
            out.append((place, module.copies[number] if number in module.copies else module.base))  # noqa: SIM401 - a ModuleDict has no get
        elif isinstance(module, LowRank):
            pair: Any = module.pairs[number] if number in module.pairs else None  # noqa: SIM401
            base: Any = module.base
            if pair is not None and id(base.weight) in shared and not untie:
                raise UsageError(f"the matrix of '{place.path}' is also used elsewhere (tied)",
                                 remedy="merge with untie, or keep the adapter beside the model")
            out.append((place, base if pair is None else _with(base, pair.delta())))
    return out


def _with(base: Any, delta: Tensor) -> nn.Module:
    """A copy of a layer whose weight has `delta` added; the bias stays the same tensor."""
    out = copy.copy(base)
    out._parameters = dict(base._parameters)
    out.weight = nn.Parameter((base.weight.detach().to(delta.dtype) + delta.detach()).to(base.weight.dtype))
    return out


def _watched(family: nn.Module, merged: list[tuple[Place, nn.Module]], work: Callable[[], list[Tensor]]) -> tuple[float, list[Tensor]]:
    """(largest difference of a wrapper's and its merged layer's outputs, what `work` gave)."""
    worst = [0.0]

    def compare(replacement: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            worst[0] = max(worst[0], _difference([output], [replacement(*inputs, **options)]))

        return hook

    handles = [place.module.register_forward_hook(compare(new), with_kwargs=True)
               for place, new in merged if isinstance(place.module, LowRank)]
    try:
        result = work()
        return worst[0], result
    finally:
        for handle in handles:
            handle.remove()


def _difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest absolute difference, in units of the largest value where that is above 1; infinite when one is not finite."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        x, y = x.double(), y.double()
        gap = float((x - y).abs().max() / x.abs().max().clamp(min=1)) if x.numel() else 0.0
        worst = max(worst, gap if math.isfinite(gap) else math.inf)
    return worst
