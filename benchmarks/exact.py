"""The same item whatever the company: python -m benchmarks.exact [--n 1000] [--families flow vae ...]

Each family of the registry (and two-stage models) is trained for a few steps on sample data. Its n items are drawn with --batch 1,
7 and 64 and in reverse order of indices: raw tensors before decoding, decoded items and written files must be the same bytes.
Then every item is replayed from the recipe its file carries.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import morphogen
from benchmarks.common import RESULTS, WORK, fresh, record
from morphogen import samples
from morphogen.api.drawing import Drawn, Wish, sampling_of
from morphogen.registry import FAMILIES
from morphogen.run import Run
from morphogen.sampling import draws
from morphogen.trust import provenance

TINY = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 0, "checks": 0, "batch": 16}}
CASES = {  # family: the sample data it learns from, and what it is asked for
    "vae": ("digits", {}), "gan": ("digits", {"label": "3"}), "diffusion": ("digits", {"label": "7"}), "flow": ("digits", {}),
    "autoregressive": ("lines", {}), "masked": ("penguins", {"species": "Gentoo"}), "seq2seq": ("pairs", {}),
    "ngram": ("lines", {}), "mixture": ("penguins", {}), "kde": ("penguins", {}), "cart": ("penguins", {"island": "Dream"}),
    "neighbour": ("digits", {}), "latent_class": ("digits", {}),
}
STAGES = {"vae + diffusion": ("kl", "diffusion"), "vae + autoregressive": ("vq", "autoregressive")}
BATCHES = (1, 7, 64)
OUT = {"digits": "", "penguins": ".csv", "lines": ".jsonl", "pairs": ".jsonl"}


def steps_of(name: str) -> dict[str, int]:
    """Few steps show as much as many: a replayed picture costs a whole tile."""
    return {"steps": 3} if name.split(" + ")[-1] in ("diffusion", "flow", "masked") else {}


def data(folder: Path) -> dict[str, Path]:
    found = samples.unpack(folder)
    lines = found["docstrings"].read_text(encoding="utf-8").split("\n\n")
    (folder / "lines.txt").write_text("\n".join(line.split("\n")[0][:40] for line in lines[:400]), encoding="utf-8")
    texts = [line.split("\n")[0][:40] for line in lines[:200]]
    rows = "".join(json.dumps({"text": t, "caption": t.split()[0]}) + "\n" for t in texts)
    (folder / "pairs.jsonl").write_text(rows, encoding="utf-8")
    return found | {"lines": folder / "lines.txt", "pairs": folder / "pairs.jsonl"}


def runs(folder: Path, names: list[str]) -> Iterator[tuple[str, Run, dict[str, Any], str]]:
    """(name, run, what is asked of it, the ending of its outputs), one after another."""
    found = data(folder / "data")
    for family, (kind, cond) in CASES.items():
        if family in names:
            extra: dict[str, Any] = {"cond": ("caption",)} if kind == "pairs" else {}
            if kind in ("lines", "pairs"):
                extra["options"] = {**TINY, "codec": {"tokens": "bytes", "length": 48}}
            elif not FAMILIES[family].line.startswith("classical"):
                extra["options"] = TINY
            run = morphogen.train(found[kind], folder / family, family=family, steps=6, **extra)
            yield family, run, cond, OUT[kind]
    for name, (latent, family) in STAGES.items():
        if name in names:
            options = {**TINY, "family": {"kind": latent}}
            first = morphogen.train(found["digits"], folder / latent, family="vae", steps=6, options=options)
            place = folder / name.replace(" ", "")
            yield name, morphogen.train(found["digits"], place, family=family, bridge=first.path, steps=6, options=TINY), {}, ""


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensors(model: Any, keys: torch.Tensor, sampling: Any = None) -> list[bytes]:
    """What the family draws for each key, before any codec, tile by tile in the order of `keys`."""
    out = []
    for rows, part, _ in model.stream(keys, sampling=sampling):
        if part.done:
            parts = part.x if isinstance(part.x, dict) else {"": part.x}
            out += [b"".join(v[i].numpy().tobytes() for v in parts.values()) for i in range(len(rows))]
    return out


def same_raws(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in zip(a, b, strict=True))


def judge(run: Run, cond: dict[str, Any], ending: str, n: int, folder: Path, batches: tuple[int, ...] = BATCHES,
          asked: dict[str, Any] | None = None) -> dict[str, int]:
    """Counts of what is the same; every figure should be n (files: how many files of each drawing).

    `batches` begins with 1 and 7. `asked`: fields of the family's Sampling.
    """
    name, written = f"out{ending}", {}
    for batch in batches:
        morphogen.generate(run, fresh(folder / str(batch)) / name, n=n, seed=9, cond=cond, batch=batch, sampling=asked)
        written[batch] = digest(folder / str(batch))
    files = sum(all(other.get(k) == found for other in written.values()) for k, found in written[1].items())
    keys = draws.seeded(9, n)
    model = run.model()
    sampling = sampling_of(model, asked or {})
    straight, reverse = tensors(model, keys, sampling), tensors(model, keys.flip(0), sampling)[::-1]
    forward, backward = (model.generate(k, batch=b, sampling=sampling) for k, b in ((keys, 7), (keys.flip(0), batches[-1])))
    return {
        "files": files, "of": len(written[1]),
        "tensors": sum(a == b for a, b in zip(straight, reverse, strict=True)),
        "items": sum(same_raws([a], [b]) for a, b in zip(forward, backward[::-1], strict=True)),
        "replayed": replayed(run, cond, ending, n, folder, name),
    }


def replayed(run: Run, cond: dict[str, Any], ending: str, n: int, folder: Path, name: str) -> int:
    """How many of n items come back from their recipes byte for byte: a file each, or one file that holds an item a seed."""
    again = fresh(folder / "again")
    if not ending:
        pictures = sorted((folder / "7" / name).glob("*.png"))
        return sum(morphogen.replay(p, again / p.name).read_bytes() == p.read_bytes() for p in pictures)
    whole = folder / "7" / name
    if morphogen.replay(whole, again / name).read_bytes() != whole.read_bytes():
        return 0
    # items of one file have one recipe: each is drawn alone by its index
    facts, model = provenance.read(whole), run.model()
    drawn = list(Drawn(model, Wish(9, n, facts["cond"]), sampling_of(model, facts["sampling"])))
    alone = (Drawn(model, Wish(9, 1, facts["cond"], first=i), sampling_of(model, facts["sampling"]))[0] for i in range(n))
    return sum(same_raws([a], [b]) for a, b in zip(drawn, alone, strict=True))


def earlier(n: int) -> dict[str, Any]:
    """What the record holds of other families, of as many samples: some families may be tried again alone."""
    path = RESULTS / "exact.json"
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else {}
    return figures["each"] if figures.get("n") == n else {}


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--n", type=int, default=1000)
    ask.add_argument("--families", nargs="*", default=[*CASES, *STAGES])
    a = ask.parse_args()
    missing = set(FAMILIES) - set(CASES)
    assert not missing, f"no case for {missing}"
    folder, figures = fresh(WORK / "exact"), earlier(a.n) if a.families != [*CASES, *STAGES] else {}
    for name, run, cond, ending in runs(folder, a.families):
        begun = time.process_time()
        figures[name] = judge(run, cond, ending, a.n, folder / "drawn" / name.replace(" ", ""), asked=steps_of(name))
        print(name, figures[name], f"{time.process_time() - begun:.0f} s", flush=True)
        wrong = [k for k, v in figures.items() if not (v["files"] == v["of"] and v["tensors"] == v["items"] == v["replayed"] == a.n)]
        record("exact", {"n": a.n, "families": len(figures), "all the same": not wrong, "wrong": wrong, "each": figures})


if __name__ == "__main__":
    main()
