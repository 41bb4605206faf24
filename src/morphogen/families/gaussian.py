"""Gaussians of the form N(mean, variance I + U U^T), exactly conditioned on any known coordinates; and EM for mixtures of them."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from morphogen.sampling import draws

LOG_2PI = math.log(2 * math.pi)
FLOOR = 1e-4  # smallest variance in units of the data's own
PSEUDO = 0.1  # rows' worth of the whole data's variance in each component


@dataclass
class Posterior:
    """z | known coordinates of each row under each component: mean (B, J, q), Cholesky factor of its precision (B, J, q, q).

    `log_prob` (B, J) is that of the known coordinates.
    """

    mean: Tensor
    precision: Tensor
    log_prob: Tensor


def posterior(u: Tensor, known: Tensor, basis: Tensor, means: Tensor, factors: Tensor, variance: Tensor) -> Posterior:
    """x = basis (mean_j + factor_j z) + sqrt(variance) noise, z ~ N(0, I): what known coordinates say about z and j.

    u, known (B, D); basis (D, q) with orthonormal columns; means (J, q); factors (J, q, q); variance (). With O the known
    rows: precision M = I + F^T (W_O^T W_O) F / v, mean = M^-1 F^T W_O^T (u_O - W_O m) / v, and by the matrix inversion and
    determinant lemmas log N(u_O) = -(n_O log 2 pi v + log det M + |r_O|^2 / v - |M^-1/2 F^T W_O^T r_O / v|^2) / 2.
    """
    seen = known.to(u.dtype)
    gram = torch.einsum("bd,dq,dr->bqr", seen, basis, basis)
    inner = torch.einsum("bd,dq->bq", seen * u, basis)[:, None] - torch.einsum("bqr,jr->bjq", gram, means)  # W_O^T r_O
    right = torch.einsum("jqr,bjq->bjr", factors, inner) / variance
    eye = torch.eye(factors.shape[-1], dtype=u.dtype, device=u.device)
    precision = eye + torch.einsum("jqr,bqs,jst->bjrt", factors, gram, factors) / variance
    chol = torch.linalg.cholesky((precision + precision.mT) / 2)
    mean = torch.cholesky_solve(right[..., None], chol)[..., 0]
    square = (seen * u.square()).sum(1)[:, None] - 2 * torch.einsum("bq,jq->bj", torch.einsum("bd,dq->bq", seen * u, basis), means)
    square = square + torch.einsum("jq,bqr,jr->bj", means, gram, means)
    log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    n = seen.sum(1)[:, None]
    log_prob = -0.5 * (n * (LOG_2PI + variance.log()) + log_det + square / variance - (right * mean).sum(-1))
    return Posterior(mean, chol, log_prob)


def log_normal(y: Tensor, means: Tensor, factors: Tensor, variance: Tensor) -> Tensor:
    """(N, J) log N(y; mean_j, variance I + F_j F_j^T) for y (N, q), all coordinates known."""
    eye = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    out = []
    for mean, factor in zip(means, factors, strict=True):
        chol = torch.linalg.cholesky(factor @ factor.mT + variance * eye)
        z = torch.linalg.solve_triangular(chol, (y - mean).mT, upper=False)
        out.append(-0.5 * (z.square().sum(0) + y.shape[1] * LOG_2PI) - chol.diagonal().log().sum())
    return torch.stack(out, 1)


@dataclass
class Components:
    """A mixture in q dimensions: log weights (J,), means (J, q), factors (J, q, q) with covariance F F^T + variance I."""

    log_weight: Tensor
    means: Tensor
    factors: Tensor

    def log_prob(self, y: Tensor, variance: Tensor) -> Tensor:
        """(N,) log-density."""
        return (log_normal(y, self.means, self.factors, variance) + self.log_weight).logsumexp(1)


def shrunk(cov: Tensor, n: Tensor, target: Tensor) -> Tensor:
    """The covariance pulled towards `target` by oracle-approximating shrinkage (Chen et al. 2010): more, the fewer rows.

    The formula is for a multiple of the identity, so it is applied in units in which `target` (a diagonal, (q,)) is one.
    """
    q = len(target)
    scale = target.sqrt()
    s = cov / (scale[:, None] * scale)
    trace, square = s.trace(), s.square().sum()
    top = (1 - 2 / q) * square + trace.square()
    bottom = (n + 1 - 2 / q) * (square - trace.square() / q)
    rho = (top / bottom.clamp(min=1e-12)).clamp(0.0, 1.0)
    s = (1 - rho) * s + rho * trace / q * torch.eye(q, dtype=s.dtype, device=s.device)
    return s * (scale[:, None] * scale)


def factor_of(cov: Tensor, variance: Tensor) -> Tensor:
    """F with F F^T + variance I = cov, eigenvalues below `variance` raised to it."""
    values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
    return vectors * (values - variance).clamp(min=0.0).sqrt()


def centres(y: Tensor, keys: Tensor, k: int) -> Tensor:
    """(k, q) starting means: k-means++ (Arthur and Vassilvitskii 2007) and ten rounds of Lloyd; rows are picked by their keys."""
    picked = [int(draws.uniform(keys, "first centre").argmax())]
    near = (y - y[picked[0]]).square().sum(1)
    for i in range(1, k):
        # the smallest of exponential races with rates `near` is a draw proportional to them
        race = -draws.uniform(keys, "centre", i).to(y.dtype).log() / near.clamp(min=1e-30)
        picked.append(int(race.argmin()))
        near = torch.minimum(near, (y - y[picked[-1]]).square().sum(1))
    means = y[picked]
    for _ in range(10):
        own = torch.cdist(y, means).argmin(1)
        count = torch.bincount(own, minlength=k)
        total = torch.zeros_like(means).index_add_(0, own, y)
        means = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], means)
    return means


def em(y: Tensor, keys: Tensor, k: int, variance: Tensor, prior: Tensor, *, kind: str = "full", rounds: int = 40) -> Components:
    """Fit k components to y (N, q) by expectation and maximisation; stops when the likelihood a row grows less than 1e-4 a number.

    `prior` (q,): variances over all data, of which every component is given PSEUDO rows: what never varied among a few rows
    is not known to be constant. `kind` "diagonal" keeps variances only.
    """
    spread = (y.var(0, correction=0) * len(y) + prior) / (len(y) + 1)
    share = torch.nn.functional.one_hot(torch.cdist(y, centres(y, keys, k)).argmin(1), k).to(y.dtype)
    best = -math.inf
    parts = _maximise(y, share, variance, (spread, prior), kind)
    for _ in range(rounds if k > 1 else 0):
        joint = log_normal(y, parts.means, parts.factors, variance) + parts.log_weight
        total = joint.logsumexp(1, keepdim=True)
        score = float(total.mean())
        if score < best + 1e-4 * y.shape[1]:
            break
        best = score
        parts = _maximise(y, (joint - total).exp(), variance, (spread, prior), kind)
    return parts


def _maximise(y: Tensor, share: Tensor, variance: Tensor, spreads: tuple[Tensor, Tensor], kind: str) -> Components:
    spread, prior = spreads
    n = share.sum(0)
    means = share.mT @ y / n.clamp(min=1e-9)[:, None]
    factors = []
    for j in range(share.shape[1]):
        own = share[:, j] > 1e-5  # in many dimensions a row belongs to one component: leave the rest out of the sum
        centred = y[own] - means[j]
        cov = (share[own, j, None] * centred).mT @ centred / n[j].clamp(min=1e-9)
        if n[j] < 1.5:  # one row has no spread of its own
            cov = torch.diag(spread / share.shape[1])
        elif kind == "diagonal":
            cov = torch.diag((cov.diagonal() * n[j] + spread) / (n[j] + 1))
        else:
            cov = shrunk(cov, n[j], spread)
        factors.append(factor_of((n[j] * cov + PSEUDO * torch.diag(prior)) / (n[j] + PSEUDO), variance))
    return Components((n.clamp(min=1e-9) / n.sum()).log(), means, torch.stack(factors))
