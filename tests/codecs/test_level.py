"""Game levels: tokens, orientations, the solver against breadth-first search, faults, mending, pictures, files."""

from __future__ import annotations

import io
import json
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from level_samples import BURIED, CORNER, CORRIDOR, MAZE, NOTCHED, ROOM, TWO, rooms, sokoban_text
from PIL import Image

from morphogen import sandbox
from morphogen.bridges.bits import AnalogBits
from morphogen.codecs.level import LevelCodec, LevelConfig, drawing, grids
from morphogen.codecs.level.rules import broken, solution, stranded
from morphogen.codecs.level.sokoban import OUTSIDE, TILES, board_of, lone_pushes, replayed, solve, unfolded
from morphogen.codecs.sources import scan
from morphogen.contracts import Checks, Derives, Faults, Item
from morphogen.errors import DataError, NotPermitted, UsageError
from morphogen.plan import defaults_of
from morphogen.spaces import Tokens
from morphogen.testing.codecs import check_codec, check_sample


def fitted(levels, **options) -> LevelCodec:
    codec = LevelCodec(LevelConfig(**options))
    codec.fit([Item(level) for level in levels])
    return codec


def of_text(tmp_path: Path, text: str, name: str = "a.txt", **options) -> tuple[LevelCodec, list[Item]]:
    (tmp_path / name).write_text(text)
    codec = LevelCodec(LevelConfig(**options))
    items = list(codec.read(scan(tmp_path / name)))
    codec.fit(items)
    return codec, items


NINE = fitted([ROOM, TWO, NOTCHED], size=9)


# ------------------------------------------------------------------ the codec's promises
def test_conformance(tmp_path: Path) -> None:
    items = [Item(level, {}, str(i)) for i, level in enumerate([CORRIDOR, ROOM, TWO, NOTCHED, CORNER])]
    check_codec(lambda: LevelCodec(LevelConfig()), items, tmp_path)
    codec = fitted([ROOM, TWO])
    assert isinstance(codec, Checks) and isinstance(codec, Derives) and isinstance(codec, Faults)
    assert {"default", "few", "few_items", "compare", "baselines", "minutes", "tile", "judge"} <= set(defaults_of("level"))


