"""What a family promises."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from morphogen.contracts import Batch, Given, HasLogProb, HasOddity, Inverts, Loss, Request, Varies
from morphogen.spaces import Space, Tokens
from morphogen.testing.promise import must, promised, untouched
from morphogen.testing.trees import all_alike, beginning, clone, close, cut, equal, filled, inside, kept, pick, scattered

STEPS = 4


@promised("a family must do what its protocol says without an error")
def check_family(make: Callable[[], Any], batch: Batch) -> Any:
    """Two dozen promises on one batch; returns the family, fitted if it is classical.

    `make()` builds it with equal weights each time. Raises BrokenPromise (an AssertionError) with one sentence.
    """
    with promised("a family must be built without an error"):
        family = make()
    must(family.infill in ("none", "prefix", "any"), 'infill is "none", "prefix" or "any"')
    learned = family
    if family.phases:
        check_loss(family, batch)
        check_gradients(family, batch)
        check_accumulation(family, batch)
        learned = check_training(make, batch)
    else:
        with promised("a classical family must fit batches without an error"), untouched("fit"):
            family.fit([batch])
        check_fit(family, make, batch)
    check_draws(family, batch)
    check_streams(family, batch)
    check_saved(learned, make, batch)
    check_given(family, batch)
    check_items(family, batch)
    return family


# ---------------------------------------------------------------- the loss
def check_loss(family: Any, batch: Batch) -> None:
    """The loss is a finite sum over weight units, a function of batch and keys, and rows of weight 0 count nothing."""
    before, state = clone(batch), clone(dict(family.state_dict()))
    family.train()
    for phase in family.phases:
        with promised(f"the loss of phase '{phase.name}' must take a batch"), untouched("the loss"):
            loss: Loss = family(batch, phase.name)
        must(torch.is_tensor(loss.total) and loss.total.shape == (), "the loss must be one number")
        must(torch.isfinite(loss.total) and float(loss.weight) > 0, "the loss must be finite, of a weight above 0")
        must(not any(part.requires_grad for part in loss.parts.values()), "parts of a loss are for the log: detached")
    must(equal(batch, before), "the loss must not change its batch")
    family.eval()
    for phase in family.phases:
        whole, again = family(batch, phase.name), family(batch, phase.name)
        must(torch.equal(whole.total, again.total), "the loss must be a function of the batch and its keys")
        weight = batch.weight.clone()
        weight[-2:] = 0
        fewer = family(dataclasses.replace(batch, weight=weight), phase.name)
        must(float(fewer.weight) < float(whole.weight), "rows of weight 0 must not count")
        if getattr(family, "additive", True):
            without = family(cut(batch, slice(0, -2)), phase.name)
            close(fewer.total, without.total, "rows of weight 0 must leave the loss as if they were not there")
    must(equal(dict(family.state_dict()), state), "the loss must change no weight and no buffer")


def check_accumulation(family: Any, batch: Batch) -> None:
    """Losses, weights and gradients of two halves add up to those of the whole: a window of batches is one large batch."""
    if not getattr(family, "additive", True):
        return
    family.eval()
    half = len(batch.key) // 2
    for phase in family.phases:
        sums = []
        for parts in ((batch,), (cut(batch, slice(0, half)), cut(batch, slice(half, None)))):
            family.zero_grad(set_to_none=True)
            losses = [family(part, phase.name) for part in parts]
            for loss in losses:
                loss.total.backward()
            mine = {k: p.grad.clone() for k, p in family.named_parameters() if p.grad is not None and k.startswith(phase.params)}
            told = [{**loss.parts, **loss.stats} for loss in losses]
            named = {k: sum(one[k].detach() for one in told) for k in told[0]}
            sums.append((sum(loss.total.detach() for loss in losses), sum(float(loss.weight) for loss in losses), mine, named))
        close(sums[1][0], sums[0][0], "losses must add over windows")
        close(sums[1][3], sums[0][3], "parts and stats of a loss must add over windows")
        must(abs(sums[1][1] - sums[0][1]) <= 1e-4 * sums[0][1], "weights must add over windows")
        scale = max((float(g.abs().max()) for g in sums[0][2].values()), default=1.0) or 1.0
        for name, gradient in sums[0][2].items():
            must(name in sums[1][2], f"gradients must add over windows: none reaches {name}")
            close(sums[1][2][name] / scale, gradient / scale, f"gradients must add over windows: {name}")
    family.zero_grad(set_to_none=True)


def check_gradients(family: Any, batch: Batch) -> None:
    """Each phase's loss reaches each of its parameters with finite gradients, and there is no parameter without a phase."""
    family.train()
    reached: set[str] = set()
    for phase in family.phases:
        family.zero_grad(set_to_none=True)
        with promised(f"the loss of phase '{phase.name}' must have gradients"):
            family(batch, phase.name).total.backward()
        for name, parameter in family.named_parameters():
            if name.startswith(phase.params):
                must(parameter.grad is not None, f"gradients must reach every parameter: none reaches {name} in phase '{phase.name}'")
                must(torch.isfinite(parameter.grad).all(), f"gradients must be finite: that of {name} is not")
                reached.add(name)
            must(parameter.ndim > 0, f"every parameter needs an axis to shard: {name} has none")
    left = {name for name, _ in family.named_parameters()} - reached
    must(not left, f"every parameter must belong to a phase: {min(left, default='')} does not")
    family.zero_grad(set_to_none=True)


