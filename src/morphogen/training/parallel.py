"""Training in more than one process, put around a family from outside: DDP and FSDP2 under torchrun.

Every process takes its share of the same global batch; losses are sums, so adding them up and dividing once by the weight
of all is exact for ragged windows and unequal shares too. Nothing but this file knows of `torch.distributed`.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from morphogen.contracts import Loss
from morphogen.errors import MorphogenError, UsageError, suggest
from morphogen.training import sharded
from morphogen.training.ema import EMA
from morphogen.training.held_out import compares

KINDS = ("ddp", "fsdp")
WAIT = datetime.timedelta(hours=2)  # the others wait while the first one draws previews; a process that dies ends all at once anyway
BLOCK = 1_000_000  # a layer of a list is gathered by itself from this many numbers on
_here: Crew | None = None


class Crew:
    """The processes that train together: which one this is, and how the first one speaks to all.

    `kind`: "ddp", or "fsdp" for shards of weights, gradients, moments and average. `device`: this process's own.
    """

    def __init__(self, store: Any, rank: int, world: int, kind: str = "ddp", device: str = "cpu") -> None:
        self.store, self.rank, self.world, self.kind, self.device = store, rank, world, kind, device
        self.first, self.asked_to_stop = rank == 0, False
        self._calls, self._before = 0, ""

    # ---------------------------------------------------------------- words: JSON by the store, so no pickle travels
    def collect(self, value: Any) -> list[Any]:
        """One JSON value of each process, in order, for all."""
        self._calls += 1
        key = f"{self._calls}.{self.rank}"
        self.store.set(key, json.dumps(value))
        out = [json.loads(self.store.get(f"{self._calls}.{rank}")) for rank in range(self.world)]
        if self._before:
            self.store.delete_key(self._before)  # everybody is here, so everybody has read the one before
        self._before = key
        return out

    def once(self, work: Callable[[], Any]) -> Any:
        """`work()` in the first process alone; its answer (JSON), or its error, in all of them. Everybody waits for it."""
        answer, error = None, None
        if self.first:
            try:
                answer = work()
            except MorphogenError as raised:
                error = raised
        said = self.collect([answer, None if error is None else [error.code, error.exit_code, error.line()]])[0]
        if error is not None:
            raise error
        if said[1] is not None:
            raise elsewhere(*said[1])
        return said[0]

    def same(self, what: str, value: Any) -> None:
        """Raises UsageError unless all processes hold the same `value`."""
        if len({json.dumps(v, sort_keys=True) for v in self.collect(value)}) > 1:
            raise UsageError(f"the processes do not see the same {what}", remedy="give every machine the same files and flags")

    def over(self, family: nn.Module, ema: EMA | None = None) -> Ranks:
        """Put `family` (and its average) into these processes; the trainer trains `modules[0]` of what comes back."""
        return Ranks(self, family, ema)

    # ---------------------------------------------------------------- numbers: one small message a call
    def tell(self, number: float) -> float:
        """The first process's number, for all: what a clock decides is decided once."""
        box = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.broadcast(box, 0)
        return float(box)

    def stopping(self) -> bool:
        """Whether somebody was asked to stop: all leave at the same step."""
        box = torch.tensor([float(self.asked_to_stop)], device=self.device)
        dist.all_reduce(box)
        return float(box) > 0

    def level(self, tensors: Iterable[Tensor]) -> None:
        """The first process's values for all."""
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def elsewhere(code: str, exit_code: int, line: str) -> MorphogenError:
    """Another process's error, to be raised here too."""
    error = MorphogenError(line)
    error.code, error.exit_code = code, exit_code  # type: ignore[misc]
    return error


def world() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_to_fail() -> bool:
    """Whether this process is to say what went wrong: of several that fail, the first; the others fall because it fell."""
    if _here is None:
        return int(os.environ.get("RANK", "0")) == 0
    with contextlib.suppress(Exception):  # the store may be gone with its owner, who has spoken then
        return _here.store.add("failed", 1) == 1
    return _here.first


