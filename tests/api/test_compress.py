"""compress and decompress as a person uses them: the same bytes or none."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import morphogen
from morphogen.api.lossless import whole_characters
from morphogen.coding.container import pack, squeeze, unpack
from morphogen.errors import DataError, FormatError, UsageError

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", "to", "red", "house", "where", "old", "men", "drank", "tea"]


def prose(n: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    return "\n".join(" ".join(WORDS[i] for i in rng.integers(0, len(WORDS), 9)) for _ in range(n)) + "\n"


def pictures(folder: Path, n: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(n):
        pixels = np.where(np.add.outer(np.arange(6), np.arange(6)) > rng.integers(2, 9), 255, rng.choice([0, 100], (6, 6)))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def many_short_rows(monkeypatch):
    """Steps cost time, rows hardly any: what is tested here does not depend on how many there are."""
    monkeypatch.setattr("morphogen.coding.blocks.Running.rows_for", lambda self, n: max(1, n // 100))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compress")


@pytest.fixture(scope="module")
def text_run(place):
    (place / "train.txt").write_text(prose(400, 0))
    return morphogen.train(place / "train.txt", place / "text", family="ngram").path


@pytest.fixture(scope="module")
def net_run(place, text_run):
    options = {"net": {"width": 16, "depth": 1}, "codec": {"tokens": "bytes", "length": 64}}
    return morphogen.train(place / "train.txt", place / "net", family="autoregressive", steps=8, options=options).path


@pytest.fixture(scope="module")
def word_run(place, text_run):
    return morphogen.train(place / "train.txt", place / "words", family="ngram", options={"codec": {"tokens": "bpe", "vocab": 300}}).path


@pytest.fixture(scope="module")
def picture_run(place):
    pictures(place / "pictures", 40, 0)
    options = {"net": {"width": 16, "depth": 1}}
    return morphogen.train(place / "pictures", place / "picture", family="autoregressive", steps=8, options=options).path


FILES = {
    "empty": b"",
    "one": b"x",
    "random": np.random.default_rng(0).bytes(600),
    "prose": prose(16, 7).encode(),
    "latin": "né à Zürich, où l'été ".encode("latin-1") * 12,
    "utf8": ("né à Zürich, où l'été 漢字 😀 " * 5).encode(),
    "zeros": bytes(1500),
    "windows": prose(5, 3).replace("\n", "\r\n").encode(),
}


def there_and_back(source: Path, run: Path, tmp: Path, **options) -> dict:
    facts = morphogen.compress(source, run, tmp / "x.mgc", **options)
    morphogen.decompress(tmp / "x.mgc", run, tmp / "back")
    return facts


@pytest.mark.parametrize(("kind", "name"), [
    *(("text_run", name) for name in FILES),
    *(("word_run", name) for name in ("empty", "prose", "latin", "utf8")),
    *(("net_run", name) for name in ("empty", "random", "prose")),
])
def test_any_file_comes_back_exactly(name, kind, tmp_path, request):
    (tmp_path / "file").write_bytes(FILES[name])
    there_and_back(tmp_path / "file", request.getfixturevalue(kind), tmp_path)
    assert (tmp_path / "back").read_bytes() == FILES[name]


def test_text_like_that_learned_is_smaller_than_by_xz(text_run, tmp_path, monkeypatch):
    monkeypatch.setattr("morphogen.coding.blocks.Running.rows_for", lambda self, n: max(1, n // 500))
    (tmp_path / "new.txt").write_text(prose(300, 9))
    facts = morphogen.compress(tmp_path / "new.txt", text_run, tmp_path / "x.mgc")
    assert facts["compressed"] < 0.9 * facts["xz"] and facts["by_model"] == facts["bytes"]
    # nine words of eighteen a line are log2(18) bits each, and nothing else is to be known
    assert 8 * facts["payload"] < 1.7 * 300 * 9 * np.log2(len(set(WORDS)))


def test_what_the_model_does_not_know_is_stored(text_run, tmp_path):
    (tmp_path / "noise").write_bytes(FILES["random"])
    facts = there_and_back(tmp_path / "noise", text_run, tmp_path)
    assert facts["by_model"] == 0 and facts["compressed"] < 600 + 400 and facts["notes"]


def test_a_folder_comes_back_with_names_and_empty_folders(text_run, tmp_path):
    source = tmp_path / "source"
    for name, data in {"a.txt": FILES["prose"], "b/c d.bin": FILES["random"], "b/.hidden": b"h", "ü/é.txt": b"", "n": b"1"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / "nothing" / "here").mkdir(parents=True)
    there_and_back(source, text_run, tmp_path)
    names = lambda root: {p.relative_to(root): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}
    assert names(tmp_path / "back") == names(source)


def test_pictures_come_back_by_their_pixels_and_exactly(picture_run, tmp_path):
    source = pictures(tmp_path / "new", 5, 3)
    facts = there_and_back(source, picture_run, tmp_path)
    assert facts["by_model"] == facts["bytes"] and facts["tokens"] == 5 * 36
    for path in source.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_pictures_of_another_kind_come_back_too(picture_run, tmp_path):
    source = pictures(tmp_path / "new", 2, 3)
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(source / "other size.png")
    Image.fromarray(np.full((6, 6), 77, np.uint8)).save(source / "other level.png")
    Image.open(source / "000.png").save(source / "other bytes.bmp")
    (source / "note.txt").write_text("hello")
    facts = there_and_back(source, picture_run, tmp_path)
    assert any("--items" in note for note in facts["notes"])
    for path in source.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "x.mgc").unlink()
    facts = morphogen.compress(source, picture_run, tmp_path / "x.mgc", items=True)
    morphogen.decompress(tmp_path / "x.mgc", picture_run, tmp_path / "items")
    same = np.array_equal(np.asarray(Image.open(tmp_path / "items" / "other bytes.png")), np.asarray(Image.open(source / "000.png")))
    assert same and any("content" in note for note in facts["notes"])


def test_families_that_do_not_write_tokens_say_so(place, picture_run, tmp_path):
    run = morphogen.train(place / "pictures", tmp_path / "run", family="kde").path
    (tmp_path / "file").write_bytes(b"hello " * 100)
    facts = there_and_back(tmp_path / "file", run, tmp_path)
    assert "xz" in facts["notes"][0] and (tmp_path / "back").read_bytes() == b"hello " * 100


def test_another_process_decodes_the_same(text_run, net_run, tmp_path):
    (tmp_path / "file").write_bytes(FILES["prose"])
    script = "import sys, morphogen\nfor i in (1, 3):\n    morphogen.decompress(sys.argv[i + 1], sys.argv[i], sys.argv[i + 1] + '.back')"
    arguments = []
    for i, run in enumerate((text_run, net_run)):
        morphogen.compress(tmp_path / "file", run, tmp_path / f"{i}.mgc")
        arguments += [str(run), str(tmp_path / f"{i}.mgc")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    assert all((tmp_path / f"{i}.mgc.back").read_bytes() == FILES["prose"] for i in range(2))


def test_another_run_another_build_and_damage_are_refused(text_run, net_run, place, tmp_path):
    (tmp_path / "file").write_bytes(FILES["prose"])
    morphogen.compress(tmp_path / "file", net_run, tmp_path / "net.mgc")
    with pytest.raises(FormatError, match="another run"):
        morphogen.decompress(tmp_path / "net.mgc", text_run, tmp_path / "no")
    header, blocks = unpack((tmp_path / "net.mgc").read_bytes(), "")
    del header["version"], header["sizes"]
    assert header["build"]["threads"] == 1
    for name, value in (("torch", "9.9"), ("isa", "OTHER"), ("probe", "0" * 16)):
        (tmp_path / "other.mgc").write_bytes(pack({**header, "build": {**header["build"], name: value}}, blocks))
        with pytest.raises(FormatError, match="rounds differently"):
            morphogen.decompress(tmp_path / "other.mgc", net_run, tmp_path / "no")
    # even with every digest of the file made right again, a changed block is not taken for the truth
    for at in range(0, len(blocks[0]), max(1, len(blocks[0]) // 5)):
        wrong = bytearray(blocks[0])
        wrong[at] ^= 4
        (tmp_path / "other.mgc").write_bytes(pack(header, [bytes(wrong)]))
        with pytest.raises(FormatError, match="damaged"):
            morphogen.decompress(tmp_path / "other.mgc", net_run, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a//b", "", "a/../../b", "c:\\x", "."])
def test_sec_names_that_lead_outside_are_refused(name, text_run, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    morphogen.compress(source, text_run, tmp_path / "x.mgc")
    header, blocks = unpack((tmp_path / "x.mgc").read_bytes(), "")
    del header["version"], header["sizes"]
    header["files"][0][0] = name
    (tmp_path / "bad.mgc").write_bytes(pack(header, blocks))
    with pytest.raises(FormatError):
        morphogen.decompress(tmp_path / "bad.mgc", text_run, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("out")) and not (tmp_path / "b").exists()


def test_sec_sizes_that_are_lies_fill_no_memory(text_run, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    morphogen.compress(tmp_path / "file", text_run, tmp_path / "a.mgc")
    header, _ = unpack((tmp_path / "a.mgc").read_bytes(), "a")
    header["plain"] = [["xz", 1 << 40, 0, 0, ""]]
    (tmp_path / "bad.mgc").write_bytes(pack(header, [squeeze(b"\0" * 100_000)]))
    monkeypatch.setattr("morphogen.api.lossless.expand", lambda *_: pytest.fail("nothing of such a file is unpacked"))
    with pytest.raises(FormatError):
        morphogen.decompress(tmp_path / "bad.mgc", text_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_kept_or_written_is_refused_before_any_work(text_run, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match="no such"):
        morphogen.compress(tmp_path / "nothing", text_run, tmp_path / "x.mgc")
    (tmp_path / "x.mgc").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        morphogen.compress(tmp_path / "file", text_run, tmp_path / "x.mgc")
    with pytest.raises(FormatError, match="not a file made by"):
        morphogen.decompress(tmp_path / "x.mgc", text_run, tmp_path / "y")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "file")
    with pytest.raises(DataError, match="link"):
        morphogen.compress(tmp_path / "folder", text_run, tmp_path / "z.mgc")
    assert (tmp_path / "x.mgc").read_bytes() == b"mine" and not (tmp_path / "z.mgc").exists()


def test_blocks_end_between_characters():
    text = "aé漢😀".encode()
    assert [whole_characters(text[:n]) for n in range(len(text) + 1)] == [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10]


def test_many_blocks_of_word_pieces(word_run, tmp_path, monkeypatch):
    monkeypatch.setattr("morphogen.api.lossless.TEXT_BLOCK", 501)
    (tmp_path / "file").write_bytes(FILES["utf8"] + FILES["prose"][:1500] + FILES["random"][:600] + FILES["prose"][:700])
    there_and_back(tmp_path / "file", word_run, tmp_path)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
