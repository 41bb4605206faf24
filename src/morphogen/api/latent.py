"""reconstruct, interpolate, vary: what a model makes of given items, between two of them, and near one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.api.common import Watch, check_count
from morphogen.api.given import Opened, named
from morphogen.contracts import Item
from morphogen.errors import UsageError
from morphogen.files import check_output
from morphogen.run import Run
from morphogen.spaces import Array, Record, Space, Tokens

PILOTS = 8  # variations that are drawn to find the level
HALVINGS = 6
UNIT = "median held-out distance to the nearest training item, {}"


def reconstruct(
    data: Any,
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    level: float = 0.3,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """What the run makes of each item of `data`, and how far that is from it; beside PCA with as many numbers for arrays.

    vae: encoded and decoded. diffusion, flow: noised to `level` (0 to 1) and denoised. masked, cart and other families that
    fill gaps: each part filled in again from the others. Raises UsageError for families that can do none of these.
    """
    watch = watch or Watch()
    _check(level, "level")
    if out is not None:
        check_output(Path(out), force=force, inputs=(data,))
    from morphogen.items import reconstruct as again

    opened = Opened(run, device, watch)
    items = opened.read(data)
    raws = [item.raw for item in items]
    made, how = again(opened.model, raws, level, opened.cond(items), seed=seed, tell=lambda s: watch.progress("reconstructing", s))
    error, each = _error(opened.codec, raws, made)
    answer: dict[str, Any] = {"run": str(opened.folder.path), "how": how, "n": len(raws), "error": error, **_beside(opened, raws)}
    meta = [{"index": i, "of": named(item, i), "error": round(float(each[i]), 6)} for i, item in enumerate(items)]
    if out is not None:
        opened.write(made, Path(out), meta, "reconstruct", {"seed": seed, "level": level, "how": how}, force)
    return {**answer, "items": meta, "out": None if out is None else str(out), "raws": made}


def interpolate(
    a: str | Path | int,
    b: str | Path | int,
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    n: int = 8,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """`n` items on the way from `a` to `b` (files, or numbers in the run's data), both ends included as the run makes them.

    Along the great circle between their latents (vae) or between the noises they would be drawn from (diffusion, flow).
    Raises UsageError for families without such numbers.
    """
    import torch

    from morphogen.items import invert, redraw
    from morphogen.sampling import draws

    watch = watch or Watch()
    check_count(n, most=1000)
    if n < 2:
        raise UsageError("--n 1 leaves nothing between the two", remedy="give 2 or more")
    if out is not None:
        check_output(Path(out), force=force)
    opened = Opened(run, device, watch)
    pair = [opened.one(a), opened.one(b)]
    cond = opened.cond(pair)
    cond = {k: v for k, v in cond.items() if v[0] == v[1]}  # what the ends disagree on is left open on the whole way
    z = invert(opened.model, [item.raw for item in pair], cond)
    shares = torch.linspace(0, 1, n, dtype=torch.float64)
    way = slerp(z[0], z[1], shares.to(z.device))
    keys = draws.seeded(seed, 1).expand(n)
    every = {k: [v[0]] * n for k, v in cond.items()}
    made = redraw(opened.model, way, keys, every, lambda s: watch.progress("drawing", s))
    distances = [opened.yard.between(made, [item.raw] * n) for item in pair]
    steps = opened.yard.between(made[1:], made[:-1])
    near = lambda side, i: round(float(distances[side][i]), 3)
    meta = [{"index": i, "share": round(float(shares[i]), 4), "from_a": near(0, i), "from_b": near(1, i)} for i in range(n)]
    if out is not None:
        facts = {"seed": seed, "items": [named(item, 0) for item in pair]}
        opened.write(made, Path(out), meta, "interpolate", facts, force)
    return {
        "run": str(opened.folder.path),
        "ends": [named(item, 0) for item in pair],
        "n": n,
        "largest_step": round(float(steps.max()), 3),
        "unit": UNIT.format(opened.yard.name),
        "items": meta,
        "out": None if out is None else str(out),
        "raws": made,
    }


def vary(
    item: str | Path | int,
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    n: int = 8,
    distance: float = 0.3,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """`n` variations of an item (a file, FILE:NUMBER, or a number in the run's data) at a chosen `distance` from it.

    Distance 1 is how far a real new item lies from its nearest training item (held-out median, in the codec's features), so
    the number means the same for every family. Whatever the family turns to vary (latent noise, noise on the item, the share
    of places drawn anew) is set by trying until half of the variations lie within that distance; both are reported.
    Raises UsageError for families that cannot begin from an item.
    """
    from morphogen.sampling import draws

    watch = watch or Watch()
    check_count(n, most=100_000)
    if not 0 <= distance < 1e6:
        raise UsageError(f"--distance {distance} is no distance", remedy="give a number from 0; 1 is as far as a real new item")
    if out is not None:
        check_output(Path(out), force=force)
    opened = Opened(run, device, watch)
    given = opened.one(item)
    draw = _near(opened, given)
    pilots, original = draws.seeded(seed, PILOTS), [given.raw] * PILOTS
    measure = lambda level: float(np.median(opened.yard.between(draw(pilots, level, None), original)))
    level, reached = _level_for(measure, distance, lambda share: watch.progress("finding the level", share))
    if abs(reached - distance) > 0.25 * max(distance, 0.2):
        word = "cannot come closer" if reached > distance else "cannot go further"
        watch.say(f"asked for distance {distance:g}: this run {word} than {reached:.2f}", "warn")
    made = draw(draws.seeded(seed, n), level, lambda share: watch.progress("drawing", share))
    measured = opened.yard.between(made, [given.raw] * n)
    meta = [{"index": i, "seed": seed, "distance": round(float(measured[i]), 3)} for i in range(n)]
    if out is not None:
        facts = {"seed": seed, "item": named(given, 0), "distance": distance, "level": level}
        opened.write(made, Path(out), meta, "vary", facts, force)
    return {
        "run": str(opened.folder.path),
        "of": named(given, 0),
        "n": n,
        "asked": distance,
        "level": round(level, 4),
        "distance": round(float(np.median(measured)), 3),
        "range": [round(float(measured.min()), 3), round(float(measured.max()), 3)],
        "unit": UNIT.format(opened.yard.name),
        "items": meta,
        "out": None if out is None else str(out),
        "raws": made,
    }


def _near(opened: Opened, given: Item) -> Callable[[Any, float, Callable[[float], None] | None], list[Any]]:
    """A function of (keys, level, listener) that draws variations of an item, asked for what the item itself says."""
    from morphogen.items import vary as near

    said = {k: v[0] for k, v in opened.cond([given]).items()}
    repeat = lambda n: {k: [v] * n for k, v in said.items()}
    return lambda keys, level, tell: near(opened.model, [given.raw] * len(keys), keys, level, repeat(len(keys)), tell)


# ---------------------------------------------------------------- maths
def slerp(a: Any, b: Any, shares: Any) -> Any:
    """(n, ...) points on the great circle from a to b: (sin((1 - t) w) a + sin(t w) b) / sin w, w the angle between them.

    High-dimensional noise lies on a shell; straight lines would cut through its empty middle (White 2016). Straight for
    vectors that are nearly parallel.
    """
    import torch

    x, y = a.double().flatten(), b.double().flatten()
    cosine = (x @ y / (x.norm() * y.norm()).clamp(min=1e-12)).clamp(-1, 1)
    angle, t = torch.arccos(cosine), shares[:, None]
    if float(torch.sin(angle)) < 1e-4:
        way = (1 - t) * x + t * y
    else:
        way = (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)
    return way.to(a.dtype).view(len(shares), *a.shape)


def _level_for(measure: Callable[[float], float], target: float, tell: Callable[[float], None]) -> tuple[float, float]:
    """(level in 0..1 whose measured distance is nearest to `target`, that distance), by halving: distances grow with the level."""
    tried = {0.0: measure(0.0)}
    if tried[0.0] < target:
        low, high = 0.0, 1.0
        for i in range(HALVINGS):
            middle = (low + high) / 2
            tried[middle] = measure(middle)
            low, high = (middle, high) if tried[middle] < target else (low, middle)
            tell((i + 1) / (HALVINGS + 1))
        if low > 0.9:
            tried[1.0] = measure(1.0)
    tell(1.0)
    best = min(tried, key=lambda level: (abs(tried[level] - target), level))
    return best, tried[best]


def _check(level: float, name: str) -> None:
    if not 0 <= level <= 1:
        raise UsageError(f"--{name} {level} is out of range", remedy="give a number from 0 to 1")


# ---------------------------------------------------------------- errors of reconstructions
def _error(codec: Any, raws: list[Any], made: list[Any]) -> tuple[dict[str, Any], np.ndarray]:
    """What differs, by the codec's Space, over all items and for each."""
    x, y = [codec.encode(raw) for raw in raws], [codec.encode(raw) for raw in made]
    each = np.array([_difference(p, q, codec.space) for p, q in zip(x, y, strict=True)])
    return {"value": float(each.mean()), "what": _what(codec.space)}, each


def _what(space: Space) -> str:
    match space:
        case Array():
            return "mean squared error of a sample's numbers"
        case Tokens():
            return "share of tokens that differ"
        case Record():
            return "mean over fields: share that differs (words), squared error (numbers)"


def _difference(x: Any, y: Any, space: Space) -> float:
    match space:
        case Array():
            return float(np.square(x.astype(np.float64) - y).mean())
        case Tokens():
            n = max(len(x), len(y))
            same = int((x[: len(y)] == y[: len(x)]).reshape(min(len(x), len(y)), -1).all(1).sum())
            return 1 - same / max(1, n)
        case Record():
            return float(np.mean([_difference(x[name], y[name], field) for name, field in space.fields]))


def _beside(opened: Opened, raws: list[Any]) -> dict[str, Any]:
    """Principal components with as many numbers as the latent has, fitted to the training items: the least a latent should beat."""
    from morphogen.contracts import HasLatent

    space, family = opened.codec.space, opened.model.family
    learned = next((bridge for bridge in opened.model.bridges if hasattr(bridge, "family")), None)
    latent = family.latent if isinstance(family, HasLatent) else None if learned is None else learned.target
    if latent is None or not isinstance(space, Array) or None in space.shape:
        return {}
    numbers = latent.size if isinstance(latent, Array) else getattr(latent, "length", 0)
    train = np.stack([np.ravel(opened.codec.encode(item.raw)) for item in opened.train[:5000]])
    from sklearn.decomposition import PCA

    numbers = min(numbers, *train.shape)
    pca = PCA(numbers, random_state=0).fit(train)
    x = np.stack([np.ravel(opened.codec.encode(raw)) for raw in raws])
    # the same rounding as the model's own outputs get
    again = pca.inverse_transform(pca.transform(x)).astype(np.float32).reshape(len(x), *[int(n or 1) for n in space.shape])
    made = [opened.codec.decode(row) for row in again]
    return {"latent": numbers, "pca": _error(opened.codec, raws, made)[0]["value"]}
