"""Knitting charts: `.knit` files of charts, a stitch a letter and a row a line, blank lines between. Drawn to look at."""
import io
from dataclasses import make_dataclass

import numpy as np
from morphogen.codecs.sources import Skips, group_of, read_utf8
from morphogen.contracts import Claim, Given, Item
from morphogen.errors import DataError
from morphogen.files import write_text
from morphogen.spaces import Tokens
from PIL import Image

STITCHES = "k-o/\\"  # knit, purl, yarn over, knit two together, slip slip knit
Y, X = np.mgrid[-4:5, -4:5]
INK = np.array([abs(2 * abs(X) + Y - 3) < 2, Y == 0, abs(X**2 + Y**2 - 8) < 4, X == -Y, X == Y]) & (abs(X) < 4) & (abs(Y) < 4)
COLOURS = np.array([(244, 234, 214), (156, 56, 72)], np.uint8)  # wool and what is drawn on it
KnittingConfig = make_dataclass("KnittingConfig", [], frozen=True)  # nothing to choose


class KnittingCodec:
    """A chart (str, rows from the top) <-> tokens on a grid, a token a stitch. Unknown stitches of a given chart are `?`."""
    name, Config, output, words = "knitting", KnittingConfig, ".knit", False

    def __init__(self, config=None):
        self.config, self.space, self.skips, self.notes = config or KnittingConfig(), Tokens(5, 1, grid=(1, 1)), Skips(), []

    @staticmethod
    def claims(listing):
        found = sum(file.suffix == ".knit" for file in listing.files)
        return Claim(found / max(1, len(listing.files)), f"{found} files of knitting charts")

    def read(self, listing):
        for file in (f for f in listing.files if f.suffix == ".knit"):
            for i, raw in enumerate(filter(None, (chart.strip() for chart in read_utf8(file).split("\n\n")))):
                yield Item(raw, {}, group_of(raw), f"{listing.name_of(file)}:{i}")

    def fit(self, items):
        rows = items[0].raw.split("\n")
        self.load({"grid": (len(rows), len(rows[0]))})
        [self.encode(item.raw) for item in items]  # all of one size, or an error

    def encode(self, raw):
        x = np.array([STITCHES.find(stitch) for stitch in raw.replace("\n", "")], np.int64)
        if [len(row) for row in raw.split("\n")] != self.space.grid[0] * [self.space.grid[1]] or (x < 0).any():
            raise DataError("a chart of another size, or with unknown stitches", remedy=f"give {self.space.grid} of {STITCHES}")
        return x

    def decode(self, x):
        return "\n".join("".join(STITCHES[i] for i in row) for row in np.reshape(x, self.space.grid))

    def given(self, raw):
        return Given(self.encode(raw.replace("?", "k")), np.array([stitch != "?" for stitch in raw.replace("\n", "")]))

    def write(self, raws, out, meta):
        write_text(out, "\n\n".join(raws) + "\n")
        return [out]

    def preview(self, raws):
        for raw, file in zip(raws, files := [io.BytesIO() for _ in raws], strict=True):
            dots = np.block([[INK[i] for i in row] for row in self.encode(raw).reshape(self.space.grid)])
            Image.fromarray(COLOURS[dots.astype(int)]).save(file, "PNG")
        return {"kind": "image", "png": [file.getvalue() for file in files]}

    def features(self, raws):
        grids = np.stack([self.encode(raw) for raw in raws]).reshape(-1, *self.space.grid)
        pairs = [(5 * grids[:, :, 1:] + grids[:, :, :-1]).reshape(len(raws), -1), (5 * grids[:, 1:] + grids[:, :-1]).reshape(len(raws), -1)]
        return np.concatenate([(pair[..., None] == np.arange(25)).mean(1) for pair in pairs], 1)

    def checks(self, raw, cond):
        return {"each row keeps its number of stitches": all(r.count("o") == sum(map(r.count, "/\\")) for r in raw.split("\n"))}

    def size_of(self, raw):
        return self.space.length, "stitch"

    def state(self):
        return {"grid": list(self.space.grid)}

    def load(self, state):
        self.space = Tokens(5, state["grid"][0] * state["grid"][1], grid=tuple(state["grid"]))
