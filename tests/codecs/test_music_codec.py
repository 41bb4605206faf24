"""The codec of tunes: bars and their grammar, items and groups, given parts, faults, checks, files, every bad input with its outcome."""

import json

import numpy as np
import pytest

from morphogen.codecs.music import MusicCodec, MusicConfig, abc, reading, tokens, writing
from morphogen.codecs.music.abc import Unreadable
from morphogen.codecs.music.grammar import MusicGrammar
from morphogen.codecs.music.score import Bar, Note, Tune, sounds, wrong_bars
from morphogen.codecs.music.theory import BY_NAME
from morphogen.codecs.sources import scan
from morphogen.contracts import Checks, Derives, Explains, Faults, Features, HasGrammar, Item
from morphogen.errors import DataError, UsageError
from morphogen.testing import check_codec
from morphogen.training.split import split

JIG = "M:6/8\nK:G\nd|GABd2e|dBGA2B|cBAG2A|BGEE2d:|g|gfgage|dBGA2B|cBAG2A|BGGG2||"


def midis(text):
    return [s.midi for s in sounds(abc.read(text))]


def read(folder, text, name="a.abc", **config):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    codec = MusicCodec(MusicConfig(**config))
    return codec, list(codec.read(scan(folder)))


def tune(number, notes, key="D", title=""):
    return f"X:{number}\nT:{title}\nM:4/4\nL:1/8\nK:{key}\n{notes}|]\n\n"


# ------------------------------------------------------------------ bars and the grammar
@pytest.mark.parametrize(
    "body, wrong",
    [
        ("GABd2e|G6|]", []),
        ("d|GABd2e|G3G2|]", []),
        ("GABd2e|G5|]", [1]),
        ("GABd2|G6|]", []),
        ("GABd2ed|G6|]", [0]),
        ("d|GABd2e|G3G2:|d|G6|G5||", []),
        ("GABd2e|G3G2||d|G5|]", []),
        ("G6|GABd|G6|]", [1]),
        ("d|G6|[1G5:|[2G5|]", []),
        ("G6|[1G6:|[2G5|]", [2]),
        ("d|G6|[1G5:|[2G6|G5|]", []),
        ("(3GABdedB|G6|]", []),
        ("G6|(3GABded|G6|]", [1]),
        ("[M:9/8]G9|]", []),
        ("G6|[M:9/8]G9|G6|]", [2]),
    ],
)
def test_which_bars_do_not_fill(body, wrong):
    first = abc.read(f"M:6/8\nK:G\n{body}")
    assert wrong_bars(first) == wrong


@pytest.mark.parametrize("length", [6, 9, 20, 64, 150])
def test_what_the_grammar_lets_through_fills_its_bars_and_ends(length):
    grammar, rng = MusicGrammar(), np.random.default_rng(length)
    for _ in range(6):
        state, out = grammar.start(), []
        for i in range(length):
            allowed = grammar.allowed(state, length - i)
            assert allowed.any()
            out.append(int(rng.choice(np.flatnonzero(allowed))))
            if out[-1] == tokens.END:
                break
            state = grammar.advance(state, out[-1])
        heard = tokens.hear(out)
        assert out[-1] == tokens.END and wrong_bars(heard) == [] and any(isinstance(e, Note) for e in heard.body)


def test_the_grammar_knows_real_tunes_and_refuses_wrong_ones():
    def fits(text):
        grammar = MusicGrammar()
        state, said = grammar.start(), [*tokens.say(abc.read(text))[0], tokens.END]
        for i, token in enumerate(said):
            if not grammar.allowed(state, len(said) - i)[token]:
                return False
            state = state if token == tokens.END else grammar.advance(state, token)
        return True

    assert fits(JIG) and fits("M:4/4\nK:Dm\n|:(3ABcd2-[df]2z2|[1G8:|[2A8|[K:G][M:3/4]B6||") and fits("M:none\nK:C\nCDE|F|]")
    assert not fits("M:6/8\nK:G\nG6|GAB|G6|]") and not fits("M:6/8\nK:G\nG6|G7|]") and not fits("M:6/8\nK:G\nG6|(3GABded|G6|]")
    with pytest.raises(ValueError, match="not allowed"):
        MusicGrammar().advance(MusicGrammar().start(), tokens.END)


# ------------------------------------------------------------------ the codec
def collection():
    rng = np.random.default_rng(0)
    body = lambda: "|".join("".join("DEFGABcd"[i] for i in rng.integers(0, 8, 8)) for _ in range(4))
    return "".join(tune(i, body(), title=f"Air number {'abcdefghijklmnopqrstuvwxyz'[i]}") for i in range(24))


