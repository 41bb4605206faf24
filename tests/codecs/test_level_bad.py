"""Bad levels: each is skipped with a reason, refused in one line, or read as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from level_samples import CORNER, MAZE, ROOM, rooms, sokoban_text

from morphogen.codecs.level import LevelCodec, LevelConfig, grids
from morphogen.codecs.level.source import score, set_of
from morphogen.codecs.sources import scan
from morphogen.errors import DataError, MorphogenError, UsageError
from morphogen.plan import claim


def read(path: Path, **options):
    codec = LevelCodec(LevelConfig(symmetry="none", **options))
    items = list(codec.read(scan(path)))
    codec.fit(items)
    return codec, items


def among(tmp_path: Path, text: str) -> tuple[LevelCodec, list]:
    """A strange level among good ones."""
    (tmp_path / "a.txt").write_bytes((sokoban_text(rooms(12)) + "\n" + text).encode())
    return read(tmp_path / "a.txt")


@pytest.mark.parametrize(("text", "why"), [
    ("#####\n#@$A#\n# . #\n#####", "unknown tile 'A'"),
    ("#####\n#@\t$.#\n#####", "a tab in a row"),
    ("#", "1×1"),
    ("###\n#@#\n###", "no box and no goal"),
    ("#####\n#$ .#\n#####", "no player"),
    ("#####\n#@$ #\n#####", "1 boxes, 0 goals"),
    ("#####\n#@$.\n#####", "open walls"),
    ("#####\n#@*##\n#####", "solved before it begins"),
])
def test_levels_that_cannot_be_used_are_skipped_with_a_reason(tmp_path: Path, text: str, why: str) -> None:
    codec, items = among(tmp_path, text)
    assert len(items) == 12 and codec.skips.count == 1 and why in codec.skips.first[0], codec.skips.first


def test_unknown_tiles_name_the_known_ones(tmp_path: Path) -> None:
    codec, _ = among(tmp_path, "#####\n#@$A#\n# . #\n#####")
    assert "'#'" in codec.skips.first[0] and "'$'" in codec.skips.first[0]
    with pytest.raises(DataError, match="unknown tile 'Z'.*the model knows"):
        codec.encode(("#Z#", "###"))


def test_windows_newlines_and_trailing_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.sok").write_bytes(sokoban_text(rooms(5)).replace("\n", "\r\n").encode())
    (tmp_path / "b.sok").write_bytes(sokoban_text([ROOM]).replace("#\n", "#\t\n").encode("utf-8-sig"))
    _, items = read(tmp_path)
    assert [item.raw for item in items] == [*rooms(5), ROOM]


def test_ragged_sokoban_rows_are_its_outside(tmp_path: Path) -> None:
    (tmp_path / "a.sok").write_text("  ####\n###  #\n#@$. #\n######\n")
    _, items = read(tmp_path)
    assert items[0].raw == ("__####", "###  #", "#@$. #", "######")


def test_ragged_rows_of_a_plain_game_are_filled_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("S.X\n...\n..\n\nS..\nX..\n..G\n\n...\n.X.\n...\n")
    codec, items = read(tmp_path / "a.txt")
    assert items[0].raw == ("S.X", "...", ".._") and any("unequal length" in note for note in codec.notes)


def test_unsolvable_levels_are_learned_and_told(tmp_path: Path) -> None:
    codec, items = among(tmp_path, "\n".join(CORNER))
    assert len(items) == 13 and any("1 of" in note and "cannot be solved" in note for note in codec.notes)


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"hello, this is a letter to you\n", b"\x00\x01\x02", b"\xff\xfe\xff"])
def test_a_file_without_a_level(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.sok").write_bytes(content)
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.sok")
    assert "\n" not in error.value.line() and error.value.remedy


def test_a_single_tile_all_over_and_too_many_bad_ones(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("....\n....\n....\n")
    with pytest.raises(DataError, match="no levels.*single tile"):
        read(tmp_path / "a.txt")
    codec, _ = among(tmp_path, "\n\n".join(["#####\n#$ .#\n#####"] * 3))
    with pytest.raises(DataError, match="3 of 15"):
        codec.skips.check(15)


def test_one_level_many_times(tmp_path: Path) -> None:
    (tmp_path / "a.sok").write_text(sokoban_text([ROOM] * 12))
    codec, items = read(tmp_path / "a.sok")
    assert len({item.group for item in items}) == 1 and any("same level" in note for note in codec.notes)
    with pytest.raises(DataError, match="no levels"):
        LevelCodec().fit([])


def test_comments_titles_and_runs_of_text(tmp_path: Path) -> None:
    text = "A set by somebody\n\n; 1\n" + "\n".join(ROOM) + "\nTitle: a # room\nComment:\n# made on Monday #\nComment-End:\n\n"
    (tmp_path / "a.sok").write_text(text + "\n".join(rooms(1)[0]) + "\n")
    _, items = read(tmp_path / "a.sok")
    assert [item.raw for item in items] == [ROOM, rooms(1)[0]]


# ------------------------------------------------------------------ Tiled
def tiled(rows, **more) -> dict:
    data = [x for row in rows for x in row]
    layer = {"type": "tilelayer", "name": "ground", "width": len(rows[0]), "height": len(rows), "data": data, **more.pop("layer", {})}
    return {"type": "map", "tiledversion": "1.10", "tilewidth": 16, "tileheight": 16, "width": len(rows[0]), "height": len(rows),
            "tilesets": [{"firstgid": 1, "source": "tiles.tsj"}], "layers": [layer], **more}


def save(path: Path, data) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_tiled_maps_come_and_go(tmp_path: Path) -> None:
    maps = [[[1, 1, 1, 1], [1, 0, 2 + i % 3, 1], [1, 5, 0, 1]] for i in range(4)]
    for i, rows in enumerate(maps):
        save(tmp_path / f"m{i}.tmj", tiled(rows))
    codec, items = read(tmp_path)
    assert len(items) == 4 and items[0].raw[1][1] == " " and items[0].group != ""
    codec.write([items[0].raw], tmp_path / "out", [{"index": 0}])
    back = json.loads((tmp_path / "out" / "00000.tmj").read_text())
    assert back["layers"][0]["data"] == [x for row in maps[0] for x in row] and back["tilesets"] == [{"firstgid": 1, "source": "tiles.tsj"}]
    again = LevelCodec(LevelConfig(symmetry="none"))
    again.load(json.loads(json.dumps(codec.state())))
    assert [x.raw for x in again.read(scan(tmp_path / "m2.tmj"))] == [items[2].raw]


@pytest.mark.parametrize(("change", "said"), [
    ({"layer": {"width": 5}}, "not 5 × 3"), ({"layer": {"height": -1}}, "size is"),
    ({"layer": {"width": 0, "height": 0, "data": []}}, "0×0"),
    ({"layer": {"data": "eJwL"}}, "packed"), ({"layer": {"data": [1.5] * 12}}, "no tile number"), ({"infinite": True}, "infinite"),
    ({"layers": []}, "no tile layer"), ({"layers": 3}, "no tile layer"), ({"layer": {"type": "objectgroup"}}, "no tile layer"),
    ({"layer": {"width": 10**9}}, "size is"), ({"layer": {"chunks": []}}, "infinite"),
])
def test_bad_maps_are_refused_in_a_line(tmp_path: Path, change, said: str) -> None:
    rows = [[1, 1, 1, 1], [1, 0, 2, 1], [1, 5, 0, 1]]
    with pytest.raises(DataError) as error:
        read(save(tmp_path / "a.tmj", tiled(rows, **change)))
    assert said in error.value.line() and error.value.remedy


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"layers": [], "layers": []}', '{"layers": [NaN]}', "[" * 100_000])
def test_json_that_is_no_map(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tmj").write_text(text)
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.tmj")
    assert len(error.value.line()) < 400


def test_layers_and_turned_tiles_are_told(tmp_path: Path) -> None:
    map_ = tiled([[1, 2 | 1 << 31], [1, 2]])
    map_["layers"].append({**map_["layers"][0], "name": "second", "data": [3, 3, 3, 4]})
    codec, items = read(save(tmp_path / "a.json", map_))
    assert any("turned" in n for n in codec.notes) and any("other than 'ground'" in n for n in codec.notes) and items[0].raw == (".#", ".#")
    assert read(tmp_path / "a.json", layer="second")[1][0].raw == ("..", ".#")
    with pytest.raises(DataError, match="no layer 'third'"):
        read(tmp_path / "a.json", layer="third")


def test_sec_xml_maps_are_never_parsed(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><map>&b;</map>'
    (tmp_path / "a.tmx").write_text(bomb)
    assert claim(scan(tmp_path / "a.tmx"))[0] == "level"
    with pytest.raises(DataError, match="XML are not read.*tmj"):
        read(tmp_path / "a.tmx")


# ------------------------------------------------------------------ claims and config
def test_claims(tmp_path: Path) -> None:
    def of(name: str, text: str) -> float:
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text(text)
        return score(scan(folder)).score

    assert of("a.sok", "anything") > 0.9 and of("a.txt", sokoban_text(rooms(3))) > 0.9 and of("b.txt", MAZE) > 0.9
    assert of("letter.txt", "Dear reader,\nthis is prose of some length,\nand no level at all.\n") == 0
    assert of("list.txt", "apples\nbread\nmilk\n") == 0 and of("data.json", '{"a": [1, 2]}') == 0
    assert of("m.json", '{"tilewidth": 16}') > 0.9
    assert of("numbers.csv", "1,2\n3,4\n") == 0
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a1.sok").write_text("\n".join(ROOM))
    (folder / "a1.sol").write_text("rRR")
    (folder / "README.md").write_text("levels")
    assert claim(scan(folder))[0] == "level"


@pytest.mark.parametrize("options", [
    {"size": 2}, {"size": 100}, {"limit": 0}, {"symmetry": "some"}, {"nodes": 0}, {"unknown": "??"}, {"unknown": ""}, {"start": "SS"},
])
def test_config_is_checked(options) -> None:
    with pytest.raises(UsageError):
        LevelCodec(LevelConfig(**options))


def test_a_mark_for_the_unknown_that_is_a_tile_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-?-\n---\nXXX\n\n--?\n-?-\nXXX\n")
    codec, _ = read(tmp_path / "a.txt")
    assert codec.unknown == "%" and not codec.given("%--\n-?-\nXXX").known[0]
    assert any("%" in line for line in codec.describe())


def test_set_names() -> None:
    assert set_of("microban01_0008.sok") == "microban01" and set_of("x/gri0140.sok") == "x/gri" and set_of("7.txt") == "7"
    assert set_of("plain.txt") == "plain"


@pytest.mark.parametrize("level", ["", [], [""], [1, 2], None])
def test_raw_that_is_no_level(level) -> None:
    with pytest.raises((MorphogenError, TypeError)):
        grids.check_rows(level)
