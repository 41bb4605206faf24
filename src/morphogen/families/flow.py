"""Rectified flow: straight paths from noise to data."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Cond, Given, Loss, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.common import Standard, counted, drop_of, need_array, rows_of, stepwise, walk
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner
from morphogen.sampling import draws, solvers
from morphogen.sampling.guidance import guided
from morphogen.spaces import Array, Space

TIMES = ("logit_normal", "uniform")


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of the network."
    time: str = "logit_normal"
    "How training picks points of the path: logit_normal (mostly its middle) or uniform."
    time_mean: float = 0.0
    "logit_normal: above 0 looks more at noise, below 0 more at data."
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

    recipe: ClassVar[dict[str, float]] = {"lr": 4e-3, "batch": 32}  # measured on small pictures
    Config, Sampling = FlowConfig, FlowSampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: FlowConfig) -> None:
        super().__init__()
        self.space = need_array(space, "flow")
        if config.time not in TIMES:
            raise UsageError(f"option 'time' = {config.time!r} is not valid", remedy="choose " + " or ".join(TIMES))
        net = resolve(config.net, space, space)
        self.config, self.infill, self.phases = dataclasses.replace(config, net=net), "any", (Phase(),)
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
            time = torch.sigmoid(self.config.time_mean + self.config.time_std * draws.normal(batch.key, "time"))
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

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """Denoised previews, then the sample; known values stay at the current noise level on the way and are exact at the end."""
        s = request.sampling or FlowSampling()
        net, cond = guided(self.net, self.conditioner, request, (s.guide_low, s.guide_high))
        nodes = solvers.straight(s.steps, s.shift)
        yield from walk(self.standard, request, nodes, lambda x, alpha, sigma, given: self.denoise(
            net, x / (alpha + sigma), sigma / (alpha + sigma), cond, given))
