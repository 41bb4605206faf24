"""Sources whose law is known: a Markov chain, and training to it."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, Partial, Request
from morphogen.sampling import draws

MOVE = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.0, 0.1, 0.6, 0.3], [0.25, 0.0, 0.25, 0.5], [0.5, 0.5, 0.0, 0.0]])
FIRST = torch.tensor([0.4, 0.3, 0.2, 0.1])


def chain(n: int, length: int, seed: int = 0) -> Tensor:
    """(n, length) states of the chain."""
    keys = draws.seeded(seed, n)
    x = [draws.choose(FIRST.log().expand(n, -1), keys, "state", 0)]
    for i in range(1, length):
        x.append(draws.choose(MOVE[x[-1]].log(), keys, "state", i))
    return torch.stack(x, 1)


def truth(x: Tensor) -> Tensor:
    """(B,) the chain's own log-probability."""
    return FIRST[x[:, 0]].log() + MOVE[x[:, :-1], x[:, 1:]].log().sum(1)


def batch(x: Tensor, seed: int = 0, **fields: object) -> Batch:
    return Batch(x, draws.seeded(seed, len(x)), torch.ones(len(x)), **fields)  # type: ignore[arg-type]


def train(family: nn.Module, make: Callable[[int], Batch], steps: int, lr: float = 4e-3) -> None:
    optimiser = torch.optim.AdamW(family.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.0)
    family.train()
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (i + 1) / 20) * (1 - i / steps)
        loss = family(make(i))
        optimiser.zero_grad()
        (loss.total / loss.weight).backward()
        optimiser.step()
    family.eval()


def last(family: nn.Module, request: Request) -> Partial:
    *_, part = family.stream(request)  # type: ignore[operator]
    return part


def unreached(family: nn.Module, of: Batch) -> list[str]:
    """Parameters that one loss does not reach."""
    family(of).total.backward()
    return [name for name, p in family.named_parameters() if p.grad is None or not p.grad.any()]
