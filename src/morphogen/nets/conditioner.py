"""What is said about a sample -> Cond; the only home of the drop-out that guidance needs (Ho and Salimans 2022, arXiv 2207.12598)."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Cond
from morphogen.errors import UsageError
from morphogen.nets.transformer import Transformer
from morphogen.spaces import Array, Space, Tokens


class Name(nn.Module):
    """One token -> vector; row `vocab` of the table, and any negative id, means "nothing said"."""

    def __init__(self, space: Tokens, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(space.vocab + 1, width)
        nn.init.normal_(self.table.weight, std=0.5)

    def forward(self, x: Tensor | None, silent: Tensor) -> Tensor:
        nothing = self.table.num_embeddings - 1
        ids = torch.full_like(silent, nothing, dtype=torch.int64) if x is None else x.view(len(silent))
        return self.table(torch.where(silent | (ids < 0), nothing, ids))


class Numbers(nn.Module):
    """Numbers -> vector through a small perceptron; a row with a NaN says nothing."""

    def __init__(self, space: Array, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(space.size, width), nn.SiLU(), nn.Linear(width, width))
        self.nothing = nn.Parameter(torch.randn(1, width) * 0.5)

    def forward(self, x: Tensor | None, silent: Tensor) -> Tensor:
        if x is None:
            return self.nothing.expand(len(silent), -1)
        x = x.flatten(1).float()
        silent = silent | x.isnan().any(1)
        return torch.where(silent[:, None], self.nothing, self.body(x.nan_to_num()))


class Text(nn.Module):
    """Tokens -> (vector, sequence, mask) through a small encoder.

    The sequence begins with one learned vector that is always visible, so attention has somewhere to look when nothing is said.
    """

    def __init__(self, space: Tokens, width: int, depth: int = 2) -> None:
        super().__init__()
        self.space = space
        self.encoder = Transformer(space.vocab, width, space.length, NetConfig(width=width, depth=depth), causal=False)
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.nothing = nn.Parameter(torch.randn(1, width) * 0.5)

    def forward(self, x: Tensor | None, silent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, shown = self.first.expand(len(silent), -1, -1), torch.ones_like(silent)[:, None]
        if x is None:
            return self.nothing.expand(len(silent), -1), first, shown
        real = torch.ones_like(x, dtype=torch.bool)
        if self.space.end is not None:  # up to and with the first end
            ended = (x == self.space.end).long()
            real = ended.cumsum(1) - ended == 0
        silent = silent | (x < 0).all(1)
        h = self.encoder(x.clamp(min=0), mask=real)
        mean = (h * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        vector = torch.where(silent[:, None], self.nothing, mean)
        return vector, torch.cat([first, h], 1), torch.cat([shown, real & ~silent[:, None]], 1)


class Conditioner(nn.Module):
    """Condition samples by name -> Cond of `width`; None when there are no conditions. `width` is 0 then.

    One token or numbers add to Cond.vector; a longer text gives Cond.sequence and Cond.mask too. A name that is missing
    means "nothing said", and so does every condition of a row whose `drop` falls below `rate`.
    """

    def __init__(self, conditions: dict[str, Space], width: int) -> None:
        super().__init__()
        self.width = width if conditions else 0
        self.has_sequence = any(isinstance(s, Tokens) and s.length > 1 for s in conditions.values())
        # names are the user's: a prefix and a table keep dots and module attributes out of parameter names
        self.names = {name: f"c{i}" for i, name in enumerate(conditions)}
        self.parts = nn.ModuleDict({self.names[name]: _part(name, space, width) for name, space in conditions.items()})

    def forward(self, cond: dict[str, Tensor], n: int, drop: Tensor | None = None, rate: float = 0.1) -> Cond | None:
        """`drop`: (B,) uniforms in (0, 1), one a row, drawn by the family from the batch's keys; None drops nothing."""
        if not self.names:
            return None
        device = next((c.device for c in cond.values()), next(self.parameters()).device)
        silent = torch.zeros(n, dtype=torch.bool, device=device) if drop is None else drop < rate
        vector: Tensor | None = None
        sequences: list[Tensor] = []
        masks: list[Tensor] = []
        for name, part in self.names.items():
            out = self.parts[part](cond.get(name), silent)
            if isinstance(out, tuple):
                out, sequence, mask = out
                sequences.append(sequence)
                masks.append(mask)
            vector = out if vector is None else vector + out
        if not sequences:
            return Cond(vector)
        return Cond(vector, torch.cat(sequences, 1), torch.cat(masks, 1))


def _part(name: str, space: Space, width: int) -> nn.Module:
    match space:
        case Tokens(streams=1, length=1):
            return Name(space, width)
        case Tokens(streams=1):
            return Text(space, width)
        case Array(shape=shape) if None not in shape:
            return Numbers(space, width)
    raise UsageError(f"condition '{name}' cannot be a {type(space).__name__.lower()} of this kind", where=f"condition {name}",
                     remedy="use a label, numbers of fixed shape or a text")
