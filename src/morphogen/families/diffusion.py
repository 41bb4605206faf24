"""Diffusion: a net that removes noise of any strength, and the walk from noise to data it defines."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Cond, Given, Loss, Oddity, Partial, Phase, Request
from morphogen.families import noise
from morphogen.families.common import Standard, counted, drop_of, need_array, redundancy, rows_of, stepwise, walk
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner
from morphogen.sampling import draws, solvers
from morphogen.sampling.guidance import guided
from morphogen.spaces import Array, Space

INVERSION = 40  # steps of the walk back to noise


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of the network."
    p_mean: float | None = None
    "Mean of the log noise level in training, in units of the data's deviation; none: EDM's -0.5, more for grids finer than 8 a side."
    p_std: float = 1.25
    "Deviation of the log noise level in training."
    given: bool = False
    "Also show the network which values are known: sharper filling of gaps, if training hides some."


@dataclass(frozen=True, kw_only=True)
class DiffusionSampling:
    steps: int = 20
    "Steps from noise to data."
    guidance: float = 1.0
    "How strongly the condition is followed: 1 as learned, more is more typical and less varied."
    solver: str = "dpmpp"
    "dpmpp, heun (twice the work a step), euler or ddim."
    churn: float = 0.0
    "Fresh noise along the way, 0 for none; 10 to 40 mends small errors in many steps."
    guide_low: float = 0.2
    "Guidance acts at noise levels from here ..."
    guide_high: float = 5.0
    "... to here, in units of the data's deviation; above, it would cost variety."
    sigma_min: float = 0.005
    "The last noise level before none."
    sigma_max: float = 80.0
    "The first noise level."


class Diffusion(nn.Module):
    """A preconditioned denoiser (EDM, Karras et al. 2022): D(x; sigma) = c_skip x + c_out F(c_in x; ln(sigma) / 4, cond).

    Data are standardised per channel first, so sigma is in units of their deviation and EDM's sigma_data is 1. The loss
    weight lambda = 1 / c_out^2 makes every noise level's target have variance 1. Log sigma is drawn from N(p_mean, p_std^2),
    higher for finer grids: what a picture shows is decided at high noise, and short trainings have not learned that yet.
    """

    accepts: ClassVar[tuple[type, ...]] = (Array,)

    recipe: ClassVar[dict[str, Any]] = {"lr": 4e-3, "batch": 32, "optimiser": "muon"}  # measured on small pictures
    Config, Sampling = DiffusionConfig, DiffusionSampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: DiffusionConfig) -> None:
        super().__init__()
        self.space = need_array(space, "diffusion")
        net = resolve(config.net, space, space)
        self.p_mean = config.p_mean if config.p_mean is not None else redundancy(self.space) - 0.5
        self.config = dataclasses.replace(config, net=net, p_mean=self.p_mean)
        self.infill, self.phases = "any", (Phase(),)
        self.conditioner = Conditioner(conditions, net.width)
        self.standard = Standard(self.space)
        self.net = build_net(net, space, space, cond=self.conditioner.width, sequence=self.conditioner.has_sequence,
                             given=config.given, time=True)

    def calibrate(self, batch: Batch) -> None:
        """Take the data's mean and deviation from a large batch."""
        self.standard.calibrate(batch)

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Weighted squared error of the denoised sample, summed over counted numbers; `weight` is their count."""
        x, given = self.standard(batch.x), self.standard.given(batch.given)
        sigma = (self.p_mean + self.config.p_std * draws.normal(batch.key, "level")).exp()
        s = rows_of(sigma, x)
        noisy = x + s * draws.normal(batch.key, "noise", 0, tuple(x.shape[1:]))
        cond = self.conditioner(batch.cond, len(x), drop_of(batch))
        root = (s.square() + 1).sqrt()
        out = self.net(noisy / root, time=sigma.log() / 4, cond=cond, given=given, mask=batch.mask)
        # F's own target: (x - c_skip noisy) / c_out, whose squared error is lambda times that of D
        target = (x - noisy / root.square()) * root / s
        count = counted(batch) * rows_of(batch.weight, x)
        total = ((out - target).square() * count).sum()
        return Loss(total, count.sum(), {"loss": total.detach()})

    def denoise(self, net: nn.Module, x: Tensor, sigma: float, cond: Cond | None, given: Given | None) -> Tensor:
        """D(x; sigma) in standardised units; `net` is this family's own or a wrapped one."""
        level = torch.full((len(x),), sigma, device=x.device)
        root = (sigma**2 + 1) ** 0.5
        return x / root**2 + net(x / root, time=level.log() / 4, cond=cond, given=given) * (sigma / root)

    # ---------------------------------------------------------------- given samples
    def _guess(self, cond: dict[str, Tensor], n: int) -> noise.Guess:
        known = self.conditioner(cond, n)
        return lambda x, alpha, sigma: self.denoise(self.net, x / alpha, sigma / alpha, known, None)

    def oddity(self, batch: Batch) -> Oddity:
        """How far the learned data that a row resembles lie from it, at several noise levels."""
        return noise.oddity(self.standard, batch, self._guess(batch.cond, len(batch.x)))

    def invert(self, batch: Batch) -> Tensor:
        """The noise a row would be drawn from, deviation 1, by the deterministic walk backwards."""
        nodes = solvers.karras(INVERSION, 0.005, 80.0)
        return noise.climb(self.standard, batch.x, nodes, self._guess(batch.cond, len(batch.x)))

    def redraw(self, z: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The rows that noise z leads to."""
        return noise.descend(self.standard, z, solvers.karras(INVERSION, 0.005, 80.0), self._guess(cond, len(z)))

    def vary(self, batch: Batch, level: float) -> Tensor:
        """Noise of sigma = level / (1 - level) on each row, then the walk back."""
        s = DiffusionSampling()
        sigma = min(s.sigma_max, level / max(1e-9, 1 - level))
        nodes = solvers.karras(max(4, math.ceil(s.steps * level)), s.sigma_min, sigma) if sigma > 2 * s.sigma_min else []
        return noise.vary(self.standard, batch, nodes, self._guess(batch.cond, len(batch.x)), s.solver)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """Denoised previews, then the sample; known values stay at the current noise level on the way and are exact at the end."""
        s = request.sampling or DiffusionSampling()
        interval = tuple(float(torch.tensor(v).log() / 4) for v in (s.guide_low, s.guide_high))
        net, cond = guided(self.net, self.conditioner, request, (interval[0], interval[1]))
        nodes = solvers.karras(s.steps, s.sigma_min, s.sigma_max)
        yield from walk(self.standard, request, nodes, lambda x, alpha, sigma, given: self.denoise(
            net, x / alpha, sigma / alpha, cond, given))
