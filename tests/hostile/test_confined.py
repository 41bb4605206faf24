"""What the verbs open, import and ask of the machine: the data, the run, the output, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import morphogen
from morphogen.api.lossless import safe_name
from morphogen.cli.console import _printable, result
from morphogen.codecs.sources import Skips, read_metadata, scan
from morphogen.codecs.table.columns import Column
from morphogen.codecs.table.files import csv_lines
from morphogen.errors import DataError, FormatError, MorphogenError
from morphogen.formats.shards import read_index

# Runs the main verbs with every event noted that touches files, modules, programs or the network. Arguments: folder of data, log.
SCRIPT = """
import json, os, sys
seen = []
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        writes = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(args[2], int) else False
        seen.append(["write" if writes else "read", os.path.abspath(os.fsdecode(args[0]))])
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"):
        if isinstance(args[0], (str, bytes)):
            seen.append(["write", os.path.abspath(os.fsdecode(args[-1 if event == "os.symlink" else 0]))])
    elif event.split(".")[0] in ("socket", "subprocess", "ftplib", "urllib", "smtplib") or event in ("os.system", "os.exec", "os.fork"):
        seen.append([event, str(args)[:200]])
sys.addaudithook(hook)
import morphogen
out = sys.argv[1]
run = morphogen.train("text.txt", out + "/run", family="ngram", options={"codec": {"tokens": "bytes"}}).path
morphogen.generate(run, n=2, out=out + "/new")
morphogen.evaluate(run, n=8)
morphogen.inspect(run)
morphogen.compress("text.txt", run, out + "/a.mgc")
morphogen.decompress(out + "/a.mgc", run, out + "/b.txt")
morphogen.inspect("rows.csv")
morphogen.inspect("pictures")
from morphogen.cli import main
try:
    main(["list"])
except SystemExit:
    pass
foreign = [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "") or "").startswith(os.getcwd() + os.sep)]
with open(sys.argv[2], "w") as file:
    json.dump({"seen": seen, "foreign": foreign, "prefix": [sys.prefix, sys.base_prefix, sys.exec_prefix]}, file)
