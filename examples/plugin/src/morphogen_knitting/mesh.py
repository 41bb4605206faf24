"""Markov mesh (Abend, Harley and Kanal 1965): a token given its nearest earlier neighbours on the grid, by counting."""
from dataclasses import dataclass, make_dataclass

import torch
from morphogen.contracts import LogProb, Partial
from morphogen.errors import UsageError
from morphogen.families.common import stepwise
from morphogen.sampling import draws
from morphogen.spaces import Tokens
from torch import nn

NEAR = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 1), (0, 4), (4, 0))  # (up, left)
MeshSampling = make_dataclass("MeshSampling", [], frozen=True)  # nothing to choose


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How far a place sees."""

    reach: int = 9
    "Neighbours that are looked at, the nearest first."


class Mesh(nn.Module):
    """p(x) = prod p(x_i | neighbours), each order smoothed by the one below it (Witten and Bell 1991). Exact likelihood."""
    accepts, Config, Sampling, phases, infill = (Tokens,), MeshConfig, MeshSampling, (), "prefix"

    def __init__(self, space, conditions, config):
        super().__init__()
        if space.vocab > 64 or len(space.grid) != 2 or space.slots or space.end is not None or conditions:
            raise UsageError("a mesh takes grids of up to 64 kinds of tokens, without conditions", remedy="choose --family masked")
        self.space, self.config, (height, width) = space, config, space.grid
        inside = lambda y, x: y * width + x if y >= 0 and 0 <= x < width else space.length
        near = [[inside(y - up, x - left) for up, left in NEAR[: config.reach]] for y in range(height) for x in range(width)]
        self.register_buffer("near", torch.tensor(near), persistent=False)
        self.register_buffer("counts", torch.zeros(len(near[0]) + 1, 2**14, space.vocab))

    def _orders(self, x, at):
        """(counts, (B, n) bucket) of the context of each order at positions `at`; beyond the edge stands a token of its own."""
        around = nn.functional.pad(x, (0, 1), value=self.space.vocab)[:, self.near[at]]
        code = torch.zeros_like(around[..., 0])
        for order, counts in enumerate(self.counts):
            yield counts, code
            code = (code * 67 + around[..., min(order, around.shape[2] - 1)] + 1) % counts.shape[0]

    def _p(self, x, at):
        p = torch.full((len(x), len(at), self.space.vocab), 1 / self.space.vocab, dtype=torch.float64)
        for counts, code in self._orders(x, at):
            seen = counts[code].double()
            kinds, total = (seen > 0).sum(-1, keepdim=True), seen.sum(-1, keepdim=True)
            p = torch.where(total > 0, (seen + kinds * p) / (total + kinds).clamp(min=1), p)
        return p

    def fit(self, batches):
        for batch in batches:
            for counts, code in self._orders(batch.x, torch.arange(self.space.length)):
                counts.index_put_((code, batch.x), batch.weight[:, None].expand(batch.x.shape), accumulate=True)

    def log_prob(self, batch):
        p = self._p(batch.x, torch.arange(self.space.length)).gather(2, batch.x[..., None])[..., 0].log()
        return LogProb(p.sum(1), "exact", p)

    @stepwise
    def stream(self, request):
        x, n = torch.zeros(len(request.key), self.space.length, dtype=torch.int64), self.space.length
        for i in range(n):
            x[:, i] = draws.choose(self._p(x, torch.tensor([i]))[:, 0].log(), request.key, "mesh", i)
            if request.given is not None:
                x[:, i] = torch.where(request.given.known[:, i], request.given.x[:, i], x[:, i])
            yield Partial(x.clone(), i + 1, (i + 1) / n, i + 1 == n)
