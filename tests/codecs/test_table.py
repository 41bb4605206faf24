"""The table codec on good tables: kinds, exact round trips, legal decodes, formats, state, and what users get to see."""
import datetime as dt
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.codecs.sources import scan
from morphogen.codecs.table import Config, TableCodec
from morphogen.contracts import Item
from morphogen.errors import DataError, UsageError
from morphogen.spaces import Array, Record, Tokens

HEADER = "id,size,count,grade,ok,day,note,same,none,gap"


def lines(n=60):
    out = [HEADER]
    for i in range(n):
        gap = "NA" if i % 5 == 0 else f"{i * 0.37:.2f}"
        note = f"sentence number {i // 2} about something long" if i % 9 else ""
        ok, day = "TRUE" if i % 2 else "FALSE", f"{5 + i % 20:02d}/03/2021"
        out.append(f"{i + 1},{1 + i * 0.5:.2f},{i * 25 % 425},{'ABC'[i % 3]},{ok},{day},{note},x,,{gap}")
    return out


def fitted(tmp_path, text=None, name="t.csv", config=None):
    path = tmp_path / name
    path.write_text("\n".join(lines()) + "\n" if text is None else text, encoding="utf-8", newline="")
    codec = TableCodec(config)
    items = list(codec.read(scan(path)))
    codec.fit(items)
    return codec, items


def kinds(codec):
    return {c.name: c.kind for c in codec.columns}


def test_kinds_and_space(tmp_path):
    codec, items = fitted(tmp_path)
    assert kinds(codec) == {"id": "id", "size": "number", "count": "integer", "grade": "category", "ok": "boolean", "day": "date",
                            "note": "text", "same": "constant", "none": "empty", "gap": "number"}
    number = Array((1,))
    assert codec.space == Record((("size", number), ("count", number), ("grade", Tokens(3, 1)), ("ok", Tokens(2, 1)), ("day", number),
                                  ("gap?", Tokens(2, 1)), ("gap", number)))
    first = items[1].raw
    assert (first["size"], first["count"], first["ok"], first["day"], first["same"]) == (1.5, 25, True, dt.date(2021, 3, 6), "x")
    assert items[0].raw["gap"] is None and len(codec.describe()) == 10
    assert any("day: date, 05/03/2021 to 24/03/2021" in d for d in codec.describe())


def test_round_trip_write_and_state(tmp_path):
    codec, items = fitted(tmp_path)
    again = TableCodec()
    again.load(json.loads(json.dumps(codec.state())))
    assert again.space == codec.space and again.describe() == codec.describe()
    raws = [again.decode(again.encode(i.raw)) for i in items]
    learned = [c.name for c in codec.columns if c.learned or c.kind == "constant"]
    assert all(raw[k] == item.raw[k] for raw, item in zip(raws, items) for k in learned)
    assert all(all(again.checks(raw, {}).values()) for raw in raws)
    (out,) = again.write(raws, tmp_path / "o.csv", [])
    new, old = out.read_text().splitlines(), lines()
    assert new[0] == old[0]
    for a, b in zip(new[1:], old[1:]):  # the same cells, but for the fresh id and the text that is not learned
        a, b = a.split(","), b.split(",")
        assert int(a[0]) == int(b[0]) + 60 and a[1:6] == b[1:6] and a[6] == "" and a[7:] == b[7:]


def test_other_formats_agree(tmp_path):
    pytest.importorskip("pyarrow")
    codec, items = fitted(tmp_path)
    for suffix in (".jsonl", ".parquet", ".tsv"):
        (out,) = codec.write([i.raw for i in items], tmp_path / f"o{suffix}", [])
        other = TableCodec()
        back = list(other.read(scan(out)))
        other.fit(back)
        assert [b.raw["count"] for b in back] == [i.raw["count"] for i in items]
        assert [b.raw["gap"] for b in back] == [i.raw["gap"] for i in items]
        assert kinds(other)["ok"] == "boolean" and kinds(other)["day"] == "date" and back[0].raw["day"] == items[0].raw["day"]
    with pytest.raises(UsageError, match="xlsx"):
        codec.write([], tmp_path / "o.xlsx", [])


def test_frames_are_read_and_never_changed(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1.5, None, 3.25] * 10, "w": pandas.Categorical(["a", "b", "a"] * 10),
                              "i": pandas.array([1, None, 7] * 10, "Int64"),
                              "t": pandas.to_datetime(["2020-01-01 10:00", "2021-05-05 12:30", None] * 10)})
    before = frame.copy(deep=True)
    codec = TableCodec()
    items = list(codec.read(scan(frame)))
    codec.fit(items)
    assert kinds(codec) == {"n": "number", "w": "category", "i": "integer", "t": "datetime"}
    assert items[1].raw == {"n": None, "w": "b", "i": None, "t": dt.datetime(2021, 5, 5, 12, 30)}
    pandas.testing.assert_frame_equal(frame, before)
    assert [codec.decode(codec.encode(i.raw)) for i in items] == [i.raw for i in items]


