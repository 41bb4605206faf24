"""LoRA on any family: a few numbers beside each frozen matrix learn, and the family stays a family to everything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from morphogen.adapt.layers import CONVS, Adapters, LowRank, Pair, Whole
from morphogen.errors import FormatError, UsageError, suggest
from morphogen.formats.peft import Adapter

F = TypeVar("F", bound=nn.Module)
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """What an adapter changes and how much."""

    rank: int = 8
    "Rank of every update; more learns more and costs more."
    alpha: float = 16.0
    "The update counts alpha / rank times."
    dropout: float = 0.0
    "Share of inputs the update does not see in training."
    targets: tuple[str, ...] = ()
    "Modules by path or its last parts (q_proj); none: every Linear and convolution inside the nets, not their ends and embeddings."
    whole: tuple[str, ...] = ()
    "Modules that are trained as a whole, such as an embedding with new rows."
    rslora: bool = False
    "alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732)."
    ranks: dict[str, int] = field(default_factory=dict)
    "Other ranks by path or its last parts."
    alphas: dict[str, float] = field(default_factory=dict)
    "Other alphas by path or its last parts."


@dataclass(frozen=True)
class Place:
    """Where a module stands in a family. `edge`: it is, or lies in, an end of its net."""

    path: str
    parent: nn.Module
    name: str
    module: nn.Module
    edge: bool

    def put(self, module: nn.Module) -> None:
        """Let another module stand here."""
        setattr(self.parent, self.name, module)


def places(module: nn.Module, path: str = "", edge: bool = False) -> Iterator[Place]:
    """Every module below, under the path it has without adapters; wrappers count as what they wrap and are not entered."""
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        ends = edge or bool(getattr(child, "edge", False))
        yield Place(here, module, name, child, ends)
        if not isinstance(child, LowRank | Whole):
            yield from places(child, here, ends)


def adapt(family: F, config: LoRAConfig | None = None, *, name: str = DEFAULT, seed: int = 0) -> F:
    """Freeze a family and put a fresh trainable adapter in it, in place; outputs are exactly what they were. The adapter acts.

    A further call adds another adapter beside those there are. `seed` names the draws of A.
    Raises UsageError for a family without weights to adapt, a target it does not have, or a rank that makes no sense.
    """
    config = config or LoRAConfig()
    _check(family, config, name)
    chosen = _chosen(family, config)
    adapters, number = _enter(family, name)
    adapters.configs[name] = config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for path, place in chosen.items():
            rank, scale = _rank(config, path), scale_of(config, path)
            weight: Any = (place.module.base if isinstance(place.module, LowRank) else place.module).weight
            dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
            a = torch.empty(rank, *weight.shape[1:], dtype=dtype)
            nn.init.kaiming_uniform_(a, a=5**0.5)
            b = torch.zeros(len(weight), rank, dtype=dtype)
            _wrap(place, adapters).pairs[str(number)] = Pair(a.to(weight.device), b.to(weight.device), scale, config.dropout)
    for place in _wholes(family, config):
        _stand(place, adapters).add(number)
    set_adapter(family, name)
    return only_trains(family, name)


def set_adapter(family: nn.Module, name: str | None) -> None:
    """Let one adapter act in the whole family, or none. Raises UsageError for an unknown name."""
    adapters = adapters_of(family)
    adapters.current = adapters.number(name)


@contextmanager
def using(family: nn.Module, name: str | None) -> Iterator[None]:
    """`set_adapter` for a block."""
    adapters = adapters_of(family)
    before, adapters.current = adapters.current, adapters.number(name)
    try:
        yield
    finally:
        adapters.current = before


def only_trains(family: F, name: str) -> F:
    """Only the numbers of one adapter are trained; everything else is frozen."""
    number = str(adapters_of(family).number(name))
    family.requires_grad_(False)
    for place in places(family):
        if isinstance(place.module, LowRank) and number in place.module.pairs:
            place.module.pairs[number].requires_grad_(True)
        if isinstance(place.module, Whole) and number in place.module.copies:
            place.module.copies[number].requires_grad_(True)
    return family


def adapters_of(family: nn.Module) -> Adapters:
    """The switch of an adapted family. Raises UsageError when it has no adapter."""
    found = getattr(family, "adapters", None)
    if not isinstance(found, Adapters):
        raise UsageError("the model has no adapter", remedy="load one first")
    return found


def adapter_state(family: nn.Module, name: str | None = None) -> Adapter:
    """What an adapter (the acting one) has learned, under module paths as they are without adapters."""
    adapters = adapters_of(family)
    name = name or adapters.name()
    if name is None:
        raise UsageError("no adapter acts", remedy=suggest("", adapters.numbers))
    number, config = str(adapters.number(name)), adapters.configs[name]
    out = Adapter({}, {}, config.rslora, dropout=config.dropout)
    for place in places(family):
        module: Any = place.module
        if isinstance(module, LowRank) and number in module.pairs:
            pair: Any = module.pairs[number]
            out.pairs[place.path] = (pair.A.detach(), pair.B.detach())
            out.alpha[place.path] = _by_end(config.alphas, place.path, config.alpha)
        elif isinstance(module, Whole) and number in module.copies:
            out.whole[place.path] = {k: v.detach() for k, v in module.copies[number].state_dict().items()}
    return out


def load_adapter(family: F, state: Adapter, *, name: str = DEFAULT) -> F:
    """Put a saved adapter into a family, in place, beside those there are; it acts from then on and nothing is trained.

    Raises FormatError when it belongs to another base: a module is missing or of another shape.
    """
    found = {place.path: place for place in places(family)}
    for path, (a, b) in state.pairs.items():
        _fits(found, path, a, b)
    for path, parts in state.whole.items():
        _fits_whole(found, path, parts)
    _check_name(family, name)
    adapters, number = _enter(family, name)
    # full paths as names: what was loaded can be written again as it is
    adapters.configs[name] = LoRAConfig(targets=tuple(state.pairs), whole=tuple(state.whole), dropout=state.dropout, rslora=state.rslora,
                                        ranks={k: len(a) for k, (a, _) in state.pairs.items()}, alphas=dict(state.alpha))
    for path, (a, b) in state.pairs.items():
        wrapper = _wrap(found[path], adapters)
        device: Any = wrapper.base.weight.device
        float32 = torch.float64 if a.dtype == torch.float64 else torch.float32
        wrapper.pairs[str(number)] = Pair(a.to(device, float32).clone(), b.to(device, float32).clone(), state.scale(path), state.dropout)
        wrapper.pairs[str(number)].train(wrapper.training)
    for path, parts in state.whole.items():
        copied = _stand(found[path], adapters).add(number)
        for key, value in parts.items():
            _grow(copied, key, value)
        copied.load_state_dict(parts)
    set_adapter(family, name)
    return family.requires_grad_(False)


def base_state(family: nn.Module) -> dict[str, Tensor]:
    """`state_dict` as it would be without adapters: the base's own weights under their own names."""
    inner: dict[str, str] = {}
    out = dict(family.state_dict())
    for place in places(family):
        if isinstance(place.module, LowRank | Whole):
            inner[f"{place.path}."] = f"{place.path}.base."
    for plain, wrapped in inner.items():
        mine = {k: out.pop(k) for k in list(out) if k.startswith(plain)}
        out |= {plain + k.removeprefix(wrapped): v for k, v in mine.items() if k.startswith(wrapped)}
    return out