def check_training(make: Callable[[], Any], batch: Batch) -> Any:
    """A few steps of plain descent stay finite, and are the same from the same start; returns what has learned."""
    results, family = [], None
    for _ in range(2):
        family = make()
        if hasattr(family, "calibrate"):
            with torch.no_grad():
                family.calibrate(batch)
        family.train()
        for phase in family.phases:
            mine = [p for name, p in family.named_parameters() if name.startswith(phase.params)]
            for _ in range(2):
                family.zero_grad(set_to_none=True)
                loss = family(batch, phase.name)
                (loss.total / loss.weight).backward()
                with torch.no_grad():
                    for p in mine:
                        p -= 1e-3 * p.grad
        results.append({k: v.detach().clone() for k, v in family.state_dict().items()})
    must(all(torch.isfinite(v).all() for v in results[0].values() if v.is_floating_point()), "training must not lead to NaN or infinity")
    must(equal(results[0], results[1]), "training must be a function of weights, batches and keys")
    return family


def check_fit(family: Any, make: Callable[[], Any], batch: Batch) -> None:
    """What a classical family learns is in its buffers and follows from the batches alone."""
    with promised("fit must take any iterable of batches"):
        again = make()
        again.fit(iter([batch]))
    must(equal(dict(again.state_dict()), dict(family.state_dict())), "fit must be a function of the batches")
    must(any(v.numel() for v in family.state_dict().values()), "what fit learns must be in buffers, or saving would lose it")
    floats = [v for v in family.state_dict().values() if v.is_floating_point()]
    must(not any(torch.isnan(v).any() for v in floats), "fit must not learn NaN")


# ---------------------------------------------------------------- drawing
def check_draws(family: Any, batch: Batch) -> None:
    """Draws lie in the Space, are functions of keys, and no row depends on its company."""
    request, state = _request(family, batch), clone(dict(family.state_dict()))
    before = clone(request.cond), request.key.clone()
    with promised("a family must draw"), untouched("drawing"):
        final = last(family, request)
    inside(final, family.space, "a draw")
    must(equal(request.cond, before[0]) and torch.equal(request.key, before[1]), "drawing must not change its request")
    must(equal(dict(family.state_dict()), state), "drawing must change no weight and no buffer")
    must(equal(final, last(family, request)), "drawing must be a function of the keys: the same twice")
    order = torch.arange(len(batch.key)).flip(0)
    turned = last(family, _request(family, cut(batch, order)))
    close(pick(turned, order), final, "a row must not depend on its place in the batch")
    half = len(batch.key) // 2
    parts = [last(family, _request(family, cut(batch, s))) for s in (slice(0, half), slice(half, None))]
    for part, s in zip(parts, (slice(0, half), slice(half, None))):
        _alike(part, pick(final, s), family.space, "a row must not depend on the batch it is drawn in")
    must(len(batch.key) < 2 or not all_alike(final), "different keys must give different draws")