@given(st.integers(3, 9), st.integers(3, 9), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_level_comes_back(height: int, width: int, random) -> None:
    level = tuple("".join(random.choice(TILES[:-1]) for _ in range(width)) for _ in range(height))
    codec = NINE
    x = codec.encode(level)
    check_sample(x, codec.space)
    assert codec.decode(x) == level and x.shape == (81,)
    grid = x.reshape(9, 9)
    assert (grid[height:] == TILES.index(OUTSIDE)).all() and (grid[:, width:] == TILES.index(OUTSIDE)).all()


def test_binary_digits_of_tokens_mean_something() -> None:
    codec = fitted([ROOM, TWO])
    space = codec.space
    assert isinstance(space, Tokens) and space.vocab == 8 and space.grid == (5, 8) and space.end is None
    bits = AnalogBits(space)
    assert bits.target.shape == (3, 5, 8)  # type: ignore[union-attr]
    assert [TILES[i] for i in range(8) if i & 1 and i < 6] == [".", "*", "+"]


def test_only_outside_decodes_to_one_tile() -> None:
    codec = fitted([ROOM])
    level = codec.decode(np.full(35, TILES.index(OUTSIDE)))
    assert level == (OUTSIDE,) and not any(codec.checks(level, {}).values())
    assert codec.preview([level])["texts"][0].startswith("not well-formed")


# ------------------------------------------------------------------ orientations
def test_orientations_are_eight_and_share_a_smallest() -> None:
    forms = grids.orientations(NOTCHED)
    assert forms[0] == NOTCHED and len(forms) == 8
    assert len({grids.canonical(form)[0] for form in forms}) == 1
    assert grids.orientations(("##", "##")) == [("##", "##")]
    features = fitted([NOTCHED, ROOM], size=10).features(forms)
    assert np.allclose(features, features[0], atol=1e-6)


@pytest.mark.parametrize("k", range(8))
def test_solutions_hold_in_every_orientation(k: int) -> None:
    level = grids.turned(NOTCHED, k)
    found = solution(level, 5000)
    assert found.moves is not None
    last = drawing.positions(level, found.moves)[-1]
    assert "$" not in "".join(last) and found.pushes == solution(NOTCHED, 5000).pushes


# ------------------------------------------------------------------ the solver
def fewest_pushes(level) -> int | None:
    """Breadth first by pushes over (boxes, player's area), in the plainest way."""
    board = board_of(level)

    def area(start: int, boxes: frozenset[int]) -> frozenset[int]:
        seen, edge = {start}, [start]
        for i in edge:
            for step in board.steps:
                if board.free[i + step] and i + step not in boxes and i + step not in seen:
                    seen.add(i + step)
                    edge.append(i + step)
        return frozenset(seen)

    first = frozenset(board.boxes)
    queue, met = deque([(first, area(board.player, first), 0)]), {(first, min(area(board.player, first)))}
    while queue:
        boxes, reach, pushes = queue.popleft()
        if boxes == frozenset(board.goals):
            return pushes
        for box in boxes:
            for step in board.steps:
                if box - step in reach and board.free[box + step] and box + step not in boxes:
                    after = boxes - {box} | {box + step}
                    walk = area(box, after)
                    if (after, min(walk)) not in met:
                        met.add((after, min(walk)))
                        queue.append((after, walk, pushes + 1))
    return None


@st.composite
def small_levels(draw):
    height, width = draw(st.integers(3, 5)), draw(st.integers(3, 5))
    cells = draw(st.lists(st.sampled_from("   #"), min_size=height * width, max_size=height * width))
    boxes = draw(st.integers(1, 2))
    places = draw(st.permutations(range(height * width)))[: 2 * boxes + 1]
    for i, at in enumerate(places):
        cells[at] = "@" if i == 2 * boxes else "$" if i % 2 else "."
    rows = ["".join(cells[r * width : (r + 1) * width]) for r in range(height)]
    return ("#" * (width + 2), *[f"#{row}#" for row in rows], "#" * (width + 2))


@given(small_levels())
@settings(max_examples=80, deadline=None)
def test_the_solver_agrees_with_breadth_first_search(level) -> None:
    if broken(level) or stranded(level).any():
        return
    fewest, found = fewest_pushes(level), solve(level, weight=1)
    assert (found.moves is None) == (fewest is None), "neither a false solution nor a false end"
    if fewest is None:
        assert found.proven
        return
    assert found.moves is not None and "$" not in "".join(drawing.positions(level, found.moves)[-1])
    assert found.pushes is not None and fewest <= found.pushes <= 2 * fewest + 4
    assert (lone_pushes(level) or 0) <= fewest


def test_what_the_solver_says() -> None:
    assert solve(CORRIDOR).moves == "rRR" and solve(CORRIDOR).pushes == 2
    assert solve(CORNER).moves is None and solve(CORNER).proven
    few = solve(TWO, nodes=1)
    assert few.moves is None and not few.proven
    wide = ("#" * 60, "#@" + " " * 55 + "$.#"[:2] + "#", "#" * 60)
    assert solve(wide).pushes == 1


# ------------------------------------------------------------------ rules, faults, mending
@pytest.mark.parametrize(("level", "said"), [
    (("#####", "#$ .#", "#####"), "no player"), (("#####", "#@$.@", "#####"), "open walls"), (("######", "#@$.@#", "######"), "2 players"),
    (("######", "#@$$.#", "######"), "2 boxes, 1 goals"), (("#####", "#@  #", "#####"), "no box and no goal"),
    (("#####", "#@* #", "#####"), "solved before it begins"), (("## ##", "#@$.#", "#####"), "open walls"),
])
def test_what_is_not_well_formed(level, said: str) -> None:
    assert said in broken(level) and not broken(CORRIDOR)


def test_checks_and_words() -> None:
    codec = fitted([ROOM, TWO, NOTCHED])
    assert codec.checks(ROOM, {}) == {"well-formed": True, "solvable": True}
    assert codec.checks(CORNER, {}) == codec.checks(BURIED, {}) == {"well-formed": True, "solvable": False}
    texts = codec.preview([CORRIDOR, CORNER, BURIED])["texts"]
    assert texts[0] == "solved in 2 pushes, 3 moves" and texts[1] == "no solution" and "out of reach" in texts[2]


def test_faults_keep_more_at_first_and_mend_at_last() -> None:
    codec = fitted([ROOM, TWO, NOTCHED], size=10)
    assert codec.faults(ROOM, 0) is None
    kept = [codec.faults(CORNER, attempt) for attempt in range(3)]
    shares = [given.known.mean() for given in kept if given is not None]
    assert len(shares) == 3 and shares[0] > shares[1]
    last = kept[2]
    assert last is not None and last.known.all(), "nothing is left to draw"
    assert all(codec.checks(codec.decode(last.x), {}).values())
    box = CORNER[1].index("$") + 10
    assert kept[0] is not None and not kept[0].known[box] and kept[0].known[9 * 10 + 9]


BROKEN = [
    CORNER,
    BURIED,
    ("#####", "#$ .#", "#   #", "#####"),
    ("#######", "#@ $ .#", "### ###"),
    ("########", "#@$$.  #", "#      #", "########"),
    ("########", "#@.. $ #", "#      #", "########"),
    ("#######", "#@ @ @#", "# $ . #", "#     #", "#######"),
    ("     ", " @$. ", "     "),
    ("######", "#@  *#", "#    #", "######"),
    ("#######", "#     #", "#  @  #", "#     #", "#######"),
]


def test_rooms_out_of_reach_go_when_a_level_is_mended() -> None:
    stray = ("#####", "#  .#", "#  $#", "#####", "#   ###", "# @$$.#", "#     #", "#######")
    made = fitted([ROOM, TWO, NOTCHED], size=10).mend(tuple(row.ljust(8, "_") for row in stray))
    assert made is not None and len(made) == 5 and not broken(made)
    round_it = ("#########", "#@ $ .$ #", "#  ###  #", "#  # #  #", "#  ###  #", "#       #", "#########")
    sealed = fitted([ROOM, TWO, NOTCHED], size=12).mend(round_it)
    assert sealed is not None and sealed[3][4] == "#"


@pytest.mark.parametrize("level", BROKEN, ids=range(len(BROKEN)))
def test_mending_makes_a_level_playable_and_is_remembered(level, tmp_path: Path) -> None:
    codec = fitted([ROOM, TWO, NOTCHED], size=10)
    made = codec.mend(level)
    assert made is not None and all(codec.checks(made, {}).values()) and made == codec.mend(level)
    codec.write([made, ROOM], tmp_path / "out", [{"index": 0}, {"index": 1}])
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert rows[0]["repaired"] == "by hand" and "repaired" not in rows[1]


@given(st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_mended_noise_passes_or_is_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codec = NINE
    x = rng.choice(8, 81, p=[0.4, 0.06, 0.06, 0.02, 0.02, 0.01, 0.35, 0.08])
    level = codec.decode(x)
    made = codec.mend(level)
    assert made is None or all(codec.checks(made, {}).values())
    given_ = codec.faults(level, 5)
    assert given_ is None or given_.x.shape == (81,)


def test_a_level_of_the_whole_grid_is_mended_within_it() -> None:
    codec = fitted([ROOM], size=5)
    made = codec.mend((" @ $ ", "  .  ", "     ", "     ", "     "))
    assert made is not None and len(made) <= 5 and len(made[0]) <= 5 and all(codec.checks(made, {}).values())


# ------------------------------------------------------------------ derived
def test_what_is_derived() -> None:
    codec = fitted([ROOM, TWO])
    (row,) = codec.derive([CORRIDOR], list(codec.derived))
    assert row == {"difficulty": 2, "distance": 2, "boxes": 1, "size": 21, "floor": 5 / 21}
    assert codec.derive([CORNER], ["difficulty", "boxes"]) == [{"difficulty": None, "boxes": 1}]
    with pytest.raises(UsageError, match="no 'colour'"):
        codec.derive([ROOM], ["colour"])


# ------------------------------------------------------------------ given
def test_given_levels_have_unknown_tiles() -> None:
    codec = fitted([ROOM, TWO], size=10)
    given_ = codec.given("#####\n#@?.#\n#####")
    assert given_.known.sum() == 99 and codec.decode(given_.x)[0] == "#####"
    assert not given_.known[12]
    begun = codec.given("#####\n#@  #\n?????")
    assert begun.known[:20].all() and not begun.known[20:].any(), "a beginning: the size is open"
    x = codec.given(ROOM)
    assert x.known.all() and codec.decode(x.x) == ROOM


def test_given_files(tmp_path: Path) -> None:
    codec = fitted([ROOM, TWO], size=10)
    (tmp_path / "part.txt").write_text("; one\n#####\n#@?.#\n#####\n\n######\n#@ ? #\n")
    levels = codec.read_given(tmp_path / "part.txt")
    assert levels == [("#####", "#@?.#", "#####"), ("######", "#@ ? #")]
    assert codec.given(levels[1]).known.sum() == 99
    with pytest.raises(DataError, match="unknown tile 'x'"):
        codec.given(("#x#",))


# ------------------------------------------------------------------ pictures and files
def test_pictures_and_films() -> None:
    codec = fitted([ROOM, TWO, CORNER])
    preview = codec.preview([ROOM, CORNER])
    film, still = (Image.open(io.BytesIO(data)) for data in preview["png"])
    assert film.format == "GIF" and film.n_frames == len(solution(ROOM, 1000).moves or "") + 1 and film.size == (112, 80)  # type: ignore[attr-defined]
    assert still.format == "PNG" and still.size == (96, 64)
    colours = {still.convert("RGB").getpixel(at) for at in ((24, 24), (8, 40), (74, 20), (2, 2))}
    assert len(colours) >= 3, "walls, boxes and floor look different"


def test_long_films_have_few_frames() -> None:
    level = ("#" * 60, "#@$" + " " * 55 + ".#", "#" * 60)
    data = drawing.film(level, "R" * 56, frames=20)
    assert 10 <= Image.open(io.BytesIO(data)).n_frames <= 21  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="blocked"):
        drawing.positions(CORRIDOR, "l")


def test_writing_a_folder_and_a_file(tmp_path: Path) -> None:
    codec = fitted([ROOM, NOTCHED, CORNER])
    paths = codec.write([NOTCHED, CORNER], tmp_path / "out", [{"index": 0, "seed": 1}, {"index": 1, "valid": False}])
    assert [p.name for p in paths] == ["00000.png", "00001.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00000.gif", "00000.png", "00000.txt", "00001.png", "00001.txt",
                                                                   "metadata.jsonl"]
    assert (tmp_path / "out" / "00000.txt").read_text().startswith("  ####\n###  ###\n")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert rows[0]["solvable"] and rows[0]["difficulty"] > 0 and rows[1] == rows[1] | {"solvable": False, "valid": False, "index": 1}
    (single,) = codec.write([NOTCHED, ROOM], tmp_path / "out.sok", [{"index": 0}, {"index": 1}])
    again = LevelCodec(LevelConfig(symmetry="none"))
    assert [item.raw for item in again.read(scan(single))] == [NOTCHED, ROOM]


def test_state_survives_json() -> None:
    codec = fitted([ROOM, NOTCHED])
    again = LevelCodec()
    again.load(json.loads(json.dumps(codec.state())))
    assert again.space == codec.space and again.checks(CORNER, {}) == codec.checks(CORNER, {}) and again.describe() == codec.describe()


# ------------------------------------------------------------------ other games
def test_a_way_from_start_to_goal(tmp_path: Path) -> None:
    text = "\n".join([MAZE, MAZE.replace("#.#.#", "#.###"), MAZE.replace("S..", "..S")] * 4)
    codec, items = of_text(tmp_path, text)
    assert codec.rules.kind == "reach" and codec.rules.start == "S" and codec.rules.goal == "G" and len(items) == 12
    assert codec.derive([items[0].raw], ["difficulty", "boxes"]) == [{"difficulty": 4, "boxes": None}]
    walled = ("#####", "#S#.#", "###.#", "#..G#", "#####")
    assert codec.checks(walled, {}) == {"well-formed": True, "one start and a goal": True, "goal reachable": False}
    for attempt in (0, 3):
        assert codec.faults(walled, attempt) is not None
    for level in (walled, ("#####", "#S.S#", "#...#", "#####"), ("#####", "#...#", "#...#", "#####")):
        made = codec.mend(level)
        assert made is not None and all(codec.checks(made, {}).values())
    assert codec.preview([walled])["texts"] == ["the goal cannot be reached"]


def test_levels_without_rules(tmp_path: Path) -> None:
    codec, items = of_text(tmp_path, "\n\n".join(["--X-\n-oo-\nXXXX", "----\n-X--\nXXXX", "o---\n---X\nXXXX"]))
    assert codec.rules.kind == "none" and codec.checks(items[0].raw, {}) == {"well-formed": True}
    assert codec.checks(("--", "X_"), {}) == {"well-formed": False} and codec.mend(("--", "X_")) == ("--", "X-")
    assert [codec.decode(codec.encode(item.raw)) for item in items] == [item.raw for item in items]
    assert codec.faults(items[0].raw, 0) is None


def test_rules_that_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Sokoban levels"):
        of_text(tmp_path, "--X-\n-oo-\nXXXX", rules="sokoban")
    with pytest.raises(DataError, match="start"):
        of_text(tmp_path, "--X-\n-oo-\nXXXX", rules="reach")
    with pytest.raises(UsageError, match="unknown rules"):
        of_text(tmp_path, "--X-\n-oo-\nXXXX", rules="chess")


@pytest.mark.skipif(not sandbox.available(), reason="bubblewrap cannot start here")
def test_a_users_checker(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def check(level):\n    return {'has X': any('X' in row for row in level), 'is flat': len(level) < 9}\n")
    codec, items = of_text(tmp_path, "--X-\n-oo-\nXXXX\n\n----\nX---\nXXXX", rules=str(file))
    assert codec.checks(items[0].raw, {}) == {"well-formed": True, "has X": True, "is flat": True}
    assert codec.checks(("--", "oo"), {})["has X"] is False and codec.faults(("--", "oo"), 0) is None
    file.write_text("def check(level):\n    return [True]\n")
    with pytest.raises(UsageError, match="must return a dict"):
        codec.checks(("-X", "oo"), {})


def test_sec_a_users_checker_without_a_sandbox_is_not_run(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit\n")
    codec, items = of_text(tmp_path, "--X-\n-oo-\nXXXX\n\n----\nX---\nXXXX", rules=str(tmp_path / "mine.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotPermitted):
        codec.checks(items[0].raw, {})


# ------------------------------------------------------------------ reading
def test_sets_are_groups_and_orientations_stay_together(tmp_path: Path) -> None:
    for i, level in enumerate(rooms(12)):
        (tmp_path / f"{'abcd'[i % 4]}set_{i:03d}.sok").write_text("\n".join(level) + "\nAuthor: A. Nonymous\n")
    codec = LevelCodec(LevelConfig(variants=0))
    items = list(codec.read(scan(tmp_path)))
    assert {item.group for item in items} == {"aset", "bset", "cset", "dset"} and items[0].cond == {"author": "A. Nonymous"}
    assert items[0].source == "aset_000.sok" and len({LevelCodec().identity(item.raw) for item in items}) <= 12
    by_level: dict[object, set[str]] = {}
    for item in items:
        by_level.setdefault(grids.canonical(item.raw)[0], set()).add(item.group)
    assert all(len(groups) == 1 for groups in by_level.values()) and len(items) <= 12
    more = codec.augmented(items)
    assert {(grids.canonical(item.raw)[0], item.group) for item in more} <= {(k, *v) for k, v in by_level.items()} and len(more) > 12
    assert not {item.raw for item in more} & {item.raw for item in items}, "turned levels are further ones"
    plain = LevelCodec(LevelConfig(symmetry="none", variants=0))
    assert len(list(plain.read(scan(tmp_path)))) == 12 and plain.augmented(items) == []
    few = [item for item in items if item.group in ("aset", "bset")]
    for path in [*tmp_path.glob("cset*"), *tmp_path.glob("dset*")]:
        path.unlink()
    again = list(codec.read(scan(tmp_path)))
    assert len(again) == len(few) and len({item.group for item in again}) == 6, "two sets could not be split: a group a level"


def test_one_file_has_a_group_a_level_and_copies_share_it(tmp_path: Path) -> None:
    turned = grids.turned(NOTCHED, 5)
    (tmp_path / "many.txt").write_text(sokoban_text([ROOM, NOTCHED, TWO, turned]))
    codec = LevelCodec(LevelConfig(symmetry="none"))
    items = list(codec.read(scan(tmp_path / "many.txt")))
    assert [item.raw for item in items] == [ROOM, NOTCHED, TWO, turned]
    assert items[1].group == items[3].group and len({item.group for item in items}) == 3
    assert any("copies" in note for note in codec.notes)


def test_large_levels_are_left_out_and_counted(tmp_path: Path) -> None:
    large = ("#" * 30, "#@$." + " " * 25 + "#", "#" * 30)
    (tmp_path / "a.xsb").write_text(sokoban_text([*rooms(20), large]))
    codec = LevelCodec(LevelConfig(limit=12))
    items = list(codec.read(scan(tmp_path / "a.xsb")))
    codec.fit(items)
    assert all(max(len(item.raw), len(item.raw[0])) <= 12 for item in items)
    assert any("1 of 21 levels are larger than 10×10" in note for note in codec.notes)
    assert list(codec.read(scan(tmp_path / "a.xsb"))), "a fitted codec reads by its own grid"
    with pytest.raises(DataError, match="3×30"):
        codec.encode(large)


def test_solutions_beside_levels_say_how_hard_they_are(tmp_path: Path) -> None:
    for i, level in enumerate(rooms(12)):
        (tmp_path / f"a{i}.sok").write_text("\n".join(level))
    (tmp_path / "long.sok").write_text("\n".join(("#" * 9, "#@$    .#", "#" * 9)))
    (tmp_path / "long.sol").write_text("2(2(r))r")
    (tmp_path / "a3.sol").write_text("uuu")
    items = list(LevelCodec(LevelConfig(symmetry="none")).read(scan(tmp_path)))
    assert [item.cond for item in items if item.cond] == [{"difficulty": 5}], "a solution that does not hold is not believed"


@pytest.mark.parametrize(("text", "moves"), [
    ("3r", "rrr"), ("2(dull)u", "dulldullu"), ("2(2(u)r)", "uuruur"), ("12l", "l" * 12), ("", ""), ("R D", "RD"),
    (")", None), ("(r", None), ("3", None), ("x", None), ("9999999r", None), ("999999(999999(r))", None), ("3)", None),
    ("(" * 100 + ")" * 100, None),
])
def test_moves_with_counts_and_groups(text: str, moves: str | None) -> None:
    assert unfolded(text) == moves


def test_moves_are_replayed() -> None:
    assert replayed(CORRIDOR, "rrR") == 2 and replayed(CORRIDOR, "r") is None and replayed(CORRIDOR, "rrrr") is None
    assert replayed(CORRIDOR, "lx") is None and replayed(("  ",), "r") is None


def test_what_was_asked_stands_beside_what_came(tmp_path: Path) -> None:
    codec = fitted([ROOM, TWO])
    codec.write([CORRIDOR], tmp_path / "out", [{"index": 0, "boxes": 7}])
    row = json.loads((tmp_path / "out" / "metadata.jsonl").read_text())
    assert row["boxes"] == 1 and row["asked"] == {"boxes": 7}