def share(family: nn.Module) -> float:
    """Trained numbers as a share of the numbers the base has."""
    wrappers = [place.module for place in places(family) if isinstance(place.module, LowRank | Whole)]
    added = {id(p) for w in wrappers for p in (w.pairs if isinstance(w, LowRank) else w.copies).parameters()}
    trained = sum(p.numel() for p in family.parameters() if p.requires_grad)
    return trained / max(1, sum(p.numel() for p in family.parameters() if id(p) not in added))


def scale_of(config: LoRAConfig, path: str) -> float:
    """alpha / r of one module, or alpha / sqrt(r)."""
    rank = _rank(config, path)
    return _by_end(config.alphas, path, config.alpha) / (rank**0.5 if config.rslora else rank)


def tied(family: nn.Module) -> set[int]:
    """Ids of parameters that more than one module holds."""
    seen: dict[int, int] = {}
    for module in family.modules():
        for p in module._parameters.values():
            if p is not None:
                seen[id(p)] = seen.get(id(p), 0) + 1
    return {key for key, count in seen.items() if count > 1}


# ---------------------------------------------------------------- choosing
def _check(family: nn.Module, config: LoRAConfig, name: str) -> None:
    if not getattr(family, "phases", (None,)) or not any(True for _ in family.parameters()):
        raise UsageError(f"a {type(family).__name__.lower()} model has no weights to adapt", remedy="fit it again on the new data")
    for value in (config.rank, *config.ranks.values()):
        if not 1 <= value <= 65536:
            raise UsageError(f"rank {value} is out of range", remedy="give a whole number from 1, such as 8")
    if not 0 <= config.dropout < 1:
        raise UsageError(f"dropout {config.dropout} is no share", remedy="give a number from 0 to below 1")
    _check_name(family, name)


def _check_name(family: nn.Module, name: str) -> None:
    there = getattr(family, "adapters", None)
    if isinstance(there, Adapters) and name in there.numbers:
        raise UsageError(f"there is an adapter '{name}' already", remedy="give this one another name")


def _ends(names: Any, path: str) -> str | None:
    return next((name for name in names if path == name or path.endswith("." + name)), None)


def _by_end(values: dict[str, Any], path: str, otherwise: Any) -> Any:
    name = path if path in values else _ends(values, path)
    return otherwise if name is None else values[name]


def _rank(config: LoRAConfig, path: str) -> int:
    return _by_end(config.ranks, path, config.rank)


def _plain(module: nn.Module) -> nn.Module:
    return module.base if isinstance(module, LowRank) else module