def check_streams(family: Any, batch: Batch) -> None:
    """Streams end with done, settle and advance; they may be stopped early, run side by side, and leave the mode as it was."""
    request = _request(family, batch)
    parts, shown = [], []
    family.train()
    for part in family.stream(request):
        must(torch.is_grad_enabled(), "a stream must not leave gradients switched off between steps")
        must(family.training, "a stream must leave training mode as it was between steps")
        parts.append((part.settled, part.progress, part.done))
        shown.append(clone(part.x) if part.settled else None)
    family.eval()
    must(parts and parts[-1][2] and not any(done for _, _, done in parts[:-1]), "the last Partial is done, and only it")
    must(all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(parts)), "settled and progress must never go back")
    must(all(0 <= share <= 1 for _, share, _ in parts), "progress is a share from 0 to 1")
    final = last(family, request)
    for (settled, _, _), x in zip(parts, shown):
        must(x is None or equal(x[:, :settled], final[:, :settled]), "what has settled must not change again")
    with promised("a stream may be stopped early"):
        stream = family.stream(request)
        next(iter(stream))
        stream.close()
    must(torch.is_grad_enabled(), "a stream that is stopped early must leave gradients on")
    turned = _request(family, cut(batch, torch.arange(len(batch.key)).flip(0)))
    first, second = family.stream(request), family.stream(turned)
    out = None
    for part in first:  # two tiles in flight, a step of each in turn
        next(second, None)
        out = part.x
    must(equal(out, final), "two streams side by side must not disturb each other")


def check_saved(family: Any, make: Callable[[], Any], batch: Batch) -> None:
    """A fresh instance that loads the weights from a file draws the same; the resolved config can be saved too.

    `family` has learned: in one that is as `make` builds it, weights that were not loaded would not show.
    """
    from safetensors.torch import load, save

    from morphogen.config import asdict
    from morphogen.config import make as configured

    request = _request(family, batch)
    family.eval()
    final = last(family, request)
    with promised("the state dict must go through a safetensors file"):
        state = load(save({k: v.detach().contiguous().clone() for k, v in family.state_dict().items()}))
    with promised("the resolved config must be plain values that build it again"):
        config = configured(type(family).Config, asdict(family.config))
        must(config == family.config, "the resolved config must survive being saved")
    with promised("a fresh instance must load the state dict"):
        fresh = make()
        fresh.load_state_dict(state)
        fresh.eval()
    with promised("load_state_dict must restore the draws"):
        must(equal(last(fresh, request), final), "load_state_dict must restore the draws")


def check_given(family: Any, batch: Batch) -> None:
    """Known values are kept exactly by families that take them, in draws, and are not learned: where all is known, nothing is."""
    if family.infill == "none":
        return
    known = beginning(batch.x) if family.infill == "prefix" else scattered(batch.x, batch.key)
    given = Given(batch.x, known)
    with promised("a family that says it fills in must draw around known values"):
        out = last(family, _request(family, batch, given))
    kept(out, batch.x, known, "known values must come back exactly")
    inside(out, family.space, "a draw around known values")
    for phase in family.phases:
        with promised("a family that says it fills in must learn around known values"):
            some, whole = family(dataclasses.replace(batch, given=given), phase.name), family(batch, phase.name)
            none = family(dataclasses.replace(batch, given=Given(batch.x, filled(batch.x, True))), phase.name)
        must(torch.isfinite(some.total) and torch.isfinite(none.total), "the loss around known values must be finite")
        must(float(some.weight) <= float(whole.weight), "known values must not count in the loss")
        nothing = none.total.detach().abs() <= 1e-6 * whole.total.detach().abs()
        must(nothing, "known values must not count in the loss: all are known, and still there is one")


