"""However a text is split, what is shown is the text up to the earliest stop string."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphogen.errors import UsageError
from morphogen.sampling.stops import Stops

letters = st.text("ab\n", max_size=40)


@given(letters, st.lists(st.text("ab\n", min_size=1, max_size=6), max_size=4), st.lists(st.integers(0, 40)))
def test_any_split_shows_the_text_cut_at_the_earliest_stop(text: str, strings: list[str], cuts: list[int]) -> None:
    stops, shown, over = Stops(strings), "", False
    where = sorted({min(c, len(text)) for c in cuts} | {0, len(text)})
    for a, b in zip(where, [*where[1:], len(text)]):
        more, over = stops.feed(text[a:b])
        shown += more
        fed = text[:b]
        assert over == stops.stopped
        if not over:  # what is held back could still become a stop string, all of it
            held = fed[len(shown):]
            assert held == "" or any((s.startswith(held) and s != held) for s in strings), "held without need"
    more, over = stops.flush()
    best = min((text.find(s) for s in strings if s in text), default=len(text))
    assert shown + more == text[:best] and over == (best < len(text))
    assert stops.flush() == ("", over)


def test_nothing_follows_a_stop() -> None:
    stops = Stops(["</s>", "\n\n"])
    assert stops.feed("hello <") == ("hello ", False)
    assert stops.feed("/") == ("", False)
    assert stops.feed("b>") == ("</b>", False)
    assert stops.feed("\n") == ("", False)
    assert stops.feed("\nmore") == ("", True)
    assert stops.feed("still more") == ("", True) and stops.flush() == ("", True)


def test_a_longer_string_that_began_earlier_goes_first() -> None:
    stops = Stops(["abcd", "bc"])
    assert stops.feed("xabc") == ("x", False) and stops.feed("d") == ("", True)
    stops = Stops(["abcd", "bc"])
    assert stops.feed("xabc") == ("x", False) and stops.feed("e") == ("a", True)
    stops = Stops(["abcd", "bc"])
    assert stops.feed("xabc") == ("x", False) and stops.flush() == ("a", True)


def test_without_strings_all_is_shown() -> None:
    assert Stops().feed("abc") == ("abc", False) and Stops("ab").feed("ab") == ("", True)


@pytest.mark.parametrize("bad", [["a"] * 5, [""], ["a" * 65], [3]])
def test_limits(bad: list) -> None:
    with pytest.raises(UsageError, match="stop string"):
        Stops(bad)
