"""Orthogonal updates, and which parameters get them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from morphogen.config import NetConfig
from morphogen.nets.build import build_net
from morphogen.spaces import Array, Tokens
from morphogen.training import muon
from morphogen.training.muon import Muon, is_hidden, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 90), (90, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    g = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    out = orthogonal(g)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.3 and values.max() < 1.3
    assert torch.nn.functional.cosine_similarity(out.flatten(), (u @ v).flatten(), 0) > 0.97  # the polar factor, nearly


@pytest.mark.parametrize("smallest", [-1, -3, -6])
def test_long_matrices_take_a_shorter_way_to_the_same(monkeypatch: pytest.MonkeyPatch, smallest: int) -> None:
    """Also where singular values span more than single precision holds of their squares; and several matrices at once are each alone."""
    generator = torch.Generator().manual_seed(2)
    left = torch.linalg.qr(torch.randn(3, 20, 20, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(3, 180, 20, generator=generator))[0]
    g = (left * torch.logspace(0, smallest, 20)) @ right.mT
    short = orthogonal(g)
    torch.testing.assert_close(orthogonal(g.mT), short.mT)
    torch.testing.assert_close(orthogonal(g[1]), short[1])
    monkeypatch.setattr(muon, "LONG", 1 << 30)
    torch.testing.assert_close(short, orthogonal(g), rtol=0, atol=1e-3)


def test_one_step_by_hand() -> None:
    p = nn.Parameter(torch.eye(20))
    p.grad = torch.eye(20)
    Muon([p], lr=0.1, weight_decay=0.5).step()
    o = orthogonal(torch.eye(20))
    torch.testing.assert_close(p.detach(), torch.eye(20) * 0.95 - 0.1 * 0.2 * 20**0.5 * o)


def test_all_directions_learn_at_one_speed() -> None:
    """Least squares with inputs of very different sizes: gradient steps crawl along the small ones, orthogonal ones do not."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(512, 24, generator=generator) * torch.logspace(0, -2, 24)
    truth = torch.randn(24, 24, generator=generator)

    def left(make: type[torch.optim.Optimizer], **options: float) -> float:
        w = nn.Parameter(torch.zeros(24, 24))
        optimiser = make([w], **options)  # type: ignore[call-arg]
        for _ in range(150):
            ((x @ (w - truth)).square().sum() / 512).backward()
            optimiser.step()
            optimiser.zero_grad()
        return float((w - truth).detach().norm() / truth.norm())

    assert left(Muon, lr=0.1) < 0.5 * left(torch.optim.SGD, lr=0.3)


def test_ends_embeddings_and_vectors_are_left_to_adamw() -> None:
    net = build_net(NetConfig(width=32), Array((1, 28, 28)), Array((1, 28, 28)), time=True, cond=32)
    hidden = {k for k, p in net.named_parameters() if is_hidden(net, k, p)}
    assert hidden and not any(k.startswith(("inp.", "out.")) for k in hidden)
    assert all(net.get_parameter(k).ndim > 1 for k in hidden)
    text = build_net(NetConfig(width=32, depth=1), Tokens(50, 16), Tokens(50, 16), causal=True)
    assert not any(50 in p.shape or 51 in p.shape for k, p in text.named_parameters() if is_hidden(text, k, p))
