"""The table codec on bad tables: each ends in one clear line, or in a note, never in a traceback or silence."""
import gzip
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from morphogen.codecs.sources import scan
from morphogen.codecs.table import Config, TableCodec
from morphogen.codecs.table.delimited import sniff
from morphogen.contracts import Item
from morphogen.errors import DataError, UsageError

GOOD = [f"{i * 0.5},{'ab'[i % 2]},{i % 7}" for i in range(300)]


def read(path, config=None):
    codec = TableCodec(config)
    items = list(codec.read(scan(path)))
    codec.fit(items)
    return codec, items


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(("content", "match"), [
    (b"", "empty"), (b"\xef\xbb\xbf\n \n", "empty"), (b"a,b,c\n", "no rows"), (b"a,b\n1,2\n", "no column can be learned"),
    (b"PK\x03\x04rest", "spreadsheet or zip"), (gzip.compress(b"a,b\n1,2\n", mtime=0), "gzip"), (b"a,b\n1,\x002\n", "binary"),
    (b'a,b\n1,2\n"3,4\n5,6\n', r"never closed.*t\.csv:3"), (b"a,b\n1,2\n3,caf\xe9\n", r"not valid utf-8, .*t\.csv:3 \(byte 13\).*cp1252"),
    ("a,b\n1,2\n".encode("utf-16-le"), "binary, or UTF-16"),
])
def test_files_that_are_no_table(tmp_path, content, match):
    with pytest.raises(DataError, match=match) as caught:
        read(table(tmp_path, content))
    assert "\n" not in str(caught.value) and caught.value.remedy


def test_spreadsheets_parquet_and_other_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as book:
        book.writestr("xl/vbaProject.bin", b"macro")
    with pytest.raises(DataError, match=r"spreadsheet.*book\.xlsx.*CSV"):
        read(tmp_path / "book.xlsx")
    with pytest.raises(DataError, match="no table here"):
        read(table(tmp_path, "hello", "a.md"))
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="Parquet"):
        read(table(tmp_path, b"PAR1 no footer PAR1", "a.parquet"))