def test_csv_and_jsonl_need_no_pandas(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    codec, items = fitted(tmp_path)
    codec.write([i.raw for i in items], tmp_path / "o.jsonl", [])
    assert len(list(TableCodec().read(scan(tmp_path / "o.jsonl")))) == 60


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(-1e308, 1e308)), min_size=2, max_size=12), st.floats(allow_nan=True))
def test_any_float_encodes_finite_and_decodes_into_the_range(values, wild):
    numbers = [v for v in values if v is not None]
    codec = TableCodec()
    try:
        codec.fit([Item({"v": v, "w": "ab"[i % 2]}) for i, v in enumerate(values)])
    except DataError:
        return
    column = codec._by_name["v"]
    if column.kind != "number":
        return
    for v in values:
        x = codec.encode({"v": v, "w": "a"})
        assert x["v"].dtype == np.float32 and np.isfinite(x["v"]).all()
        back = codec.decode(x)["v"]
        assert (back is None) == (v is None)
        if v is not None:
            assert abs(back - v) <= 1e-4 * max(column.scale, abs(v / 2 - column.centre / 2) * 2, abs(v)) or column.squash
    x = codec.encode({"v": numbers[0], "w": "a"}) | {"v": np.clip([wild], -3e38, 3e38).astype(np.float32)}
    assert min(numbers) <= codec.decode(x)["v"] <= max(numbers)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-10**6, 10**6), min_size=25, max_size=60), st.integers(0, 4), st.floats(-5, 5))
def test_decoded_numbers_have_the_columns_decimals(whole, decimals, x):
    values = [w / 10**decimals for w in whole]
    codec = TableCodec()
    codec.fit([Item({"v": v, "w": "ab"[i % 2]}) for i, v in enumerate(values)])
    if codec._by_name["v"].kind != "number":
        return
    assert all(codec.decode(codec.encode({"v": v, "w": "a"}))["v"] == v for v in values)
    drawn = codec.decode({"v": np.array([x], np.float32), "w": np.zeros(1, np.int64)})["v"]
    assert isinstance(drawn, float) and round(drawn, decimals) == drawn and codec.checks({"v": drawn, "w": "a"}, {})["v"]


def test_steps_legal_sets_and_types(tmp_path):
    text = "grams,year,w\n" + "".join(f"{2700 + 25 * (i * 7 % 90)},{2007 + i % 3},{'ab'[i % 2]}\n" for i in range(120))
    codec, _ = fitted(tmp_path, text)
    rng = np.random.default_rng(0)
    for _ in range(50):
        grams, year = rng.normal(size=(2, 1)).astype(np.float32)
        row = codec.decode({"grams": grams, "year": year, "w": np.zeros(1, np.int64)})
        assert type(row["grams"]) is int and row["grams"] % 25 == 0 and row["year"] in (2007, 2008, 2009)


def test_rare_categories_are_all_kept_and_beyond_the_limit_named(tmp_path):
    words = [f"w{i}" for i in range(40) for _ in range(i + 1)]
    text = "w,v\n" + "".join(f"{w},{i % 7}\n" for i, w in enumerate(words))
    codec, _ = fitted(tmp_path, text)
    assert len(codec.columns[0].values) == 40
    codec, _ = fitted(tmp_path, text, config=Config(max_categories=10))
    assert codec.columns[0].values[-1] == "(other)" and "w39" in codec.columns[0].values and len(codec.columns[0].values) == 10
    assert codec.decode(codec.encode({"w": "w1", "v": 3}))["w"] == "(other)" and any("40 categories" in n for n in codec.notes)


