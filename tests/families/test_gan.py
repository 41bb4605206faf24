"""The adversarial pair: analytic penalties, sums that add, all modes of a ring, a collapse that shows in the log."""
from __future__ import annotations

import math

import pytest
import torch

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Loss, Request
from morphogen.errors import UsageError
from morphogen.families.common import drop_of
from morphogen.families.gan import GAN, GANConfig, GANSampling, critic_rows, generator_rows, penalty, shifted, turn
from morphogen.sampling import draws
from morphogen.spaces import Array, Space, Tokens

LABEL: dict[str, Space] = {"label": Tokens(3, 1)}


def make(space: Space, conditions: dict[str, Space] | None = None, **options: object) -> GAN:
    torch.manual_seed(0)
    return GAN(space, conditions or {}, GANConfig(**({"net": NetConfig(width=16, depth=1)} | options)))  # type: ignore[arg-type]


def train(family: GAN, rows, steps: int, lr: float) -> None:
    """The trainer in small. `rows(step)` gives a Batch."""
    groups = {ph.name: [p for k, p in family.named_parameters() if k.startswith(ph.params)] for ph in family.phases}
    optimisers = {ph.name: torch.optim.Adam(groups[ph.name], lr, ph.betas or (0.9, 0.99)) for ph in family.phases}
    for step in range(steps):
        batch, stats = rows(step), {}
        for name, optimiser in optimisers.items():
            for other, params in groups.items():
                for p in params:
                    p.requires_grad_(other == name)
            loss: Loss = family(batch, name)
            (loss.total / loss.weight).backward()
            stats |= loss.stats
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, 3 * (1 - step / steps))
            optimiser.step()
            optimiser.zero_grad()
        family.after_step(step + 1, (step + 1) / steps, stats)


def test_finds_all_modes_of_a_ring() -> None:
    angle = torch.arange(8) * (2 * math.pi / 8)
    modes = 2 * torch.stack([angle.cos(), angle.sin()], 1)

    def rows(step: int, n: int = 128) -> Batch:
        keys = draws.seeded(step, n)
        which = (draws.uniform(keys, "mode") * 8).long()
        return Batch(modes[which] + 0.1 * draws.normal(keys, "e", 0, (2,)), keys, torch.ones(n))

    family = make(Array((2,)), latent=8, gamma=0.05, burn=4.0, net=NetConfig(width=64, depth=1))
    family.calibrate(rows(10**6, 2000))
    train(family, rows, 350, 2e-3)
    x = list(family.eval().stream(Request(draws.seeded(5, 2000))))[-1].x
    near, which = torch.cdist(x, modes).min(1)
    share = torch.bincount(which[near < 0.4], minlength=8) / len(x)
    assert float(share.min()) > 0.02, share
    assert float((near < 0.4).float().mean()) > 0.4  # a Gaussian of the same spread has 0.2
    assert 0.8 < float(family.spread) < 1.2


@pytest.mark.parametrize("space", [Array((1, 8, 8)), Array((2, 20)), Array((6,))], ids=["picture", "signal", "vector"])
def test_each_phase_adds_over_windows_and_reaches_its_own(space: Array) -> None:
    family, keys = make(space, LABEL, augment=0.5).eval(), draws.seeded(0, 8)
    with torch.no_grad():
        for p in family.parameters():  # wake up what starts at zero
            p.add_(0.05 * torch.randn_like(p))
    x, label = draws.normal(keys, "x", 0, tuple(n or 1 for n in space.shape)), (torch.arange(8) % 3)[:, None]
    cut = lambda s: Batch(x[s], keys[s], torch.ones(8)[s], cond={"label": label[s]})
    for phase in family.phases:
        assert phase.betas == (0.0, 0.99)
        family.zero_grad(set_to_none=True)
        whole = family(cut(slice(None)), phase.name)
        whole.total.backward()
        for name, p in family.named_parameters():
            if name.startswith(phase.params):
                assert p.grad is not None and p.grad.abs().sum() > 0, name
        halves = [family(cut(s), phase.name) for s in (slice(0, 3), slice(3, 8))]
        torch.testing.assert_close(halves[0].total + halves[1].total, whole.total, rtol=1e-4, atol=1e-4)
        for k in whole.stats:
            torch.testing.assert_close(halves[0].stats[k] + halves[1].stats[k], whole.stats[k], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("conditions", [{}, LABEL], ids=["alone", "labelled"])
@pytest.mark.parametrize("space", [Array((1, 8, 8)), Array((6,))], ids=["picture", "vector"])
def test_one_pass_gives_each_side_the_gradient_of_its_own_loss(space: Array, conditions: dict[str, Space]) -> None:
    """Beside both losses by their definitions, each gone back through by itself."""
    family, keys = make(space, conditions, augment=0.5, penalised=1.0).eval(), draws.seeded(0, 6)
    with torch.no_grad():
        for p in family.parameters():
            p.add_(0.1 * torch.randn_like(p))
        family.critic.head.weight.mul_(5)  # scores apart: the sides' slopes differ
    weight = torch.tensor([1.0, 1, 0, 1, 1, 1])
    cond = {"label": (torch.arange(6) % 3)[:, None]} if conditions else {}
    batch = Batch(draws.normal(keys, "x", 0, tuple(n or 1 for n in space.shape)), keys, weight, cond=cond)
    loss = family(batch)
    loss.total.backward()
    found = {k: p.grad.clone() for k, p in family.named_parameters() if p.grad is not None}
    family.zero_grad(set_to_none=True)

    said = drop_of(batch)
    real = family._seen(family.standard(batch.x), keys, "real")
    fake = family._seen(family.generator(family._noise(keys, "noise"), cond, said), keys, "fake")
    scores = [family.critic(x, cond, said) for x in (real, fake)]
    (generator_rows(*scores) * weight).sum().backward()
    torch.testing.assert_close(loss.parts["fool"], (generator_rows(*scores) * weight).sum().detach(), rtol=1e-4, atol=1e-4)
    wanted = {k: p.grad.clone() for k, p in family.named_parameters() if p.grad is not None and k.startswith("generator.")}
    family.zero_grad(set_to_none=True)
    sides = [x.detach().requires_grad_() for x in (real, fake)]
    on_real, on_fake = (family.critic(x, cond, said) for x in sides)
    punished = sum(penalty(x, s) for x, s in zip(sides, (on_real, on_fake)))
    ((critic_rows(on_real, on_fake) + 0.5 * family.gamma * punished) * weight).sum().backward()
    wanted |= {k: p.grad.clone() for k, p in family.named_parameters() if p.grad is not None}
    assert wanted.keys() == found.keys() == dict(family.named_parameters()).keys()
    for k, gradient in wanted.items():
        torch.testing.assert_close(found[k], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()), msg=lambda m, k=k: f"{k}: {m}")


