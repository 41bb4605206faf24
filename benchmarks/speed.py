"""Training steps and sampling beside other tools, in one run, in turns: PYTHONPATH=peers python -m benchmarks.speed [--part unet]

Peers come from benchmarks/peers.txt (pip install --target peers --no-deps -r benchmarks/peers.txt). Parts:
unet  a denoiser of about 5M parameters at 32x32, batch 64: our family and trainer, and diffusers' UNet2DModel in the same family's
      loss, in its best setting; with --loss also 300 steps of each from the same data, held-out loss of the same function
vae   an epoch of 28x28 pictures, batch 64: ours and pythae's VAE trainer, timed on a part of the epoch (--items) and scaled up
gan   a step of DCGAN's size at 32x32, batch 64: ours and benchmarks/plain_dcgan.py
Every part also tells the share of the matrix products' rate, measured in the same minute.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import WORK, digits28, fresh, load_pictures, record
from morphogen.config import cores

BATCH, SIDE = 64, 32
QUIET = {"previews": 0, "checks": 1}
PEER = {"block_out_channels": (32, 64, 160), "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")}  # fmt: skip

# our nets beside DCGAN's 6.1M parameters: as `--size base` makes them, and as many parameters with fewer positions
GANS: dict[str, dict[str, Any]] = {"ours": {}, "ours, 4 pixels a side enter": {"patch": 4, "width": 152, "depth": 1}}


# ------------------------------------------------------------------ measuring
def matmul_rate(dtype: torch.dtype = torch.float32, n: int = 1536, times: int = 5) -> float:
    """Floating point operations a second of matrix products on all cores: the ceiling of this machine, now."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    torch.mm(a, b)
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        torch.mm(a, b)
        taken.append(time.perf_counter() - begun)
    return 2 * n**3 / min(taken)


def flops_of(work: Callable[[], Any]) -> float:
    """Floating point operations of convolutions and matrix products, forward and back."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def in_turns(jobs: dict[str, Callable[[], Any]], rounds: int = 3, seconds: float = 6.0) -> dict[str, float]:
    """Median seconds of each job, one after another in every round, so that a busy moment meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for work in jobs.values():
        work()
    for _ in range(rounds):
        for name, work in jobs.items():
            begun, count = time.perf_counter(), 0
            while not count or time.perf_counter() - begun < seconds:
                work()
                count += 1
            taken[name].append((time.perf_counter() - begun) / count)
    return {name: statistics.median(values) for name, values in taken.items()}


def half_pays() -> bool:
    """Whether bfloat16 products are faster here; where they are not (no such units), a step in it takes minutes and is left out."""
    return matmul_rate(torch.bfloat16, 512, 2) > matmul_rate(torch.float32, 512, 2)


