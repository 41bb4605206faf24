"""A table from end to end in Python: learn it, ask for rows, fill a gap, see how good it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import morphogen
from morphogen.samples import unpack


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    data = unpack(folder / "data")["penguins"]
    run = morphogen.train(data, folder / "run", family="cart")

    for row in morphogen.generate(run, n=3, cond={"species": "Gentoo"}):
        print(row)

    filled = morphogen.generate(run, n=2, given=[{"species": "Adelie", "body_mass_g": 3700}])
    print(filled[0])

    print(morphogen.evaluate(run, n=300)["verdict"])


if __name__ == "__main__":
    main()
