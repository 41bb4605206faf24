import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morphogen.nets.blocks import CrossAttention, Down, Embedding, ResBlock, SelfAttention, Up, patchify, unpatchify


@given(size=st.lists(st.integers(1, 9), min_size=1, max_size=3), patch=st.integers(1, 4))
def test_patches_come_back(size, patch):
    x = torch.randn(2, 3, *size)
    cells = patchify(x, patch)
    assert cells.shape == (2, 3 * patch ** len(size) if patch > 1 else 3, *[-(-n // patch) for n in size])
    assert torch.equal(unpatchify(cells, patch, tuple(size)), x)


def test_a_patch_holds_neighbours():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert patchify(x, 2)[0, :, 0, 0].tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_down_rounds_up_and_up_comes_back(rank):
    for n in (7, 8, 14, 28 if rank < 3 else 9):
        h = torch.randn(1, 8, *[n] * rank)
        low = Down(rank, 8, 16)(h)
        assert low.shape == (1, 16, *[-(-n // 2)] * rank)
        assert Up(rank, 16, 8)(low, h.shape[2:]).shape == h.shape


def test_blocks_start_near_the_identity():
    torch.manual_seed(0)
    h, e, context = torch.randn(8, 16, 5, 5), torch.randn(8, 8), torch.randn(8, 3, 8)
    for change in (ResBlock(2, 16, 16, emb=8)(h, e) - h, SelfAttention(16)(h) - h,
                   CrossAttention(16, 8)(h, context, torch.ones(8, 3, dtype=torch.bool)) - h):
        assert 0.005 < change.std() < 0.5


def test_a_row_with_nothing_to_attend_to_stays_finite_and_padding_is_not_seen():
    torch.manual_seed(0)
    layer, h, context = CrossAttention(16, 8), torch.randn(2, 16, 5), torch.randn(2, 3, 8)
    torch.nn.init.normal_(layer.out.weight)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = layer(h, context, mask)
    other = context.clone()
    other[0, 2] = 50
    other[1] = -50
    assert out.isfinite().all()
    assert torch.allclose(layer(h, other, mask), out)


def test_an_embedding_needs_the_time_it_was_built_for():
    with pytest.raises(ValueError, match="time"):
        Embedding(8, time=True)(2, None, None)
    assert Embedding(8, cond=4)(2, None, None) is None
