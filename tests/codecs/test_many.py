"""Many items: what is kept by columns is what single items are, memory and time grow with their number, samples are uniform."""
import datetime as dt
import sys
import time

import numpy as np
import pytest
from PIL import Image

from morphogen.codecs.held import Held, conds_of, groups_of, part_of
from morphogen.codecs.image import ImageCodec
from morphogen.codecs.sources import scan
from morphogen.codecs.table import Config, TableCodec
from morphogen.codecs.table import store as S
from morphogen.codecs.table.cells import Parser
from morphogen.codecs.table.columns import Column


def table(path, n):
    """Eight columns of several kinds."""
    draw = np.random.default_rng(0)
    day = (np.datetime64("2015-01-01") + draw.integers(0, 3000, n)).astype(str)
    score = [f"{x:.6f}" if keep else "NA" for x, keep in zip(draw.normal(size=n), draw.random(n) > 0.05)]
    columns = (range(1, n + 1), draw.integers(0, 300, n), draw.integers(18, 90, n), draw.lognormal(10, 1, n).round(2), score, day,
               draw.random(n) < 0.3, draw.choice(list("ABCDE"), n))
    with path.open("w") as file:
        file.write("id,city,age,income,score,day,ok,grade\n")
        file.writelines(f"{a},c{b},{c},{d},{e},{f},{str(g).lower()},{h}\n" for a, b, c, d, e, f, g, h in zip(*columns))
    return path


def fitted(path, **config):
    codec = TableCodec(Config(**config))
    items = codec.hold(scan(path))
    codec.fit(items)
    return codec, items


def test_packed_rows_are_encoded_rows(tmp_path):
    codec, items = fitted(table(tmp_path / "t.csv", 3000))
    some = np.random.default_rng(1).integers(0, 3000, 400)
    part = part_of(items, some)
    for held in (part, list(part)):  # by columns, and one by one
        got = codec.unpack(codec.pack(held), np.arange(400))
        samples = [codec.encode(item.raw) for item in part]
        assert list(got) == list(samples[0])
        for name, values in got.items():
            want = np.stack([s[name] for s in samples])
            assert values.dtype == want.dtype and np.array_equal(values, want), name
    assert part[0] == items[int(some[0])] and conds_of(part)[0] == {} and len(part[3:9]) == 6


def test_packed_pictures_are_encoded_pictures(tmp_path):
    draw = np.random.default_rng(0)
    for mode, channels in (("RGB", 3), ("RGBA", 4), ("L", 1)):
        folder = tmp_path / mode
        folder.mkdir()
        for i in range(12):
            pixels = draw.integers(0, 256, (16, 16 + 8 * (i % 2), channels), np.uint8)
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{i}.png")
        codec = ImageCodec()
        items = list(codec.read(scan(folder)))
        codec.fit(items)
        want = np.stack([codec.encode(item.raw) for item in items])
        got = codec.unpack(codec.pack(items), np.arange(12))
        assert got.dtype == np.float32 and np.array_equal(got, want)


@pytest.mark.parametrize(("kind", "cells"), [
    ("number", ["1", "2.5", "-3e2", "+.5", "5.", "0.007", "00.5"]), ("number", ["1", "", "NA", "-"]), ("number", [" 1", "2 "]),
    ("number", ["1_0", "2"]), ("number", ["007", "1"]), ("number", ["nan", "inf"]), ("number", ["1e999"]), ("number", ["1e00001"]),
    ("number", ["٣"]), ("number", ["1\n2"]), ("integer", ["1", "-2", "9007199254740993", "1" * 30]), ("integer", ["1.5", "2"]),
    ("integer", ["1e3"]), ("number", [1.5, None]), ("integer", [1, None, 2**70]), ("integer", [True, 1]), ("number", ["x", "+-1"]),
    ("date", ["2021-03-05", "2021-3-6", "x"]), ("datetime", [dt.datetime(2021, 1, 1, 1, 1, 1, 999_999), None, dt.datetime(1, 1, 1)]),
])
def test_a_column_at_once_is_its_cells_one_by_one(kind, cells):
    column = Column("c", kind, missing=0.1, forms=["%Y-%m-%d"])
    values, bad = S.parsed(Parser(column), cells)
    parser = Parser(column)
    one_by_one = [parser(cell) for cell in cells]
    assert bad == [i for i, v in enumerate(one_by_one) if v is Parser]
    for i, value in enumerate(one_by_one):
        got = S.value_of(kind, values[i])
        assert i in bad or (got == value and type(got) is type(value))


def test_a_larger_table_is_sampled_uniformly_and_says_so(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("v,w\n" + "".join(f"{i}.5,{'ab'[i % 2]}\n" for i in range(20_000)))
    codec, items = fitted(path, rows=2000)
    assert "20,000 rows, learning from a uniform sample of 2,000; --set codec.rows=0 takes all" in codec.notes
    values = np.array([item.raw["v"] for item in items])
    assert len(items) == len(set(values)) == 2000 and (np.diff(values) > 0).all() and abs(values.mean() - 10_000) < 4 * 5774 / 2000**0.5
    assert items[5].source == f"{path}:{int(values[5] - 0.5) + 2}"
    assert len(fitted(path, rows=0)[1]) == 20_000


def test_thinned_tallies_keep_shares_and_missing(monkeypatch):
    monkeypatch.setattr(S, "DISTINCT", 500)
    tally, n = S.Tally(2, False), 20_000
    cells = ["" if i == 7 else "often" if i % 2 else f"x{i}" for i in range(n)]
    for i in range(0, n, 1000):
        tally.add([cells[i : i + 1000], [str(k) for k in range(i, i + 1000)]])
    count, share = tally.counts[0], tally.share[0]
    assert len(count) <= 500 and share < 0.1
    assert abs(count["often"] / count.total() - 0.5) < 0.1
    columns, _ = tally.survey(["a", "n"], 1000)
    assert columns[0].missing > 0 and columns[1].kind == "id" and columns[1].last == n - 1


def test_duplicates_share_a_group_and_ids_do_not_tell_them_apart(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,v,w\n" + "".join(f"{i},{i % 50}.5,{'ab'[i % 2]}\n" for i in range(1, 201)))
    names, of = groups_of(fitted(path)[1])
    assert len(names) == 50 and (np.bincount(of) == 4).all()


def test_memory_of_rows_is_linear_and_small(tmp_path):
    """What stays in memory per row, at a size and at four times it."""
    kept = []
    for n in (5_000, 20_000):
        codec, items = fitted(table(tmp_path / f"{n}.csv", n))
        packed, rows = codec.pack(items), items.store
        assert isinstance(items, Held) and len(packed["city"]) == n
        columns = rows.columns.values()
        objects = {id(v): v for column in columns if column.dtype == object for v in column}
        arrays = [items.ids, rows.groups, rows.places, *columns, *packed.values()]
        kept.append(sum(map(sys.getsizeof, objects.values())) + sum(a.nbytes for a in arrays))
    slope = (kept[1] - kept[0]) / 15_000
    assert slope < 200, f"{slope:.0f} bytes a row"
    assert kept[1] < 4.1 * kept[0]


def test_fetching_a_batch_of_many_does_not_sort_them_again():
    from morphogen.training.data import order

    order(100_000, 64, 0, 0)
    begun = time.process_time()
    for step in range(1, 51):
        order(100_000, 64, 0, step)
    assert (time.process_time() - begun) / 50 < 5e-3
