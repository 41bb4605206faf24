"""A 1 MB text file without flags: python -m benchmarks.text [--data FILE] [--minutes 5]"""

from __future__ import annotations

import argparse
from pathlib import Path

import morphogen
from benchmarks.common import WORK, fresh, record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="a text file; without it, the docstrings of the running Python's standard library")
    parser.add_argument("--minutes", type=float, default=5.0)
    a = parser.parse_args()
    if a.data is None:
        from morphogen.samples import unpack

        a.data = unpack(fresh(WORK / "samples"))["docstrings"]
    run = morphogen.train(a.data, fresh(WORK / "text"), minutes=a.minutes)
    answer = morphogen.evaluate(run)
    figures = {}
    for metric in answer["metrics"]:
        if metric["name"].startswith("bits per"):
            figures = {
                metric["name"]: metric["value"],
                "low": metric["low"],
                "high": metric["high"],
                metric["baseline"]["name"]: metric["baseline"]["value"],
            }
    record(
        "text",
        {**figures, "train seconds": run.provenance()["seconds"]},
        data=a.data.name,
        bytes=a.data.stat().st_size,
        verdict=answer["verdict"],
    )


if __name__ == "__main__":
    main()
