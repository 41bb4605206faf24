"""A plain DCGAN loop (Radford et al. 2016) in its best form: channels_last, bfloat16 where that is the faster, fused Adam.

What anybody would write on a page; benchmarks.speed puts the GAN family's step beside it. Committed before it was measured.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def generator(latent: int, width: int, channels: int) -> nn.Module:
    def up(a: int, b: int, stride: int = 2, padding: int = 1) -> list[nn.Module]:
        return [nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]

    return nn.Sequential(
        *up(latent, 4 * width, 1, 0), *up(4 * width, 2 * width), *up(2 * width, width),
        nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def critic(width: int, channels: int) -> nn.Module:
    def down(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True)]

    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True), *down(width, 2 * width), *down(2 * width, 4 * width),
        nn.Conv2d(4 * width, 1, 4, 1, 0), nn.Flatten(),
    )  # fmt: skip


class Loop:
    """32x32 pictures in -1..1; `step` is one update of the critic and one of the generator."""

    def __init__(self, latent: int = 100, width: int = 128, channels: int = 3, dtype: torch.dtype = torch.float32) -> None:
        self.latent, self.dtype = latent, dtype
        self.g = generator(latent, width, channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.d = critic(width, channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.of_g = torch.optim.Adam(self.g.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
        self.of_d = torch.optim.Adam(self.d.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)

    def step(self, real: Tensor) -> tuple[float, float]:
        real = real.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            fake = self.g(torch.randn(len(real), self.latent, 1, 1))
            good, bad = self.d(real).float(), self.d(fake.detach()).float()
            of_d = F.softplus(-good).mean() + F.softplus(bad).mean()
        self.of_d.zero_grad(set_to_none=True)
        of_d.backward()
        self.of_d.step()
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            of_g = F.softplus(-self.d(fake).float()).mean()
        self.of_g.zero_grad(set_to_none=True)
        of_g.backward()
        self.of_g.step()
        return float(of_d), float(of_g)

    def parameters(self) -> int:
        return sum(p.numel() for m in (self.g, self.d) for p in m.parameters())
