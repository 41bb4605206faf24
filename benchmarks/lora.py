"""LoRA against tuning in full: python -m benchmarks.lora [--only text|digits] [--rates]

Loss gain on held-out items of the new kind, equal steps: (base - adapter) / (base - full), full tuning at the best of its rates.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
from pathlib import Path
from typing import Any

import morphogen
from benchmarks.common import WORK, digits8, fresh, record

RATES = {"lora": (1.0, 2.0, 4.0), "full": (0.1, 0.3, 1.0)}  # times the rate the base was trained with


def text_data(folder: Path) -> tuple[Path, Path]:
    """Docstrings of the standard library, and functions of its source without theirs: prose and code."""
    from morphogen.samples import docstrings

    fresh(folder).mkdir(parents=True)
    (folder / "docstrings.txt").write_text("\n\n".join(docstrings(150_000)))
    import argparse as a
    import configparser
    import statistics
    import tarfile
    import zipfile

    with (folder / "code.jsonl").open("w") as file:
        for module in (a, configparser, statistics, tarfile, zipfile):
            for block in inspect.getsource(module).split("\n\n"):
                if '"""' not in block and len(block.strip()) > 40:
                    file.write(json.dumps({"text": block.strip("\n")[:400]}) + "\n")
    return folder / "docstrings.txt", folder / "code.jsonl"


def digit_data(folder: Path) -> tuple[Path, Path]:
    """Digits 0 to 7, and 8 and 9, without their labels."""
    train, test = digits8()
    for name, wanted in (("old", range(8)), ("new", (8, 9))):
        fresh(folder / name).mkdir(parents=True)
        for side in (train, test):
            for label in wanted:
                for file in (side / str(label)).glob("*.png"):
                    (folder / name / f"{side.name}-{label}-{file.name}").write_bytes(file.read_bytes())
    return folder / "old", folder / "new"


CASES: dict[str, dict[str, Any]] = {
    "text": {
        "data": text_data, "family": "autoregressive", "base": 100, "tune": 80, "ranks": (8, 4),
        "options": {"net": {"width": 256, "depth": 2}, "codec": {"length": 128, "tokens": "bytes", "entries": "paragraphs"},
                    "training": {"batch": 16, "previews": 0, "checks": 2}},
    },
    "digits": {
        "data": digit_data, "family": "diffusion", "base": 300, "tune": 150, "ranks": (8, 2),
        "options": {"net": {"width": 192}, "training": {"batch": 32, "previews": 0, "checks": 2}},
    },
}


def measure(name: str, rates: bool) -> dict[str, Any]:
    case, work = CASES[name], WORK / "lora" / name
    old, new = case["data"](work / "data")
    base = morphogen.train(old, fresh(work / "base"), family=case["family"], steps=case["base"], options=case["options"], report=False)
    lr = float(base.recipe["training"]["lr"])
    figures: dict[str, Any] = {}

    def tuned(label: str, **how: Any) -> dict[str, Any]:
        factor, begun = how.pop("factor", None), time.process_time()
        training = {**case["options"]["training"], **({"lr": lr * factor} if factor else {})}
        answer = morphogen.tune(base, new, fresh(work / label), steps=case["tune"], options={"training": training}, **how)
        now, before = answer["new"]["tuned"], answer["new"]["base"]
        print(f"  {label:<14} {before:.4f} -> {now:.4f}  own {answer['own']['base']:.4f} -> {answer['own']['tuned']:.4f}  "
              f"share {answer['share']:.3f}  merge {answer.get('merge_difference') or 0:.1e}  "
              f"{time.process_time() - begun:.0f} s", flush=True)
        return answer

    full = min((tuned(f"full-x{f:g}", full=True, factor=f) for f in RATES["full"]), key=lambda a: a["new"]["tuned"])
    gain = full["new"]["base"] - full["new"]["tuned"]
    figures |= {"base": full["new"]["base"], "full": full["new"]["tuned"], "full forgets": full["own"]["tuned"] - full["own"]["base"]}
    for rank in case["ranks"]:
        tries = [tuned(f"rank-{rank}" + (f"-x{f:g}" if f else ""), rank=rank, factor=f) for f in (RATES["lora"] if rates else (None,))]
        best = min(tries, key=lambda a: a["new"]["tuned"])
        figures |= {f"rank {rank} gain": (best["new"]["base"] - best["new"]["tuned"]) / gain, f"rank {rank} share": best["share"],
                    f"rank {rank} forgets": best["own"]["tuned"] - best["own"]["base"], f"rank {rank} merge": best["merge_difference"]}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=tuple(CASES))
    parser.add_argument("--rates", action="store_true", help="also try several rates for the adapters")
    a = parser.parse_args()
    for name in [a.only] if a.only else CASES:
        record(f"lora-{name}", measure(name, a.rates), base_steps=CASES[name]["base"], tune_steps=CASES[name]["tune"])


if __name__ == "__main__":
    main()
