"""The convolutional encoder and decoder: any rank, any size, vectors and grids, no row looks at another."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.config import NetConfig
from morphogen.contracts import Cond
from morphogen.errors import UsageError
from morphogen.nets.build import build_net
from morphogen.nets.conv import ConvDecoder, ConvEncoder, extents
from morphogen.spaces import Array

NET = NetConfig(width=8, depth=1, levels=2, patch=1)
SPACES = {"signal": Array((2, 50)), "picture": Array((3, 13, 9)), "solid": Array((1, 6, 7, 5)), "thin": Array((1, 1, 16))}


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    """Branches start at zero; a test of what reaches what has to wake them up."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_to_a_vector_and_back(space: Array, patch: int) -> None:
    net = NetConfig(width=8, depth=1, levels=2, patch=patch)
    x, cond = torch.randn(3, *space.shape), Cond(torch.randn(3, 5))
    encoder, decoder = shaken(ConvEncoder(net, space, Array((6,)), cond=5)), shaken(ConvDecoder(net, Array((6,)), space, cond=5))
    z = encoder(x, cond=cond)
    assert z.shape == (3, 6)
    assert decoder(z, cond=cond).shape == x.shape
    torch.testing.assert_close(encoder(x[1:2], cond=Cond(cond.vector[1:2])), z[1:2], rtol=1e-4, atol=1e-5)
    decoder(encoder(x, cond=cond), cond=cond).square().sum().backward()
    for net_ in (encoder, decoder):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net_.parameters())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.sampled_from([2, 4, 8]), st.sampled_from([0, 1, 2, 4]))
def test_to_a_grid_and_back(sides: list[int], factor: int, patch: int) -> None:
    fine, grid = Array((2, *sides)), Array((3, *[-(-n // factor) for n in sides]))
    if fine.shape[1:] == grid.shape[1:]:
        return
    net, x = NetConfig(width=4, depth=1, levels=1, patch=patch), torch.randn(1, *fine.shape)
    z = ConvEncoder(net, fine, grid)(x)
    assert z.shape[1:] == grid.shape
    assert ConvDecoder(net, grid, fine)(z).shape == x.shape


def test_build_net_leads_here() -> None:
    assert isinstance(build_net(NET, Array((1, 8, 8)), Array((4,))), ConvEncoder)
    assert isinstance(build_net(NET, Array((4, 2, 2)), Array((1, 8, 8))), ConvDecoder)


def test_the_way_from_fine_to_coarse() -> None:
    assert extents((28, 28), (7, 7)) == [(28, 28), (14, 14), (7, 7)]
    assert extents((30, 3)) == [(30, 3), (15, 3), (8, 3), (4, 3)]
    assert extents((64,), levels=3) == [(64,), (32,), (16,)]


def test_what_cannot_be_is_refused_in_plain_words() -> None:
    with pytest.raises(UsageError, match="power of two"):
        ConvEncoder(NET, Array((1, 9, 9)), Array((4, 4, 4)))
    with pytest.raises(UsageError, match="spatial axes"):
        ConvDecoder(NET, Array((4,)), Array((1, None, 8)))
