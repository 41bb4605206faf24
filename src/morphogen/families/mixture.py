"""Gaussian mixture by EM; in many dimensions a mixture of Gaussians in a principal subspace plus isotropic noise outside."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.contracts import Batch, LogProb, Loss, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families import gaussian
from morphogen.families.buffers import adopt
from morphogen.families.common import paste, stepwise
from morphogen.families.labels import ignored_names, label_names, matching, said
from morphogen.families.rows import collect
from morphogen.sampling import draws
from morphogen.spaces import Array, Space

COUNTS = (1, 2, 4, 8, 16, 32)
LARGEST = 256  # numbers a sample may have before it is projected
SELECTION_ROWS = 4000
MOST_ROWS = 10_000  # rows a label EM looks at: more would only cost time


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How many Gaussians, and of what kind."""

    components: int = 0
    "Gaussians a label (or in all without labels); 0: the best of 1 to 32 on a held-out tenth."
    covariance: str = "full"
    "full or diagonal."
    rank: int = 0
    "Principal directions kept; 0: all up to 256 numbers a sample, else enough for 95 % of the variance, at most 96."


@dataclass(frozen=True, kw_only=True)
class MixtureSampling:
    """How samples are drawn."""

    temperature: float = 1.0
    "Multiplies the standard deviation inside each Gaussian."


