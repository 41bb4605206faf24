"""What diffusion and flow have in common, on data whose answer is known."""
import dataclasses

import pytest
import torch

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Given, Request
from morphogen.errors import UsageError
from morphogen.families.diffusion import Diffusion
from morphogen.families.flow import Flow
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens

SMALL = NetConfig(size="tiny", width=64, depth=2)
KINDS = [Diffusion, Flow]
both = pytest.mark.parametrize("kind", KINDS, ids=["diffusion", "flow"])


PLANE = Array((2,))


def build(kind, space=PLANE, conditions=None, **config):
    torch.manual_seed(0)
    return kind(space, conditions or {}, kind.Config(net=config.pop("net", SMALL), **config))


def shaken(family, by=0.1):
    with torch.no_grad():
        for p in family.net.parameters():
            p.add_(torch.randn_like(p) * by)
    return family


def train(family, sample, steps=400, batch=128, lr=3e-3):
    keys = draws.seeded(0, 4096)
    x, cond = sample(keys)
    family.calibrate(Batch(x, keys, torch.ones(len(x))))
    optimiser = torch.optim.AdamW(family.parameters(), lr, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        keys = draws.derive(torch.arange(batch), "train", step)
        x, cond = sample(keys)
        loss = family(Batch(x, keys, torch.ones(batch), cond=cond if step % 2 else {}))
        (loss.total / loss.weight).backward()
        optimiser.param_groups[0]["lr"] = lr * min(1, 2.5 * (1 - step / steps))
        optimiser.step()
        optimiser.zero_grad()
    return family.eval()


def last(family, keys, cond=None, given=None, **sampling):
    *_, end = family.stream(Request(keys, cond or {}, given, sampling=family.Sampling(**sampling)))
    assert end.done and end.progress == 1
    return end.x


MODES = torch.tensor([[-3.0, -3.0], [3.0, -3.0], [-3.0, 3.0], [3.0, 3.0]]) + torch.tensor([1.0, 0.0])


def mixture(keys):
    which = (draws.uniform(keys, "mode") * 4).long()
    return MODES[which] + 0.3 * draws.normal(keys, "x", 0, (2,)), {"label": which[:, None]}


@pytest.fixture(scope="module", params=KINDS, ids=["diffusion", "flow"])
def trained(request):
    return train(build(request.param, conditions={"label": Tokens(4, 1)}), mixture)


def nearest(x):
    distance, which = torch.cdist(x, MODES).min(1)
    return which, distance


def test_all_modes_of_a_mixture_come_back(trained):
    x = last(trained, draws.seeded(1, 1000), steps=40)
    which, distance = nearest(x)
    shares = torch.bincount(which, minlength=4) / len(x)
    assert shares.min() > 0.17 and shares.max() < 0.33, shares
    assert (distance < 1.2).float().mean() > 0.92


@pytest.mark.parametrize("weight", [1.0, 2.0, 4.0])
def test_the_condition_is_followed_also_under_guidance(trained, weight):
    label = (torch.arange(400) % 4)[:, None]
    x = last(trained, draws.seeded(2, 400), {"label": label}, guidance=weight)
    which, distance = nearest(x)
    assert (which == label[:, 0]).float().mean() > 0.98
    assert distance.median() < 0.8


def test_known_values_are_exact_and_the_rest_follows_them(trained):
    keys = draws.seeded(3, 400)
    known = torch.tensor([[True, False]]).expand(400, -1)
    given = Given(torch.full((400, 2), 4.0), known)
    x = last(trained, keys, given=given, steps=40)
    assert (x[:, 0] == 4).all()
    which, _ = nearest(x)
    assert ((which == 1) | (which == 3)).float().mean() > 0.95
    assert 0.3 < (which == 1).float().mean() < 0.7


def test_rows_do_not_depend_on_their_batch(trained):
    keys, label = draws.seeded(4, 12), (torch.arange(12) % 4)[:, None]
    for options in ({}, {"guidance": 3.0}, {"churn": 10.0}, {"solver": "euler"}):
        together = last(trained, keys, {"label": label}, **options)
        alone = torch.cat([last(trained, keys[i:i + 1], {"label": label[i:i + 1]}, **options) for i in range(0, 12, 5)])
        assert torch.allclose(together[::5], alone, atol=1e-3)


def test_guidance_one_is_off_and_more_changes_something(trained):
    keys, cond = draws.seeded(4, 8), {"label": torch.zeros(8, 1, dtype=torch.int64)}
    assert torch.equal(last(trained, keys, cond, guidance=1.0), last(trained, keys, cond))
    assert not torch.allclose(last(trained, keys, cond, guidance=3.0), last(trained, keys, cond))


@both
def test_a_trained_denoiser_approaches_the_exact_one(kind):
    mean, deviation = torch.tensor([2.0, -1.0]), torch.tensor([3.0, 0.5])
    family = train(build(kind), lambda keys: (mean + deviation * draws.normal(keys, "x", 0, (2,)), {}), steps=300)
    noise = draws.normal(draws.seeded(5, 500), "e", 0, (2,))
    data = draws.normal(draws.seeded(6, 500), "d", 0, (2,))
    with torch.no_grad():
        for level in (0.2, 0.5, 0.9):
            if kind is Diffusion:
                alpha, sigma = 1.0, 4 * level
                guess = family.denoise(family.net, data + sigma * noise, sigma, None, None)
            else:
                alpha, sigma = 1 - level, level
                guess = family.denoise(family.net, alpha * data + sigma * noise, sigma, None, None)
            best = (alpha * data + sigma * noise) * alpha / (alpha**2 + sigma**2)
            assert (guess - best).square().mean().sqrt() < 0.2, level
    x = last(family, draws.seeded(7, 2000))
    assert (x.mean(0) - mean).abs().max() < 0.25
    assert ((x.std(0) / deviation) - 1).abs().max() < 0.1


@both
def test_the_loss_of_an_untrained_net_is_about_one_a_number(kind):
    family = build(kind, Array((1, 8, 8)), net=NetConfig(size="tiny", width=16, depth=1))
    x = 5 + 2 * draws.normal(draws.seeded(0, 256), "x", 0, (1, 8, 8))
    batch = Batch(x, draws.seeded(1, 256), torch.ones(256))
    family.calibrate(batch)
    with torch.no_grad():
        loss = family(batch)
    expected = 1.0 if kind is Diffusion else 2.0
    assert float(loss.total / loss.weight) == pytest.approx(expected, rel=0.05)


@both
def test_padding_rows_and_known_values_count_nothing(kind):
    family = shaken(build(kind, given=True))
    keys = draws.seeded(0, 6)
    x, known = draws.normal(keys, "x", 0, (2,)), torch.zeros(6, 2, dtype=torch.bool)
    known[:, 0] = True
    weight = torch.tensor([1.0, 1, 1, 1, 0, 0])
    family.requires_grad_(False)
    a = family(Batch(x, keys, weight, given=Given(x, known)))
    b = family(Batch(x[:4], keys[:4], weight[:4], given=Given(x[:4], known[:4])))
    assert float(a.weight) == float(b.weight) == 4
    assert torch.allclose(a.total, b.total, rtol=1e-5)
    everything = family(Batch(x, keys, weight, given=Given(x, torch.ones_like(known))))
    assert float(everything.weight) == 0 and float(everything.total) == 0


@both
@pytest.mark.parametrize("space", [Array((3,)), Array((1, 8, 8)), Array((2, 16))], ids=["vector", "picture", "wave"])
def test_the_loss_reaches_every_parameter(kind, space):
    family = shaken(build(kind, space, {"label": Tokens(3, 1), "text": Tokens(7, 4)},
                          net=NetConfig(size="tiny", width=16, depth=1), given=True))
    keys = draws.seeded(0, 16)
    x = draws.normal(keys, "x", 0, space.shape)
    cond = {"label": (keys % 3)[:, None], "text": (draws.uniform(keys, "t", 0, (4,)) * 7).long()}
    family(Batch(x, keys, torch.ones(16), cond=cond, given=Given(x, x > 1))).total.backward()
    assert [k for k, p in family.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(p.ndim for p in family.parameters()) and all(b.ndim for b in family.buffers())


@both
def test_streams_show_ever_better_guesses_and_the_state_comes_back(kind):
    family = shaken(build(kind, Array((1, 8, 8)), net=NetConfig(size="tiny", width=16, depth=1)))
    family.calibrate(Batch(3 + torch.randn(64, 1, 8, 8), torch.arange(64), torch.ones(64)))
    parts = list(family.stream(Request(draws.seeded(0, 2), sampling=family.Sampling(steps=5))))
    assert [p.done for p in parts] == [False] * 4 + [True]
    assert [round(p.progress, 2) for p in parts] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(p.x.shape == (2, 1, 8, 8) and p.x.isfinite().all() for p in parts)
    twin = kind(family.space, {}, family.config)
    twin.load_state_dict(family.state_dict())
    assert torch.equal(last(twin, draws.seeded(0, 2), steps=5), parts[-1].x)
    assert dataclasses.asdict(twin.config) == dataclasses.asdict(family.config)


@both
def test_a_ragged_axis_takes_the_length_that_is_asked_for(kind):
    family = build(kind, Array((1, None)), net=NetConfig(size="tiny", width=16, depth=1))
    keys = draws.seeded(0, 3)
    *_, end = family.stream(Request(keys, length=24, sampling=family.Sampling(steps=2)))
    assert end.x.shape == (3, 1, 24)
    x, mask = torch.randn(3, 1, 24), torch.arange(24) < torch.tensor([[24], [12], [6]])
    assert float(family(Batch(x, keys, torch.ones(3), mask=mask)).weight) == 42  # 24 + 12 + 6


@both
def test_wrong_calls_are_said(kind):
    with pytest.raises(UsageError, match="models arrays"):
        build(kind, Tokens(5, 4))
    family = build(kind)
    with pytest.raises(UsageError, match="unknown solver"):
        last(family, draws.seeded(0, 1), solver="magic")
    with pytest.raises(UsageError, match="steps"):
        last(family, draws.seeded(0, 1), steps=0)