def test_other_encodings_by_name_and_mark(tmp_path):
    text = "naïve,b\n" + "".join(f"é{i % 3},{i}\n" for i in range(30))
    codec, items = read(table(tmp_path, text.encode("cp1252")), Config(encoding="cp1252"))
    assert items[0].raw["naïve"] == "é0"
    codec, items = read(table(tmp_path, text.encode("utf-16")))
    assert items[0].raw["naïve"] == "é0"
    codec, items = read(table(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert list(items[0].raw) == ["naïve", "b"] and codec.columns[0].kind == "category"
    with pytest.raises(UsageError, match="encoding"):
        read(table(tmp_path, text), Config(encoding="klingon"))


def test_ragged_and_misfit_rows_are_skipped_with_their_line_up_to_one_percent(tmp_path):
    rows = list(GOOD)
    rows[10] += ",9"
    rows[20] = "x,a,1"
    codec, items = read(table(tmp_path, "v,w,n\n" + "\n".join(rows)))
    assert len(items) == 298 and codec.skips.count == 2
    assert any("t.csv:12: 4 cells under 3 columns" in s for s in codec.skips.first)
    assert any("t.csv:22" in s and "'x'" in s for s in codec.skips.first)
    rows[30] = rows[40] = "1,a"
    with pytest.raises(DataError, match=r"4 of 300 items.*t\.csv:12|3 of 300"):
        read(table(tmp_path, "v,w,n\n" + "\n".join([*rows[:50], "1", *rows[51:]])))


def test_infinities_and_giants_are_skipped_not_learned(tmp_path):
    rows = list(GOOD)
    rows[5], rows[6] = "inf,a,1", "1e999,b,2"
    codec, items = read(table(tmp_path, "v,w,n\n" + "\n".join(rows)))
    assert len(items) == 298 and codec.skips.count == 2 and np.isfinite([codec.encode(i.raw)["v"][0] for i in items]).all()
    rows = [f"{'1e308' if i == 9 else i},{'ab'[i % 2]}" for i in range(300)]
    codec, items = read(table(tmp_path, "v,w\n" + "\n".join(rows)))
    values = [codec.decode(codec.encode(i.raw))["v"] for i in items]
    assert values[9] == pytest.approx(1e308, rel=1e-4) and values[200] == pytest.approx(200, rel=1e-3)
    rows = [f"{10**30 + i * 7 % 50},{'ab'[i % 2]}" for i in range(300)]
    codec, items = read(table(tmp_path, "v,w\n" + "\n".join(rows)))
    assert isinstance(codec.decode(codec.encode(items[0].raw))["v"], int)


def test_duplicate_and_blank_names_are_renamed_and_noted(tmp_path):
    codec, items = read(table(tmp_path, "a,,a\n" + "\n".join(GOOD)))
    assert list(items[0].raw) == ["a", "column 2", "a (2)"] and len([n for n in codec.notes if "it is called" in n]) == 2


def test_a_missing_header_is_noted(tmp_path):
    codec, _ = read(table(tmp_path, "\n".join(f"{i},{i % 5}" for i in range(50))))
    assert any("header" in n for n in codec.notes)


def test_columns_with_nothing_to_learn_are_kept_out(tmp_path):
    text = "c,none,id,name,v\n" + "".join(f"x,,{i + 5},name {i}!,{i % 9}\n" for i in range(80))
    codec, _ = read(table(tmp_path, text))
    assert {c.name: c.kind for c in codec.columns} == {"c": "constant", "none": "empty", "id": "id", "name": "id", "v": "integer"}
    row = codec.decode({"v": np.zeros(1, np.float32)})
    assert row["c"] == "x" and row["none"] is None
    a, b = codec.number([row, row])
    assert (a["id"], b["id"]) == (85, 86) and a["name"] != b["name"] and "id" in " ".join(codec.notes)
    for text in ("only\n" + "".join(f"text {i}\n" for i in range(50)), "c\n" + "x\n" * 20, "e,f\n" + ",\n" * 20):
        with pytest.raises(DataError, match="no column can be learned"):
            read(table(tmp_path, text))


def test_one_column_of_numbers_is_enough(tmp_path):
    codec, items = read(table(tmp_path, "v\n" + "".join(f"{i * 37 % 101 / 10}\n" for i in range(60))))
    assert len(items) == 60 and codec.columns[0].kind == "number"


def test_too_many_columns_are_refused_quickly(tmp_path):
    path = table(tmp_path, ",".join(f"c{i}" for i in range(100_000)) + "\n" + ",".join("1" * 100_000) + "\n")
    start = time.perf_counter()
    with pytest.raises(DataError, match="100000 columns"):
        read(path)
    assert time.perf_counter() - start < 10


def test_dates_in_three_formats_and_unclear_ones(tmp_path):
    forms = ("2021-03-{:02d}", "{:02d}/03/2021", "{:02d}.03.2021")
    text = "d,v\n" + "".join(f"{forms[0 if i % 5 else i % 3].format(i % 28 + 1)},{i % 4}\n" for i in range(90))
    codec, items = read(table(tmp_path, text))
    assert codec.columns[0].kind == "date" and any("3 ways" in n for n in codec.notes)
    assert codec.preview([items[0].raw])["rows"][0][0].startswith("2021-03-")
    text = "d,v\n" + "".join(f"{i % 12 + 1:02d}/{i % 11 + 1:02d}/2021,{i % 4}\n" for i in range(90))
    assert any("cannot be told apart" in n for n in read(table(tmp_path, text))[0].notes)
    text = "d,v\n" + "".join(f"{i % 12 + 1:02d}/{i % 28 + 1:02d}/2021,{i % 4}\n" for i in range(90))
    codec, _ = read(table(tmp_path, text))
    assert codec.columns[0].forms == ["%m/%d/%Y"] and not any("told apart" in n for n in codec.notes)


def test_mixed_types_become_categories(tmp_path):
    codec, items = read(table(tmp_path, "v,w\n" + "".join(f"{['1', 'two', '3.5'][i % 3]},{i % 5}\n" for i in range(60))))
    assert codec.columns[0].kind == "category" and items[0].raw["v"] == "1"
    codec = TableCodec()
    rows = [{"v": [1, "two", True, 2.5][i % 4], "w": i % 5} for i in range(60)]
    codec.fit([Item(r) for r in rows])
    assert codec.columns[0].kind == "category"
    assert [codec.decode(codec.encode(r))["v"] for r in rows[:4]] == [1, "two", "True", 2.5]


def test_quoted_newlines_delimiters_and_sniffing(tmp_path):
    text = 'w;v\n' + "".join(f'"line{i % 3}\nnext; ""q""";{i % 5}\n' for i in range(40))
    codec, items = read(table(tmp_path, text))
    assert items[0].raw == {"w": 'line0\nnext; "q"', "v": 0} and len(items) == 40
    assert sniff("a,b\n1,2\n") == "," and sniff("a\tb\n1,5\t2\n") == "\t"
    assert sniff("a;b\n1,5;2,5\n") == ";" and sniff("a|b|c\n1|2|3\n") == "|"
    assert sniff("word\nhello there\n") == ","
    out = codec.write([items[0].raw], tmp_path / "o.csv", [])[0]
    assert next(TableCodec().read(scan(table(tmp_path, out.read_bytes(), "p.csv")))).raw["w"] == items[0].raw["w"]


def test_bad_json_lines(tmp_path):
    rows = [f'{{"v": {i * 0.5}, "w": "{"ab"[i % 2]}"}}' for i in range(400)]
    rows[3], rows[4], rows[5] = '{"v": NaN, "w": "a"}', '{"v": 1, "v": 2, "w": "a"}', "[" * 100_000
    codec, items = read(table(tmp_path, "\n".join(rows), "t.jsonl"))
    assert len(items) == 397 and codec.skips.count == 3 and "t.jsonl:4" in codec.skips.first[0]
    nested = "\n".join(f'{{"v": {i % 7}, "deep": {{"a": [{i}]}}, "w": "{"ab"[i % 2]}"}}' for i in range(60))
    codec, items = read(table(tmp_path, nested, "n.jsonl"))
    assert codec.columns[1].kind == "nested" and codec.decode(codec.encode(items[0].raw))["deep"] is None
    with pytest.raises(DataError):
        read(table(tmp_path, "[1, 2]\n3\n", "l.jsonl"))


def test_tables_that_do_not_match(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "a.csv").write_text("v,w\n" + "1,a\n2,b\n" * 20)
    (folder / "b.csv").write_text("w,v\n" + "a,3\nb,4\n" * 20)
    _, items = read(folder)
    assert len(items) == 80 and items[-1].raw == {"v": 4, "w": "b"}
    (folder / "c.csv").write_text("v,z\n1,2\n")
    with pytest.raises(DataError, match=r"differ from those of a\.csv.*c\.csv"):
        read(folder)


def test_personal_data_is_flagged(tmp_path):
    def card(i):
        body = f"400000{i:09d}"
        total = sum(int(d) if k % 2 else sum(divmod(2 * int(d), 10)) for k, d in enumerate(body))
        return body + str(-total % 10)

    ibans = ["DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606"]
    text = "mail,phone,iban,card,v\n" + "".join(
        f"user{i}@example.org,+44 20 7946 {i:04d},{ibans[i % 3]},{card(i * 7919)},{i % 9}\n" for i in range(60))
    codec, _ = read(table(tmp_path, text))
    assert [c.flag for c in codec.columns] == ["email addresses", "telephone numbers", "IBAN account numbers", "payment card numbers", ""]
    assert sum("looks like" in n for n in codec.notes) == 4


def test_unfitting_rows_at_encode_and_missing_columns(tmp_path):
    codec, _ = read(table(tmp_path, "v,w,n\n" + "\n".join(GOOD)))
    for row, match in (({"v": None, "w": "a", "n": 1}, "empty cell"), ({"v": 1.0, "w": "c", "n": 1}, "'c' is not among"),
                       ({"v": 1.0, "w": None, "n": 1}, "empty cell"), ({"v": 1.0, "w": "a", "n": 1.5}, "is no integer")):
        with pytest.raises(DataError, match=match):
            codec.encode(row)
    with pytest.raises(DataError, match="column 'n' is missing"):
        list(codec.read(scan(table(tmp_path, "v,w\n1,a\n", "u.csv"))))
    with pytest.raises(DataError, match="no rows"):
        TableCodec().fit([])


def test_whole_numbers_beyond_any_float_are_no_value(tmp_path: Path) -> None:
    ages = [*map(str, range(300)), "9" * 400]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"age": {n}, "kind": "x{n[0]}"}}\n' for n in ages))
    from morphogen.plan import read

    *_, codec, items = read(tmp_path / "a.jsonl")
    codec.fit(items)
    assert len(items) == 300 and "age" in codec.skips.first[0]


def test_parquet_with_words_that_are_no_utf8_is_damaged(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"word": pa.array([f"w{i}" for i in range(60)]), "n": list(range(60))})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"w37", b"\xff37"))
    from morphogen.plan import read

    with pytest.raises(DataError, match="not readable as Parquet"):
        read(tmp_path / "a.parquet")