# ------------------------------------------------------------------ our side: a plan's trainer, nothing on disk
def our_trainer(data: Path, family: str, options: dict[str, Any], steps: int, items: int = 0, **more: Any) -> Any:
    """A Trainer as `train` builds it; with `items` it learns from so many of the data, evenly chosen."""
    from morphogen.api.train import build_model
    from morphogen.plan import make_plan
    from morphogen.training.data import Dataset
    from morphogen.training.precision import precision_for
    from morphogen.training.trainer import Trainer

    plan = make_plan(data, family=family, steps=steps, options=options, **more)
    torch.manual_seed(0)
    model = build_model(plan)
    lessons, how = plan.lessons(), replace(plan.training, precision=plan.training.precision or precision_for(model.family, "cpu"))
    chosen = [lessons[i * len(lessons) // items] for i in range(items)] if items else lessons
    trainer = Trainer(model, Dataset(model, chosen), how, held_out=Dataset(model, plan.part(plan.held_out)))
    trainer.calibrate()
    return trainer


def emoji32(archive: Path | None) -> Path:
    """Pictures of 32x32 in three colours: emoji on white; without an archive, those that ship with the package."""
    from PIL import Image

    folder = WORK / "speed" / ("emoji32" if archive else "emoji32-few")
    if folder.exists():
        return folder
    if archive:
        from benchmarks.emoji import folder_of

        pictures = [Image.open(p) for p in sorted(folder_of(archive).glob("*.png"))]
    else:
        from morphogen.samples import unpack

        pictures = [Image.open(p) for p in sorted(unpack(fresh(WORK / "speed" / "samples"))["emoji"].glob("*.png"))]
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        rgba = picture.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        white = Image.new("RGBA", rgba.size, "white")
        Image.alpha_composite(white, rgba).convert("RGB").save(folder / f"{i:05d}.png")
    return folder


# ------------------------------------------------------------------ unet
class Peer(nn.Module):
    """diffusers' U-Net in the place of our net: the same loss, the same walk, another denoiser."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # pyright: ignore[reportMissingImports]

        self.unet = UNet2DModel(sample_size=SIDE, in_channels=3, out_channels=3, layers_per_block=2, **PEER)  # type: ignore[arg-type]

    def forward(self, x: Tensor, *, time: Tensor, cond: Any = None, given: Any = None, mask: Any = None) -> Tensor:
        return self.unet(x, 250 * time + 500).sample


class PeerLoop:
    """The loop that diffusers' own training example writes: AdamW, warm-up and cosine, clipping, an average of the weights."""

    def __init__(self, ours: Any, steps: int, lr: float, dtype: torch.dtype = torch.float32, channels_last: bool = True) -> None:
        torch.manual_seed(0)
        self.data, self.steps, self.lr, self.dtype, self.at = ours.data, steps, lr, dtype, 0
        self.family = _like(ours)
        if channels_last:
            self.family.net.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.family.net.parameters(), lr=lr, betas=(0.95, 0.999), weight_decay=1e-6, fused=True)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.family, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5 ** (1 / max(1, 0.05 * steps)))
        )

    def step(self) -> float:
        from morphogen.training.data import order

        ids, keys, weight = order(self.data.n, BATCH, 0, self.at, None)
        batch = self.data.batch(ids, keys, weight)
        warm = min(1.0, (self.at + 1) / 30)
        self.optimiser.param_groups[0]["lr"] = self.lr * warm * 0.5 * (1 + np.cos(np.pi * self.at / self.steps))
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss = self.family(batch, "main")
        (loss.total / loss.weight).backward()
        nn.utils.clip_grad_norm_(self.family.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update_parameters(self.family)
        self.at += 1
        return float(loss.total / loss.weight)


def _like(ours: Any) -> Any:
    """Our diffusion family with the peer's net in it."""
    from morphogen.families.diffusion import Diffusion

    family = Diffusion(ours.family.space, {}, ours.family.config)
    family.load_state_dict(ours.family.state_dict())
    family.net = Peer()
    return family


def unet_trainer(a: argparse.Namespace, steps: int) -> Any:
    options = {"net": {"size": "base", "width": 72}, "codec": {"size": SIDE}, "training": {"batch": BATCH, **QUIET}}
    return our_trainer(emoji32(a.data), "diffusion", options, steps)


def unet(a: argparse.Namespace) -> None:
    ours = unet_trainer(a, 10_000)
    peers = {"float32": PeerLoop(ours, 10_000, 1e-4, channels_last=False), "float32 channels_last": PeerLoop(ours, 10_000, 1e-4)}
    if half_pays():
        peers["bfloat16 channels_last"] = PeerLoop(ours, 10_000, 1e-4, torch.bfloat16)
    ceiling = matmul_rate()
    best = in_turns({name: peer.step for name, peer in peers.items()}, rounds=1, seconds=1.0)
    name = min(best, key=lambda k: best[k])
    peer = peers[name]
    seconds = in_turns({"ours": ours.step, "diffusers": peer.step}, a.rounds, 10.0)
    work = {"ours": flops_of(lambda: _backward(ours)), "diffusers": flops_of(peer.step)}
    figures: dict[str, Any] = {"ratio": seconds["diffusers"] / seconds["ours"], "diffusers best": name}
    for who, module in (("ours", ours.family), ("diffusers", peer.family.net)):
        figures[f"{who} steps/s"] = 1 / seconds[who]
        figures[f"{who} share of matmul rate"] = work[who] / seconds[who] / ceiling
        figures[f"{who} GFLOP a step"] = work[who] / 1e9
        figures[f"{who} parameters"] = parameters(module)
    figures |= {f"diffusers {k}, steps/s": 1 / v for k, v in best.items()}
    record("speed-unet", figures, batch=BATCH, side=SIDE, matmul_gflops=ceiling / 1e9)
    sampling(ours.model, peer.family)


def _backward(trainer: Any) -> None:
    batch = [b for lane in trainer.windows() for b in lane]
    for part in batch:
        trainer.family(part, "main").total.backward()
    trainer.family.zero_grad(set_to_none=True)


def sampling(model: Any, peer: Any) -> None:
    """64 pictures in 20 steps: ours by its own way, the peer's net in a DDIM pipeline's loop of as many steps."""
    from diffusers import DDIMScheduler  # pyright: ignore[reportMissingImports]

    from morphogen.sampling import draws

    scheduler = DDIMScheduler(num_train_timesteps=1000)
    model.eval()
    unet = peer.net.unet.eval()

    @torch.no_grad()
    def theirs() -> None:
        x = torch.randn(BATCH, 3, SIDE, SIDE)
        scheduler.set_timesteps(20)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample

    keys = draws.seeded(0, BATCH)
    seconds = in_turns({"ours": lambda: model.generate(keys), "diffusers": theirs}, 1, 0.1)
    figures = {"ratio": seconds["diffusers"] / seconds["ours"], **{f"{k} pictures/s": BATCH / v for k, v in seconds.items()}}
    record("speed-sampling", figures, steps=20, batch=BATCH)


def unet_loss(a: argparse.Namespace, steps: int = 300) -> None:
    """Held-out loss of the same function after as many steps; the peer at the better of its rates. Timing plays no part."""
    from morphogen.training.trainer import held_out_loss

    figures: dict[str, Any] = {}
    if "ours" in a.who:
        ours = unet_trainer(a, steps)
        for _ in range(steps):
            ours.step()
        figures["ours"] = held_out_loss(ours.ema.module, ours.held_out)
        print(figures, flush=True)
    for lr in a.rates if "diffusers" in a.who else ():
        ours = unet_trainer(a, steps)
        peer = PeerLoop(ours, steps, lr)
        for i in range(steps):
            now = peer.step()
            if i % 20 == 19:
                print(f"  diffusers {lr:g} step {i + 1}: {now:.4f}", flush=True)
        values = [held_out_loss(module, ours.held_out) for module in (peer.average.module, peer.family)]
        figures[f"diffusers at {lr:g}"] = min(values)
        print(figures, flush=True)
    record("speed-unet-loss", figures, steps=steps, batch=BATCH, side=SIDE)


# ------------------------------------------------------------------ vae
class Pythae:
    """pythae's VAE under its own trainer, no progress bar: its default net (one hidden layer), or that of its MNIST examples."""

    def __init__(self, x: Tensor, latent: int, conv: bool) -> None:
        from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]
        from pythae.models import VAE, VAEConfig  # pyright: ignore[reportMissingImports]
        from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST  # pyright: ignore[reportMissingImports]
        from pythae.trainers import BaseTrainer, BaseTrainerConfig  # pyright: ignore[reportMissingImports]

        logging.disable(logging.WARNING)
        torch.manual_seed(0)
        config = VAEConfig(input_dim=(1, 28, 28), latent_dim=latent)
        nets = {"encoder": Encoder_Conv_VAE_MNIST(config), "decoder": Decoder_Conv_AE_MNIST(config)} if conv else {}
        self.model, self.epochs = VAE(config, **nets), 0
        folder = str(fresh(WORK / "speed" / "pythae"))
        how = BaseTrainerConfig(output_dir=folder, num_epochs=10, per_device_train_batch_size=BATCH, learning_rate=1e-3)
        self.trainer = BaseTrainer(self.model, BaseDataset(x, torch.zeros(len(x))), training_config=how)
        self.trainer.prepare_training()

    def epoch(self) -> None:
        self.epochs += 1
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            self.trainer.train_step(self.epochs)

    @torch.no_grad()
    def error(self, x: Tensor) -> float:
        from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]

        self.model.eval()
        out = self.model(BaseDataset(x, torch.zeros(len(x)))[:]).recon_x
        self.model.train()
        return float((out.reshape(x.shape) - x).square().mean())