def test_the_codec_keeps_its_promises(tmp_path):
    codec, items = read(tmp_path, collection())
    check_codec(MusicCodec, items, tmp_path)
    assert isinstance(codec, Checks | Derives | Faults | Features | HasGrammar) and isinstance(codec, Explains)
    codec.fit(items)
    for item in items:
        assert codec.decode(codec.encode(item.raw)) == item.raw and codec.size_of(item.raw) == (len(item.raw), "character")
    assert codec.claims(scan(tmp_path / "a.abc")).score > 0.9 and codec.claims(scan([{"a": 1}])).score == 0


def test_what_is_said_of_tunes(tmp_path):
    text = "X:1\nT:A\nR:Double Jig\nM:6/8\nK:Em\nGABGAB|E6|]\n\nX:2\nT:B\nM:C|\nR:Reels\nK:Ador\nABcABcde|A8|]\n"
    codec, items = read(tmp_path, text)
    assert [i.cond for i in items] == [{"key": "Em", "metre": "6/8", "rhythm": "jig"}, {"key": "Ador", "metre": "2/2", "rhythm": "reel"}]
    assert [i.source for i in items] == ["a.abc:1", "a.abc:8"]
    (said,) = codec.derive([items[0].raw], list(codec.derived))
    assert said == {
        "key": "Em",
        "mode": "minor",
        "metre": "6/8",
        "bars": 2,
        "notes": 7,
        "range": 7,
        "lowest": 64,
        "highest": 71,
        "density": 4.667,
    }


def test_near_duplicates_stay_on_one_side(tmp_path):
    text = (
        tune(1, "DEFGABcd|d8", "D", "The Red Cow")
        + tune(2, "GABcdefg|g4a4", "G", "Another")  # the opening of 1 in another key
        + tune(3, "dcBAdcBA|d8", "D", "Red Cow, The")
        + tune(4, "DDDDEEEE|D8", "D", "")
        + tune(5, "AAAABcde|A8", "D", "")
    )
    codec, items = read(tmp_path, text)
    groups = [item.group for item in items]
    assert groups[0] == groups[1] == groups[2] and len(set(groups)) == 3 and any("together" in note for note in codec.notes)
    more = [Item(i.raw, i.cond, i.group) for i in items] * 4
    train, held = split(more)
    assert not {more[i].group for i in train} & {more[i].group for i in held}


def test_titles_and_rhythms_are_normalised():
    assert reading.title_of("Butcher's Apron, The") == reading.title_of("The Butchers Apron") != ""
    assert reading.title_of("Untitled") == reading.title_of("12") == reading.title_of("") == ""
    assert [reading.rhythm_of(t) for t in ("Reels", "slipjig", "Double Jig", "Slip Jig", "", "Waltz")] == [
        "reel",
        "slip jig",
        "jig",
        "slip jig",
        "",
        "waltz",
    ]


def test_beginnings_and_unknown_bars(tmp_path):
    codec, items = read(tmp_path, collection())
    codec.fit(items)
    start = codec.given("M:4/4\nK:D\nDEFG|A")
    n = int(start.known.sum())
    assert tokens.words(start.x[:n])[-1] == "Degree(steps=4, relative=0)" and start.known[:n].all() and n == 8
    holed = codec.given("M:4/4\nK:D\nD8|<mask:2>|DEFGABcd|]")
    hidden = np.flatnonzero(~holed.known)
    assert len(hidden) == 2 * 5 + 1 and (np.diff(hidden) == 1).all() and holed.x[hidden[0] - 1] == tokens.id_of(Bar("|"))
    assert holed.known[hidden[-1] + 1 :].all() and (holed.x[-3:] == tokens.END).all()
    with pytest.raises(UsageError, match="do not fit"):
        codec.given("K:D\n" + "D2" * 500)
    with pytest.raises(UsageError, match="not a tune"):
        codec.given("K:D\n[CE")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "given.abc").write_text("X:1\nM:4/4\nL:1/4\nK:D\nDEFG|<mask>|D4|]\n")
    (text,) = codec.read_given(tmp_path / "g" / "given.abc")
    assert (~codec.given(text).known).sum() == 9 - 1 or (~codec.given(text).known).sum() > 1


def test_faults_hide_the_wrong_bars_and_later_more(tmp_path):
    codec, items = read(tmp_path, collection())
    codec.fit(items)
    raw = "M:4/4\nK:D\nD8|EEE|FFFFFFFF|GGGG|D8|]"
    assert codec.faults("M:4/4\nK:D\nD8|D8|]", 0) is None
    first, later = codec.faults(raw, 0), codec.faults(raw, 1)
    assert (~first.known).sum() == 7 and (~later.known).sum() == 7 + 8 + 4
    assert codec.decode(first.x) == raw and all(first.x[i] != tokens.END for i in np.flatnonzero(~later.known))


def test_checks_say_which_rule_is_broken():
    codec = MusicCodec()
    assert codec.checks(JIG, {}) == {"parses": True, "bars fill the metre": True}
    assert codec.checks(JIG, {"key": "G", "metre": "6/8"})["in key"] and not codec.checks(JIG, {"metre": "4/4"})["bars fill the metre"]
    assert not codec.checks(JIG, {"key": "Db"})["in key"]
    assert codec.checks("M:6/8\nK:G\n[GA", {}) == {"parses": False, "bars fill the metre": False}
    assert not codec.checks("M:6/8\nK:G\nG6|GA|G6|]", {})["bars fill the metre"]


