"""Text: exact round trips, honest splits, and every bad input with its outcome."""
import gzip
import json
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.codecs.sources import scan
from morphogen.codecs.text import CaptionCodec, CaptionConfig, TextCodec, TextConfig
from morphogen.codecs.text.passages import packed, shape_of
from morphogen.codecs.text.tokens import Tokeniser, hashed_grams, train_bpe
from morphogen.contracts import Features, Item
from morphogen.errors import DataError, FormatError, UsageError

SENTENCES = [f"The {a} {b} {c} the {d}." for a in ("old", "red", "small") for b in ("fox", "ship", "king", "tree")
             for c in ("saw", "likes", "left") for d in ("river", "town", "night sky", "letter", "garden wall")]
NASTY = ["", "a\0b", "<|endoftext|> <s> </s> [MASK] <mask> <|end|>", "😀👩‍👩‍👧 héllo", "漢字かな交じり文",
         "\ufeff\u202e\u200b", "e" + "\u0301" * 50,
         "\r\n\t \x0b\x1b[0m\x7f", "Ġ Ċ ▁", "  two  spaces  ", "\U0010ffff"]


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, **config):
    codec = TextCodec(TextConfig(**config))
    return codec, list(codec.read(scan(path)))


def fitted(**config):
    codec = TextCodec(TextConfig(**config))
    codec.fit([Item(s) for s in SENTENCES * 3])
    return codec


BYTES, BPE = fitted(tokens="bytes", length=600), fitted(tokens="bpe", vocab=400, length=600)


# ------------------------------------------------------------------ round trips
@pytest.mark.parametrize("codec", [BYTES, BPE], ids=["bytes", "bpe"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=120))
def test_any_text_comes_back_exactly(codec, text):
    assert codec.decode(codec.encode(text)) == text


@pytest.mark.parametrize("codec", [BYTES, BPE], ids=["bytes", "bpe"])
@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_come_back_and_never_become_special(codec, text):
    ids = codec.encode(text)
    assert codec.decode(ids) == text and ids.dtype == np.int64
    assert (ids == codec.space.end).sum() == 1 and ids[-1] == codec.space.end and ids.max() < codec.space.vocab


def test_half_surrogates_become_question_marks():
    assert BPE.decode(BPE.encode("a\ud800b")) == BYTES.decode(BYTES.encode("a\ud800b")) == "a?b"


def test_bpe_is_shorter_than_bytes_and_all_bytes_are_in_it():
    text = SENTENCES[7]
    assert len(BPE.encode(text)) < 0.5 * len(BYTES.encode(text))
    assert BPE.space.vocab <= 400 and set(BPE.tokeniser.pieces) >= {bytes([b]) for b in range(256)}


def test_training_bpe_twice_gives_the_same_pieces():
    assert train_bpe(SENTENCES, 350).content == train_bpe(SENTENCES, 350).content


def test_a_text_too_long_loses_its_tail_and_its_end():
    codec = fitted(tokens="bytes", length=5)
    ids = codec.encode("abcdefgh")
    assert ids.tolist() == list(b"abcde") and codec.decode(ids) == "abcde" and codec.size_of("abcdefgh") == (5, "byte")
    assert codec.encode("abcd").tolist() == [*b"abcd", 256]


def test_decode_stops_at_the_end_and_shows_broken_utf8():
    assert BYTES.decode([104, 105, 256, 106, 256]) == "hi"
    assert BYTES.decode([0xC3, 65, 256]) == "\ufffdA"


@pytest.mark.parametrize("codec", [BYTES, BPE], ids=["bytes", "bpe"])
def test_state_is_json_and_restores_everything(codec):
    fresh = TextCodec()
    fresh.load(json.loads(json.dumps(codec.state())))
    assert fresh.space == codec.space and fresh.state() == codec.state()
    assert all(fresh.encode(t).tolist() == codec.encode(t).tolist() for t in [*NASTY, *SENTENCES[:5]])
    assert pickle.loads(pickle.dumps(codec)).decode(codec.encode("a fox")) == "a fox"


def test_a_damaged_tokenizer_is_refused():
    vocab = BPE.state()["tokenizer"]["model"]["vocab"]
    for bad in ({"a": 7}, {k: i for i, k in enumerate(list(vocab)[5:])}, {**vocab, "€": len(vocab)}, 3):
        with pytest.raises(FormatError):
            TextCodec().load({**BPE.state(), "tokenizer": {"model": {"vocab": bad}}})


def test_size_is_counted_in_bytes():
    assert BYTES.size_of("héllo") == BPE.size_of("héllo") == (6, "byte")


