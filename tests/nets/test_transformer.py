"""The blocks against a slow, plain reference; the cache against the whole; every parameter reached."""
import cmath
import math

import pytest
import torch
from torch import Tensor

from morphogen.config import NetConfig
from morphogen.contracts import Cond
from morphogen.errors import UsageError
from morphogen.nets.transformer import SIZES, Architecture, KVCache, Transformer, architecture, resolve

QWEN = Architecture(width=24, depth=2, heads=4, kv_heads=2, head_width=8, hidden=40)


def rough(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights far from their gentle start, so that every part matters."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.ndim > 1 else 0.2) + (1.0 if p.ndim == 1 else 0.0))
    return net.eval()


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * weight


def turn(x: Tensor, position: int) -> Tensor:
    """Rotary positions as complex numbers: element j and j + d/2 are one number."""
    half = len(x) // 2
    z = [complex(x[j], x[j + half]) * cmath.exp(1j * position * 10000.0 ** (-2 * j / len(x))) for j in range(half)]
    return torch.tensor([c.real for c in z] + [c.imag for c in z])


def qwen3(weights: dict[str, Tensor], ids: list[int], a: Architecture) -> Tensor:
    """Qwen3 by loops over positions and heads, with Hugging Face's parameter names."""
    h = [weights["model.embed_tokens.weight"][i] for i in ids]
    for n in range(a.depth):
        w = {k.removeprefix(f"model.layers.{n}."): v for k, v in weights.items() if k.startswith(f"model.layers.{n}.")}
        x = [rms(v, w["input_layernorm.weight"]) for v in h]
        q, k, v = ([(w[f"self_attn.{p}_proj.weight"] @ y).view(-1, a.head_width) for y in x] for p in "qkv")
        out = []
        for i in range(len(ids)):
            heads = []
            for head in range(a.heads):
                of = head // (a.heads // a.kv_heads)
                query = turn(rms(q[i][head], w["self_attn.q_norm.weight"]), i)
                keys = [turn(rms(k[j][of], w["self_attn.k_norm.weight"]), j) for j in range(i + 1)]
                share = torch.stack([query @ key for key in keys]).div(math.sqrt(a.head_width)).softmax(0)
                heads.append(sum(s * v[j][of] for j, s in enumerate(share)))
            out.append(h[i] + w["self_attn.o_proj.weight"] @ torch.cat(heads))
        h = []
        for y in out:
            z = rms(y, w["post_attention_layernorm.weight"])
            gate, up = w["mlp.gate_proj.weight"] @ z, w["mlp.up_proj.weight"] @ z
            h.append(y + w["mlp.down_proj.weight"] @ (gate * gate.sigmoid() * up))
    return torch.stack([weights["model.embed_tokens.weight"] @ rms(y, weights["model.norm.weight"]) for y in h])


def test_decoder_is_the_qwen3_block() -> None:
    net = rough(Transformer(13, 13, 9, QWEN, causal=True))
    names = {"vocabulary.weight": "model.embed_tokens.weight"}
    weights = {names.get(k, f"model.{k}"): v for k, v in net.state_dict().items()}
    assert len(weights) == 2 + 2 * 11  # embeddings and last norm; eleven matrices and norms a layer
    ids = torch.randint(0, 13, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(net(ids)[0], qwen3(weights, ids[0].tolist(), QWEN), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sequence", [False, True])
def test_cache_gives_what_the_whole_gives(sequence: bool) -> None:
    torch.manual_seed(0)
    net = Transformer(30, 29, 100, QWEN, causal=True, cond=12, sequence=sequence).eval()
    cond = Cond(torch.randn(3, 12), torch.randn(3, 5, 12), torch.ones(3, 5, dtype=torch.bool))
    x, cache = torch.randint(0, 30, (3, 90)), KVCache(100)
    with torch.no_grad():
        parts = [net(x[:, a:b], cond=cond, cache=cache) for a, b in [(0, 7), (7, 8), (8, 80), (80, 81), (81, 90)]]
        torch.testing.assert_close(torch.cat(parts, 1), net(x, cond=cond), rtol=1e-5, atol=1e-5)
    assert cache.length == 90
    with pytest.raises(ValueError, match="100 positions"):
        net(x[:, :20], cond=cond, cache=cache)


def test_a_decoder_sees_no_future_and_an_encoder_no_padding() -> None:
    torch.manual_seed(0)
    x, y = torch.randint(0, 20, (2, 10)), torch.randint(0, 20, (2, 10))
    y[:, :6] = x[:, :6]
    decoder = Transformer(20, 20, 10, NetConfig(size="tiny"), causal=True).eval()
    encoder = Transformer(20, 20, 10, NetConfig(size="tiny"), causal=False).eval()
    mask = torch.arange(10).expand(2, -1) < 6
    torch.testing.assert_close(decoder(x)[:, :6], decoder(y)[:, :6])
    torch.testing.assert_close(encoder(x, mask=mask)[:, :6], encoder(y, mask=mask)[:, :6])
    torch.testing.assert_close(encoder(x[:, :6])[:, :6], encoder(y, mask=mask)[:, :6], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(encoder(x)[:, :6], encoder(y)[:, :6])
    assert encoder(x, mask=torch.zeros(2, 10, dtype=torch.bool)).isfinite().all()


def test_asking_for_few_positions_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    net = Transformer(20, 19, 10, NetConfig(size="tiny"), causal=False, cond=8, time=True).eval()
    x, at = torch.randint(0, 20, (3, 10)), torch.tensor([[3, 0], [9, 1], [5, 5]])
    around = {"cond": Cond(torch.randn(3, 8)), "time": torch.rand(3)}
    whole = net(x, **around)
    torch.testing.assert_close(net(x, at=at, **around), whole[torch.arange(3)[:, None], at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("options", [{}, {"cond": 6}, {"time": True}, {"cond": 6, "sequence": True, "time": True}])
def test_the_loss_reaches_every_parameter(causal: bool, options: dict) -> None:
    torch.manual_seed(0)
    net = Transformer(12, 11, 7, QWEN if causal else NetConfig(size="tiny"), causal=causal, **options)
    cond = Cond(torch.randn(2, 6), torch.randn(2, 4, 6)) if "cond" in options else None
    net(torch.randint(0, 12, (2, 7)), cond=cond, time=torch.rand(2) if "time" in options else None).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.ndim for p in net.parameters())


def test_conditions_start_as_a_whisper_and_matter_later() -> None:
    net = rough(Transformer(12, 12, 7, NetConfig(size="tiny"), causal=True, cond=6))
    x = torch.randint(0, 12, (2, 7))
    assert not torch.allclose(net(x, cond=Cond(torch.ones(2, 6))), net(x, cond=Cond(-torch.ones(2, 6))))


def test_an_untied_head_and_other_widths_of_output() -> None:
    tied = Transformer(12, 11, 7, NetConfig(size="tiny"), causal=True)
    wide = Transformer(12, 30, 7, NetConfig(size="tiny"), causal=True)
    assert "vocabulary.head" not in tied.state_dict() and wide.state_dict()["vocabulary.head"].shape == (30, 64)
    assert wide(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3, 30)
    assert wide(torch.zeros(2, 3, dtype=torch.long), hidden=True).shape == (2, 3, 64)


def test_sizes_resolve_and_nonsense_is_refused() -> None:
    for size, (width, depth, heads) in SIZES.items():
        net = resolve(NetConfig(size=size))
        assert (net.width, net.depth, net.heads) == (width, depth, heads) and resolve(net) == net
    assert resolve(NetConfig(width=48)).heads == 1
    assert architecture(NetConfig(size="base"), True).kv_heads == 3
    with pytest.raises(UsageError, match="did you mean 'small'"):
        resolve(NetConfig(size="smal"))
    with pytest.raises(UsageError, match="3 heads"):
        resolve(NetConfig(width=64, heads=3))


def test_a_decoder_over_a_grid_knows_places_neighbours_and_counts() -> None:
    from morphogen.nets.grid import Grid

    torch.manual_seed(0)
    grid = Grid(5, (3, 4), 8)
    for p in grid.parameters():
        torch.nn.init.normal_(p)
    seen = torch.randint(0, 4, (2, 12))
    seen[:, 0] = 4  # the start symbol
    h = grid(seen)
    for i in (0, 3, 4, 11):  # input i leads to cell i
        above = 4 if i < 4 else int(seen[1, i - 4 + 1])
        counts = torch.bincount(seen[1, : i + 1], minlength=5).float() / 4
        wanted = grid.places[0].weight[i // 4] + grid.places[1].weight[i % 4] + grid.above[0].weight[above] + grid.tally.weight @ counts
        torch.testing.assert_close(h[1, i], wanted)
    torch.testing.assert_close(grid(seen, 7), h[:, 7:])


def test_a_decoder_over_a_grid_is_the_same_with_a_cache() -> None:
    torch.manual_seed(0)
    net = Transformer(6, 5, (3, 4), NetConfig(width=16, depth=2), causal=True).eval()
    for p in net.grid.parameters():
        torch.nn.init.normal_(p)
    x, cache = torch.randint(0, 6, (2, 12)), KVCache(12)
    parts = [net(x[:, a:b], cache=cache) for a, b in ((0, 3), (3, 4), (4, 9), (9, 12))]
    torch.testing.assert_close(torch.cat(parts, 1), net(x), atol=1e-5, rtol=1e-5)