"""
SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/usr/", "/lib", "/etc/", "/dev/tty")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    place = tmp_path_factory.mktemp("audit")
    (place / "data" / "pictures").mkdir(parents=True)
    (place / "out").mkdir()
    data = place / "data"
    (data / "text.txt").write_text("the cat sat on a mat and the dog ran to the red house\n" * 60)
    (data / "rows.csv").write_text("a,b\n" + "".join(f"{i},{'xyz'[i % 3]}\n" for i in range(60)))
    from PIL import Image

    for i in range(6):
        Image.new("L", (8, 8), 40 * i).save(data / "pictures" / f"{i}.png")
    for name in ("json", "numpy", "torch", "sitecustomize", "usercustomize", "conftest", "modeling_x", "config", "samples"):
        (data / f"{name}.py").write_text(f"open({str(place / 'canary')!r}, 'w')\n")
    (place / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-B", str(place / "script.py"), str(place / "out"), str(place / "log.json")]
    env = {**os.environ, "TMPDIR": str(place / "out")}  # `tempfile` tries whether it can write there
    done = subprocess.run(command, cwd=data, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (place / "canary").exists()
    return place, json.loads((place / "log.json").read_text())


def test_sec_nothing_is_written_outside_of_the_output(log: tuple[Path, dict]) -> None:
    place, found = log
    allowed = (str(place / "out"), "/dev/null", str(place / "log.json"))
    assert not [p for kind, p in found["seen"] if kind == "write" and not p.startswith(allowed)]


def test_sec_nothing_is_read_but_data_outputs_and_what_is_installed(log: tuple[Path, dict]) -> None:
    place, found = log
    allowed = (str(place), *found["prefix"], str(Path(morphogen.__file__).parents[2]), *SYSTEM)
    odd = [p for kind, p in found["seen"] if kind == "read" and not p.startswith(allowed)]
    assert not odd, odd[:5]


def test_sec_no_connection_no_program_and_no_module_from_the_data(log: tuple[Path, dict]) -> None:
    _, found = log
    others = [(kind, what) for kind, what in found["seen"] if kind not in ("read", "write")]
    # sockets that are made and not connected belong to asyncio's loops; asking what processor this is starts `lscpu` in no case
    assert not [o for o in others if not o[0].startswith("socket.__new__")], others[:5]
    assert not found["foreign"]


# ------------------------------------------------------------------ names inside files
WAYS = [
    "../secret",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "..",
    ".",
    "",
    "a//b",
    "C:\\x",
    "c:x",
    "..\\x",
    "a\\b",
    "\\\\host\\share\\x",
    "a\0b",
    "./x",
    "x/",
    "/",
    "~/../x\0",
    "a/./b",
    "%2e%2e/\0",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("name", WAYS)
def test_sec_names_in_compressed_files_stay_inside(name: str) -> None:
    with pytest.raises(FormatError):
        safe_name(name)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("./\\ab:\0~%\u2024\uff0e "), max_size=12))
def test_sec_any_name_in_a_compressed_file_stays_inside(name: str) -> None:
    try:
        safe = safe_name(name)
    except FormatError:
        return
    assert (Path("/root/of/out") / safe).resolve().is_relative_to("/root/of/out")


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("./\\ab:\0~%\u2024"), max_size=10))
def test_sec_an_index_of_shards_names_files_beside_it(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    file = tmp_path_factory.getbasetemp() / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"w": name + ".safetensors"}}))
    try:
        shards = read_index(file)
    except FormatError:
        return
    assert all("/" not in s and "\\" not in s and "\0" not in s for s in shards)


@pytest.mark.parametrize("name", [*WAYS, "link.png", "pipe.png"])
def test_sec_metadata_names_files_of_the_folder_only(tmp_path: Path, name: str) -> None:

    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "link.png").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe.png")
    (folder / "a.png").write_bytes(b"x")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}) + "\n")
    listing, skips = scan(folder), Skips()
    try:
        found = read_metadata(listing, skips)
    except DataError:
        return
    assert not found and skips.count == 1 and sorted(f.name for f in listing.files) == ["a.png", "metadata.jsonl"]


@pytest.mark.parametrize(
    "verb", [lambda p: morphogen.inspect(p), lambda p: morphogen.load(p), lambda p: morphogen.train(p, p.parent / "out", steps=1)]
)
@pytest.mark.parametrize("kind", ["fifo", "device", "socket", "loop", "dangling"])
def test_sec_devices_pipes_and_loops_are_refused_at_once(tmp_path: Path, verb, kind: str) -> None:
    import socket

    path = tmp_path / "x.csv"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "socket":
        holder = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(tmp_path)  # a path of a socket is short
        holder.bind("x.csv")
        os.chdir(here)
        holder.close()
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "nothing")
    if kind == "device" and verb.__code__.co_consts and "out" in verb.__code__.co_consts:
        return  # its output would lie in /dev
    with pytest.raises(MorphogenError) as error:
        verb(path)
    assert error.value.exit_code in (2, 3, 4) and not (tmp_path / "out").exists()


# ------------------------------------------------------------------ spreadsheets and terminals
@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from("=+-@\t\r\n\"',;1ax|!\x1b\u202e"), max_size=8), min_size=1, max_size=4))
def test_sec_words_in_tables_are_no_formulas(words: list[str]) -> None:
    import csv
    import io

    text = "".join(csv_lines([Column("w", "text")], [{"w": w} for w in words], ","))
    cells = [row[0] for row in csv.reader(io.StringIO(text, newline="")) if row]
    assert not [c for c in cells if c.startswith(("=", "+", "-", "@", "\t", "\r"))]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_sec_a_terminal_gets_no_control_characters(text: str) -> None:
    shown = _printable(text + "\x1b]0;title\x07\x9b2J\x1b[2J\u202e")
    assert (
        all(c.isprintable() or c in "\n\t\ufffd" for c in shown) and "\x1b" not in shown and "\x9b" not in shown and "\u202e" not in shown
    )


def test_sec_results_on_a_terminal_are_cleaned_and_in_a_pipe_are_exact(capsys, monkeypatch) -> None:
    result({}, ["a\x1b[2Jb"], False)
    assert capsys.readouterr().out == "a\x1b[2Jb\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    result({}, ["a\x1b[2Jb"], False)
    assert "\x1b" not in capsys.readouterr().out