@contextlib.contextmanager
def joined(kind: str | None = None, device: str = "cpu") -> Iterator[Crew]:
    """This process's place among those that torchrun started. Raises UsageError.

    `device` "cuda" becomes this process's own; where processes outnumber devices they share them, over gloo.
    """
    global _here
    kind = kind or "ddp"
    if kind not in KINDS:
        raise UsageError(f"unknown --parallel {kind}", remedy=suggest(kind, KINDS))
    if "RANK" not in os.environ:
        raise UsageError("--parallel is for more than one process", remedy="torchrun --nproc_per_node 2 -m morphogen train ...")
    device, backend = _own_device(device)
    store, rank, size = next(iter(rendezvous("env://", timeout=WAIT)))
    store.set_timeout(WAIT)
    dist.init_process_group(backend, store=PrefixStore("torch", store), rank=rank, world_size=size, timeout=WAIT)
    _here = crew = Crew(PrefixStore("morphogen", store), rank, size, kind, device)
    with _stop_together(crew):
        yield crew
    dist.destroy_process_group()  # not after an error: the others may hang in a call that we would wait for
    _here = None


def _own_device(device: str) -> tuple[str, str]:
    if not device.startswith("cuda"):
        return device, "gloo"
    local, here = (int(os.environ.get(k, "0")) for k in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    count = torch.cuda.device_count()
    torch.cuda.set_device(local % count)
    return f"cuda:{local % count}", "nccl" if here <= count else "gloo"


@contextlib.contextmanager
def _stop_together(crew: Crew) -> Iterator[None]:
    """Ctrl-C reaches each process at another instant; here it is a wish that all hear after the step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def wish(*_: Any) -> None:
        crew.asked_to_stop = True

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Ranks:
    """One process's part in training a family together with others: to the trainer what `Lanes` is with threads.

    ddp: a replica of everything in every process. fsdp: `modules[0]` is a sharded copy; the family itself waits on the
    host, and gets whole weights when something is drawn or saved from it.
    """

    together = True

    def __init__(self, crew: Crew, family: nn.Module, ema: EMA | None = None) -> None:
        self.crew, self.family, self.world, self.mine = crew, family, crew.world, (crew.rank,)
        crew.level([*family.parameters(), *family.buffers()])
        self.ddp: dict[str, nn.Module] = {}
        if crew.kind == "ddp":
            self.modules = [family]
            self.ddp = {phase.name: replica for phase in family.phases if (replica := _replica(family, phase.params))}  # type: ignore[union-attr]
            return
        whole = copy.deepcopy(family)
        if ema:
            shard(ema.module, crew)
        self.modules = [shard(whole, crew)]
        if ema:
            ema.follow(self.modules[0])
        family.to("cpu")

    def __len__(self) -> int:
        return 1

    # ---------------------------------------------------------------- what Lanes does
    def map(self, work: Callable[..., Any], *parts: Sequence[Any]) -> list[Any]:
        return [work(*part) for part in zip(*parts, strict=True)]

    def each(self, work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        return [work(thing) for thing in things]

    def require(self, name: str, wanted: bool) -> None:
        self.modules[0].get_parameter(name).requires_grad_(wanted)

    def train(self) -> None:
        self.modules[0].train()

    def gather(self) -> None:
        """Gradients are added up while they are computed."""

    # ---------------------------------------------------------------- what more than one process takes
    @contextlib.contextmanager
    def loss(self, module: nn.Module, phase: str, last: bool) -> Iterator[Callable[..., Loss]]:
        """The module to call and go back through: gradients of all processes are added at the last window of a step.

        Shards are added at every window: to wait would need room for whole gradients.
        """
        replica: Any = self.ddp.get(phase)
        waits: AbstractContextManager[Any] = nullcontext() if last or replica is None else replica.no_sync()
        with waits, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*find_unused_parameters.*")
            yield replica or module

    def sum(self, total: Tensor, weight: Tensor, *others: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Add up loss, weight and what is in `others` (in place) over all processes, in one message of float64."""
        named = [(into, k) for into in others for k in sorted(into)]
        flat = torch.cat([t.detach().reshape(-1).double() for t in (total, weight, *(into[k] for into, k in named))])
        dist.all_reduce(flat)
        at = 2
        for into, k in named:
            value = into[k]
            into[k] = flat[at : at + value.numel()].view(value.shape).to(value.dtype)
            at += value.numel()
        return flat[0].to(total.dtype), flat[1].to(weight.dtype)

    def norm(self, grads: list[Tensor]) -> Tensor:
        """The norm of the whole gradient, alike in all processes."""
        return self.whole(torch.nn.utils.get_total_norm(grads))

    def tell(self, number: float) -> float:
        return self.crew.tell(number)

    def stopping(self) -> bool:
        return self.crew.stopping()

    def level(self) -> None:
        """After data-dependent buffers were set: the first process's, in case another machine rounds differently."""
        self.crew.level(self.modules[0].buffers())

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor, of which this process may hold a part. All processes must ask."""
        there: Any = tensor.to(self.crew.device) if isinstance(tensor, DTensor) else tensor
        return there.full_tensor() if isinstance(tensor, DTensor) else tensor

    def like(self, tensor: Tensor, target: Tensor) -> Tensor:
        """This process's part of a whole tensor, laid out as `target` is."""
        if isinstance(tensor, DTensor) or not isinstance(target, DTensor):
            return tensor
        return part_of(tensor.to(self.crew.device), target)

    @contextlib.contextmanager
    def drawn(self, module: nn.Module) -> Iterator[nn.Module]:
        """A module that this process can draw from alone. All processes must ask."""
        if self.ddp:
            yield module
            return
        self.family.load_state_dict({k: self.whole(v) for k, v in module.state_dict().items()})
        self.family.to(self.crew.device)
        try:
            yield self.family
        finally:
            self.family.to("cpu")

    def write(self, folder: Path, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """A checkpoint of which every process writes a part. Raises ResourceError, in all of them."""
        sharded.write(self.crew, folder, step, tensors, facts)


def _add_up(state: Any, bucket):  # type: ignore[no-untyped-def]  # torch reads the annotations of a hook, and takes no strings
    """Sums instead of DDP's means: the trainer divides by the weight of all."""
    sent: Any = dist.all_reduce(bucket.buffer(), async_op=True)
    return sent.get_future().then(lambda done: done.value()[0])


def _replica(family: nn.Module, prefixes: tuple[str, ...]) -> nn.Module | None:
    """The family in DDP for the parameters of one phase; None when none of them is trained.

    What a batch does not reach in one process may be reached in another (a condition, an expert), hence unused ones are found.
    """
    others = [p for k, p in family.named_parameters() if p.requires_grad and not k.startswith(prefixes)]
    try:
        for p in others:
            p.requires_grad_(False)
        if not any(p.requires_grad for p in family.parameters()):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name in newer versions of torch
            replica = nn.parallel.DistributedDataParallel(
                family, broadcast_buffers=False, init_sync=False, find_unused_parameters=True, gradient_as_bucket_view=True
            )
        replica.register_comm_hook(None, _add_up)
        return replica
    finally:
        for p in others:
            p.requires_grad_(True)


def shard(family: nn.Module, crew: Crew) -> nn.Module:
    """Cut a family's parameters into one part a process (FSDP2), in place; gradients are added, not averaged.

    Long lists of layers are gathered layer by layer. A family with a critic is gathered whole: the critic's gradient is
    gone through twice, and a layer that is let go in between would be missing.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    _flattened()
    mesh = init_device_mesh(crew.device.split(":")[0], (crew.world,))
    if compares(family):
        for layer in reversed(_layers(family)):
            fully_shard(layer, mesh=mesh)
    fully_shard(family, mesh=mesh, reshard_after_forward=True)  # else a check would leave it gathered, and old after the next update
    for module in family.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            module.set_reduce_scatter_unused_params(True, recurse=False)
    return family


def _layers(family: nn.Module) -> list[nn.Module]:
    """Members of lists of layers, from the outside in, that are large enough to be gathered by themselves."""
    containers = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
    members = [m for part in family.modules() if isinstance(part, nn.ModuleList) for m in part if not isinstance(m, containers)]
    return [m for m in members if sum(p.numel() for p in m.parameters()) >= BLOCK]


def _flattened() -> None:
    """Let FSDP find the loss in what a family returns: it hangs its hooks on the tensors of the output."""
    from torch.utils import _pytree

    if Loss not in _pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(Loss)


def part_of(tensor: Tensor, target: DTensor) -> DTensor:
    """This process's part of a whole tensor that all hold."""
    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)

