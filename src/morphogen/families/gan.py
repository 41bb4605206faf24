"""Generative adversarial network: a generator learns from a critic that compares its work with real samples, pair by pair."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Batch, Cond, Health, Loss, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.common import Standard, drop_of, need_array, stepwise
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner
from morphogen.sampling import draws
from morphogen.spaces import Array, Space, describe


# ------------------------------------------------------------------ the game, row by row
def critic_rows(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(fake) - D(real)) per pair: the relativistic pairing loss (Jolicoeur-Martineau 2018). (B,), (B,) -> (B,)."""
    return F.softplus(fake - real)


def generator_rows(real: Tensor, fake: Tensor) -> Tensor:
    """The same game from the other side: softplus(D(real) - D(fake)). (B,), (B,) -> (B,)."""
    return F.softplus(real - fake)


def turn(real: Tensor, fake: Tensor) -> Tensor:
    """What a row's gradient through the critic, of `critic_rows`, is multiplied by to be that of `generator_rows`. (B,), (B,) -> (B,).

    For u = D(fake) - D(real) the two have the slopes s(u) and -s(-u) in D(fake), s the logistic function: their ratio is -exp(-u).
    """
    return -(real - fake).clamp(-60, 60).exp()


def penalty(x: Tensor, score: Tensor) -> Tensor:
    """|grad_x D|^2 per row, the zero-centred penalty: R1 on real, R2 on generated x (Mescheder et al. 2018). (B, ...), (B,) -> (B,).

    No row of `score` may depend on another row of x; then the gradient of the sum is that of each row.
    """
    gradient = torch.autograd.grad(score.sum(), x, create_graph=True)[0]
    return gradient.square().flatten(1).sum(1)