def vae(a: argparse.Namespace) -> None:
    """Parts of an epoch in turns, everyone on the same items; held-out reconstruction after as many steps stands beside the time.

    pythae's default net is one hidden layer; the nets of its MNIST examples are convolutions, as ours are.
    """
    train, test = digits28(a.digits)
    pictures = sum(1 for _ in train.rglob("*.png"))
    batches = a.items // BATCH
    options = {"training": {"batch": BATCH, **QUIET}}
    ours = {f"ours, {size}": our_trainer(train, "vae", {"net": {"size": size}, **options}, (a.rounds + 1) * batches, batches * BATCH)
            for size in ("small", "base")}  # fmt: skip
    first = ours["ours, small"]
    x = (first.data.rows(torch.arange(first.data.n)) + 1) / 2
    held = torch.from_numpy(load_pictures(test)[0])[:1000, None]
    latent = int(first.family.config.latent)
    peers = {"pythae": Pythae(x, latent, conv=False), "pythae, its MNIST nets": Pythae(x, latent, conv=True)}

    def part(trainer: Any) -> Callable[[], None]:
        def run() -> None:
            for _ in range(batches):
                trainer.step()

        return run

    taken = in_turns({**{k: part(v) for k, v in ours.items()}, **{k: v.epoch for k, v in peers.items()}}, a.rounds, 0.01)
    seconds = {k: v * pictures / first.data.n for k, v in taken.items()}
    errors = {k: v.error(held) for k, v in peers.items()}
    for k, trainer in ours.items():
        family = trainer.ema.module.eval()
        with torch.no_grad():
            errors[k] = float((family.decode(family.encode(2 * held - 1)) - (2 * held - 1)).square().mean()) / 4
    sizes = {**{k: v.family for k, v in ours.items()}, **{k: v.model for k, v in peers.items()}}
    figures: dict[str, Any] = {f"{k} to {other}": seconds[other] / seconds[k] for k in ours for other in peers}
    for who in seconds:
        figures |= {f"{who}, s an epoch": seconds[who], f"{who}, held-out error": errors[who], f"{who}, parameters": parameters(sizes[who])}
    record("speed-vae", figures, epoch=pictures, timed=first.data.n, batch=BATCH, steps=(a.rounds + 1) * batches, latent=latent)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ------------------------------------------------------------------ gan
