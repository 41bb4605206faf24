"""What a latent is drawn from: a standard normal, or a mixture fitted to the encoded data after training."""
from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from morphogen.sampling import draws
from morphogen.spaces import Space, Tokens

MOST = 4_000_000  # numbers that covariances may take
WIDEST = 256  # a covariance of more dimensions is not worth its rows
ROWS = 20_000  # more rows do not change a mixture
_LOG_2PI = math.log(2 * math.pi)


def _em(z: Tensor, components: int, rounds: int = 40) -> tuple[Tensor, Tensor, Tensor, float]:
    """(log weights (K,), means (K, d), Cholesky factors (K, d, d), log-likelihood) of a Gaussian mixture by EM (Dempster et al. 1977).

    Starts from points far apart, the first one nearest the mean: no chance in it. Covariances shrink to the pooled diagonal
    by as many rows as there are dimensions.
    """
    n, d = z.shape
    centre = z.mean(0)
    pooled = (z - centre).square().mean(0).clamp(min=1e-6)
    far = ((z - centre).square() / pooled).sum(1)
    picked = [int(far.argmin())]
    nearest = ((z - z[picked[0]]).square() / pooled).sum(1)
    for _ in range(components - 1):
        picked.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, ((z - z[picked[-1]]).square() / pooled).sum(1))
    distance = torch.stack([((z - z[i]).square() / pooled).sum(1) for i in picked], 1)
    share = torch.softmax(-0.5 * distance / max(1.0, d / 4), 1)
    likelihood = -math.inf
    for _ in range(rounds):
        mass = share.sum(0).clamp(min=1e-6)
        mean = share.T @ z / mass[:, None]
        gap = z[None] - mean[:, None]
        cov = torch.einsum("nk,knd,kne->kde", share, gap, gap) + d * torch.diag(pooled) * (0.5 if components > 1 else 0.05)
        cov = cov / (mass + d * (0.5 if components > 1 else 0.05))[:, None, None]
        chol = torch.linalg.cholesky(cov + 1e-6 * torch.eye(d, dtype=z.dtype, device=z.device))
        log_weight = (mass / mass.sum()).log()
        joint = _log_normal(z, mean, chol) + log_weight
        rows = joint.logsumexp(1)
        share = (joint - rows[:, None]).exp()
        before, likelihood = likelihood, float(rows.sum())
        if likelihood - before < 1e-4 * n:
            break
    return log_weight, mean, chol, likelihood


def _log_normal(z: Tensor, mean: Tensor, chol: Tensor) -> Tensor:
    """(N, d), (K, d), (K, d, d) -> (N, K) log densities; one solve a component, whatever the number of rows."""
    solved = torch.linalg.solve_triangular(chol, (z[None] - mean[:, None]).mT, upper=False)
    log_det = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (-0.5 * solved.square().sum(1) - log_det[:, None] - 0.5 * z.shape[1] * _LOG_2PI).mT


