"""The VAE against analytic answers: the likelihood of a linear Gaussian model, sums that add, codes, a prior that fits."""
from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Given, HasLatent, Request
from morphogen.errors import UsageError
from morphogen.families.vae import VAE, VAEConfig, VAESampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Space, Tokens

TINY = NetConfig(size="tiny", width=16, depth=1)
PICTURE = Array((1, 12, 12))
LABEL: dict[str, Space] = {"label": Tokens(3, 1)}
KINDS = [{"kind": "kl"}, {"kind": "kl", "grid": 4}, {"kind": "vq"}, {"kind": "vq", "grid": 4, "codes": 16},
         {"kind": "fsq", "grid": 2, "codes": 64}]


def make(space: Space = PICTURE, conditions: dict[str, Space] | None = None, **options: object) -> VAE:
    torch.manual_seed(0)
    return VAE(space, conditions or {}, VAEConfig(**({"net": TINY} | options)))  # type: ignore[arg-type]


def pictures(n: int = 8) -> Batch:
    keys = draws.seeded(0, n)
    return Batch(draws.normal(keys, "x", 0, (1, 12, 12)), keys, torch.ones(n), cond={"label": (torch.arange(n) % 3)[:, None]})


def train(family: VAE, x: torch.Tensor, steps: int, lr: float, batch: int = 128) -> None:
    """The trainer in small: losses are sums, divided once."""
    family.calibrate(Batch(x, draws.seeded(0, len(x)), torch.ones(len(x))))
    optimiser = torch.optim.Adam(family.parameters(), lr)
    for step in range(steps):
        keys = draws.seeded(step, batch)
        rows = x[(draws.uniform(keys, "row") * len(x)).long()]
        loss = family(Batch(rows, keys, torch.ones(batch)))
        optimiser.zero_grad()
        (loss.total / loss.weight).backward()
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 3 * (1 - step / steps))
        optimiser.step()
        family.after_step(step + 1, (step + 1) / steps, loss.stats)