@pytest.mark.parametrize(("cells", "kind", "expected", "shown"), [
    (["1.234,5", "2,25", "3"], "number", 1234.5, "1234,5"),
    (['"1,234"', '"12,500"', "7"], "integer", 1234, '"1,234"'),
    (["2021-03-05T10:00:00Z", "2022-01-01T00:00:00Z"], "datetime", dt.datetime(2021, 3, 5, 10, tzinfo=dt.UTC),
     "2021-03-05T10:00:00+0000"),
    (["00123", "01234", "99999"], "category", "00123", "00123"),
    (["1e3", "2.5e-3"], "number", 1000.0, "1000"),
    (["٣", "1_0", "5"], "category", "٣", "٣"),
    (["True", "False"], "boolean", True, "True"),
    (["yes", "no"], "category", "yes", "yes"),
])
def test_how_cells_are_written(tmp_path, cells, kind, expected, shown):
    text = "w;v\n" + "".join(f"{'xyz'[i % 3]};{cells[i % len(cells)]}\n" for i in range(30))
    if '"' in cells[0]:
        text = text.replace(";", ",")
    codec, items = fitted(tmp_path, text)
    assert kinds(codec)["v"] == kind and items[0].raw["v"] == expected
    assert codec.decode(codec.encode(items[0].raw))["v"] == expected
    (out,) = codec.write([items[0].raw], tmp_path / "o.csv", [])
    assert out.read_text().splitlines()[1][2:] == shown


def test_missing_marks_are_kept_and_namibia_is_a_country(tmp_path):
    lands = ["NA", "DE", "FR", "IT", "ES", "PT"]
    text = "v,land\n" + "".join(f"{i % 9 if i % 4 else 'NULL'},{lands[i % 6]}\n" for i in range(48))
    codec, items = fitted(tmp_path, text)
    assert items[0].raw == {"v": None, "land": "NA"} and codec.columns[0].missing == 0.25 and codec.columns[1].missing == 0
    assert codec.write([items[0].raw], tmp_path / "o.csv", [])[0].read_text() == "v,land\nNULL,NA\n"


def test_formulas_are_disarmed_in_text_and_numbers_are_not(tmp_path):
    bad = ["=1+1", "+x", "-y", "@cmd", "\tt", "plain"]
    text = 'w,v\n' + "".join(f'"{bad[i % 6]}",{-i % 17 - 9}\n' for i in range(60))
    codec, items = fitted(tmp_path, text)
    body = codec.write([i.raw for i in items], tmp_path / "o.csv", [])[0].read_text().splitlines()[1:]
    assert not any(row.strip('"').startswith(("=", "+", "-", "@", "\t", "\r")) for row in body) and any(",-9" in row for row in body)
    assert codec.write([items[0].raw], tmp_path / "o.jsonl", [])[0].read_text() == '{"w": "=1+1", "v": -9}\n'


def test_given_knows_what_is_filled_in(tmp_path):
    codec, _ = fitted(tmp_path)
    known = codec.given({"grade": "B", "gap": "0.37", "size": None, "count": "  ", "id": 3})
    assert [k for k, v in known.known.items() if v[0]] == ["grade", "gap?", "gap"] and set(known.x) == {k for k, _ in codec.space.fields}
    assert known.x["grade"][0] == 1 and known.x["gap?"][0] == 0
    for bad, match in (({"grade": "Z"}, "'Z' is not among"), ({"size": 1e6}, "never seen"), ({"size": "big"}, "is no number"),
                       ({"count": 13}, "never seen")):
        with pytest.raises(DataError, match=match):
            codec.given(bad)
    with pytest.raises(UsageError, match="did you mean 'grade'"):
        codec.given({"grad": "A"})


def test_features_preview_size_and_groups(tmp_path):
    codec, items = fitted(tmp_path)
    features = codec.features([i.raw for i in items])
    assert features.shape == (60, 11) and features.dtype == np.float32 and np.isfinite(features).all()
    assert features[:, 0].mean() == pytest.approx(0, abs=1e-5) and features[:, 0].std() == pytest.approx(1, abs=1e-5)
    a, b = features[0, 2:5], features[1, 2:5]
    assert np.linalg.norm(a - b) == pytest.approx(1)
    preview = codec.preview([i.raw for i in items[:2]])
    assert preview["kind"] == "table" and preview["columns"] == HEADER.split(",")
    assert preview["rows"][1][1] == "1.50" and preview["rows"][0][-1] == "NA"
    assert codec.size_of(items[0].raw) == (6, "column")
    twice = TableCodec()
    rows = [{"a": 1, "b": "x"}, {"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    groups = [i.group for i in twice.read(scan(rows))]
    assert groups[0] == groups[1] != groups[2]


def test_claims():
    listing = scan([{"a": 1}])
    assert TableCodec.claims(listing).score == 0.9


def test_a_fitted_codec_reads_other_files_by_its_own_columns(tmp_path):
    codec, _ = fitted(tmp_path)
    other = tmp_path / "other.csv"
    other.write_text("\n".join([*lines()[:50], lines()[1].replace(",A,", ",Q,")]))
    again = TableCodec()
    again.load(codec.state())
    assert len(list(again.read(scan(other)))) == 49 + (again.skips.count == 0) and again.skips.count <= 1