# ------------------------------------------------------------------ given
def test_a_prompt_is_a_prefix_with_an_open_end():
    g = BYTES.given("The fox")
    assert g.x.shape == g.known.shape == (600,) and g.known.sum() == 7 and bytes(g.x[:7].tolist()) == b"The fox"


def test_masks_are_unknown_runs_and_close_the_end():
    g = BYTES.given("ab<mask>c<mask:3>")
    assert g.known[:7].tolist() == [True, True, False, True, False, False, False] and g.known[7:].all() and (g.x[7:] == 256).all()
    assert BYTES.decode(np.where(g.known, g.x, ord("?"))) == "ab?c???"


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="do not fit"):
        fitted(tokens="bytes", length=5).given("abcdef")


# ------------------------------------------------------------------ what kind of text
def test_names_one_a_line(tmp_path):
    names = [f"{a}{b}{c}" for a in ("An", "Be", "Cla") for b in ("na", "ri", "lo", "mi") for c in ("", "s", "n", "ta", "bel")]
    codec, items = read(write(tmp_path, "names.txt", "\n".join(names) + "\n"))
    assert [i.raw for i in items] == names and "one entry a line" in codec.notes[0]
    codec.fit(items)
    assert codec.space.length == 16


def test_entries_between_blank_lines(tmp_path):
    recipes = [f"Soup {i}\n- {i} onions\n- salt\nBoil it for {i} minutes." for i in range(40)]
    codec, items = read(write(tmp_path, "recipes.txt", "\n\n".join(recipes)))
    assert [i.raw for i in items] == recipes and "blank lines" in codec.notes[0]


def test_prose_is_cut_into_passages_of_whole_paragraphs(tmp_path):
    paragraphs = [" ".join(SENTENCES[i: i + 12 + i % 5]) for i in range(0, 150, 3)]
    codec, items = read(write(tmp_path, "book.txt", "\n\n".join(paragraphs)), tokens="bytes", length=1024)
    assert "prose" in codec.notes[0] and "\n\n".join(i.raw for i in items) == "\n\n".join(paragraphs)
    assert all(len(i.raw.encode()) <= 1023 for i in items) and len(items) < len(paragraphs)


def test_wrapped_lines_and_code_are_prose():
    words = " ".join(SENTENCES * 3).split()
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > 70:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    assert shape_of("\n".join(lines)) == "prose"
    assert shape_of("def f(x):\n    return x + 1\n" * 40) == "prose"


def test_a_book_of_filled_lines_is_prose_and_docstrings_are_entries():
    page = "\n".join(" ".join(SENTENCES[i: i + 3])[:70].ljust(70, "x") for i in range(3))
    assert shape_of("\n\n".join(page + f"\nThe end {i}." for i in range(60))) == "prose"
    notes = (f"Return {i}.\nArguments:\n    x: the value {i} of all the values that there are\n    y: 1" for i in range(60))
    assert shape_of("\n\n".join(notes)) == "paragraphs"


def test_a_few_very_long_items_do_not_set_the_length():
    codec = TextCodec()
    codec.fit([Item(s) for s in SENTENCES] + [Item("x" * 900)])
    assert codec.space.length < 60 and "1 items lose their tail" in codec.describe()[0] and codec.size_of("x" * 900)[0] < 60


def test_the_user_can_say_what_an_entry_is(tmp_path):
    path = write(tmp_path, "a.txt", "\n".join(SENTENCES))
    assert len(read(path, entries="prose")[1]) < len(read(path, entries="lines")[1]) == len(SENTENCES)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=400), budget=st.integers(16, 90))
