"""Whether --minutes is kept, for every family that is trained: python -m benchmarks.minutes [--minutes 1] [--families vae ...]

Sample data, default settings but for `training.keep`: a run that keeps the best weights may end when it only learns by heart, which
is no matter of keeping time. The time is that of the whole `train`, from reading the data to the saved model.
"""
from __future__ import annotations

import argparse
import time
from typing import Any

import morphogen
from benchmarks.common import WORK, fresh, record
from benchmarks.exact import CASES, STAGES, data
from morphogen.registry import FAMILIES


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained = [name for name in CASES if not FAMILIES[name].line.startswith("classical")]
    ask.add_argument("--minutes", type=float, default=1.0)
    ask.add_argument("--families", nargs="*", default=[*trained, *STAGES])
    a = ask.parse_args()
    folder = fresh(WORK / "minutes")
    found, first, figures = data(folder / "data"), {}, {}

    def taken(name: str, what: str, **wishes: Any) -> Any:
        begun = time.monotonic()
        options = {"training": {"keep": "last"}, **wishes.pop("options", {})}
        run = morphogen.train(found[what], folder / name.replace(" ", ""), minutes=a.minutes, options=options, **wishes)
        figures[name] = (time.monotonic() - begun) / (60 * a.minutes)
        print(f"{name}: {figures[name]:.1%} of the time", flush=True)
        return run

    for name in (n for n in trained if n in a.families):
        taken(name, CASES[name][0], family=name, cond=("caption",) if CASES[name][0] == "pairs" else ())
    for name, (latent, family) in STAGES.items():
        if name in a.families:
            first[latent] = taken(f"vae ({latent})", "digits", family="vae", options={"family": {"kind": latent}})
            taken(name, "digits", family=family, bridge=first[latent].path)
    record("minutes", figures, minutes=a.minutes)


if __name__ == "__main__":
    main()
