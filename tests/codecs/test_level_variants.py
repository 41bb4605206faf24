"""Other beginnings of a level: the same walls and goals, well-formed, solvable."""
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from level_samples import CORNER, CORRIDOR, NOTCHED, ROOM, TWO, sokoban_text

from morphogen.codecs.level import LevelCodec, LevelConfig
from morphogen.codecs.level.rules import broken, solution, stranded
from morphogen.codecs.level.variants import variants
from morphogen.codecs.sources import scan

BARE = str.maketrans("$*@+", " . .")


@given(st.sampled_from([ROOM, TWO, NOTCHED, CORNER, CORRIDOR]), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_variants_are_playable(level: tuple[str, ...], seed: int) -> None:
    for made in variants(level, 3, seed):
        assert [row.translate(BARE) for row in made] == [row.translate(BARE) for row in level], "walls and goals stay"
        assert not broken(made) and not stranded(made).any() and solution(made, 100_000).moves is not None


def test_variants_differ_and_come_back() -> None:
    made = variants(TWO, 12, 3)
    assert len(made) == len(set(made)) >= 4 and made == variants(TWO, 12, 3) != variants(TWO, 12, 4)
    assert any(sum(row.count("$") for row in level) == 2 for level in made), "all boxes leave their goals"


@pytest.mark.parametrize(("symmetry", "each"), [("none", 1), ("all", 8)])
def test_the_training_part_has_them(tmp_path: Path, symmetry: str, each: int) -> None:
    (tmp_path / "a.txt").write_text(sokoban_text([ROOM, TWO, NOTCHED]))
    codec = LevelCodec(LevelConfig(variants=2, symmetry=symmetry))
    items = list(codec.read(scan(tmp_path / "a.txt")))
    codec.fit(items)
    named = [item.__class__(item.raw, dict(zip(["boxes", "difficulty"], codec.derive([item.raw], ["boxes", "difficulty"])[0].values())))
             for item in items]
    more = codec.augmented(named)
    plain = LevelCodec(LevelConfig(variants=0, symmetry=symmetry))
    list(plain.read(scan(tmp_path / "a.txt")))
    assert 9 * each >= len(more) + 3 > len(plain.augmented(named)) + 3
    assert all(item.cond == codec.derive([item.raw], ["boxes", "difficulty"])[0] for item in more)
