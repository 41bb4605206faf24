"""Variational autoencoder: a latent that is easy to draw from, and a decoder that knows how sure it is."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from morphogen.config import NetConfig
from morphogen.contracts import Batch, LogProb, Loss, Oddity, Partial, Phase, Request
from morphogen.errors import UsageError
from morphogen.families.common import Standard, counted, drop_of, need_array, rows_of, stepwise
from morphogen.families.gan import Critic, critic_rows, generator_rows, penalty, pooled
from morphogen.families.prior import LatentPrior
from morphogen.nets.build import build_net, resolve
from morphogen.nets.conditioner import Conditioner
from morphogen.nets.quantise import FSQ, VQ, levels_for, perplexity, reached
from morphogen.sampling import draws
from morphogen.spaces import Array, Space, Tokens, describe

KINDS, PRIORS = ("kl", "vq", "fsq"), ("fitted", "normal")
SHARPEST = 0.005  # sigma of a standardised channel never falls below: about one step of 8-bit pictures
BOUND_DRAWS = 4


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    net: NetConfig = NetConfig()  # noqa: RUF009 (frozen)
    "Size of encoder and decoder."
    kind: str = "kl"
    "What the latent is: kl (numbers), vq (learned codes) or fsq (fixed codes)."
    grid: int = 0
    "Keep a grid this many times coarser (a power of two) as a first stage; 0 for one vector."
    latent: int = 0
    "Numbers of a vector, channels of a grid, or positions of a vq or fsq without grid; 0 is derived."
    codes: int = 256
    "vq, fsq: how many codes (fsq takes the nearest product of levels)."
    beta: float = 1.0
    "kl: weight of the divergence; above 1 simpler latents, below 1 closer reconstruction."
    free_bits: float = 0.0
    "kl: divergence per latent number, in nats, that costs nothing."
    commitment: float = 0.25
    "vq: how strongly the encoder stays near its codes."
    adversarial: float = 0.0
    "Weight of a critic that sharpens reconstructions, per number of a sample; 0 is off, 0.1 is much."
    prior: str = "fitted"
    "kl vectors are drawn from: fitted (a mixture per label, fitted after training) or normal."


@dataclass(frozen=True, kw_only=True)
class VAESampling:
    temperature: float = 1.0
    "Scales the latent's spread: below 1 more typical and less varied."
    noise: float | None = None
    "Share of the decoder's own noise that is added; by default all of it for vectors, none for pictures and sound."


class VAE(nn.Module):
    """E_q[log p(x | z, c)] - beta KL(q(z | x) || N(0, 1)) (Kingma and Welling 2014), or a codebook (vq) or fixed grid (fsq) of codes.

    p(x | z, c) = N(decoder(z, c), sigma^2), sigma one number per channel. The optimum has a closed form, the mean squared error
    (sigma-VAE, Rybkin et al. 2021); here it follows a moving average of that, so losses stay sums over rows, and beta = 1 is right.
    With `grid` = f the latent keeps a grid f times coarser than the data: a first stage for other families (`morphogen train
    --bridge`). `finish` fits the prior of a vector latent after training.
    """

    accepts: ClassVar[tuple[type, ...]] = (Array,)

    recipe: ClassVar[dict[str, str]] = {"keep": "best"}  # small sets are learned by heart within minutes
    Config, Sampling = VAEConfig, VAESampling

    def __init__(self, space: Space, conditions: dict[str, Space], config: VAEConfig) -> None:
        super().__init__()
        self.space = _checked(space, config)
        self.infill = "none"
        self.quantiser: VQ | FSQ | None = None
        if config.kind == "fsq":
            self.quantiser = FSQ(levels_for(config.codes))
        config = dataclasses.replace(config, latent=config.latent or _default_latent(self.space, config))
        fine = tuple(int(n or 1) for n in self.space.shape[1:])
        coarse = reached(fine, config.grid) if config.grid else (() if config.kind == "kl" else (config.latent,))
        if config.kind == "vq":
            self.quantiser = VQ(config.codes, config.latent if config.grid else 8)
        channels = self.quantiser.width if self.quantiser else config.latent
        # without grid, the codes of a vector lie along one axis that only the quantiser sees
        self.inner = (channels, *coarse)
        flat = channels * math.prod(coarse)
        wide = 2 if config.kind == "kl" else 1
        out, source = (Array((wide * channels, *coarse)), Array(self.inner)) if config.grid else (Array((wide * flat,)), Array((flat,)))
        self.latent: Space = Array(self.inner) if not self.quantiser else Tokens(self.quantiser.codes, math.prod(coarse), grid=coarse)
        net = resolve(config.net, self.space, out)
        self.config = dataclasses.replace(config, net=net)
        self.conditioner = Conditioner(conditions, net.width)
        self.standard = Standard(self.space)
        self.encoder = build_net(net, self.space, out)
        self.decoder = build_net(net, source, self.space, cond=self.conditioner.width)
        self.prior = LatentPrior(flat, conditions) if config.kind == "kl" else None
        self.critic = Critic(self.space, {}, net) if config.adversarial else None
        # twice the usual rate: measured on digits, and safe as nothing here is deep
        self.phases: tuple[Phase, ...] = (Phase(params=("encoder.", "decoder.", "conditioner."), lr=2.0),)
        if self.critic:
            self.phases += (Phase("critic", ("critic.",), lr=2.0, betas=(0.0, 0.99)),)
        self.register_buffer("sigma", torch.ones(int(self.space.shape[0] or 1)))
        self.sigma: Tensor

    # ---------------------------------------------------------------- parts
    def calibrate(self, batch: Batch) -> None:
        """Take the data's mean and deviation from a large batch."""
        self.standard.calibrate(batch)

    def _code(self, x: Tensor) -> Tensor:
        """Standardised x -> what the encoder says, (B, 2 c | c, *coarse)."""
        h = self.encoder(x)
        return h if self.config.grid or self.config.kind == "kl" else h.view(len(h), *self.inner)

    def _mean(self, z: Tensor, cond: dict[str, Tensor], drop: Tensor | None = None) -> Tensor:
        """(B, *inner) -> standardised mean of x."""
        z = z if self.config.grid else z.flatten(1)
        return self.decoder(z, cond=pooled(self.conditioner(cond, len(z), drop)))

    def _sigma(self, x: Tensor) -> Tensor:
        return self.sigma.view(1, -1, *[1] * (x.ndim - 2))

    def _log_likelihood(self, x: Tensor, mean: Tensor, count: Tensor) -> Tensor:
        """(B,) log N(x; mean, sigma^2) over counted numbers, in nats of standardised units."""
        sigma = self._sigma(x)
        each = -0.5 * ((x - mean) / sigma).square() - sigma.log() - 0.5 * math.log(2 * math.pi)
        return (each * count).flatten(1).sum(1)

    def _posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = h.chunk(2, 1)
        return mean, log_var.clamp(-14, 6)

    def _posterior_draw(self, h: Tensor, keys: Tensor, step: int = 0) -> Tensor:
        mean, log_var = self._posterior(h)
        return mean + (0.5 * log_var).exp() * draws.normal(keys, "posterior", step, tuple(mean.shape[1:]))

    def _latent(self, h: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """(z with its gradient, price (B,), parts, stats) of training."""
        if self.quantiser is None:
            mean, log_var = self._posterior(h)
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1)
            price = self.config.beta * kl.clamp(min=self.config.free_bits).sum(1)
            return self._posterior_draw(h, batch.key), price, {"kl": (kl.sum(1) * batch.weight).sum().detach()}, {}
        z, ids, commit = self.quantiser(h)
        if isinstance(self.quantiser, FSQ):
            return z, commit, {}, {}
        stats = self.quantiser.count(h, ids, batch.weight)
        # in units of the likelihood, or sharp decoders would forget the codebook
        price = self.config.commitment * commit / self.sigma.square().mean()
        used = perplexity(self.quantiser.hits) * batch.weight.sum()
        return z, price, {"commit": (commit * batch.weight).sum().detach(), "codes": used}, stats

    # ---------------------------------------------------------------- loss
    def forward(self, batch: Batch, phase: str = "main") -> Loss:
        """Minus the bound in nats, summed over rows of weight 1; parts are sums too: `kl` in nats, `error` the squared error."""
        x, count = self.standard(batch.x), counted(batch)
        if phase == "critic":
            return self._critic(batch, x)
        z, price, parts, stats = self._latent(self._code(x), batch)
        mean = self._mean(z, batch.cond, drop_of(batch))
        rows = price - self._log_likelihood(x, mean, count)
        weighed = count * rows_of(batch.weight, x)
        axes = [a for a in range(x.ndim) if a != 1]
        error = ((x - mean).detach().square() * weighed).sum(axes)
        stats |= {"error": error, "count": weighed.sum(axes)}
        parts["error"] = error.sum() / self.space.size
        if self.critic is not None:
            fooled = generator_rows(self.critic(x, {}).detach(), self.critic(mean, {}))
            rows = rows + self.config.adversarial * self.space.size * fooled
            parts["fool"] = (fooled * batch.weight).sum().detach()
        return Loss((rows * batch.weight).sum(), batch.weight.sum(), parts, stats)

    def _critic(self, batch: Batch, x: Tensor) -> Loss:
        assert self.critic is not None
        with torch.no_grad():
            mean = self._mean(self._latent(self._code(x), batch)[0], batch.cond, drop_of(batch))
        with torch.enable_grad():
            real, fake = x.detach().requires_grad_(), mean.detach().requires_grad_()
            on_real, on_fake = self.critic(real, {}), self.critic(fake, {})
            rows = critic_rows(on_real, on_fake) + 0.5 * (penalty(real, on_real) + penalty(fake, on_fake))
            return Loss((rows * batch.weight).sum(), batch.weight.sum())

    @torch.no_grad()
    def after_step(self, step: int, progress: float, stats: dict[str, Tensor]) -> None:
        """sigma and the codebook follow moving averages of the step's sums."""
        if "error" in stats:
            kept = min(0.98, step / (step + 10))
            now = stats["error"] / stats["count"].clamp(min=1)
            variance = torch.lerp(now, self.sigma.square(), kept)
            self.sigma.copy_(torch.where(stats["count"] > 0, variance.sqrt(), self.sigma).clamp(min=SHARPEST))
        if isinstance(self.quantiser, VQ) and "codes.n" in stats:
            self.quantiser.update(stats)

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """After training: fit what latents are drawn from to one pass over the data. Does nothing for codes or `prior="normal"`."""
        if self.prior is None or self.config.prior == "normal":
            return
        latents, conds = [], []
        for batch in batches:
            real = batch.weight > 0
            latents.append(self._posterior_draw(self._code(self.standard(batch.x)), batch.key).flatten(1)[real])
            conds.append({k: v[real] for k, v in batch.cond.items()})
        names = set.intersection(*(set(c) for c in conds)) if conds else set()
        if latents:
            self.prior.fit(torch.cat(latents), {k: torch.cat([c[k] for c in conds]) for k in names})

    # ---------------------------------------------------------------- powers
    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> the latent: posterior means (B, d) or (B, c, *grid), or codes (B, L) int64."""
        h = self._code(self.standard(x))
        return self.quantiser.ids(h) if self.quantiser else self._posterior(h)[0]

    def decode(self, z: Tensor) -> Tensor:
        """The latent -> the mean of x given it, with nothing said beside."""
        inner = self.quantiser.vectors(z, self.inner[1:]) if self.quantiser else z
        return self.standard.inverse(self._mean(inner, {}))

    def invert(self, batch: Batch) -> Tensor:
        """Numbers whose blends decode to rows: posterior means, or what the encoder says before it is rounded to codes."""
        h = self._code(self.standard(batch.x))
        return h if self.quantiser else self._posterior(h)[0]

    def redraw(self, z: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The decoder's mean for such numbers."""
        return self.standard.inverse(self._mean(self.quantiser(z)[0] if self.quantiser else z, cond))

    def vary(self, batch: Batch, level: float) -> Tensor:
        """sqrt(1 - level^2) of the row's latent and `level` of one drawn from the prior; of codes that share is drawn anew."""
        h, keys = self._code(self.standard(batch.x)), batch.key
        if self.quantiser is None:
            assert self.prior is not None
            drawn = self.prior.draw(keys, batch.cond, self.inner)
            z = (1 - level**2) ** 0.5 * self._posterior(h)[0] + level * drawn
        else:
            ids = self.quantiser.ids(h)
            n = tuple(ids.shape[1:])
            other = (draws.uniform(keys, "codes", 0, n) * self.quantiser.codes).long()
            z = self.quantiser.vectors(torch.where(draws.uniform(keys, "vary", 0, n) < level, other, ids), self.inner[1:])
        return self.standard.inverse(self._mean(z, batch.cond))

    def oddity(self, batch: Batch) -> Oddity:
        """The two sides of the bound as views: how badly a row is decoded, how unusual its latent is; `parts`: squared errors."""
        scored = self.log_prob(batch)
        assert scored.parts is not None
        x = self.standard(batch.x)
        mean = self._mean(self.quantiser(self._code(x))[0] if self.quantiser else self._posterior(self._code(x))[0], batch.cond)
        views = -scored.parts if self.quantiser is None else -scored.parts[:, :1]  # every code costs the same
        return Oddity(views, "bound", 0.5 * ((x - mean) / self._sigma(x)).square() * counted(batch))

    def log_prob(self, batch: Batch) -> LogProb:
        """A lower bound on log p(x | cond) in nats; `parts` (B, 2): reconstruction, and minus what the latent costs.

        Codes cost log(number of codes) a position: their prior is uniform. Latents drawn from a fitted prior are measured by it.
        """
        x, count = self.standard(batch.x), counted(batch)
        deviation = self.standard.deviation.view(1, -1, *[1] * (x.ndim - 2))  # type: ignore[operator]
        volume = (deviation.log() * count).flatten(1).sum(1)
        h = self._code(x)
        if self.quantiser is not None:
            z, ids, _ = self.quantiser(h)
            seen = self._log_likelihood(x, self._mean(z, batch.cond), count)
            cost = torch.full_like(seen, ids.shape[1] * math.log(self.quantiser.codes))
        else:
            seen, cost = torch.zeros_like(volume), torch.zeros_like(volume)
            for i in range(BOUND_DRAWS):
                z = self._posterior_draw(h, batch.key, i)
                seen = seen + self._log_likelihood(x, self._mean(z, batch.cond), count) / BOUND_DRAWS
                cost = cost + self._cost(h, z, batch.cond) / BOUND_DRAWS
        parts = torch.stack([seen - volume, -cost], 1)
        return LogProb(parts.sum(1), "bound", parts)

    def _cost(self, h: Tensor, z: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """(B,) log q(z | x) - log p(z | cond): exactly the divergence for the normal prior, one draw of it for the fitted one."""
        mean, log_var = self._posterior(h)
        assert self.prior is not None
        if not bool(self.prior.fitted):
            return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(1)
        density = -0.5 * ((z - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi)).flatten(1).sum(1)
        return density - self.prior.log_prob(z.flatten(1), cond)

    @stepwise
    def stream(self, request: Request) -> Iterator[Partial]:
        """One draw: a latent from the prior, the decoder's mean, and its noise where that belongs to a sample."""
        sampling, keys = request.sampling or self.Sampling(), request.key
        if self.quantiser is not None:
            ids = (draws.uniform(keys, "codes", 0, (math.prod(self.inner[1:]),)) * self.quantiser.codes).long()
            z = self.quantiser.vectors(ids, self.inner[1:])
        else:
            assert self.prior is not None
            z = self.prior.draw(keys, request.cond, self.inner, sampling.temperature)
        x = self._mean(z, request.cond)
        noise = (1.0 if len(self.space.shape) == 1 else 0.0) if sampling.noise is None else sampling.noise
        if noise:
            x = x + noise * self._sigma(x) * draws.normal(keys, "noise", 0, tuple(x.shape[1:]))
        yield Partial(self.standard.inverse(x))


def _checked(space: Space, config: VAEConfig) -> Array:
    array = need_array(space, "vae")
    if None in array.shape:
        raise UsageError(f"vae needs a fixed shape, not {describe(space)}", remedy="cut or pad the data to one length")
    if config.kind not in KINDS:
        raise UsageError(f"option 'kind' = {config.kind!r} is not valid", remedy="choose " + ", ".join(KINDS))
    if config.prior not in PRIORS:
        raise UsageError(f"option 'prior' = {config.prior!r} is not valid", remedy="choose " + ", ".join(PRIORS))
    if config.grid and len(array.shape) == 1:
        raise UsageError("a vector has no grid to keep", remedy="set grid to 0")
    if config.grid == 1 or config.latent < 0 or min(config.beta, config.free_bits, config.adversarial, config.commitment) < 0:
        raise UsageError("grid 1 does not compress, and no weight may be negative", remedy="choose grid 0, 2, 4 ...")
    return array


def _default_latent(space: Array, config: VAEConfig) -> int:
    """Defaults: 4 channels or 8-wide codes on a grid; 16 numbers, fewer for short vectors; 16 positions of codes."""
    if config.grid:
        return 4 if config.kind == "kl" else 8
    return min(16, max(2, space.size - 1)) if config.kind == "kl" else 16
