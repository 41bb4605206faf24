"""Every arm of build_net: shapes, that the loss reaches every parameter, that every input matters."""
import pytest
import torch

from morphogen.config import SIZES, NetConfig
from morphogen.contracts import Cond, Given
from morphogen.errors import UsageError
from morphogen.nets.build import build_net, parameters, resolve
from morphogen.spaces import Array, Record, Tokens

TINY = NetConfig(size="tiny", width=16, depth=1)
TOKENS = NetConfig(size="tiny", width=32, depth=1, heads=2)
SPATIAL = {"wave": Array((2, 33)), "picture": Array((1, 28, 28)), "odd picture": Array((3, 9, 13)), "volume": Array((1, 6, 7, 5))}


def shake(net):
    """Zero-initialised outputs would hide everything behind them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return net


def reached(net, out):
    out.square().mean().backward()
    return [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("space", [*SPATIAL.values(), Array((7,))], ids=[*SPATIAL, "vector"])
@pytest.mark.parametrize("given", [False, True])
def test_denoisers_keep_the_shape_and_use_every_parameter(space, given):
    net = shake(build_net(TINY, space, space, cond=8, sequence=len(space.shape) > 1, given=given, time=True))
    x = torch.randn(3, *space.shape)
    known = Given(x, torch.rand(x.shape) < 0.3) if given else None
    cond = Cond(torch.randn(3, 8), torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool))
    out = net(x, time=torch.tensor([-1.0, 0.0, 1.0]), cond=cond, given=known)
    assert out.shape == x.shape
    assert reached(net, out) == []


@pytest.mark.parametrize("space", [Array((1, 8, 8)), Array((7,))], ids=["picture", "vector"])
def test_every_input_matters_and_only_where_it_was_asked_for(space):
    net = shake(build_net(TINY, space, space, cond=8, given=True, time=True)).eval()
    x, time, cond = torch.randn(2, *space.shape), torch.zeros(2), Cond(torch.randn(2, 8))
    known = Given(x, torch.ones_like(x, dtype=torch.bool))
    base = net(x, time=time, cond=cond, given=known)
    assert not torch.allclose(net(x, time=time + 1, cond=cond, given=known), base)
    assert not torch.allclose(net(x, time=time, cond=Cond(-cond.vector), given=known), base)
    assert not torch.allclose(net(x, time=time, cond=cond), base)
    hidden = Given(torch.where(known.known, known.x, 99.0), known.known)
    assert torch.allclose(net(x, time=time, cond=cond, given=hidden), base)
    plain = shake(build_net(TINY, space, space)).eval()
    assert torch.equal(plain(x, given=known), plain(x))


def test_what_is_not_known_does_not_leak():
    net = shake(build_net(TINY, Array((7,)), Array((7,)), given=True))
    x, known = torch.randn(2, 7), torch.rand(2, 7) < 0.5
    a, b = Given(x, known), Given(torch.where(known, x, 1e3), known)
    assert torch.equal(net(x, given=a), net(x, given=b))


@pytest.mark.parametrize(("source", "target"), [
    (Array((1, 28, 28)), Array((6,))), (Array((6,)), Array((1, 28, 28))), (Array((2, 32)), Array((6,))), (Array((6,)), Array((2, 32))),
    (Array((3, 32, 32)), Array((4, 8, 8))), (Array((4, 8, 8)), Array((3, 32, 32))), (Array((5,)), Array((9,)))])
def test_arrays_to_arrays(source, target):
    net = shake(build_net(TINY, source, target, cond=8))
    out = net(torch.randn(2, *source.shape), cond=Cond(torch.randn(2, 8)))
    assert out.shape == (2, *target.shape)
    assert reached(net, out) == []


def test_tokens_to_tokens_and_to_a_vector():
    source, x = Tokens(11, 6), torch.randint(11, (2, 6))
    net = build_net(TOKENS, source, Tokens(5, 6), causal=True)
    assert net(x).shape == (2, 6, 5)
    pooled = shake(build_net(TOKENS, source, Array((3,))))
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    out, other = pooled(x, mask=mask), x.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 11
    assert out.shape == (2, 3)
    assert torch.allclose(pooled(other, mask=mask), out, atol=1e-6)
    assert not torch.allclose(pooled(other), pooled(x), atol=1e-4)
    assert reached(pooled, pooled(x)) == []


@pytest.mark.parametrize("size", SIZES)
def test_resolve_fills_every_zero_and_keeps_what_is_set(size):
    for space in (Array((1, 8, 8)), Array((1, 28, 28)), Array((3, 64, 64)), Array((2, 4000))):
        full = resolve(NetConfig(size=size), space, space)
        assert full.width and full.depth and full.levels and full.patch
        assert resolve(full, space, space) == full
    assert resolve(NetConfig(size=size, width=24, levels=3), Array((1, 28, 28)), Array((1, 28, 28))).width == 24


def test_sizes_grow():
    space = Array((1, 28, 28))
    counts = [parameters(build_net(NetConfig(size=s), space, space, time=True)) for s in SIZES[:3]]
    assert counts == sorted(counts) and counts[2] > 4 * counts[0]


def test_patch_and_levels_follow_the_space():
    def of(*shape):
        config = resolve(NetConfig(), Array(shape), Array(shape))
        return config.patch, config.levels, config.width

    assert of(4, 7, 7) == (1, 1, 32)
    assert of(1, 8, 8) == of(3, 16, 16) == (2, 1, 64)  # as wide as the lowest level of a larger picture
    assert of(1, 28, 28) == of(3, 32, 32) == (2, 2, 32)
    assert of(3, 64, 64) == (2, 3, 32)
    assert of(3, 128, 128) == (4, 3, 32)


def test_what_no_net_can_do_is_said():
    with pytest.raises(UsageError, match="no net leads from record of 1 fields"):
        build_net(TINY, Record((("a", Array((1,))),)), Array((1,)))
    with pytest.raises(UsageError, match=r"unknown net size 'smal'.*did you mean 'small'"):
        build_net(NetConfig(size="smal"), Array((3,)), Array((3,)))
