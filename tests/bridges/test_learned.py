"""A trained family as a bridge: a round trip through its latent, unit variance, frozen, nothing promised about densities."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from morphogen.bridges.learned import Learned
from morphogen.config import NetConfig
from morphogen.contracts import Given
from morphogen.errors import UsageError
from morphogen.families.vae import VAE, VAEConfig
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens


class Rotation(nn.Module):
    """A family fake whose latent is an exact rotation, so every round trip is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.latent = Array((3,)), Array((3,))
        self.turn = nn.Linear(3, 3, bias=False)
        nn.init.orthogonal_(self.turn.weight)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return 5 * self.turn(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z / 5 @ self.turn.weight


class Double(nn.Module):
    """A bridge fake."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = Array((3,)), Array((3,))

    def encode(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        return 2 * x + 1, None

    def decode(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return (x - 1) / 2


@pytest.mark.parametrize("bridges", [[], [Double()]], ids=["alone", "with the run's own bridge"])
def test_round_trip_at_unit_variance(bridges: list[nn.Module]) -> None:
    keys = draws.seeded(0, 500)
    x = draws.normal(keys, "x", 0, (3,))
    learned = Learned(bridges, Rotation())
    learned.fit(x)
    z, mask = learned.encode(x)
    assert mask is None
    torch.testing.assert_close(z.std(correction=0), torch.tensor(1.0))
    torch.testing.assert_close(learned.decode(z, keys), x, rtol=1e-4, atol=1e-5)
    scale = learned.scale.clone()
    learned.fit(x)  # once more changes nothing
    torch.testing.assert_close(learned.scale, scale)
    again = Learned(bridges, Rotation())
    again.load_state_dict(learned.state_dict())
    torch.testing.assert_close(again.encode(x)[0], z)


def test_frozen_whatever_happens_around_it() -> None:
    around = nn.ModuleList([Learned([], Rotation())]).train()
    learned = around[0]
    assert not learned.training and not any(m.training for m in learned.modules())
    assert not any(p.requires_grad for p in learned.parameters())
    assert not learned.encode(torch.randn(2, 3, requires_grad=True))[0].requires_grad


def test_nothing_is_promised_about_known_values_and_densities() -> None:
    learned, x = Learned([], Rotation()), torch.randn(2, 3)
    assert learned.given(Given(x, x > 0)) is None
    assert learned.volume(x) is None


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_vae_of_each_kind(kind: str) -> None:
    torch.manual_seed(0)
    vae = VAE(Array((1, 8, 8)), {}, VAEConfig(kind=kind, grid=4, codes=16, net=NetConfig(width=8, depth=1)))
    learned, keys = Learned([], vae), draws.seeded(0, 6)
    x = draws.normal(keys, "x", 0, (1, 8, 8))
    learned.fit(x)
    z, _ = learned.encode(x)
    assert learned.source == Array((1, 8, 8))
    if kind == "vq":
        assert learned.target == Tokens(16, 4, grid=(2, 2)) and z.dtype == torch.int64 and float(learned.scale) == 1
    torch.testing.assert_close(learned.decode(z, keys), vae.decode(vae.encode(x)).detach(), rtol=1e-4, atol=1e-5)


def test_a_family_without_latent_or_with_a_collapsed_one_is_refused() -> None:
    with pytest.raises(UsageError, match="latent"):
        Learned([], nn.Linear(2, 2))
    dead = Rotation()
    nn.init.zeros_(dead.turn.weight)
    with pytest.raises(UsageError, match="vary"):
        Learned([], dead).fit(torch.randn(20, 3))
