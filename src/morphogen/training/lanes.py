"""Parts of a batch side by side, one thread each: on a processor far better than many threads on one small operation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.config import cores
from morphogen.contracts import Loss
from morphogen.training import checkpoint
from morphogen.training.ema import frozen


class Lanes:
    """Replicas of a module that share its parameters and buffers and own their gradients, each with a thread of its own.

    An operation split over OpenMP threads waits at a barrier for the slowest; a lane waits once a step. Results depend on
    the number of lanes (the order of sums) and on nothing else: neither cores nor load.
    """

    together = False  # whether a lane without items must take part all the same

    def __init__(self, module: nn.Module, n: int) -> None:
        self.modules = [module, *(shared(module) for _ in range(n - 1))]
        self.world, self.mine = n, range(n)
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.modules)

    def map(self, work: Callable[..., Any], *parts: Sequence[Any]) -> list[Any]:
        """work(part of each) for every lane at once; results in order. One lane works in the caller's thread as it is."""
        if len(self) == 1:
            return [work(*part) for part in zip(*parts, strict=True)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self), "lane", initializer=_one_thread)
        return list(self._pool.map(work, *parts))

    def each(self, work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        """work(thing) for any number of things, as many at once as there are lanes."""
        return self.map(work, things) if len(self) > 1 else [work(thing) for thing in things]

    def require(self, name: str, wanted: bool) -> None:
        """Switch the gradient of one parameter in all lanes."""
        for module in self.modules:
            module.get_parameter(name).requires_grad_(wanted)

    def train(self) -> None:
        for module in self.modules:
            module.train()

    def gather(self) -> None:
        """Add the other lanes' gradients to the module's own, in order of lanes."""
        first, *rest = (list(m.parameters()) for m in self.modules)
        for others in rest:
            for p, q in zip(first, others, strict=True):
                if q.grad is not None:
                    p.grad = q.grad if p.grad is None else p.grad.add_(q.grad)
                    q.grad = None

    # ---------------------------------------------------------------- what `parallel.Ranks` does across processes
    @contextlib.contextmanager
    def loss(self, module: nn.Module, phase: str, last: bool) -> Iterator[Callable[..., Loss]]:
        """What to call for a phase's loss, and to go back through, within the block; `last`: the last window of the step."""
        yield module

    def sum(self, total: Tensor, weight: Tensor, *others: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return total, weight

    def norm(self, grads: list[Tensor]) -> Tensor:
        return torch.nn.utils.get_total_norm(grads)

    def tell(self, number: float) -> float:
        return number

    def stopping(self) -> bool:
        return False

    def level(self) -> None:
        """Buffers are shared."""

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def like(self, tensor: Tensor, target: Tensor) -> Tensor:
        return tensor

    @contextlib.contextmanager
    def drawn(self, module: nn.Module) -> Iterator[nn.Module]:
        yield module

    write = staticmethod(checkpoint.write)


def shared(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are the same memory, with gradients of its own."""
    out = copy.deepcopy(module, frozen(module))
    for own, other in zip(module.parameters(), out.parameters(), strict=True):
        other.data = own.data
    theirs = dict(out.named_modules())
    for path, part in module.named_modules():
        for name, buffer in part._buffers.items():
            theirs[path]._buffers[name] = buffer
    return out


def lanes_for(device: str | torch.device) -> int:
    """One lane a core, at most 8; one on other devices."""
    return cores() if torch.device(device).type == "cpu" else 1


def _one_thread() -> None:
    torch.set_num_threads(1)
