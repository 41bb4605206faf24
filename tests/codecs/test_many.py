"""Many items: what is kept by columns is what single items are, memory and time grow with their number, samples are uniform."""
import datetime as dt
import hashlib
import io
import math
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from morphogen.codecs import pictures
from morphogen.codecs.held import Held, conds_of, groups_of, part_of
from morphogen.codecs.image import ImageCodec
from morphogen.codecs.sources import Skips, scan
from morphogen.codecs.table import Config, TableCodec, delimited
from morphogen.codecs.table import store as S
from morphogen.codecs.table.cells import Parser
from morphogen.codecs.table.columns import Column
from morphogen.errors import DataError


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


# ------------------------------------------------------------------- fast ways give what plain ways give
def plain(path, delimiter=",", width=3):
    """A CSV's rows by `csv` alone, and what is skipped."""
    skips = Skips()
    reader = delimited._Reader(path, "utf-8-sig", delimiter, width, skips)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader.taken = math.inf
        return list(reader._rows(file)), skips.first


def fast(path, block, monkeypatch, delimiter=",", width=3):
    monkeypatch.setattr(delimited, "BLOCK", block)
    skips = Skips()
    reader = delimited._Reader(path, "utf-8-sig", delimiter, width, skips)
    rows = [(int(n), list(cells)) for numbers, columns in reader.pieces(lambda share: None) for n, *cells in zip(numbers, *columns)]
    return rows, skips.first


CELLS = st.sampled_from(["a", "", "1.5", "é", '"q"', '"x,y"', '"l\nl"', '"l\r\nl"', '5"', '"a"b', "\u2028", "\x0b", "a,b", "c\rd", "\0"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=12), block=st.integers(1, 80), mark=st.booleans(),
       nl=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]), end=st.booleans())
def test_csv_cut_in_blocks_is_what_csv_reads(tmp_path, monkeypatch, rows, block, mark, nl, end):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" * mark + nl.join(["a,b,c", *(",".join(row) for row in rows)]).encode() + nl.encode() * end)
    assert fast(path, block, monkeypatch) == plain(path)


def test_plain_blocks_are_cut_and_others_are_not():
    assert delimited.cut(b"a,b\n1,2\n", ",", 2) == [["a", "1"], ["b", "2"]]
    assert delimited.cut("é;\u2028\r\n;x".encode(), ";", 2) == [["é", ""], ["\u2028", "x"]]
    for odd in (b'a,"b"\n', b"a,b\n\n1,2\n", b"a,b,c\nd\n", b"a\rb,c\n", b"\na,b\n", b"a," + b"x" * 140_000 + b"\n"):
        assert delimited.cut(odd, ",", 2) is None


def test_pictures_read_by_workers_are_those_read_here_and_each_file_is_opened_once(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(draw.integers(0, 256, (9, 8, 3), np.uint8)).save(tmp_path / f"{i:02d}.{'png' if i % 3 else 'jpg'}")
    (tmp_path / "05.png").write_bytes((tmp_path / "04.png").read_bytes()[:-30])
    paths, opened = scan(tmp_path).files, []
    hook = lambda name, *rest, **named: opened.append(str(name)) or io.open(name, *rest, **named)  # noqa: SIM115, UP020
    monkeypatch.setattr(pictures, "open", hook, raising=False)
    monkeypatch.setattr(pictures.Path, "open", lambda self, *rest, **named: hook(self, *rest, **named))
    here = list(pictures.read_each(paths, 16))
    assert sorted(opened) == sorted(map(str, paths))
    monkeypatch.undo()
    monkeypatch.setattr("morphogen.codecs.workers.cores", lambda: 2)
    there = list(pictures.read_each(paths, 16, least=3))
    assert [isinstance(one, DataError) for one in here] == [i == 5 for i in range(12)]
    for path, a, b in zip(paths, here, there, strict=True):
        if isinstance(a, DataError) and isinstance(b, DataError):
            assert (a.what, a.remedy) == (b.what, b.remedy)
        else:
            assert np.array_equal(a[0], b[0]) and a[0].dtype == b[0].dtype and list(a[1:]) == list(b[1:])
            assert a[2] == hashlib.sha256(path.read_bytes()).digest()


def test_hashes_found_while_reading_are_those_of_the_files(tmp_path):
    from morphogen.trust.provenance import hash_data

    for i in range(3):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    listing, codec = scan(tmp_path), ImageCodec()
    assert len(list(codec.read(listing))) == len(listing.hashes) == 3
    assert hash_data(listing.files, listing.root, listing.hashes) == hash_data(listing.files, listing.root)


def test_reading_tells_how_far_it_is(tmp_path):
    from morphogen.plan import read

    told = []
    read(table(tmp_path / "t.csv", 300), tell=lambda what, share, note: told.append((what, share)))
    assert dict(told) == {"counting cells": 1.0, "reading rows": 1.0}
    told.clear()
    (tmp_path / "p").mkdir()
    for i in range(130):
        Image.new("L", (8, 8), i).save(tmp_path / "p" / f"{i}.png")
    read(tmp_path / "p", tell=lambda what, share, note: told.append(share))
    assert told == [0, 64 / 130, 128 / 130]


def test_shares_of_words_are_means_of_one_hot():
    import torch

    from morphogen.bridges.one_hot import OneHot
    from morphogen.spaces import Record, Tokens

    bridge = OneHot(Record((("w", Tokens(7, 1)),)))
    x = torch.randint(0, 6, (1001, 1))
    bridge.fit({"w": x})
    assert torch.equal(bridge.frequency, torch.nn.functional.one_hot(x[:, 0], 7).float().mean(0))
