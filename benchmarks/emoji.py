"""Emoji 64 -> 32 px in colour with alpha, by category, <= 15 min: python -m benchmarks.emoji --data twemoji-64px-named.tgz

The archive holds emoji.json and img/twitter/64 of the npm package `emoji-datasource-twitter` 16.0.0 (art CC-BY-4.0).
"""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path

import morphogen
from benchmarks.common import WORK, fresh, record


def folder_of(archive: Path) -> Path:
    """All emoji with an image as a folder with metadata.jsonl (category, name)."""
    target = WORK / "emoji-64"
    if (target / "metadata.jsonl").exists():
        return target
    fresh(target).mkdir(parents=True)
    with tarfile.open(archive) as tar:
        files = {Path(m.name).name: m for m in tar if m.isfile()}
        listed = json.loads(tar.extractfile(files["emoji.json"]).read())  # type: ignore[union-attr]
        lines = []
        for entry in listed:
            name = entry["image"]
            if name in files:
                (target / name).write_bytes(tar.extractfile(files[name]).read())  # type: ignore[union-attr]
                lines.append(json.dumps({"file_name": name, "category": entry["category"], "caption": entry["name"] or ""}))
    (target / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--family", default="diffusion")
    a = parser.parse_args()
    data = folder_of(a.data)
    run = morphogen.train(
        data, fresh(WORK / "emoji" / a.family), family=a.family, minutes=a.minutes, cond=("category",), options={"codec": {"size": 32}}
    )
    answer = morphogen.evaluate(run, n=500)
    figures = {
        m["name"]: m["value"]
        for m in answer["metrics"]
        if m["name"] in ("precision", "recall", "coverage", "c2st", "nearest distance", "exact copies")
    }
    record(f"emoji-{a.family}", {**figures, "train seconds": run.provenance()["seconds"]}, minutes=a.minutes, verdict=answer["verdict"])


if __name__ == "__main__":
    main()
