"""Lossless coding beside xz and zstd: python -m benchmarks.compression [--minutes 5 | --steps N] [--text FILE] [--only digits text exact]

Bits count the whole compressed file unless said; "primed" coders know the training data. Every figure is of data decoded and compared.
"""

from __future__ import annotations

import argparse
import lzma
import time
from pathlib import Path
from typing import Any

import numpy as np

import morphogen
from benchmarks.common import WORK, fresh, record, save_pictures

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]


def xz(data: bytes, primer: bytes = b"") -> int:
    """Bytes of raw LZMA2 -9e, after having read `primer`."""
    size = lambda d: len(lzma.compress(d, format=lzma.FORMAT_RAW, filters=FILTERS))
    return size(primer + data) - size(primer) if primer else size(data)


def zstd(data: bytes, primer: bytes = b"") -> int | None:
    """Bytes of zstd -22, with the primer as its dictionary; None where zstandard is not installed."""
    try:
        import zstandard
    except ImportError:
        return None
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=27)
    words = zstandard.ZstdCompressionDict(primer, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if primer else None
    return len(zstandard.ZstdCompressor(compression_params=parameters, dict_data=words).compress(data))


def others(data: bytes, primer: bytes, unit: float) -> dict[str, float]:
    """xz and zstd in bits per unit, unprimed and primed."""
    found = {"xz": xz(data), "xz primed": xz(data, primer), "zstd": zstd(data), "zstd primed": zstd(data, primer)}
    return {name: 8 * size / unit for name, size in found.items() if size is not None}


def there_and_back(source: Path, run: Any, name: str) -> tuple[dict[str, Any], float, float]:
    """Facts of compress, and kB/s of coding and of decoding the user's bytes (loading the model left out, as is checking)."""
    out, back = WORK / "compression" / f"{name}.mgc", fresh(WORK / "compression" / f"{name}.back")
    facts = morphogen.compress(source, run, out, force=True)
    morphogen.decompress(out, run, back, force=True)
    for path in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
        again = back if source.is_file() else back / path.relative_to(source)
        assert again.read_bytes() == path.read_bytes(), path
    return facts, facts["bytes"] / 1e3 / facts["encode_seconds"], facts["bytes"] / 1e3 / facts["decode_seconds"]


# ------------------------------------------------------------------ digits
def digits(length: dict[str, Any], families: list[str] | None = None) -> None:
    """scikit-learn's 8x8 digits of 17 grey levels: three quarters to learn, a quarter to code."""
    from sklearn.datasets import load_digits

    x, _ = load_digits(return_X_y=True)
    x = x[np.random.default_rng(0).permutation(len(x))].reshape(-1, 8, 8).astype(np.uint8)
    cut = len(x) // 4
    train, test = x[cut:], x[:cut]
    root = fresh(WORK / "compression" / "digits")
    for name, part in (("train", train), ("test", test)):
        save_pictures(root / name, np.rint(part * 255.0 / 16).astype(np.uint8), np.zeros(len(part), int))
    pixels = test.size
    share = np.stack([(train == level).sum(0) + 1.0 for level in range(17)])  # add-one counts of each pixel's levels
    share /= share.sum(0)
    alone = -np.log2(np.take_along_axis(share, test.astype(int), 0)).sum() / pixels
    figures = {"independent pixels": float(alone), **others(test.tobytes(), train.tobytes(), pixels)}
    runs: dict[str, dict[str, Any]] = {"ngram": {}, "latent_class": {}, "autoregressive": length}
    for family in families or runs:
        run = morphogen.train(root / "train", root / family, family=family, **runs[family])
        begun = time.perf_counter()
        facts, _, _ = there_and_back(root / "test", run, f"digits-{family}")
        figures |= {
            f"{family}: bits a pixel": 8 * facts["payload"] / pixels,
            f"{family}: with names and header": 8 * facts["compressed"] / pixels,
            f"{family}: kB of pixels a second, coding": pixels / 1e3 / facts["encode_seconds"],
            f"{family}: decoding": pixels / 1e3 / facts["decode_seconds"],
            f"{family}: seconds in all": time.perf_counter() - begun,
        }
    record("compression-digits", figures, pictures=len(test), **length)


# -------------------------------------------------------------------- text
def text(path: Path | None, length: dict[str, Any]) -> None:
    """The last seventh of a text, after its first six sevenths."""
    if path is None:
        from morphogen.samples import unpack

        path = unpack(fresh(WORK / "samples"))["docstrings"]
    data = path.read_bytes()
    cut = data.index(b"\n\n", int(len(data) * 0.85)) + 2
    root = fresh(WORK / "compression" / "text")
    root.mkdir(parents=True)
    (root / "train.txt").write_bytes(data[:cut])
    (root / "test.txt").write_bytes(data[cut:])
    figures: dict[str, float] = others(data[cut:], data[:cut], len(data) - cut)
    runs = {
        "ngram of bytes": {"family": "ngram", "options": {"codec": {"tokens": "bytes"}}},
        "ngram of word pieces": {"family": "ngram", "options": {"codec": {"tokens": "bpe"}}},
        "autoregressive of bytes": {"family": "autoregressive", **length, "options": {"codec": {"tokens": "bytes"}}},
    }
    for name, more in runs.items():
        run = morphogen.train(root / "train.txt", root / name.replace(" ", "-"), **more)
        facts, coding, decoding = there_and_back(root / "test.txt", run, name.replace(" ", "-"))
        figures |= {f"{name}: bits a byte": facts["bits_per_byte"], f"{name}: kB/s coding": coding, f"{name}: decoding": decoding}
        if "ngram" in name:  # speed of more rows side by side; the file holds what was learned from, so its size says nothing
            _, coding, decoding = there_and_back(path, run, "whole")
            figures |= {f"{name}: kB/s coding {len(data) / 1e6:.1f} MB": coding, f"{name}: decoding it": decoding}
    record("compression-text", figures, train=cut, test=len(data) - cut, data=path.name, **length)


# ------------------------------------------------------------------- exact
def exact() -> None:
    """Every odd file comes back, through runs of every kind the other parts have made."""
    root = fresh(WORK / "compression" / "odd")
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    odd = {"empty": b"", "one": b"x", "random": rng.bytes(100_000), "zeros": bytes(100_000), "all": bytes(range(256)) * 40,
           "latin": "né à Zürich ".encode("latin-1") * 500, "half": "漢字".encode()[:-1], "self": Path(__file__).read_bytes()}
    for name, content in odd.items():
        (root / name).write_bytes(content)
    runs = [p.parent for p in sorted((WORK / "compression").glob("*/*/model.safetensors"))]
    count = 0
    for run in runs:
        for source in [*sorted(root.iterdir()), root]:
            there_and_back(source, run, "odd")
            count += 1
    record("compression-exact", {"files and folders that came back": count, "of": count, "runs": len(runs)})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--families", nargs="+", help="of the digits: ngram, latent_class, autoregressive")
    parser.add_argument("--text", type=Path, help="a text file; without it, the docstrings of the standard library")
    parser.add_argument("--only", nargs="+", default=["digits", "text", "exact"], choices=["digits", "text", "exact"])
    parser.add_argument("--steps", type=int, help="train networks so many steps instead of minutes, for machines that are busy")
    a = parser.parse_args()
    length = {"steps": a.steps} if a.steps else {"minutes": a.minutes}
    if "digits" in a.only:
        digits(length, a.families)
    if "text" in a.only:
        text(a.text, length)
    if "exact" in a.only:
        exact()


if __name__ == "__main__":
    main()