# ---------------------------------------------------------------- powers
def check_items(family: Any, batch: Batch) -> None:
    """What a family says of given rows is finite, one answer a row, and does not depend on the neighbours."""
    family.eval()
    some, n = slice(1, 6), len(batch.key)  # what takes its measure from the first row, or from the last, would not show in those
    few = cut(batch, some)
    with torch.no_grad(), untouched("looking at items"):
        if isinstance(family, HasLogProb):
            p = family.log_prob(batch)
            must(p.total.shape == batch.key.shape and torch.isfinite(p.total).all(), "log_prob is one finite number a row")
            must(p.kind in ("exact", "bound", "estimate"), 'the kind of log_prob is "exact", "bound" or "estimate"')
            close(family.log_prob(few).total, p.total[some], "log_prob must not mix rows")
        if isinstance(family, HasOddity):
            odd, again = family.oddity(batch), family.oddity(few)
            must(odd.views.ndim == 2 and len(odd.views) == n and torch.isfinite(odd.views).all(), "views of oddity are (B, K), finite")
            close(again.views, odd.views[some], "oddity must not mix rows")
            must(odd.kind in ("exact", "bound", "estimate", "reconstruction"), "the kind of oddity is one of four words")
            must(odd.parts is None or odd.parts.shape == batch.x.shape, "parts of oddity lie as the row does")
        if isinstance(family, Inverts):
            z = family.invert(batch)
            back = family.redraw(z, batch.cond)
            must(len(z) == n and back.shape == batch.x.shape and torch.isfinite(back).all(), "redraw(invert(x)) lies as x does")
        if isinstance(family, Varies):
            near, far = family.vary(batch, 0.0), family.vary(batch, 0.5)
            must(near.shape == far.shape == batch.x.shape and torch.isfinite(far).all(), "variations lie as the row does")
            must(torch.equal(far, family.vary(batch, 0.5)), "vary is a function of rows, keys and level")
            must(family.vary(batch, 1.0).shape == far.shape, "level 1 of vary is allowed")


@promised("a family must do what its protocol says without an error")
def check_compiles(family: Any, batch: Batch) -> None:
    """The loss of each phase is one graph (torch.compile without a break), with the same value; nothing is generated by inductor.

    Families that cannot say so on their class: `compiles = False`.
    """
    if not getattr(family, "compiles", True):
        return
    family.eval()
    for phase in family.phases:
        torch._dynamo.reset()
        whole = family(batch, phase.name).total
        with promised("the loss must compile without a graph break; a family that cannot says `compiles = False`"):
            traced = torch.compile(lambda b, name=phase.name: family(b, name).total, fullgraph=True, backend="eager")(batch)
        close(traced, whole, "the compiled loss must be the loss", 1e-4)
    torch._dynamo.reset()


def _request(family: Any, batch: Batch, given: Given | None = None) -> Request:
    """A draw for the keys of a batch, in few steps where a family takes many: the promises do not depend on their number."""
    fields = {f.name for f in dataclasses.fields(type(family).Sampling)}
    return Request(batch.key, batch.cond, given, sampling=type(family).Sampling(**({"steps": STEPS} if "steps" in fields else {})))


def last(family: Any, request: Request) -> Any:
    """What a stream ends with."""
    parts = deque(family.stream(request), maxlen=1)
    must(parts, "a stream must give at least one Partial")
    return parts[0].x


def _alike(part: Any, whole: Any, space: Space, why: str) -> None:
    """Rows drawn in a smaller batch may end earlier: what the others have more is padding."""
    if isinstance(space, Tokens) and space.end is not None:
        n = max(part.shape[1], whole.shape[1])
        part, whole = (F.pad(x, (0, n - x.shape[1]), value=space.end) for x in (part, whole))
    close(part, whole, why)
