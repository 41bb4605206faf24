"""Discovery, metadata, groups and skips: bad listings are refused or counted, never silently read."""
from __future__ import annotations

import os
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphogen.codecs.sources import (
    Listing,
    Skips,
    class_folders,
    group_of,
    json_lines,
    read_metadata,
    read_utf8,
    said_about,
    scan,
    strict_json,
)
from morphogen.errors import DataError


def put(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_scan_sorts_and_leaves_out_hidden_files(tmp_path):
    for name in ("b/2.PNG", "a/1.png", "a/.hidden", ".git/config", "Thumbs.db", "c.txt"):
        put(tmp_path / name)
    listing = scan(tmp_path)
    assert [listing.name_of(f) for f in listing.files] == ["a/1.png", "b/2.PNG", "c.txt"]
    assert listing.by_suffix() == {".png": 2, ".txt": 1}
    assert scan(str(tmp_path)) == listing


def test_a_single_file_is_a_listing(tmp_path):
    file = put(tmp_path / "x.csv")
    assert scan(file) == Listing(tmp_path, (file,))


def test_missing_paths_suggest_the_near_one(tmp_path):
    put(tmp_path / "digits.csv")
    with pytest.raises(DataError, match=r"did you mean 'digits.csv'"):
        scan(tmp_path / "digit.csv")
    with pytest.raises(DataError, match="no such file"):
        scan(tmp_path / "nowhere" / "x")


@pytest.mark.parametrize("bad", ["a\0b", "n" * 300])
def test_impossible_names_are_data_errors(tmp_path, bad):
    with pytest.raises(DataError):
        scan(str(tmp_path / bad))


def test_empty_folder(tmp_path):
    put(tmp_path / ".only-hidden")
    with pytest.raises(DataError, match="holds no files"):
        scan(tmp_path)


def test_links_are_followed_only_inside(tmp_path):
    outside = put(tmp_path / "secret")
    root = tmp_path / "data"
    put(root / "real.txt")
    (root / "in.txt").symlink_to("real.txt")
    (root / "out.txt").symlink_to(outside)
    (root / "broken.txt").symlink_to("nothing")
    (root / "loop").symlink_to(root)
    (root / "self.txt").symlink_to("self.txt")
    listing = scan(root)
    assert [f.name for f in listing.files] == ["in.txt", "real.txt"]
    assert len(listing.left_out) == 4


def test_devices_and_pipes_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    put(tmp_path / "ok.txt")
    listing = scan(tmp_path)
    assert [f.name for f in listing.files] == ["ok.txt"] and "not a regular file" in listing.left_out[0]
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DataError, match="not a regular file"):
            scan(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert len(scan(tmp_path).left_out) == 2


def test_frames_and_rows_in_memory():
    rows = [{"a": 1}]
    frame = scan(rows).frame
    assert frame is not None and list(frame) == rows
    for bad in (42, [], ["a", 1], None, [[]], object()):
        with pytest.raises(DataError):
            scan(bad)


def test_skips_draw_the_line_at_one_percent():
    skips = Skips()
    skips.check(0)
    skips.add("a\nb", "why")
    assert skips.first == ["a b: why"]
    skips.check(2)
    with pytest.raises(DataError, match="nothing usable"):
        skips.check(1)
    for i in range(7):
        skips.add(i, "bad")
    assert skips.count == 8 and len(skips.first) == 5
    skips.check(800)
    with pytest.raises(DataError, match="8 of 799"):
        skips.check(799)


def test_groups_are_stable_and_of_content():
    assert group_of(b"abc") == group_of("abc") == "d8bb14d833d59559"
    a = np.arange(6, dtype=np.uint8)
    assert group_of(a.reshape(2, 3)) != group_of(a.reshape(3, 2))
    assert group_of(a.reshape(2, 3).T) == group_of(np.ascontiguousarray(a.reshape(2, 3).T))
    assert group_of({"a": 1, "b": None}) == group_of({"b": None, "a": 1})


def test_class_folders_need_two_classes(tmp_path):
    cat, dog, root = put(tmp_path / "train/cat/1.png"), put(tmp_path / "test/dog/1.png"), put(tmp_path / "0.png")
    listing = scan(tmp_path)
    assert class_folders(listing, [cat, dog, root]) == {cat: "cat", dog: "dog"}
    assert class_folders(listing, [cat, root]) == {}
    assert class_folders(listing, [put(tmp_path / "train/1.png"), put(tmp_path / "test/1.png")]) == {}


@pytest.mark.parametrize(("data", "text"), [(b"\xef\xbb\xbfa", "a"), ("é".encode("utf-16"), "é"), (b"", "")])
def test_text_marks(tmp_path, data, text):
    (tmp_path / "x").write_bytes(data)
    assert read_utf8(tmp_path / "x") == text


def test_bad_text_names_the_byte(tmp_path):
    (tmp_path / "x").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="byte 2"):
        read_utf8(tmp_path / "x")


@pytest.mark.parametrize("bad", ['{"a":1,"a":2}', '{"a":NaN}', '{"a":Infinity}', '{"a":1,}', "[" * 70 + "]" * 70, "[" * 100_000, ""])
def test_strict_json_refuses(bad):
    with pytest.raises(ValueError, match=r"\w"):
        strict_json(bad)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3), max_leaves=8))
def test_strict_json_agrees_with_json(value):
    import json

    assert strict_json(json.dumps(value)) == value


def test_json_lines_number_their_errors(tmp_path):
    skips = Skips()
    file = put(tmp_path / "x.jsonl", '{"a": "\u2028"}\n\nnope\r\n[1]\n{"a": 2}')
    assert list(json_lines(file, skips)) == [(1, {"a": "\u2028"}), (5, {"a": 2})]
    assert skips.count == 2 and f"{file}:3" in skips.first[0]


def test_metadata_csv(tmp_path):
    image = put(tmp_path / "d/1.png")
    put(tmp_path / "2.png")
    put(tmp_path / "metadata.csv", "file_name,text,size,code,note\nd/1.png,a cat,1.5,007,\n2.png,\"a, dog\",2,8,x\n../e.png,,,,\n")
    skips = Skips()
    found = read_metadata(scan(tmp_path), skips)
    assert found[image] == {"text": "a cat", "size": 1.5, "code": "007"}
    assert found[tmp_path / "2.png"] == {"text": "a, dog", "size": 2, "code": "8", "note": "x"}
    assert skips.count == 1


def test_metadata_jsonl_in_a_sub_folder(tmp_path):
    image = put(tmp_path / "d/1.png")
    put(tmp_path / "d/metadata.jsonl", '{"file_name": "1.png", "captions": ["one", "two"], "n": 3, "source": "s"}\n')
    row = read_metadata(scan(tmp_path), Skips())[image]
    assert said_about(row) == ({"caption": "one", "n": 3}, "s")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "file_name,a,a\n1,2,3\n", "file_name,a\nx,1,2\n", 'file_name\n"x\n'])
def test_bad_metadata_names_the_line(tmp_path, text):
    put(tmp_path / "x")
    put(tmp_path / "metadata.csv", text)
    with pytest.raises(DataError, match=r"metadata\.csv"):
        read_metadata(scan(tmp_path), Skips())


def test_said_about_leaves_out_what_is_empty_or_nested():
    assert said_about({"a": None, "b": "", "c": {"d": 1}, "e": [1], "text": "t", "caption": "u", "label": "x"}) == (
        {"caption": "t", "label": "x"}, "")