def test_reaches_the_likelihood_of_a_linear_gaussian_model() -> None:
    """x = W z + noise: the marginal is a Gaussian whose likelihood no model can beat (Tipping and Bishop 1999)."""
    keys = draws.seeded(7, 3000)
    loading = torch.tensor([[1.0, 0.5, -0.3, 0.8, 0.0], [0.0, 0.7, 0.9, -0.4, 0.6]]) * 1.5
    x = draws.normal(keys, "z", 0, (2,)) @ loading + 0.4 * draws.normal(keys, "e", 0, (5,))
    truth = torch.distributions.MultivariateNormal(torch.zeros(5), loading.T @ loading + 0.16 * torch.eye(5))
    fit, held = x[:2000], x[2000:]
    family = make(Array((5,)), latent=2, net=NetConfig(width=32, depth=1))
    train(family, fit, 400, 6e-3)
    family.eval()
    batch = Batch(held, draws.seeded(9, len(held)), torch.ones(len(held)))
    best = float(truth.log_prob(held).mean())
    for fitted in (False, True):
        if fitted:
            family.finish([Batch(fit, draws.seeded(8, len(fit)), torch.ones(len(fit)))])
        with torch.no_grad():
            bound = family.log_prob(batch)
        assert bound.kind == "bound" and bound.parts is not None
        torch.testing.assert_close(bound.parts.sum(1), bound.total)
        assert best - 0.35 < float(bound.total.mean()) < best + 0.05
    drawn = list(family.stream(Request(draws.seeded(3, 3000))))[-1].x
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(x.T), rtol=0, atol=0.35)
    # sigma is in standardised units
    torch.testing.assert_close(family.sigma * family.standard.deviation, torch.full((5,), 0.4), rtol=0.15, atol=0)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_losses_and_stats_add_over_windows_and_skip_weight_0(options: dict) -> None:
    family, batch = make(conditions=LABEL, **options).eval(), pictures()
    cut = lambda s: Batch(batch.x[s], batch.key[s], batch.weight[s], cond={"label": batch.cond["label"][s]})
    whole, parts = family(batch), [family(cut(slice(0, 5))), family(cut(slice(5, 8)))]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total, rtol=1e-4, atol=1e-3)
    for k in ("error", "count"):
        torch.testing.assert_close(parts[0].stats[k] + parts[1].stats[k], whole.stats[k], rtol=1e-4, atol=1e-4)
    hidden = family(dataclasses.replace(batch, weight=torch.tensor([1.0] * 5 + [0.0] * 3)))
    torch.testing.assert_close(hidden.total, parts[0].total, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_parameter_learns_and_the_latent_is_what_it_says(options: dict) -> None:
    family, batch = make(conditions=LABEL, adversarial=0.1, **options), pictures()
    assert [p.name for p in family.phases] == ["main", "critic"]
    assert isinstance(family, HasLatent)
    with torch.no_grad():
        for p in family.parameters():  # wake up what starts at zero
            p.add_(0.05 * torch.randn_like(p))
    for phase in family.phases:
        family.zero_grad()
        family(batch, phase.name).total.backward()
        mine = {k: p for k, p in family.named_parameters() if k.startswith(phase.params)}
        assert mine and all(p.grad is not None and p.grad.abs().sum() > 0 for p in mine.values())
    z = family.eval().encode(batch.x)
    if isinstance(family.latent, Tokens):
        assert z.dtype == torch.int64 and z.shape == (8, family.latent.length) and int(z.max()) < family.latent.vocab
        assert not options.get("grid") or math.prod(family.latent.grid) == family.latent.length
    else:
        assert z.shape == (8, *family.latent.shape)
    assert family.decode(z).shape == batch.x.shape
    assert list(family.stream(Request(batch.key, batch.cond)))[-1].x.shape == batch.x.shape


def test_grids_of_a_first_stage() -> None:
    assert make(Array((1, 28, 28)), grid=4).latent == Array((4, 7, 7))
    assert make(Array((1, 28, 28)), kind="vq", grid=4).latent == Tokens(256, 49, grid=(7, 7))
    assert make(Array((4, 32, 32)), kind="fsq", grid=8).latent == Tokens(240, 16, grid=(4, 4))
    assert make(Array((2, 100)), grid=4).latent == Array((4, 25))


def test_vq_learns_codes_that_reconstruct() -> None:
    """Four different pictures come back from four codes each."""
    keys = draws.seeded(1, 400)
    shapes = draws.normal(draws.seeded(2, 4), "shape", 0, (1, 8, 8)).sign()
    x = shapes[torch.arange(400) % 4] + 0.05 * draws.normal(keys, "e", 0, (1, 8, 8))
    family = make(Array((1, 8, 8)), kind="vq", grid=4, codes=16, net=NetConfig(width=8, depth=1))
    train(family, x, 120, 6e-3, batch=32)
    family.eval()
    with torch.no_grad():
        error = (family.decode(family.encode(x)) - x).square().mean()
    assert float(error) < 0.1 * float(x.var())


def test_known_values_are_not_counted() -> None:
    family, batch = make().eval(), pictures()
    known = torch.zeros_like(batch.x, dtype=torch.bool)
    known[:, :, :6] = True
    whole, half = family(batch), family(dataclasses.replace(batch, given=Given(batch.x, known)))
    torch.testing.assert_close(half.stats["count"], whole.stats["count"] / 2)


def test_decoder_noise_belongs_to_vectors() -> None:
    vector, picture = make(Array((5,))), make()
    keys = draws.seeded(0, 4)
    last = lambda family, **s: list(family.stream(Request(keys, sampling=VAESampling(**s))))[-1].x
    assert not torch.equal(last(vector), last(vector, noise=0.0))
    assert torch.equal(last(picture), last(picture, noise=0.0))
    assert torch.equal(last(vector, temperature=0.0, noise=0.0)[0], last(vector, temperature=0.0, noise=0.0)[1])


@pytest.mark.parametrize("options", [{"kind": "vae"}, {"prior": "flat"}, {"grid": 3}, {"grid": 1}, {"beta": -1.0}])
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        make(**options)


def test_a_ragged_or_wrong_space_is_refused() -> None:
    for space in (Array((1, None)), Tokens(5, 5)):
        with pytest.raises(UsageError):
            make(space)
    with pytest.raises(UsageError, match="no grid"):
        make(Array((5,)), grid=2)