def test_packed_passages_fit_and_lose_only_white_space(text, budget):
    text = text.replace("\r", "")
    parts = packed(text, budget)
    assert all(len(p.encode()) <= budget and p.strip() for p in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


# ------------------------------------------------------------------ groups and copies
def test_a_single_file_is_split_in_contiguous_blocks_and_copies_stay_together(tmp_path):
    lines = [*SENTENCES, SENTENCES[0]]
    codec, items = read(write(tmp_path, "a.txt", "\n".join(lines)))
    groups = [i.group for i in items]
    assert len(set(groups)) == 50 and groups[:-1] == sorted(groups[:-1]) and groups[-1] == groups[0]
    assert any("1 of 181 items are exact copies" in note for note in codec.notes)


def test_a_folder_is_grouped_by_file(tmp_path):
    for name in ("one.txt", "sub/two.md"):
        write(tmp_path, name, "\n\n".join(" ".join(SENTENCES[:40]) for _ in range(3)))
    assert {i.group for i in read(tmp_path)[1]} == {"one.txt"}  # two.md holds the same text
    write(tmp_path, "sub/two.md", " ".join(SENTENCES[60:100]))
    assert {i.group for i in read(tmp_path)[1]} == {"one.txt", "sub/two.md"}


def test_only_copies(tmp_path):
    codec, items = read(write(tmp_path, "a.txt", "the very same line again\n" * 30))
    assert len(items) == 30 and any("the same text" in note for note in codec.notes)


# ------------------------------------------------------------------ JSON lines
def test_json_lines_carry_conditions_and_groups(tmp_path):
    rows = [{"text": SENTENCES[i], "mood": "calm", "stars": i, "source": f"book {i % 3}", "caption": "c"} for i in range(30)]
    codec, items = read(write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert items[4].raw == SENTENCES[4] and items[4].cond == {"mood": "calm", "stars": 4, "caption": "c"} and items[4].group == "book 1"
    assert not codec.skips.count


def test_bad_json_lines_are_skipped_and_counted(tmp_path):
    good = [json.dumps({"text": f"{s} {i}"}) for i, s in enumerate(SENTENCES * 5)]
    bad = ['{"text": "x"', '{"text": NaN}', '{"text": 3}', '{"no": 1}', '{"text": ""}', '{"text":"a","text":"b"}',
           '{"text": "\\ud800"}', '["text"]']
    codec, items = read(write(tmp_path, "a.jsonl", "\n".join([*good, *bad])))
    assert codec.skips.count == 8 and len(items) == len(good) and len(codec.skips.first) == 5
    assert f"a.jsonl:{len(good) + 1}" in codec.skips.first[0]
    with pytest.raises(DataError, match="cannot be used"):
        read(write(tmp_path, "b.jsonl", "\n".join([*good[:50], *bad])))
    with pytest.raises(DataError, match="nothing usable"):
        read(write(tmp_path, "c.jsonl", "\n".join(bad)))


def test_deep_json_is_skipped(tmp_path):
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    codec, items = read(write(tmp_path, "a.jsonl", "\n".join([*(json.dumps({"text": s}) for s in SENTENCES), deep])))
    assert codec.skips.count == 1 and len(items) == len(SENTENCES)


# ------------------------------------------------------------------ bad inputs
@pytest.mark.parametrize("content", [b"", b"  \n\n\t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n", "\u200b\n".encode()])
def test_empty_and_blank_files_are_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"empty or blank.*at least 64 bytes"):
        read(write(tmp_path, "a.txt", content))


def test_too_little_text_is_refused_with_the_minimum(tmp_path):
    codec, items = read(write(tmp_path, "a.txt", "hello"))
    with pytest.raises(DataError, match=r"5 bytes in 1 item.*at least 64 bytes"):
        codec.fit(items)
    with pytest.raises(DataError, match="2 or more items"):
        codec.fit([Item("x" * 1000)])


def test_invalid_utf8_names_the_byte_and_the_flag(tmp_path):
    text = "\n".join(SENTENCES) + "\ncafé"
    path = write(tmp_path, "a.txt", text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"byte {len(text) - 1:,} \(0xe9\).*codec.encoding=latin-1"):
        read(path)
    assert read(path, encoding="latin-1")[1][-1].raw == "café"
    with pytest.raises(UsageError, match="unknown encoding"):
        read(path, encoding="latin-one-and-a-half")


def test_utf16_with_and_without_mark(tmp_path):
    text = "\n".join(SENTENCES)
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        assert [i.raw for i in read(write(tmp_path, "a.txt", text.encode(encoding)))[1]] == SENTENCES
    for encoding in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path, "b.txt", text.encode(encoding))
        with pytest.raises(DataError, match=f"byte-order mark.*codec.encoding={encoding}"):
            read(path)
        assert len(read(path, encoding=encoding)[1]) == len(SENTENCES)