def test_the_turn_is_the_ratio_of_the_slopes() -> None:
    real, fake = torch.randn(9, requires_grad=True), (20 * torch.randn(9)).requires_grad_()
    slopes = [torch.autograd.grad(rows(real, fake).sum(), fake)[0] for rows in (critic_rows, generator_rows)]
    torch.testing.assert_close(slopes[0] * turn(real, fake), slopes[1], rtol=1e-3, atol=1e-6)


def test_penalty_of_a_known_gradient() -> None:
    weight = torch.tensor([1.0, -2.0, 3.0])
    x = torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(penalty(x, x @ weight), torch.full((5,), 14.0))
    torch.testing.assert_close(penalty(x, x.square().sum(1)), 4 * x.square().sum(1))


@pytest.mark.parametrize("conditions", [{}, LABEL], ids=["alone", "labelled"])
def test_a_share_of_the_rows_is_penalised_as_all_would_be_on_average(conditions: dict[str, Space]) -> None:
    space, n = Array((1, 4, 4)), 1024
    some, every = (make(space, conditions, penalised=share).eval() for share in (0.25, 1.0))
    with torch.no_grad():
        some.critic.head.weight.mul_(10)
    every.load_state_dict(some.state_dict())
    keys = draws.seeded(0, n)
    cond = {"label": (torch.arange(n) % 3)[:, None]} if conditions else {}
    batch = Batch(draws.normal(keys, "x", 0, (1, 4, 4)), keys, torch.ones(n), cond=cond)
    few, all_of = some(batch), every(batch)
    # by the definition, side by side and one side at a time
    x = every.standard(batch.x).requires_grad_()
    said = drop_of(batch)
    torch.testing.assert_close(all_of.parts["r1"], penalty(x, every.critic(x, cond, said)).sum().detach(), rtol=1e-4, atol=1e-4)
    for part in ("r1", "r2"):
        assert float(few.parts[part]) == pytest.approx(float(all_of.parts[part]), rel=0.15), part
    # which rows is a matter of their keys, whatever their company
    alone = [some(Batch(batch.x[s], keys[s], torch.ones(n)[s], cond={k: v[s] for k, v in cond.items()}))
             for s in (slice(0, 5), slice(5, 6), slice(6, n))]
    torch.testing.assert_close(sum(loss.parts["r1"] for loss in alone), few.parts["r1"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sum(loss.total for loss in alone), few.total, rtol=1e-4, atol=1e-4)


def test_the_game_is_symmetric_and_ties_at_log_2() -> None:
    a, b = torch.randn(7), torch.randn(7)
    torch.testing.assert_close(critic_rows(a, b), generator_rows(b, a))
    torch.testing.assert_close(critic_rows(a, a), torch.full((7,), math.log(2)))


def test_a_collapse_shows() -> None:
    family, keys = make(Array((6,))), draws.seeded(0, 64)
    batch = Batch(draws.normal(keys, "x", 0, (6,)), keys, torch.ones(64))
    with torch.no_grad():
        for p in family.generator.parameters():
            p.zero_()
    for step in range(100):
        family.after_step(step + 1, 0.5, family(batch).stats)
    loss = family(batch)
    assert float(loss.parts["spread"] / loss.weight) < 0.05


def test_moves_are_by_key_within_reach_and_differentiable() -> None:
    keys = draws.seeded(0, 200)
    x = torch.zeros(200, 1, 8, 8)
    x[:, :, 4, 4] = 1.0
    moved = shifted(x, keys, 1.0, "a")
    where = moved.flatten(1).argmax(1)
    assert set(where.tolist()) == {r * 8 + c for r in (3, 4, 5) for c in (3, 4, 5)}
    assert torch.equal(shifted(x[7:9], keys[7:9], 1.0, "a"), moved[7:9])
    assert torch.equal(shifted(x, keys, 0.0, "a"), x)
    y = torch.randn(3, 2, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(shifted(y, keys[:3], 1.0, "a").sum(), y)
    torch.testing.assert_close(gradient.sum(), torch.tensor(54.0))


def test_burn_and_temperature() -> None:
    family = make(Array((6,)), gamma=2.0, burn=8.0)
    assert float(family.gamma) == 16
    family.after_step(1, 0.5, {})
    assert float(family.gamma) == 2
    out = list(family.stream(Request(draws.seeded(0, 3), sampling=GANSampling(temperature=0.0))))[-1].x
    torch.testing.assert_close(out[0], out[1])


@pytest.mark.parametrize("options", [{"augment": 0.9}, {"latent": 0}, {"penalised": 0.0}])
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        make(Array((6,)), **options)
    with pytest.raises(UsageError):
        make(Tokens(4, 4))