def shifted(x: Tensor, keys: Tensor, share: float, name: str) -> Tensor:
    """Move a share of the rows by up to an eighth of each axis, edges repeated: differentiable, drawn by key (Zhao et al. 2020).

    Both sides of the game are moved alike, so the generator does not learn the moves (Karras et al. 2020). (B, C, *space).
    """
    moved = draws.uniform(keys, f"{name}.move") < share
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        reach = max(1, n // 8)
        step = (draws.uniform(keys, f"{name}.{axis}") * (2 * reach + 1)).long() - reach
        where = (torch.arange(n, device=x.device)[None] - (step * moved)[:, None]).clamp(0, n - 1)
        where = where.view(len(x), *[n if a == axis else 1 for a in range(1, x.ndim)])
        x = x.gather(axis, where.expand_as(x))
    return x


def pooled(cond: Cond | None) -> Cond | None:
    """The condition's vector; the sequence's first, always visible entry joins it, so that every learned part of it is used."""
    if cond is None or cond.vector is None or cond.sequence is None:
        return cond
    return Cond(cond.vector + cond.sequence[:, 0])


# ------------------------------------------------------------------ the players
class Generator(nn.Module):
    """Noise and condition -> standardised sample. (B, latent) -> (B, *shape)."""

    def __init__(self, space: Array, conditions: dict[str, Space], latent: int, net: NetConfig) -> None:
        super().__init__()
        source = Array((latent,))
        self.conditioner = Conditioner(conditions, resolve(net, source, space).width)
        self.net = build_net(net, source, space, cond=self.conditioner.width)

    def forward(self, z: Tensor, cond: dict[str, Tensor], drop: Tensor | None = None) -> Tensor:
        return self.net(z, cond=pooled(self.conditioner(cond, len(z), drop)))


class Critic(nn.Module):
    """Sample and condition -> score: w·h(x) + <V c, h(x)> / sqrt(F), conditions by projection (Miyato and Koyama 2018). (B,)."""

    def __init__(self, space: Array, conditions: dict[str, Space], net: NetConfig) -> None:
        super().__init__()
        resolved = resolve(net, space, Array((1,)))
        self.features = max(64, 2 * resolved.width if len(space.shape) > 1 else resolved.width)
        self.conditioner = Conditioner(conditions, resolved.width)
        self.net = build_net(net, space, Array((self.features,)))
        # no bias: a constant cancels between the two sides of every pair, so no loss would reach it
        self.head = nn.Linear(self.features, 1, bias=False)
        self.project = nn.Linear(self.conditioner.width, self.features, bias=False) if self.conditioner.width else None

    def forward(self, x: Tensor, cond: dict[str, Tensor], drop: Tensor | None = None) -> Tensor:
        # bent once more: in a plain sum the features' own bias would cancel like that of the head
        h = F.leaky_relu(self.net(x), 0.2)
        score = self.head(h).squeeze(1)
        said = pooled(self.conditioner(cond, len(x), drop))
        if self.project is not None and said is not None and said.vector is not None:
            score = score + (h * self.project(said.vector)).sum(1) * self.features**-0.5
        return score


@dataclass(frozen=True, kw_only=True)
class GANConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of generator and critic."
    latent: int = 32
    "How many random numbers a sample is made from."
    gamma: float = 2.0
    "Weight of the gradient penalties: more is steadier and slower."
    burn: float = 5.0
    "How many times larger the penalties begin."
    penalised: float = 0.125
    "Share of the rows whose gradients are penalised, as much more each: the same on average, and most of the work of a step less."
    augment: float = 0.0
    "Share of rows that the critic sees shifted, for small sets of pictures (0 to 0.8)."


@dataclass(frozen=True, kw_only=True)
class GANSampling:
    temperature: float = 1.0
    "Scales the noise: below 1 more typical and less varied."


class GAN(nn.Module):
    """Relativistic pairing GAN with R1 and R2 penalties, without normalisation layers in its convolutions (R3GAN, Huang et al. 2024).

    critic: softplus(D(G(z)) - D(x)) + gamma/2 (|grad_x D(x)|^2 + |grad D(G(z))|^2); generator: softplus(D(x) - D(G(z))).
    Both sides move at once, by one pass through the critic (Nowozin et al. 2016, algorithm 1; with these penalties simultaneous steps
    converge as alternating ones do, Mescheder et al. 2018): on its way to the generator each row's gradient changes sides (`turn`).
    The penalties are of a share of the rows in every step: what lazy regularisation (Karras et al. 2020) does to every k-th step.
    Every term is a row's own, so losses add over windows. gamma starts `burn` times as large and falls over the first half.
    The part `spread` in the log is the generated samples' deviation over the real ones': near 1 is healthy, near 0 a collapse.
    """

    # one norm over both sides would let the critic's penalties set the generator's step (8x8 digits: recall 0.28 for 0.77)
    recipe: ClassVar[dict[str, Any]] = {"clip": 0.0}
    accepts: ClassVar[tuple[type, ...]] = (Array,)
    compiles = False  # its penalty is a gradient of a gradient
    game = True

    Config, Sampling = GANConfig, GANSampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: GANConfig) -> None:
        super().__init__()
        self.space = need_array(space, "gan")
        if None in self.space.shape:
            raise UsageError(f"gan needs a fixed shape, not {describe(space)}", remedy="cut or pad the data to one length")
        if not 0 <= config.augment <= 0.8 or config.latent < 1 or not 0 < config.penalised <= 1:
            raise UsageError(f"augment = {config.augment}, latent = {config.latent}, penalised = {config.penalised} is not valid",
                             remedy="choose 0 <= augment <= 0.8, so that moves cannot leak, latent >= 1 and 0 < penalised <= 1")
        net = _sized(config.net, Array((config.latent,)), self.space)
        self.config, self.infill = dataclasses.replace(config, net=net), "none"
        # without momentum for either side, as the game turns (Karras et al. 2018); twice the usual rate, which the penalties allow
        self.phases = (Phase("game", lr=2.0, betas=(0.0, 0.99)),)
        self.standard = Standard(self.space)
        self.generator = Generator(self.space, conditions, config.latent, net)
        self.critic = Critic(self.space, conditions, net)
        self.register_buffer("gamma", torch.full((1,), config.gamma * config.burn))
        self.register_buffer("spread", torch.ones(1))
        self.gamma: Tensor
        self.spread: Tensor

    def calibrate(self, batch: Batch) -> None:
        """Take the data's mean and deviation from a large batch."""
        self.standard.calibrate(batch)

    def _noise(self, keys: Tensor, name: str) -> Tensor:
        return draws.normal(keys, name, 0, (self.config.latent,))

    def _seen(self, x: Tensor, keys: Tensor, name: str) -> Tensor:
        return shifted(x, keys, self.config.augment, name) if self.config.augment and x.ndim > 2 else x

    def forward(self, batch: Batch, phase: str = "game") -> Loss:
        """The critic's loss, a sum over rows of weight 1; the gradient that reaches the generator is that of its own ("fool")."""
        real, drop = self.standard(batch.x), drop_of(batch)
        fake = self.generator(self._noise(batch.key, "noise"), batch.cond, drop)
        stats = _moments(real, fake, batch.weight)
        pair = torch.stack([self._seen(real, batch.key, "real"), self._seen(fake, batch.key, "fake")])
        r1, r2 = self._penalties(pair, batch, drop)
        scores = self._scores(pair, batch.cond, drop)
        if fake.requires_grad:
            factor = turn(*scores.detach()).view(-1, *[1] * (fake.ndim - 1))
            fake.register_hook(lambda gradient: gradient * factor)
        rows = critic_rows(*scores) + 0.5 * self.gamma * (r1 + r2)
        n, told = batch.weight.sum(), {"fool": generator_rows(*scores), "r1": r1, "r2": r2}
        parts = {name: (value.detach() * batch.weight).sum() for name, value in told.items()}
        return Loss((rows * batch.weight).sum(), n, {**parts, "spread": self.spread[0] * n}, stats)

    def _scores(self, pair: Tensor, cond: dict[str, Tensor], drop: Tensor) -> Tensor:
        """(2, B, *shape), real and generated rows -> (2, B) scores, in one pass of the critic."""
        said = {k: torch.cat([v, v]) for k, v in cond.items()}
        return self.critic(pair.flatten(0, 1), said, torch.cat([drop, drop])).view(2, -1)

    def _penalties(self, pair: Tensor, batch: Batch, drop: Tensor) -> Tensor:
        """(2, B) R1 and R2 of the share `penalised` of the rows, chosen by key, divided by that share; 0 for the other rows."""
        chosen = (draws.uniform(batch.key, "penalty") < self.config.penalised).nonzero()[:, 0]
        every = pair.new_zeros(2, len(batch.key))
        if not len(chosen):
            return every
        with torch.enable_grad():  # the penalty is a gradient, also when only its value is asked for
            some = pair[:, chosen].detach().flatten(0, 1).requires_grad_()
            scores = self._scores(some.unflatten(0, (2, -1)), {k: v[chosen] for k, v in batch.cond.items()}, drop[chosen])
            return every.index_add(1, chosen, penalty(some, scores.flatten()).view(2, -1) / self.config.penalised)

    @torch.no_grad()
    def after_step(self, step: int, progress: float, stats: dict[str, Tensor]) -> None:
        """Lower gamma along the first half of the run; follow the spread."""
        self.gamma.fill_(self.config.gamma * self.config.burn ** max(0.0, 1 - 2 * progress))
        if "n" in stats:
            deviation = {k: (stats[f"{k}.square"] / stats["n"] - (stats[f"{k}.sum"] / stats["n"]).square()).clamp(min=0).sum().sqrt()
                         for k in ("real", "fake")}
            self.spread.lerp_(deviation["fake"] / deviation["real"].clamp(min=1e-6), 0.05)

    def health(self) -> Health:
        """A collapse (all samples alike) or a flight (samples far out) by the spread of what is generated."""
        spread = float(self.spread)
        what = "nearly all alike" if spread < 1 else "far from all real ones"
        words = f"the generated samples are {what}: their spread is {spread:.2g} of the real ones'"
        remedy = f"steady the game by --set family.gamma={max(1.0, 4 * self.config.gamma):g}, or a lower --set training.lr=5e-4"
        return Health(min(spread, 1 / max(spread, 1e-9)), words, remedy)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """One draw: noise by the rows' keys, through the generator, in data units."""
        sampling = request.sampling or self.Sampling()
        z = sampling.temperature * self._noise(request.key, "latent")
        yield Partial(self.standard.inverse(self.generator(z, request.cond)))


def _sized(net: NetConfig, source: Array, space: Array) -> NetConfig:
    """Sizes filled in; small pictures enter 2 pixels a side at once, with twice the channels.

    As many weights for about half the work, and a game needs many steps (8x8 digits: 10 instead of 6 a second).
    """
    filled = resolve(net, source, space)
    if net.patch or net.width or filled.patch > 1 or len(space.shape) < 3 or min(n or 1 for n in space.shape[1:]) < 8:
        return filled
    return dataclasses.replace(filled, patch=2, width=2 * filled.width)


def _moments(real: Tensor, fake: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Additive first and second moments of both sides, from which after_step takes the spread."""
    out = {"n": weight.sum()}
    for name, x in (("real", real), ("fake", fake)):
        x = x.detach().flatten(1)
        out[f"{name}.sum"] = (x * weight[:, None]).sum(0)
        out[f"{name}.square"] = (x.square() * weight[:, None]).sum(0)
    return out
