"""Codes: gradients pass straight through, codebooks find their clusters, dead codes come back, FSQ is a bijection."""
from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.errors import UsageError
from morphogen.nets.quantise import FSQ, VQ, levels_for, perplexity, reached

CENTRES = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])


def clusters(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    rows = CENTRES[torch.randint(4, (n * 8,), generator=g)] + 0.1 * torch.randn(n * 8, 2, generator=g)
    return rows.view(n, 8, 2).transpose(1, 2).unflatten(2, (2, 4))


def test_vq_takes_the_nearest_code_and_lets_gradients_through() -> None:
    vq = VQ(16, 3)
    torch.nn.init.normal_(vq.codebook)
    h = torch.randn(2, 3, 4, 5, requires_grad=True)
    z, ids, commit = vq(h)
    rows = h.detach().flatten(2).transpose(1, 2)
    assert torch.equal(ids, torch.cdist(rows, vq.codebook[None].expand(2, -1, -1)).argmin(-1))
    torch.testing.assert_close(z, vq.vectors(ids, (4, 5)))
    weight = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((z * weight).sum(), h)
    torch.testing.assert_close(gradient, weight)
    (pull,) = torch.autograd.grad(vq(h)[2].sum(), h)
    torch.testing.assert_close(pull, 2 * (h - vq.vectors(ids, (4, 5))).detach())
    torch.testing.assert_close(commit, (h - vq.vectors(ids, (4, 5))).square().flatten(1).sum(1))


def test_codebook_finds_the_clusters_and_revives_the_dead() -> None:
    vq = VQ(12, 2)
    vq.codebook.add_(100.0)
    vq.codebook[0] = 0.0  # owns everything: the others are too far away ever to be chosen
    vq.hits.fill_(1.0)
    for i in range(400):
        h = clusters(16, i)
        vq.update(vq.count(h, vq.ids(h), torch.ones(16)))
    nearest = torch.cdist(CENTRES, vq.codebook).min(1).values
    assert float(nearest.max()) < 0.2, vq.codebook
    assert float(perplexity(vq.count(h, vq.ids(h), torch.ones(16))["codes.n"])) > 6


def test_counts_add_over_windows_and_ignore_weight_0() -> None:
    vq, h = VQ(8, 2), clusters(6, 0)
    ids, weight = vq.ids(h), torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    whole = vq.count(h, ids, weight)
    halves = [vq.count(h[s], ids[s], weight[s]) for s in (slice(0, 3), slice(3, 6))]
    kept = vq.count(h[weight > 0], ids[weight > 0], torch.ones(4))
    for k in ("codes.n", "codes.sum"):
        torch.testing.assert_close(halves[0][k] + halves[1][k], whole[k])
        torch.testing.assert_close(kept[k], whole[k])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 8), min_size=1, max_size=4))
def test_fsq_codes_and_vectors_are_one_to_one(levels: list[int]) -> None:
    fsq = FSQ(tuple(levels))
    every = torch.arange(prod(levels))[None]
    vectors = fsq.vectors(every, (prod(levels),))
    assert float(vectors.abs().max()) <= 1 and len(vectors[0].T.unique(dim=0)) == prod(levels)
    # h that the squashing sends onto the levels
    assert torch.equal(fsq.ids(torch.atanh((vectors / 1.001).clamp(-0.9999, 0.9999))), every)


def test_fsq_gradient_is_that_of_the_bounded_values() -> None:
    fsq, h = FSQ((8, 5)), torch.randn(2, 2, 3, requires_grad=True)
    z, ids, commit = fsq(h)
    torch.testing.assert_close(z, fsq.vectors(ids, (3,)))
    (gradient,) = torch.autograd.grad(z.sum(), h)
    torch.testing.assert_close(gradient, 1.001 * (1 - torch.tanh(h.detach()).square()))
    assert float(commit.sum()) == 0


def test_sizes() -> None:
    assert prod(levels_for(256)) == 240 and prod(levels_for(1024)) == 1000 and prod(levels_for(4)) == 4
    assert reached((28, 30), 4) == (7, 8)
    for bad in (lambda: VQ(1, 2), lambda: FSQ((1,)), lambda: reached((8,), 3)):
        with pytest.raises(UsageError):
            bad()