def adaptable(module: nn.Module) -> bool:
    """Whether a module can have a pair beside it: a Linear or a convolution of one group."""
    base: Any = _plain(module)
    return type(base) is nn.Linear or (type(base) in CONVS and base.groups == 1)


def _chosen(family: nn.Module, config: LoRAConfig) -> dict[str, Place]:
    """The modules an adapter is for. Raises UsageError for a target that names none."""
    shared = tied(family)
    wholes = tuple(place.path for place in _wholes(family, config))
    out: dict[str, Place] = {}
    times = Counter(id(place.module) for place in places(family))  # one module in two places would be changed in one of them only
    for place in places(family):
        inside = any(place.path == w or place.path.startswith(w + ".") for w in wholes)
        if not adaptable(place.module) or inside or times[id(place.module)] > 1:
            continue
        if config.targets:
            wanted = _ends(config.targets, place.path) is not None
        else:
            wanted = not place.edge and not any(id(p) in shared for p in _plain(place.module).parameters()) and _pays(place, config)
        if wanted:
            out[place.path] = place
    for target in config.targets:
        if not any(_ends((target,), path) for path in out):
            known = sorted({place.name for place in places(family) if adaptable(place.module)})
            raise UsageError(f"the model has no Linear or convolution '{target[:60]}'", remedy=suggest(target, known))
    if not out and not config.whole:
        raise UsageError(f"no matrix of the model is worth an update of rank {config.rank}", remedy="give a smaller rank")
    return out


def _pays(place: Place, config: LoRAConfig) -> bool:
    """Whether a pair has fewer numbers than the matrix beside it."""
    weight: Any = _plain(place.module).weight
    inner = weight[0].numel()
    return _rank(config, place.path) * (len(weight) + inner) < weight.numel()


def _wholes(family: nn.Module, config: LoRAConfig) -> list[Place]:
    found = [place for place in places(family) if _ends(config.whole, place.path) is not None]
    for name in config.whole:
        if not any(_ends((name,), place.path) for place in found):
            raise UsageError(f"the model has no module '{name[:60]}'", remedy=suggest(name, {place.name for place in places(family)}))
    wrapped = next((p for p in found if any(isinstance(m, LowRank) for m in p.module.modules())), None)
    if wrapped is not None:
        raise UsageError(f"'{wrapped.path}' carries another adapter and cannot be trained as a whole", remedy="merge that one first")
    return found


# ---------------------------------------------------------------- putting in
def _enter(family: Any, name: str) -> tuple[Adapters, int]:
    """The family's switch with one more name in it."""
    if not isinstance(getattr(family, "adapters", None), Adapters):
        family.adapters = Adapters()
    adapters: Adapters = family.adapters
    adapters.numbers[name] = len(adapters.numbers) + 1
    return adapters, adapters.numbers[name]


def _wrap(place: Place, adapters: Adapters) -> LowRank:
    module = place.module
    if not isinstance(module, LowRank):
        module = LowRank(module, adapters)
        place.put(module)
    return module


def _stand(place: Place, adapters: Adapters) -> Whole:
    module = place.module
    if not isinstance(module, Whole):
        module = Whole(module, adapters)
        place.put(module)
    return module


def _fits(found: dict[str, Place], path: str, a: Tensor, b: Tensor) -> None:
    if path not in found or not adaptable(found[path].module):
        raise FormatError(f"the adapter changes '{path}', which the model does not have", remedy="it belongs to another base model")
    weight: Any = _plain(found[path].module).weight
    if tuple(a.shape[1:]) != tuple(weight.shape[1:]) or len(b) != len(weight):
        want, have = tuple(weight.shape), (len(b), *a.shape[1:])
        raise FormatError(f"the adapter's '{path}' is for {have}, the model's is {want}", remedy="it belongs to another base model")


def _fits_whole(found: dict[str, Place], path: str, parts: dict[str, Tensor]) -> None:
    if path not in found:
        raise FormatError(f"the adapter replaces '{path}', which the model does not have", remedy="it belongs to another base model")
    module = found[path].module
    own = (module.base if isinstance(module, Whole) else module).state_dict()
    for key in {*own, *parts}:
        have, want = parts.get(key), own.get(key)
        grown = have is not None and want is not None and have.shape[1:] == want.shape[1:] and len(have) >= len(want)
        if have is None or want is None or not (have.shape == want.shape or (have.ndim and grown)):
            raise FormatError(f"the adapter's '{path}.{key}' does not fit the model's", remedy="it belongs to another base model")


def _grow(module: nn.Module, key: str, value: Tensor) -> None:
    """Room for more rows in a copied module (new tokens)."""
    owner = module.get_submodule(key.rpartition(".")[0])
    last = key.rpartition(".")[2]
    old = getattr(owner, last)
    if old.shape != value.shape:
        new = torch.cat([old.detach(), old.detach().new_zeros(len(value) - len(old), *old.shape[1:])])
        setattr(owner, last, nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new)
