"""Rectified flow: straight paths from noise to data."""
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
from morphogen.errors import UsageError
from morphogen.families import noise
from morphogen.families.common import Standard, counted, drop_of, need_array, redundancy, rows_of, stepwise, walk
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner
from morphogen.sampling import draws, solvers
from morphogen.sampling.guidance import guided
from morphogen.spaces import Array, Space

TIMES = ("logit_normal", "uniform")
# the walk back to noise: its first step, next to the data, is short, as there is no noise yet to tell
INVERSION = [*solvers.straight(40)[:-1], (0.995, 0.005), (1.0, 0.0)]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of the network."
    time: str = "logit_normal"
    "How training picks points of the path: logit_normal (mostly its middle) or uniform."
    time_mean: float | None = None
    "logit_normal: above 0 looks more at noise, below 0 more at data; none: 0, more for grids finer than 8 a side."
    time_std: float = 1.0
    "logit_normal: how widely points are spread."
    given: bool = False
    "Also show the network which values are known: sharper filling of gaps, if training hides some."


@dataclass(frozen=True, kw_only=True)
class FlowSampling:
    steps: int = 20
    "Steps from noise to data."
    guidance: float = 1.0
    "How strongly the condition is followed: 1 as learned, more is more typical and less varied."
    solver: str = "heun"
    "heun (twice the work a step), dpmpp, euler or ddim."
    churn: float = 0.0
    "Fresh noise along the way, 0 for none; 10 to 40 mends small errors in many steps."
    guide_low: float = 0.15
    "Guidance acts at times from here ..."
    guide_high: float = 0.85
    "... to here (0 data, 1 noise); above, it would cost variety."
    shift: float = 1.0
    "Above 1 spends more of the steps on noise, for large pictures."


class Flow(nn.Module):
    """A velocity v(x_t, t) = E[eps - x_0 | x_t] on x_t = (1 - t) x_0 + t eps (Liu et al. 2022, Lipman et al. 2023).

    Data are standardised per channel first. With `time="logit_normal"` training looks most at the middle of the path,
    t = sigmoid(N(time_mean, time_std^2)), where the velocity is hardest (Esser et al. 2024).
    """

    accepts: ClassVar[tuple[type, ...]] = (Array,)

    recipe: ClassVar[dict[str, Any]] = {"lr": 4e-3, "batch": 32, "optimiser": "muon"}  # measured on small pictures
    Config, Sampling = FlowConfig, FlowSampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: FlowConfig) -> None:
        super().__init__()
        self.space = need_array(space, "flow")
        if config.time not in TIMES:
            raise UsageError(f"option 'time' = {config.time!r} is not valid", remedy="choose " + " or ".join(TIMES))
        net = resolve(config.net, space, space)
        self.time_mean = config.time_mean if config.time_mean is not None else redundancy(self.space) / 2
        self.config = dataclasses.replace(config, net=net, time_mean=self.time_mean)
        self.infill, self.phases = "any", (Phase(),)
        self.conditioner = Conditioner(conditions, net.width)
        self.standard = Standard(self.space)
        self.net = build_net(net, space, space, cond=self.conditioner.width, sequence=self.conditioner.has_sequence,
                             given=config.given, time=True)

    def calibrate(self, batch: Batch) -> None:
        """Take the data's mean and deviation from a large batch."""
        self.standard.calibrate(batch)

    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Squared error of the velocity, summed over counted numbers; `weight` is their count."""
        x, given = self.standard(batch.x), self.standard.given(batch.given)
        if self.config.time == "uniform":
            time = draws.uniform(batch.key, "time")
        else:
            time = torch.sigmoid(self.time_mean + self.config.time_std * draws.normal(batch.key, "time"))
        t, eps = rows_of(time, x), draws.normal(batch.key, "noise", 0, tuple(x.shape[1:]))
        cond = self.conditioner(batch.cond, len(x), drop_of(batch))
        v = self.net((1 - t) * x + t * eps, time=time, cond=cond, given=given, mask=batch.mask)
        count = counted(batch) * rows_of(batch.weight, x)
        total = ((v - (eps - x)).square() * count).sum()
        return Loss(total, count.sum(), {"loss": total.detach()})

    def denoise(self, net: nn.Module, x: Tensor, t: float, cond: Cond | None, given: Given | None) -> Tensor:
        """E[x_0 | x_t = x] = x - t v(x, t) in standardised units; `net` is this family's own or a wrapped one."""
        time = torch.full((len(x),), t, device=x.device)
        return x - t * net(x, time=time, cond=cond, given=given)

    # ---------------------------------------------------------------- given samples
    def _guess(self, cond: dict[str, Tensor], n: int) -> noise.Guess:
        known = self.conditioner(cond, n)
        return lambda x, alpha, sigma: self.denoise(self.net, x / (alpha + sigma), sigma / (alpha + sigma), known, None)

    def oddity(self, batch: Batch) -> Oddity:
        """How far the learned data that a row resembles lie from it, at several noise levels."""
        return noise.oddity(self.standard, batch, self._guess(batch.cond, len(batch.x)))

    def invert(self, batch: Batch) -> Tensor:
        """The noise a row would be drawn from, by the deterministic walk backwards."""
        return noise.climb(self.standard, batch.x, INVERSION, self._guess(batch.cond, len(batch.x)))

    def redraw(self, z: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The rows that noise z leads to."""
        return noise.descend(self.standard, z, INVERSION, self._guess(cond, len(z)))

    def vary(self, batch: Batch, level: float) -> Tensor:
        """Each row taken to t = level of its path to noise, then the walk back."""
        s = FlowSampling()
        nodes = [(1 - level * t, level * t) for _, t in solvers.straight(max(4, math.ceil(s.steps * level)))] if level > 0.005 else []
        return noise.vary(self.standard, batch, nodes, self._guess(batch.cond, len(batch.x)), s.solver)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """Denoised previews, then the sample; known values stay at the current noise level on the way and are exact at the end."""
        s = request.sampling or FlowSampling()
        net, cond = guided(self.net, self.conditioner, request, (s.guide_low, s.guide_high))
        nodes = solvers.straight(s.steps, s.shift)
        yield from walk(self.standard, request, nodes, lambda x, alpha, sigma, given: self.denoise(
            net, x / (alpha + sigma), sigma / (alpha + sigma), cond, given))