class Mixture(nn.Module):
    """p(x) = sum_j w_j N(x; m_j, variance I + U_j U_j^T) (Tipping and Bishop 1999), known values conditioned on exactly.

    Labels own components of their own: p(x | label) uses those, nothing said uses all. Numbers are measured in standard
    deviations of the data (common to all in a principal subspace); computed in float64.
    """

    accepts = (Array,)
    Config, Sampling = MixtureConfig, MixtureSampling
    phases: tuple[Phase, ...] = ()
    keeps_rows = False

    offset: Tensor
    scale: Tensor
    basis: Tensor
    variance: Tensor
    log_weight: Tensor
    means: Tensor
    factors: Tensor
    owners: Tensor

    def __init__(self, space: Space, conditions: dict[str, Space], config: MixtureConfig) -> None:
        super().__init__()
        if not isinstance(space, Array) or None in space.shape:
            raise UsageError("a mixture models arrays of one fixed shape", remedy="choose another family")
        if config.covariance not in ("full", "diagonal"):
            raise UsageError(f"unknown covariance '{config.covariance}'", remedy="choose full or diagonal")
        if config.components < 0 or config.rank < 0:
            raise UsageError("components and rank are not negative", remedy="0 means: chosen")
        self.space, self.config, self.infill = space, config, "any"
        self.shape = tuple(int(n or 1) for n in space.shape)
        self.labels, self.ignored = label_names(conditions), ignored_names(conditions)
        for name in ("offset", "scale", "basis", "variance", "log_weight", "means", "factors"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("owners", torch.zeros(0, len(self.labels), dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # ------------------------------------------------------------------ fit
    def fit(self, batches: Iterable[Batch]) -> None:
        """Standardise, project, run EM a label; the number of components is chosen first. Raises DataError without rows."""
        data = collect(batches, self.labels)
        x = data.x.flatten(1).double()
        offset, basis, variance, scale = self._subspace(x)
        y = ((x - offset) / scale) @ basis
        prior = torch.ones_like(y[0]) if basis.shape[0] == basis.shape[1] else y.var(0, correction=0).clamp(min=float(variance))
        owners, groups = torch.unique(data.labels, dim=0, return_inverse=True) if self.labels else (data.labels[:1], None)
        rows = [torch.arange(len(y)) if groups is None else (groups == g).nonzero()[:, 0] for g in range(len(owners))]
        count = self.config.components or self._best_count(y, data.keys, rows, variance, prior)
        parts = [self._em(y[r], data.keys[r], count, variance, prior) for r in rows]
        priors = torch.tensor([math.log(len(r) / len(y)) for r in rows], dtype=torch.float64)
        self._store(
            offset=offset, scale=scale, basis=basis, variance=variance[None],
            log_weight=torch.cat([p.log_weight + prior for p, prior in zip(parts, priors, strict=True)]),
            means=torch.cat([p.means for p in parts]), factors=torch.cat([p.factors for p in parts]),
        )
        self.owners = owners.repeat_interleave(torch.tensor([len(p.means) for p in parts]), 0).to(self.owners.device)
        self.config = replace(self.config, components=count, rank=basis.shape[1])

    def _store(self, **values: Tensor) -> None:
        for name, value in values.items():
            setattr(self, name, value.to(self.offset.device).float())

    def _subspace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(offset (D,), basis (D, q), variance outside (), scale (D,))."""
        offset, size = x.mean(0), x.shape[1]
        if size <= LARGEST and (not self.config.rank or self.config.rank >= size):
            scale = x.std(0, correction=0)
            scale = scale.clamp(min=float(scale.max()) * 0.05 or 1.0)  # what hardly varies is not known to a hair
            return offset, torch.eye(size, dtype=x.dtype), torch.tensor(gaussian.FLOOR, dtype=x.dtype), scale
        scale = (x - offset).std(correction=0).clamp(min=1e-6).expand(size).clone()
        u = (x - offset) / scale
        most = min(self.config.rank or 96, size - 1, len(x))
        values, vectors = _principal(u, most)
        total = u.square().sum() / len(u)
        enough = int((values.cumsum(0) < 0.95 * total).sum()) + 1
        q = min(most, enough) if not self.config.rank else most
        left = ((total - values[:q].sum()) / (size - q)).clamp(min=gaussian.FLOOR)
        return offset, vectors[:, :q], left, scale

    def _em(self, y: Tensor, keys: Tensor, count: int, variance: Tensor, prior: Tensor) -> gaussian.Components:
        if len(y) > MOST_ROWS:
            some = draws.uniform(keys, "subset").argsort()[:MOST_ROWS]
            y, keys = y[some], keys[some]
        return gaussian.em(y, keys, max(1, min(count, len(y) // 5)), variance, prior, kind=self.config.covariance)

    def _best_count(self, y: Tensor, keys: Tensor, rows: list[Tensor], variance: Tensor, prior: Tensor) -> int:
        """The number of components a label under which a held-out tenth is likeliest; stops after two failures in a row."""
        order = draws.uniform(keys, "selection")
        limit = order.kthvalue(min(SELECTION_ROWS, len(order))).values
        held = draws.uniform(keys, "held out") < 0.1
        best, best_score, failures = 1, -math.inf, 0
        for count in COUNTS:
            found = []
            for r in rows:
                r = r[order[r] <= limit]
                train, test = r[~held[r]], r[held[r]]
                if len(train) and len(test):
                    found.append(self._em(y[train], keys[train], count, variance, prior).log_prob(y[test], variance))
            if not found or count * 5 > max(len(r) for r in rows):
                break
            score = float(torch.cat(found).mean())
            best, best_score, failures = (count, score, 0) if score > best_score else (best, best_score, failures + 1)
            if failures == 2:
                break
        return best

    # -------------------------------------------------------------- queries
    def _said(self, cond: dict[str, Tensor], keys: Tensor) -> Tensor:
        """(B, J) log prior of each component given the labels said."""
        match = matching(said(cond, self.labels, keys), self.owners)
        return self.log_weight.double().masked_fill(~match, -torch.inf).log_softmax(1)

    def _posterior(self, x: Tensor, known: Tensor) -> gaussian.Posterior:
        u = (x.flatten(1).double() - self.offset.double()) / self.scale.double()
        model = (self.basis.double(), self.means.double(), self.factors.double(), self.variance.double()[0])
        rows = max(1, 2**24 // self.factors.numel())  # a q x q matrix for each row and component
        parts = [gaussian.posterior(*p, *model) for p in zip(u.split(rows), known.expand_as(x).flatten(1).split(rows), strict=True)]
        mean, precision, log_prob = (torch.cat(v) for v in zip(*((p.mean, p.precision, p.log_prob) for p in parts), strict=True))
        return gaussian.Posterior(mean, precision, log_prob)

    def _whole(self, x: Tensor, prior: Tensor) -> Tensor:
        """(B,) log-density of whole samples: inside the subspace by component, outside it isotropic."""
        u = (x.flatten(1).double() - self.offset.double()) / self.scale.double()
        y, v = u @ self.basis.double(), self.variance.double()[0]
        inside = (gaussian.log_normal(y, self.means.double(), self.factors.double(), v) + prior).logsumexp(1)
        left = (u.square().sum(1) - y.square().sum(1)).clamp(min=0)
        outside = -0.5 * (left / v + (u.shape[1] - y.shape[1]) * (gaussian.LOG_2PI + v.log()))
        return inside + outside - self.scale.double().log().sum()

    def _part(self, x: Tensor, known: Tensor, prior: Tensor) -> Tensor:
        """(B,) log-density of the known numbers."""
        volume = (known.expand_as(x).flatten(1) * self.scale.double().log()).sum(1)
        return (self._posterior(x, known).log_prob + prior).logsumexp(1) - volume

    def log_prob(self, batch: Batch) -> LogProb:
        """Exact, of what is not known given what is."""
        prior = self._said(batch.cond, batch.key)
        total = self._whole(batch.x, prior)
        if batch.given is not None:
            total = total - self._part(batch.given.x, batch.given.known, prior)
        return LogProb(total.float(), "exact")

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Negative log-probability per number, so that held-out curves can be drawn; there is nothing to descend."""
        total = -(self.log_prob(batch).total * batch.weight).sum()
        return Loss(total, batch.weight.sum() * math.prod(self.shape))

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """A component, its z given what is known, noise: one step."""
        if not len(self.means):
            raise UsageError("this mixture has not been fitted", remedy="train it first")
        keys, given = request.key, request.given
        heat = (request.sampling or MixtureSampling()).temperature
        prior = self._said(request.cond, keys)
        q = self.means.shape[1]
        z = draws.normal(keys, "latent", 0, (q,)).double() * heat
        if given is None:
            j = draws.choose(prior, keys, "component")
        else:
            post = self._posterior(given.x, given.known)
            j = draws.choose(prior + post.log_prob, keys, "component")
            row = torch.arange(len(keys), device=keys.device)
            spread = torch.linalg.solve_triangular(post.precision[row, j].mT, z[..., None], upper=True)[..., 0]
            z = post.mean[row, j] + spread
        y = self.means.double()[j] + torch.einsum("bqr,br->bq", self.factors.double()[j], z)
        noise = draws.normal(keys, "noise", 0, self.shape).flatten(1).double() * heat
        u = y @ self.basis.double().mT + noise * self.variance.double().sqrt()
        x = (self.offset.double() + self.scale.double() * u).float().view(-1, *self.shape)
        yield Partial(paste(x, given), 0, 1.0, True)


def _principal(u: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues (q,) and eigenvectors (D, q) of the covariance of centred rows, by the smaller Gram matrix."""
    n, size = u.shape
    if size <= n or size <= 1024:
        values, vectors = torch.linalg.eigh(u.mT @ u / n)
        return values.flip(0)[:most].clamp(min=0), vectors.flip(1)[:, :most]
    if n > 2048:  # a few thousand rows know the leading directions
        u = u[torch.linspace(0, n - 1, 2048).long()]
    values, left = torch.linalg.eigh(u @ u.mT / len(u))
    values, left = values.flip(0)[:most].clamp(min=0), left.flip(1)[:, :most]
    vectors = torch.linalg.qr(u.mT @ left).Q
    return (u @ vectors).square().mean(0), vectors
