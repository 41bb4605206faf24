"""morphogen reconstruct"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Device, Force, Json, Number, Whole, result


def reconstruct(
    data: Path,
    /,
    *,
    run: Path,
    out: Path,
    level: Number = 0.3,
    seed: Whole = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> int:
    """Encode and decode DATA: what the run keeps of it.

    Parameters
    ----------
    data
        Items of the kind the run learned from.
    run
        A run folder: vae, or a family that can take noise off or fill gaps (diffusion, flow, masked, cart).
    out
        Where what it makes of them goes: a folder or a file, as with generate.
    level
        For diffusion and flow: how much noise is put on before it is taken off, 0 none to 1 all.
    seed
        Names the noise.
    """
    from morphogen import api

    with Console() as watch:
        answer = api.reconstruct(data, run, out, level=level, seed=seed, device=device, force=force, watch=watch)
    answer.pop("raws")
    beside = f"; {answer['latent']} principal components: {answer['pca']:.4g}" if "pca" in answer else ""
    error = answer["error"]
    return result(answer, [f"{answer['how']}: {error['what']} {error['value']:.4g}{beside}", str(out)], json)