def gan(a: argparse.Namespace) -> None:
    from benchmarks.plain_dcgan import Loop

    options = {"codec": {"size": SIDE}, "training": {"batch": BATCH, **QUIET}}
    ours = {name: our_trainer(emoji32(a.data), "gan", {"net": {"size": "base", **net}, **options}, 10_000) for name, net in GANS.items()}
    plain = {"float32": Loop(), **({"bfloat16": Loop(dtype=torch.bfloat16)} if half_pays() else {})}
    pictures = ours["ours"].data.rows(torch.arange(4 * BATCH))

    def loop(one: Any) -> Callable[[], Any]:
        def run() -> None:
            at = int(torch.randint(0, len(pictures) - BATCH, ()))
            one.step(pictures[at : at + BATCH])

        return run

    best = in_turns({name: loop(one) for name, one in plain.items()}, 1, 1.0)
    name = min(best, key=lambda k: best[k])
    seconds = in_turns({**{k: v.step for k, v in ours.items()}, "plain": loop(plain[name])}, a.rounds, 8.0)
    figures: dict[str, Any] = {f"ratio of {k}": seconds["plain"] / seconds[k] for k in ours} | {"plain best": name}
    figures |= {f"{k} steps/s": 1 / v for k, v in seconds.items()}
    figures |= {f"{k} parameters": v.model.parameters() for k, v in ours.items()} | {"plain parameters": plain[name].parameters()}
    record("speed-gan", figures, batch=BATCH, side=SIDE, penalised=ours["ours"].family.config.penalised)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("unet", "vae", "gan", "all"), default="all")
    parser.add_argument("--data", type=Path, help="emoji archive; without it the few that ship with the package")
    parser.add_argument("--digits", type=Path, help="28x28 digits, for part vae")
    parser.add_argument("--loss", action="store_true", help="unet: 300 steps of each instead of timing")
    parser.add_argument("--who", nargs="+", default=["ours", "diffusers"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=1024, help="vae: pictures of the epoch that are timed")
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(cores())
    if a.loss:
        unet_loss(a)
        return
    for name, work in (("unet", unet), ("vae", vae), ("gan", gan)):
        if a.part in (name, "all"):
            work(a)


if __name__ == "__main__":
    main()