class LatentPrior(nn.Module):
    """p(z | label): N(0, 1) until `fit`, then a Gaussian mixture per label (ex-post density estimation, Ghosh et al. 2020, "RAE").

    The posteriors of the data, all taken together, are not quite the normal a VAE is trained towards; what is drawn from the gap
    between the two decodes badly. The first condition that is one label of few chooses the mixture; the last mixture is for
    "nothing said". The number of components follows the Bayesian information criterion (Schwarz 1978).
    """

    def __init__(self, size: int, conditions: dict[str, Space], components: int = 4) -> None:
        super().__init__()
        self.label, self.labels = "", 0
        for name, space in conditions.items():
            if isinstance(space, Tokens) and space.length == space.streams == 1 and (space.vocab + 1) * size * size <= MOST:
                self.label, self.labels = name, space.vocab
                break
        groups = self.labels + 1
        self.possible = size <= WIDEST and groups * size * size <= MOST
        self.components = max(1, min(components, MOST // (groups * size * size))) if self.possible else 1
        k, groups = (self.components, groups) if self.possible else (1, 1)
        small = size if self.possible else 1
        self.size = size
        self.register_buffer("fitted", torch.zeros(1))
        self.register_buffer("log_weight", torch.full((groups, k), -math.log(k)))
        self.register_buffer("mean", torch.zeros(groups, k, small))
        self.register_buffer("chol", torch.eye(small).expand(groups, k, small, small).clone())
        self.fitted: Tensor
        self.log_weight: Tensor
        self.mean: Tensor
        self.chol: Tensor

    def _group(self, cond: Mapping[str, Tensor], n: int, device: torch.device) -> Tensor:
        ids = cond.get(self.label) if self.label else None
        if ids is None:
            return torch.full((n,), self.labels, device=device)
        ids = ids.view(n).long()
        return torch.where((ids < 0) | (ids >= self.labels), self.labels, ids)

    @torch.no_grad()
    def fit(self, z: Tensor, cond: Mapping[str, Tensor]) -> None:
        """Fit each label's mixture to rows of z (N, d); a label with fewer than 2 d + 8 rows takes its mean and the pooled spread."""
        if not self.possible or len(z) < 2:
            return
        group = self._group(cond, len(z), z.device)
        if len(z) > ROWS:
            some = torch.arange(ROWS, device=z.device) * len(z) // ROWS
            z, group = z[some], group[some]
        # the double precision costs nothing here and keeps thin covariances positive
        z = z.double()
        for g in range(self.labels + 1):
            rows = z if g == self.labels else z[group == g]
            self._set(g, rows, z)
        self.fitted.fill_(1.0)

    def _set(self, g: int, rows: Tensor, every: Tensor) -> None:
        n, d = rows.shape
        if n < 2 * d + 8:
            # too few rows for a covariance of their own: the label's mean, everyone's covariance
            weight = n / (n + 4)
            log_weight, mean, chol, likelihood = _em(every, 1)
            own = rows.mean(0, keepdim=True) if n else mean
            best, k = (log_weight, weight * own + (1 - weight) * mean, chol, likelihood), 1
        else:
            best, k, score = None, 1, math.inf
            for trial in range(1, self.components + 1):
                if n < trial * (d + 8):
                    break
                fit = _em(rows, trial)
                bic = -2 * fit[3] + trial * (1 + d + d * (d + 1) / 2) * math.log(n)
                if best is None or bic < score:
                    best, k, score = fit, trial, bic
        assert best is not None
        self.log_weight[g] = -math.inf
        self.mean[g], self.chol[g] = 0.0, torch.eye(d, device=self.chol.device)
        log_weight, mean, chol, _ = best
        self.log_weight[g, :k], self.mean[g, :k], self.chol[g, :k] = log_weight.float(), mean.float(), chol.float()

    def draw(self, keys: Tensor, cond: Mapping[str, Tensor], shape: tuple[int, ...], temperature: float = 1.0) -> Tensor:
        """(B, *shape) latents by the rows' keys."""
        noise = temperature * draws.normal(keys, "latent", 0, shape)
        if not bool(self.fitted):
            return noise
        group = self._group(cond, len(keys), keys.device)
        pick = draws.choose(self.log_weight[group], keys, "component")
        out = self.mean[group, pick] + (self.chol[group, pick] @ noise.flatten(1).unsqueeze(-1)).squeeze(-1)
        return out.view(len(keys), *shape)

    def log_prob(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B,) log density of flat latents (B, d)."""
        if not bool(self.fitted):
            return -0.5 * (z.square() + _LOG_2PI).sum(1)
        group = self._group(cond, len(z), z.device)
        every = _log_normal(z, self.mean.flatten(0, 1), self.chol.flatten(0, 1)).view(len(z), *self.log_weight.shape)
        return (every[torch.arange(len(z), device=z.device), group] + self.log_weight[group]).logsumexp(1)