@pytest.mark.parametrize("content, what", [
    (gzip.compress(b"hello" * 100, mtime=0), "gzip archive"), (b"PK\x03\x04" + b"x" * 99, "zip archive"), (b"%PDF-1.7 ...", "PDF"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-LFS pointer"), (bytes(range(32)) * 40, "binary data"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
])
def test_binary_files_named_txt_are_recognised(tmp_path, content, what):
    with pytest.raises(DataError, match=what):
        read(write(tmp_path, "a.txt", content))


def test_a_single_nul_is_text(tmp_path):
    lines = [*SENTENCES, "a\0b"]
    assert read(write(tmp_path, "a.txt", "\n".join(lines)))[1][-1].raw == "a\0b"


def test_a_bad_file_among_many_is_skipped(tmp_path):
    for i in range(5):
        write(tmp_path, f"{i}.txt", "\n".join(SENTENCES[i * 30: i * 30 + 30]))
    write(tmp_path, "bad.txt", b"\xff\xfa\xfa" * 40)
    codec, items = read(tmp_path)
    assert len(items) == 150 and codec.skips.count == 1 and "bad.txt" in codec.skips.first[0]


def test_mixed_newlines_are_one_kind(tmp_path):
    raw = "\r\n".join(SENTENCES[:60]) + "\r" + "\n".join(SENTENCES[60:])
    assert [i.raw for i in read(write(tmp_path, "a.txt", raw))[1]] == SENTENCES


@pytest.mark.parametrize("content", ["ab " * 3_300_000, "x" * 10_000_000, "e" + "\u0301" * 1_000_000], ids=["words", "no spaces", "marks"])
def test_one_huge_line_is_quick(tmp_path, content):
    path, start = write(tmp_path, "a.txt", content), time.perf_counter()
    _, items = read(path)
    assert time.perf_counter() - start < 6 and sum(len(i.raw) for i in items) >= len(content.rstrip())


def test_bad_options_are_refused():
    for bad in ({"tokens": "words"}, {"vocab": 100}, {"length": 1}, {"entries": "chapters"}):
        with pytest.raises(UsageError):
            TextCodec(TextConfig(**bad))


# ------------------------------------------------------------------ choices
def test_little_text_is_bytes_and_much_is_word_pieces():
    assert fitted().space.vocab == 257
    codec = TextCodec()
    codec.fit([Item(f"{i} {s}") for i in range(60) for s in SENTENCES])
    assert codec.space.vocab <= 1024 and codec.tokeniser.content and "word pieces" in codec.describe()[0]


def test_claims(tmp_path):
    write(tmp_path, "a.txt", "x"), write(tmp_path, "b.md", "y"), write(tmp_path, "c.png", b"\x89PNG")
    assert 0.5 < TextCodec.claims(scan(tmp_path)).score < 0.7
    assert TextCodec.claims(scan(write(tmp_path / "j", "a.jsonl", '{"text": "x"}'))).score > 0.8
    assert TextCodec.claims(scan(write(tmp_path / "k", "a.jsonl", '{"age": 3}'))).score == 0
    assert TextCodec.claims(scan(write(tmp_path / "l", "README", "plain words"))).score > 0.8


# ------------------------------------------------------------------ outputs
def test_write_gives_json_lines(tmp_path):
    raws = ["a\n\"b\"", "漢\ud800", ""]
    (path,) = BYTES.write(raws, tmp_path / "out", [{"key": i} for i in range(3)])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert path.name == "out.jsonl" and rows == [{"text": "a\n\"b\"", "key": 0}, {"text": "漢?", "key": 1}, {"text": "", "key": 2}]
    assert BYTES.preview(raws) == {"kind": "text", "texts": raws}


def test_features_tell_kinds_of_text_apart():
    f = BYTES.features([SENTENCES[0], SENTENCES[1], "0110 1101 0011", ""])
    assert f.shape == (4, 256) and f.dtype == np.float32 and isinstance(BYTES, Features) and BYTES.feature_name
    assert np.allclose(np.linalg.norm(f, axis=1), [1, 1, 1, 0], atol=1e-6)
    assert f[0] @ f[1] > 0.6 > f[0] @ f[2]
    assert np.array_equal(hashed_grams(b"abc", 64, 4), hashed_grams(b"abc", 64, 4)) and Tokeniser().size == 256


# ------------------------------------------------------------------ captions
def test_captions_are_padded_and_nothing_said_is_empty():
    codec = CaptionCodec()
    codec.fit(["a red fox", "a ship", None, ""])
    ids = codec.encode("a ship")
    assert ids.shape == (codec.space.length,) == (10,) and codec.decode(ids) == "a ship" and (ids[6:] == codec.space.end).all()
    assert (codec.encode(None) == codec.space.end).all() and codec.decode(codec.encode(None)) == ""
    assert codec.decode(codec.encode("a very long caption")) == "a very lon" and codec.draw(np.zeros(3)) is None
    fresh = CaptionCodec()
    fresh.load(json.loads(json.dumps(codec.state())))
    assert fresh.space == codec.space and fresh.encode("a fox").tolist() == codec.encode("a fox").tolist()


def test_many_captions_get_word_pieces():
    codec = CaptionCodec(CaptionConfig())
    codec.fit(SENTENCES * 8)
    assert codec.tokeniser.content and codec.space.length < 20 and codec.decode(codec.encode(SENTENCES[3])) == SENTENCES[3]
    with pytest.raises(DataError, match="empty"):
        CaptionCodec().fit([None, " "])
