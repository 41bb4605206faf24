"""Training rows gathered from batches: what families keep that learn by remembering."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from morphogen.contracts import Batch
from morphogen.errors import DataError
from morphogen.families.labels import said


@dataclass
class Rows:
    """x (N, ...) float32, their keys (N,), and labels (N, c) with -1 where nothing is said; on the CPU."""

    x: Tensor
    keys: Tensor
    labels: Tensor


def collect(batches: Iterable[Batch], names: tuple[str, ...]) -> Rows:
    """All rows of positive weight. Raises DataError when there are none or a number is not finite."""
    x, keys, labels = [], [], []
    for batch in batches:
        real = batch.weight > 0
        x.append(batch.x[real].detach().float().cpu())
        keys.append(batch.key[real].cpu())
        labels.append(said(batch.cond, names, batch.key)[real].cpu())
    if not sum(map(len, x)):
        raise DataError("no rows to learn from", remedy="the training set is empty")
    rows = Rows(torch.cat(x), torch.cat(keys), torch.cat(labels))
    if not bool(torch.isfinite(rows.x).all()):
        raise DataError("a number is NaN or infinite", remedy="clean the data")
    return rows


def square_distances(x: Tensor, rows: Tensor, known: Tensor | None = None) -> Tensor:
    """(B, N) squared distances in float64 over flattened numbers; `known` (B, D) restricts a row to some of them."""
    a, b = x.flatten(1).double(), rows.flatten(1).double()
    if known is None:
        return (a.square().sum(1)[:, None] - 2 * a @ b.mT + b.square().sum(1)).clamp(min=0)
    seen = known.double()
    return ((seen * a.square()).sum(1)[:, None] - 2 * (seen * a) @ b.mT + seen @ b.square().mT).clamp(min=0)
