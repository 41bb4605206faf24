"""How much memory a training run will take, found out on a few items before the first step, and what to change when it is too much."""
from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from morphogen.errors import ResourceError
from morphogen.training.data import Dataset
from morphogen.training.lanes import shared
from morphogen.training.optim import TrainConfig
from morphogen.training.precision import use
from morphogen.training.recompute import recompute

# Fitted to benchmarks/estimates.py: resident memory is more than the tensors that live.
BASE = 95 << 20  # what torch's kernels, threads and caches take at their first use
SLACK = 1.45  # what the allocator's arenas keep of a step (one a lane), and copies in other layouts that kernels make inside
TRIED = 256 << 20  # what is tried out holds about so much at most between forward and back
FEW = 4  # items a window below which kernels are slower than working blocks out twice
ARENA = 72 << 20  # addresses (not memory) that a thread's stack and heap reserve


class Living(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live; `peak` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        views = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in views and storage._cdata not in self.known:
                self._made(storage)
        return out

    def _made(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self.known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [t for v in value for t in _tensors(v)]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes beyond what the process holds before the first step.

    `kept`: average, best copy, optimisers. `window`: (items, bytes at the peak of a step, bytes between forward and back) of one
    lane's window, at two numbers of items or more, ascending. `weights`: those that are trained. `state`: what a checkpoint holds.
    """

    kept: int
    window: tuple[tuple[int, float, float], ...]
    weights: int
    state: int

    def step(self, config: TrainConfig) -> float:
        """The peak within a step: every lane's window at once, or all gradients and what the optimiser puts beside them."""
        return max(config.lanes * self.of_window(rows(config)), 2.0 * self.weights)

    def of_window(self, n: float) -> float:
        """The peak of a window of n items: on straight lines between what was measured, and on along the last one.

        For few items gradients are the peak, which are the same for any number; what waits for the way back grows from the first.
        """
        last = len(self.window) - 1
        at = next((i for i in range(1, last) if n <= self.window[i][0]), last)
        (few, *low), (many, *high) = self.window[at - 1], self.window[at]
        return max(0.0, *(a + (b - a) * (n - few) / (many - few) for a, b in zip(low, high, strict=True)))

    def peak(self, config: TrainConfig) -> int:
        """The most at any time. What a step leaves in the allocator's arenas is not given back while a checkpoint is written."""
        return int(BASE + self.kept + self.state + SLACK * self.step(config))


def rows(config: TrainConfig) -> int:
    """Items in one lane's window."""
    return -(-config.batch // (config.lanes * config.windows))


def measure(family: Any, data: Dataset, config: TrainConfig) -> Memory:
    """What a run of this family, data and config will hold. Small steps are tried on a replica; nothing of the run changes.

    Windows grow until one is as large as the run's, or what the next one holds would be more than `TRIED` or much of what is free.
    """
    trained = sum(p.numel() * p.element_size() for p in family.parameters() if p.requires_grad)
    buffers = sum(b.numel() * b.element_size() for b in family.buffers())
    copies = int(bool(config.ema)) + int(config.keep == "best")
    moments = 1 if config.optimiser == "muon" else 2
    kept = copies * (trained + buffers) + moments * trained
    whole, room = max(2, rows(config)), min(TRIED, available() // 8)
    window = [(1, *_step(family, data, 1, config))]
    while window[-1][0] < whole and (len(window) < 2 or 4 * window[-1][2] < room):
        (few, least, less) = window[-1]
        n = min(4 * few, whole)
        peak, between = _step(family, data, n, config)
        window.append((n, max(least, peak), max(less, between)))
    return Memory(kept, tuple(window), trained, kept + trained + buffers)


def _step(family: Any, data: Dataset, n: int, config: TrainConfig) -> tuple[float, float]:
    """The peak of bytes that a forward and a backward pass of n items make, and the bytes between the two; the largest phase's."""
    ids = torch.arange(data.n) if data.lengths is None else data.lengths.argsort(descending=True)
    # of ragged items those of usual length: a batch holds equally many tokens, whatever its items
    ids = ids[len(ids) // 2 :] if data.lengths is not None else ids
    ids = ids[torch.arange(n) % len(ids)]
    peak = between = 0
    for phase in family.phases:
        replica = shared(family).train()
        if config.activation_checkpointing:
            recompute(replica)
        use(replica, config.precision)
        for module in replica.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.clone()
        for name, p in replica.named_parameters():
            p.requires_grad_(p.requires_grad and name.startswith(phase.params))
        with Living() as living:
            loss = replica(data.batch(ids, ids), phase.name)
            between = max(between, living.now)
            loss.total.backward()
        peak = max(peak, living.peak)
        replica.zero_grad(set_to_none=True)  # a net with another forward is a ring, which waits for the collector
    return float(peak), float(between)


# ---------------------------------------------------------------- what there is
def available() -> int:
    """Bytes this process may still take: of the machine, of its control group, of its own limit on addresses."""
    found = [_machine(), *_group(Path("/sys/fs/cgroup")), _addresses()]
    return max(0, min(found))


def _machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62


def _group(root: Path, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each control group above this process (version 2, then 1) leaves; file caches count as free."""
    found = []
    try:
        names = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    for _, kinds, name in names:
        top = root if not kinds else root / "memory" if "memory" in kinds.split(",") else None
        if top is None:
            continue
        limit, used = ("memory.max", "memory.current") if not kinds else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        folder = top / name.lstrip("/")
        for place in (folder, *folder.parents):
            if place != top and top not in place.parents:
                break
            try:
                most, now = (place / limit).read_text().strip(), int((place / used).read_text())
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            if most != "max":
                found.append(int(most) - now + int(stat.get("inactive_file", stat.get("total_inactive_file", 0))))
    return found


def _addresses() -> int:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError, ValueError):
        return 1 << 62
    return 1 << 62 if limit == -1 else limit - pages * os.sysconf("SC_PAGE_SIZE") - ARENA


# ---------------------------------------------------------------- whether it fits
def fits(family: Any, data: Dataset, config: TrainConfig, say: Callable[[str], None], smaller: str = "") -> None:
    """Say how much memory training takes, on a processor. Raises ResourceError with the smallest change that fits when there is less.

    `smaller`: what to change when nothing in `config` helps.
    """
    if next(family.parameters()).device.type != "cpu":
        return
    lighter = lambda: measure(family, data, dataclasses.replace(config, activation_checkpointing=True))
    free, memory = available(), measure(family, data, config)
    need = check(memory, config, free, lighter, smaller or "use a machine with more memory")
    say(f"picked  about {size(need)} of memory beside the data, {size(free)} are free")


def check(memory: Memory, config: TrainConfig, free: int, lighter: Callable[[], Memory], smaller: str) -> int:
    """The peak in bytes. Raises ResourceError with the change that costs least of those that fit when `free` is less.

    `lighter`: what is measured with activation checkpointing; nobody asks while the batch's parts are enough. `smaller`: what to
    say when nothing helps.
    """
    need = memory.peak(config)
    if need <= free:
        return need
    remedy = next((f"{said} needs {size(peak)}" for said, peak in _changes(memory, config, lighter) if peak <= free), smaller)
    raise ResourceError(f"training needs about {size(need)} of memory, {size(free)} are free", remedy=remedy)


def _changes(memory: Memory, config: TrainConfig, lighter: Callable[[], Memory]) -> Iterator[tuple[str, int]]:
    """(change, peak) that cost ever more, all for the same gradient: windows of no few items, blocks worked out twice, one lane."""
    for windows in _windows(config):
        if config.batch >= FEW * config.lanes * windows:
            yield f"--set training.windows={windows}", memory.peak(dataclasses.replace(config, windows=windows))
    if not config.activation_checkpointing:
        memory, twice = lighter(), "--set training.activation_checkpointing=true"
        yield twice, memory.peak(config)
    else:
        twice = ""
    for windows in _windows(config):
        yield f"{twice} --set training.windows={windows}".strip(), memory.peak(dataclasses.replace(config, windows=windows))
    if config.lanes > 1:
        alone = dataclasses.replace(config, lanes=1, windows=config.batch)
        yield f"{twice} --set training.lanes=1 --set training.windows={config.batch}".strip(), memory.peak(alone)


def _windows(config: TrainConfig) -> Iterator[int]:
    """Twice as many windows, and twice as many again, until there is one item in each."""
    windows = config.windows
    while config.batch > config.lanes * windows:
        windows *= 2
        yield windows


def size(n: float) -> str:
    """Bytes as people say them."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
