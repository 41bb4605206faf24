"""LoRA on any family: nothing changes at the start, only the adapter learns, rows may differ, merging is checked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from morphogen.adapt.layers import LowRank, rows_for
from morphogen.adapt.lora import (
    LoRAConfig,
    adapt,
    adapter_state,
    adapters_of,
    base_state,
    load_adapter,
    only_trains,
    set_adapter,
    share,
    using,
)
from morphogen.adapt.merge import merge
from morphogen.config import NetConfig
from morphogen.contracts import Batch, Item, Phase, Request
from morphogen.errors import FormatError, UsageError
from morphogen.families.autoregressive import Autoregressive, AutoregressiveConfig
from morphogen.families.diffusion import Diffusion, DiffusionConfig
from morphogen.families.gan import GAN
from morphogen.families.masked import Masked
from morphogen.families.vae import VAE
from morphogen.model import Model
from morphogen.nets.conv import ConvEncoder
from morphogen.spaces import Array, Space, Tokens
from morphogen.training.data import Dataset
from morphogen.training.muon import is_hidden
from morphogen.training.optim import TrainConfig
from morphogen.training.trainer import Trainer

NET = {"net": NetConfig(size="tiny", width=32, depth=1)}
TEXT, PICTURE, SOUND, SOLID = Tokens(11, 12, end=10), Array((1, 8, 8)), Array((2, 32)), Array((1, 4, 4, 4))


def text() -> Autoregressive:
    torch.manual_seed(0)
    return Autoregressive(TEXT, {}, AutoregressiveConfig(**NET)).eval()  # type: ignore[arg-type]


def picture(space: Space = PICTURE) -> Diffusion:
    torch.manual_seed(0)
    family = Diffusion(space, {}, DiffusionConfig(**NET)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in family.parameters():
            p.add_(0.05 * torch.randn_like(p))  # a fresh net's output layer is zero: nothing to see through it
    return family


def batch(space: Space, n: int = 6) -> Batch:
    torch.manual_seed(1)
    if isinstance(space, Tokens):
        return Batch(torch.randint(0, 10, (n, space.length)), torch.arange(n), torch.ones(n))
    assert isinstance(space, Array)
    return Batch(torch.randn(n, *[d or 1 for d in space.shape]), torch.arange(n), torch.ones(n))


def shaken(family: Any, name: str, seed: int = 0) -> Any:
    """An adapter that does something."""
    torch.manual_seed(seed)
    number = str(adapters_of(family).numbers[name])
    with torch.no_grad():
        for module in family.modules():
            if isinstance(module, LowRank) and number in module.pairs:
                module.pairs[number].B.normal_(std=0.2)
    return family


def loss(family: Any, space: Space) -> float:
    family.eval()
    with torch.no_grad():
        return float(family(batch(space)).total)


CASES = [(text, TEXT), (picture, PICTURE), (lambda: picture(SOUND), SOUND), (lambda: picture(SOLID), SOLID)]


@pytest.mark.parametrize(("make", "space"), CASES)
def test_nothing_changes_at_first_and_merging_keeps_what_was_learned(make: Any, space: Space) -> None:
    family = make()
    before, names = loss(family, space), dict(family.state_dict())
    adapt(family, LoRAConfig(rank=2))
    assert loss(family, space) == before  # bit by bit
    assert all(torch.equal(base_state(family)[k], v) for k, v in names.items()) and set(base_state(family)) == set(names)
    after = loss(shaken(family, "default"), space)
    assert abs(after - before) > 1e-3
    merge(family, batch(space))
    assert set(family.state_dict()) == set(names) and not any(isinstance(m, LowRank) for m in family.modules())
    assert loss(family, space) == pytest.approx(after, rel=1e-5) and family.merge_difference < 1e-4
    assert all(p.requires_grad for p in family.parameters())


@pytest.mark.parametrize("kind", ["text", "picture", "gan", "vae", "masked", "mlp"])
def test_only_the_adapter_learns_on_every_kind_of_family(kind: str) -> None:
    torch.manual_seed(0)
    make = {
        "text": text, "picture": picture, "mlp": lambda: picture(Array((12,))),
        "gan": lambda: GAN(PICTURE, {}, GAN.Config(**{k: NetConfig(size="tiny", width=16) for k in ("net",)})),
        "vae": lambda: VAE(PICTURE, {}, VAE.Config(**NET)),
        "masked": lambda: Masked(TEXT, {}, Masked.Config(**NET)),
    }
    family = adapt(make[kind](), LoRAConfig(rank=2))
    kept = {k: v.clone() for k, v in base_state(family).items()}
    data = batch(TEXT if kind in ("text", "masked") else Array((12,)) if kind == "mlp" else PICTURE)
    family.train()
    for phase in family.phases:
        family(data, phase.name).total.backward()
    trained = [k for k, p in family.named_parameters() if p.grad is not None]
    assert trained and all(".pairs.1." in k for k in trained)
    assert {k for k, p in family.named_parameters() if p.requires_grad} >= set(trained)
    with torch.no_grad():
        for p in family.parameters():
            if p.grad is not None:
                p.sub_(p.grad)
    assert all(torch.equal(base_state(family)[k], v) for k, v in kept.items() if k in dict(family.named_parameters()))


def test_ends_embeddings_and_matrices_too_small_are_left_alone() -> None:
    family = adapt(picture(), LoRAConfig(rank=4))
    paths = list(adapter_state(family).pairs)
    assert paths and not any(path in ("net.inp", "net.out") for path in paths)
    state = adapter_state(family)
    assert all(a.numel() + b.numel() < len(b) * a[0].numel() for a, b in state.pairs.values())
    assert 0 < share(family) < 0.5
    assert share(family) == pytest.approx(state.size() / sum(v.numel() for k, v in base_state(family).items() if "standard" not in k))


def test_convolutions_with_a_stride_and_without_padding() -> None:
    for conv, x in ((nn.Conv2d(3, 20, 3, stride=2, padding=1), torch.randn(2, 3, 9, 7)), (nn.Conv1d(4, 12, 5), torch.randn(2, 4, 11)),
                    (nn.Conv2d(3, 20, 3, padding=1, padding_mode="circular"), torch.randn(2, 3, 6, 6))):
        holder = Holder(conv)
        adapt(holder, LoRAConfig(rank=2, targets=("inner",)))
        shaken(holder, "default")
        inner: Any = holder.inner
        weight = conv.weight + inner.pairs["1"].delta()
        torch.testing.assert_close(holder(x), conv._conv_forward(x, weight, conv.bias), atol=1e-5, rtol=1e-5)


class Holder(nn.Module):
    phases = (Phase(),)

    def __init__(self, inner: nn.Module, other: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.other = inner, other

    def forward(self, x: Any, phase: str = "") -> Any:
        return self.inner(x) if self.other is None else self.other(self.inner(x))


def test_rows_of_different_adapters_in_one_batch() -> None:
    family = picture()
    adapt(family, LoRAConfig(rank=2), name="a")
    adapt(family, LoRAConfig(rank=3, rslora=True), name="b", seed=1)
    shaken(shaken(family, "a", 1), "b", 2)
    x, time = torch.randn(6, 1, 8, 8), torch.zeros(6)
    alone = {}
    with torch.no_grad():
        for name in (None, "a", "b"):
            with using(family, name):
                alone[name] = family.net(x, time=time)
        with adapters_of(family).rows(torch.tensor([0, 1, 2, 2, 1, 0])):
            mixed = family.net(x, time=time)
            again = family.net(torch.cat([x, x]), time=torch.cat([time, time]))  # as guidance does
    for i, name in enumerate((None, "a", "b", "b", "a", None)):
        assert torch.equal(mixed[i], alone[name][i])  # a row does not depend on who is beside it
    torch.testing.assert_close(again[6:], mixed)
    assert not torch.allclose(alone["a"], alone["b"]) and not torch.allclose(alone["a"], alone[None])
    with pytest.raises(UsageError, match="number 5"), adapters_of(family).rows(torch.tensor([5])):
        pass
    with pytest.raises(ValueError, match="rows"):
        rows_for(torch.zeros(4, dtype=torch.int64), torch.zeros(6, 2))


def test_a_request_names_its_adapter() -> None:
    family = text()
    adapt(family, LoRAConfig(rank=2), name="a")
    set_adapter(shaken(family, "a"), None)

    def drawn(name: str | None) -> torch.Tensor:
        request = Request(torch.arange(8), sampling=family.Sampling(), adapter=name)
        return list(family.stream(request))[-1].x

    plain, by_a = drawn(None), drawn("a")
    assert not torch.equal(plain, by_a) and torch.equal(drawn(None), plain)
    with using(family, "a"):
        assert torch.equal(drawn(None), by_a)
    with pytest.raises(UsageError, match="no adapter 'c'"):
        drawn("c")
    with pytest.raises(UsageError, match="the model has none"):
        list(text().stream(Request(torch.arange(2), sampling=family.Sampling(), adapter="a")))


def test_saved_and_loaded_beside_others() -> None:
    family = adapt(text(), LoRAConfig(rank=2, alpha=5, ranks={"q_proj": 3}, alphas={"v_proj": 7}, whole=("vocabulary",)))
    shaken(family, "default")
    with torch.no_grad():
        family.net.vocabulary.copies["1"].weight.add_(0.1)
    state, expected = copy.deepcopy(adapter_state(family)), loss(family, TEXT)
    other = text()
    plain = loss(other, TEXT)
    adapt(other, LoRAConfig(rank=1), name="first")
    load_adapter(other, state, name="second")
    assert loss(other, TEXT) == expected and adapters_of(other).name() == "second"
    assert not any(p.requires_grad for p in other.parameters())
    with using(other, "first"):
        assert loss(other, TEXT) == plain
    again = adapter_state(other)
    assert again.alpha == state.alpha and {k: v[0].shape for k, v in again.pairs.items()} == {k: v[0].shape for k, v in state.pairs.items()}
    assert {a.shape[0] for k, (a, _) in state.pairs.items() if k.endswith("q_proj")} == {3}
    only_trains(other, "first")
    assert all(".pairs.1." in k for k, p in other.named_parameters() if p.requires_grad)
    merge(other, batch(TEXT), name="second")
    assert loss(other, TEXT) == pytest.approx(expected, rel=1e-5)


def test_adapters_of_another_base_are_refused() -> None:
    state = adapter_state(adapt(text(), LoRAConfig(rank=2)))
    with pytest.raises(FormatError, match="does not have.*another base model"):
        load_adapter(picture(), state)
    wide = Autoregressive(TEXT, {}, AutoregressiveConfig(net=NetConfig(size="tiny", width=64, depth=1)))
    with pytest.raises(FormatError, match=r"is for \(32, 32\), the model's is \(64, 64\)"):
        load_adapter(wide, state)
    assert not hasattr(wide, "adapters")


def test_new_rows_of_an_embedding_come_in_as_a_whole() -> None:
    holder = Holder(nn.Embedding(5, 4))
    family = adapt(holder, LoRAConfig(whole=("inner",)))
    state = adapter_state(family)
    state.whole["inner"] = {"weight": torch.randn(7, 4)}
    fresh = load_adapter(Holder(nn.Embedding(5, 4)), state)
    assert torch.equal(fresh(torch.tensor([6])), state.whole["inner"]["weight"][6:])
    assert fresh.inner.embedding_dim == 4
    with using(fresh, None), pytest.raises(IndexError):
        fresh(torch.tensor([6]))


def test_tied_matrices_are_not_merged_into_one_of_their_uses() -> None:
    first, second = nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False)
    second.weight = first.weight
    family = Holder(first, second)
    with pytest.raises(UsageError, match="worth an update"):  # by itself nothing tied is chosen
        adapt(copy.deepcopy(family), LoRAConfig(rank=2))
    adapt(family, LoRAConfig(rank=2, targets=("inner",)))
    shaken(family, "default")
    x = torch.randn(3, 20)
    expected = family(x)
    with pytest.raises(UsageError, match="tied"):
        merge(family, lambda f: f(x))
    assert isinstance(family.inner, LowRank)
    merge(family, lambda f: f(x), untie=True)
    torch.testing.assert_close(family(x), expected)
    assert family.inner.weight is not second.weight and torch.equal(second.weight, first.weight)


def test_a_merge_that_changes_outputs_is_refused_and_undone() -> None:
    family = adapt(text(), LoRAConfig(rank=2)).bfloat16()
    shaken(family, "default")
    with pytest.raises(FormatError, match="other outputs"):
        merge(family, batch(TEXT))
    assert any(isinstance(m, LowRank) for m in family.modules()) and adapters_of(family).name() == "default"


def test_a_merge_that_is_interrupted_is_undone() -> None:
    family, calls = adapt(text(), LoRAConfig(rank=2)), []

    def check(_: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return torch.zeros(1)

    with pytest.raises(KeyboardInterrupt):
        merge(family, check)
    assert any(isinstance(m, LowRank) for m in family.modules()) and adapters_of(family).name() == "default"


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="no Linear or convolution 'q_prj'.*q_proj"):
        adapt(text(), LoRAConfig(targets=("q_prj",)))
    with pytest.raises(UsageError, match="rank 0"):
        adapt(text(), LoRAConfig(rank=0))
    with pytest.raises(UsageError, match="no module 'vocab'"):
        adapt(text(), LoRAConfig(whole=("vocab",)))
    with pytest.raises(UsageError, match="already"):
        adapt(adapt(text()))
    with pytest.raises(UsageError, match="no adapter"):
        set_adapter(text(), "a")
    with pytest.raises(AttributeError):
        adapt(text()).net.layers[0].self_attn.q_proj.weight  # noqa: B018 - taking it would leave out what is added


class Digits:
    space = PICTURE

    def encode(self, raw: Any) -> Any:
        return raw


def test_training_an_adapter_resumes_bit_by_bit(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    items = [Item(torch.randn(1, 8, 8, generator=rng).numpy()) for _ in range(30)]
    config = TrainConfig(steps=12, batch=8, lanes=2, optimiser="muon", lr=1e-2)

    def trainer() -> Trainer:
        model = Model(Digits(), adapt(picture(), LoRAConfig(rank=2), seed=4))
        return Trainer(model, Dataset(model, items), config, seed=3)

    whole = trainer()
    base = {k: v.clone() for k, v in base_state(whole.family).items()}
    assert not any(is_hidden(whole.family, k, p) for k, p in whole.params["main"].items())
    whole.run()
    first = trainer()
    for _ in range(5):
        first.step()
    first.save(tmp_path)
    second = trainer()
    second.load(tmp_path)
    second.run()
    for (k, v), w in zip(whole.final().items(), second.final().values(), strict=True):
        assert torch.equal(v, w), k
    changed = whole.final()
    assert any("pairs.1.B" in k and v.abs().sum() > 0 for k, v in changed.items())
    assert all(torch.equal(base_state(whole.family)[k], v) for k, v in base.items())


def test_an_encoder_to_a_vector_is_covered() -> None:
    net = ConvEncoder(NetConfig(width=8, depth=1), Array((1, 16, 16)), Array((5,)), cond=0)
    family = Holder(net)
    x = torch.randn(2, 1, 16, 16)
    adapt(family, LoRAConfig(rank=2))
    expected = shaken(family, "default")(x)
    merge(family, lambda f: f(x))
    torch.testing.assert_close(family(x), expected, atol=1e-5, rtol=1e-5)
