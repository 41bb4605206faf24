"""A trained run as a bridge: its family's latent stands for the data. Latent diffusion and VQ + GPT are recipes of this."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from morphogen.contracts import Given
from morphogen.errors import UsageError
from morphogen.spaces import Array, Space, describe


class Learned(nn.Module):
    """Source -> the run's own bridges -> the family's latent, and back. Frozen, always in evaluation mode.

    An Array latent is scaled by one number, 1 / deviation, so that what models it meets unit variance (Rombach et al. 2022,
    section 4.3.2). Known values do not pass: a latent cell mixes known and unknown. Densities do not either: it loses information.
    """

    def __init__(self, bridges: Sequence[nn.Module], family: nn.Module) -> None:
        """`bridges` and `family` are those of the trained run, in its order. Raises UsageError when the family has no latent."""
        super().__init__()
        for power in ("latent", "encode", "decode"):
            if not hasattr(family, power):
                raise UsageError(f"a {type(family).__name__.lower()} run has no latent, so it cannot be a bridge", where="bridge",
                                 remedy="train one with --family vae")
        self.bridges, self.family = nn.ModuleList(bridges), family
        module: Any = self.bridges[0] if len(self.bridges) else family
        self.source: Space = module.source if len(self.bridges) else module.space
        self.target: Space = family.latent  # type: ignore[assignment]
        if not isinstance(self.source, Space):
            raise UsageError(f"{self.source!r} is not a space", where="bridge")
        self.real = isinstance(self.target, Array)
        self.register_buffer("scale", torch.ones(1))
        self.scale: Tensor
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Learned:
        """Stays in evaluation mode whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def fit(self, x: Any, mask: Tensor | None = None) -> None:
        """Set the scale from a large batch of source samples; nothing for Tokens."""
        if self.real:
            z = self.encode(x, mask)[0] / self.scale
            deviation = z.double().std(correction=0)
            if not bool(torch.isfinite(deviation)) or float(deviation) < 1e-6:
                raise UsageError(f"the latent {describe(self.target)} of this run does not vary", where="bridge",
                                 remedy="it has collapsed: train it longer, or with a lower beta")
            self.scale.fill_(float(1 / deviation))

    @torch.no_grad()
    def encode(self, x: Any, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Source samples -> (latents, None): a latent has no padding."""
        for bridge in self.bridges:
            x, mask = bridge.encode(x, mask)  # type: ignore[operator]
        z = self.family.encode(x)  # type: ignore[operator]
        return (z * self.scale if self.real else z), None

    @torch.no_grad()
    def decode(self, x: Tensor, keys: Tensor) -> Any:
        """Latents -> source samples; `keys` name the draws of bridges that need any."""
        out: Any = self.family.decode(x / self.scale if self.real else x)  # type: ignore[operator]
        for bridge in reversed(self.bridges):
            out = bridge.decode(out, keys)  # type: ignore[operator]
        return out

    def given(self, given: Given) -> Given | None:
        """None: known values do not pass through."""
        return None

    def parts(self, each: Tensor) -> None:
        """None: a latent number belongs to no one place of the data."""
        return None

    def volume(self, x: Any) -> Tensor | None:
        """None: log-probabilities of latents are not comparable with those of data."""
        return None