def test_features_do_not_hear_the_key_and_tell_tunes_apart():
    codec = MusicCodec()
    g, a = (
        writing.write(Tune("6/8", BY_NAME[k], tokens.hear([tokens.id_of(BY_NAME[k]), *tokens.say(abc.read(JIG))[0][2:]]).body))
        for k in "GA"
    )
    x = codec.features([g, a, "M:4/4\nK:G\nGGGGGGGG|G8|]"])
    assert g != a and np.allclose(x[0], x[1]) and np.linalg.norm(x[0] - x[2]) > 0.5 and codec.features([]).shape == (0, x.shape[1])


def test_parts_are_explained_by_bars():
    codec = MusicCodec()
    said = codec.explain(JIG, np.ones(len(codec.encode(JIG))))
    assert (
        said[0] == ("metre and key", 2.0)
        and said[1] == ("bar 1: d", 2.0)
        and said[2] == ("bar 2: GABd2e", 7.0)
        and said[-1] == ("end", 1.0)
    )
    assert sum(value for _, value in said) == len(codec.encode(JIG))


def test_long_tunes_lose_their_tail_honestly(tmp_path):
    codec, items = read(tmp_path, collection(), length=20)
    codec.fit(items)
    assert codec.tails == 24 and all(len(codec.encode(i.raw)) == 20 for i in items)
    assert codec.size_of(items[0].raw)[0] < len(items[0].raw)


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize("content", [b"", b"\0\1\2" * 50, b"only words\n\nand more\n", b"X:1\nT:a\n", b"X:1\nK:G\n", b"X:1\nK:G\nAB|]"])
def test_files_without_a_tune_are_refused(tmp_path, content):
    with pytest.raises(DataError) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_some_bad_tunes_are_skipped_with_their_line(tmp_path):
    codec, items = read(tmp_path, collection() + "X:99\nT:bad\nGGGG\n")
    assert len(items) == 24 and codec.skips.count == 1 and "no key" in codec.skips.first[0] and "a.abc:" in codec.skips.first[0]


def test_old_encodings_marks_and_newlines(tmp_path):
    for content in (
        tune(1, "DEFG|A8", "D", "Café").encode("latin-1"),
        tune(1, "DEFG|A8").replace("\n", "\r\n").encode("utf-8-sig"),
        tune(1, "DEFG|A8").replace("\n", "\r").encode("utf-16"),
    ):
        codec, items = read(tmp_path, content)
        assert items[0].raw == "M:4/4\nK:D\nDEFG|A8|]"


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        "(" * 100_000,
        "A" + "-" * 50_000,
        "A" + ">" * 50_000,
        "(3" * 50_000,
        "|" * 100_000,
        "A" * 50 + "'" * 50_000,
        "{" * 50_000,
        '"' * 50_001,
        "!" * 50_000,
        "[K:" * 30_000,
        "A9" * 10_000,
    ],
    ids=range(12),
)
def test_hostile_lines_end_soon(body):
    try:
        made = abc.read(f"M:4/4\nK:C\n{body}")
        assert len(writing.write(made)) < 400_000
    except Unreadable:
        pass


def test_wrong_settings_are_refused():
    for config in ({"length": 1}, {"length": -3}, {"tempo": 5}, {"tempo": float("nan")}):
        with pytest.raises(UsageError):
            MusicCodec(MusicConfig(**config))
    with pytest.raises(DataError):
        MusicCodec().fit([Item(JIG)])


def test_folders_hold_scores_midi_sound_and_what_was_asked(tmp_path):
    codec = MusicCodec()
    paths = codec.write([JIG, JIG], tmp_path / "out", [{"index": 0, "key": "G", "rhythm": "jig"}, {"index": 1}])
    assert [p.name for p in paths] == [f"0000{i}.{e}" for i in (0, 1) for e in ("abc", "mid", "wav")] and all(p.is_file() for p in paths)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert rows[0]["file_name"] == "00000.abc" and rows[0]["metre"] == "6/8" and "R:jig" in paths[0].read_text()
    again = MusicCodec()
    items = list(again.read(scan(tmp_path / "out")))
    assert [i.raw for i in items] == [JIG, JIG] and items[0].group == items[1].group and "beside an ABC" in again.notes[0]
    assert codec.write([JIG, JIG], tmp_path / "t.abc", []) == [tmp_path / "t.abc"] and (tmp_path / "t.abc").read_text().count("X:") == 2
    assert codec.write([JIG], tmp_path / "t.mid", []) == [tmp_path / "t.mid"]
    assert [p.name for p in codec.write([JIG, JIG], tmp_path / "t.wav", [])] == ["t-00000.wav", "t-00001.wav"]
