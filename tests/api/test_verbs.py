"""The verbs as a person uses them, on small real files: one path for pictures, tables and text."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import morphogen
from morphogen.api.common import Watch, parse_cond, parse_options, seconds
from morphogen.errors import DataError, FormatError, Interrupted, UsageError
from morphogen.run import Run
from morphogen.trust import provenance

TINY = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 1, "checks": 2, "batch": 16}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label, shade in (("dark", 40), ("light", 200)):
        (folder / "pictures" / label).mkdir(parents=True)
        for i in range(40):
            pixels = np.clip(rng.normal(shade, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / label / f"{i}.png")
    with (folder / "rows.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["kind", "size", "note"])
        for i in range(120):
            kind = "ab"[i % 2]
            out.writerow([kind, round(float(rng.normal(10 if kind == "a" else 20)), 1), "" if i % 7 == 0 else "ok"])
    (folder / "lines.txt").write_text(
        "\n".join(f"the {a} {b} runs" for a in ("old", "red", "big", "sly") for b in ("fox", "dog", "cat", "hen") for _ in range(8))
    )
    return {"pictures": folder / "pictures", "rows": folder / "rows.csv", "lines": folder / "lines.txt"}


CASES = [
    ("pictures", "flow"),
    ("pictures", "gan"),
    ("pictures", "vae"),
    ("rows", "masked"),
    ("rows", "diffusion"),
    ("rows", "cart"),
    ("lines", "autoregressive"),
    ("lines", "ngram"),
    ("pictures", "mixture"),
    ("pictures", "autoregressive"),
]


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    folder, out = tmp_path_factory.mktemp("runs"), {}
    for name, family in CASES:
        options = TINY if family not in ("cart", "ngram", "mixture") else {}
        out[name, family] = morphogen.train(data[name], folder / f"{name}-{family}", family=family, steps=6, options=options)
    return out


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(c))
def test_a_run_draws_the_same_item_whatever_the_batch(runs: Any, case: tuple[str, str]) -> None:
    one = morphogen.generate(runs[case], n=3, seed=5)
    many = morphogen.generate(runs[case], n=7, seed=5, batch=2)
    for a, b in zip(one, many):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
    other = morphogen.generate(runs[case], n=3, seed=6)
    assert not all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(one, other))


@pytest.mark.parametrize(
    ("case", "name"), [(("pictures", "flow"), "out"), (("rows", "masked"), "out.csv"), (("lines", "autoregressive"), "out.jsonl")]
)
def test_files_are_stamped_and_replay_to_the_same_bytes(runs: Any, tmp_path: Path, case: tuple[str, str], name: str) -> None:
    cond = {"label": "dark"} if case[0] == "pictures" else {"kind": "a"} if case[0] == "rows" else {}
    morphogen.generate(runs[case], tmp_path / name, n=4, seed=2, cond=cond)
    file = tmp_path / name / "00002.png" if name == "out" else tmp_path / name
    facts = provenance.read(file)
    assert facts["seed"] == 2 and facts["model"] == runs[case].provenance()["model"]
    again = morphogen.replay(file, tmp_path / f"again{file.suffix}")
    assert again.read_bytes() == file.read_bytes()
    if name == "out":
        rows = [json.loads(line) for line in (tmp_path / name / "metadata.jsonl").read_text().splitlines()]
        assert [r["file_name"] for r in rows] == [f"{i:05d}.png" for i in range(4)] and {r["label"] for r in rows} == {"dark"}
    else:
        file.write_bytes(file.read_bytes() + b" ")
        with pytest.raises(FormatError, match="changed after"):
            provenance.read(file)


def test_a_table_keeps_its_conditions_and_rules(runs: Any, tmp_path: Path) -> None:
    rows = morphogen.generate(runs["rows", "masked"], tmp_path / "a.csv", n=40, cond={"kind": "b"})
    assert {r["kind"] for r in rows} == {"b"}
    holes = tmp_path / "holes.csv"
    holes.write_text("kind,size,note\na,,ok\n,12.5,\n")
    for i, row in enumerate(morphogen.generate(runs["rows", "cart"], n=6, given=holes)):
        assert (row["kind"] == "a" and row["note"] == "ok") if i % 2 == 0 else row["size"] == 12.5


def test_a_column_that_is_asked_for_comes_first(data: dict[str, Path], tmp_path: Path) -> None:
    plain = morphogen.train(data["rows"], tmp_path / "plain", family="autoregressive", steps=1, options=TINY)
    with pytest.raises(UsageError, match="prefix"):
        morphogen.generate(plain, n=2, cond={"note": "ok"})
    run = morphogen.train(data["rows"], tmp_path / "run", family="autoregressive", steps=1, cond=("note",), options=TINY)
    assert {r["note"] for r in morphogen.generate(run, n=9, cond={"note": "ok"})} == {"ok"}


def test_a_text_is_continued(runs: Any) -> None:
    for text in morphogen.generate(runs["lines", "autoregressive"], n=3, given=["the old"]):
        assert text.startswith("the old")


def test_a_picture_is_mended(runs: Any, data: dict[str, Path], tmp_path: Path) -> None:
    source = np.asarray(Image.open(data["pictures"] / "dark" / "0.png"))
    alpha = np.where(np.arange(8)[None] < 4, 255, 0).repeat(8, 0).astype(np.uint8)
    Image.merge("LA", (Image.fromarray(source), Image.fromarray(alpha))).save(tmp_path / "torn.png")
    for picture in morphogen.generate(runs["pictures", "flow"], n=2, given=tmp_path / "torn.png"):
        assert np.array_equal(picture[:, :4, 0], source[:, :4])


@pytest.mark.parametrize("family", ["flow", "gan"])
def test_interrupt_and_resume_is_bit_equal(data: dict[str, Path], tmp_path: Path, family: str) -> None:
    class Impatient(Watch):
        def progress(self, what: str, share: float, note: str = "") -> None:
            if what == "training" and share >= 0.5:
                raise KeyboardInterrupt

    common: dict[str, Any] = {"family": family, "steps": 8, "options": TINY}
    whole = morphogen.train(data["pictures"], tmp_path / "whole", **common)
    with pytest.raises(Interrupted):
        morphogen.train(data["pictures"], tmp_path / "cut", watch=Impatient(), **common)
    assert not Run.load(tmp_path / "cut").finished()
    with pytest.raises(FormatError, match="no trained model yet"):
        morphogen.generate(tmp_path / "cut", n=1)
    again = morphogen.train(data["pictures"], tmp_path / "cut", resume=True)
    assert again.provenance()["model"] == whole.provenance()["model"]
    assert morphogen.inspect(tmp_path / "whole", tmp_path / "cut")["difference"] is None


def test_two_runs_differ_where_they_differ(data: dict[str, Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        morphogen.train(data["pictures"], tmp_path / str(seed), family="flow", steps=2, seed=seed, options=TINY)
    assert morphogen.inspect(tmp_path / "0", tmp_path / "1")["difference"]["where"] == "recipe.data.seed"


def test_latent_diffusion_and_vq_gpt_are_two_runs(data: dict[str, Path], tmp_path: Path) -> None:
    for kind, family in (("kl", "diffusion"), ("vq", "autoregressive")):
        options = {**TINY, "family": {"kind": kind, "grid": 2}}
        morphogen.train(data["pictures"], tmp_path / kind, family="vae", steps=3, options=options)
        run = morphogen.train(data["pictures"], tmp_path / f"{kind}-2", bridge=tmp_path / kind, steps=3, options=TINY)
        assert run.recipe["family"]["name"] == family
        (tmp_path / kind).rename(tmp_path / f"{kind}-gone")  # a run stands alone
        pictures = morphogen.generate(tmp_path / f"{kind}-2", n=3)
        assert pictures[0].shape == (8, 8, 1)


def test_evaluate_says_how_good_and_compares(runs: Any) -> None:
    answer = morphogen.evaluate(runs["pictures", "mixture"], n=60)
    assert answer["verdict"] and Path(answer["report"]).read_text().startswith("<!")
    keys = {"name", "value", "low", "high", "n", "split", "feature", "floor", "baseline"}
    assert answer["metrics"] and all(keys <= set(m) for m in answer["metrics"])
    assert json.loads((runs["pictures", "mixture"].path / "metrics.json").read_text())["verdict"] == answer["verdict"]


def test_compare_recommends(data: dict[str, Path], tmp_path: Path) -> None:
    answer = morphogen.compare(data["rows"], tmp_path / "which", minutes=0.02, families=["cart", "mixture"], n=60)
    assert answer["use"] in ("cart", "mixture") and len(answer["rows"]) == 2
    assert "<html" in Path(answer["report"]).read_text()


@pytest.mark.parametrize(("place", "family"), [("pictures", "flow"), ("lines", "autoregressive"), ("pictures", "gan")])
def test_minutes_become_steps(data: dict[str, Path], tmp_path: Path, place: str, family: str) -> None:
    """As many as there is time for; the recipe says how many, and what was aimed at on the way. The time itself: `benchmarks`."""
    run = morphogen.train(data[place], tmp_path / "run", family=family, minutes=0.03, options=TINY)
    training = run.recipe["training"]
    assert run.provenance()["steps"] == training["steps"] >= 1 and run.recipe["data"]["minutes"] == 0.03
    assert training["checks"] <= 2 and (run.path / "metrics.jsonl").read_text()


def test_a_frame_is_data_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": np.arange(60.0) % 7, "k": ["a", "b", "c"] * 20})
    before = frame.copy()
    run = morphogen.train(frame, tmp_path / "run", family="cart")
    assert len(morphogen.generate(run, n=5)) == 5
    pandas.testing.assert_frame_equal(frame, before)


def test_what_is_asked_wrongly_is_said_at_once(runs: Any, data: dict[str, Path], tmp_path: Path) -> None:
    run = runs["pictures", "flow"]
    with pytest.raises(UsageError, match="unknown label 'bright'"):
        morphogen.generate(run, n=1, cond={"label": "bright"})
    with pytest.raises(UsageError, match="no condition 'colour'"):
        morphogen.generate(run, n=1, cond={"colour": "red"})
    with pytest.raises(UsageError, match="mixture has no --steps"):
        morphogen.generate(runs["pictures", "mixture"], n=1, steps=5)
    with pytest.raises(UsageError, match="exists already"):
        morphogen.train(data["pictures"], run.path)
    with pytest.raises(UsageError, match="inside the input"):
        morphogen.train(data["pictures"], data["pictures"] / "run")
    with pytest.raises(UsageError, match="contradict"):
        morphogen.train(data["pictures"], tmp_path / "x", minutes=1, steps=3)
    with pytest.raises(UsageError, match="did you mean 'diffusion'"):
        morphogen.train(data["pictures"], tmp_path / "x", family="difusion")
    with pytest.raises(UsageError, match="unknown option"):
        morphogen.train(data["pictures"], tmp_path / "x", options={"training": {"learning_rate": 1}})
    with pytest.raises(DataError, match="no such file"):
        morphogen.train(tmp_path / "nothing", tmp_path / "x")
    with pytest.raises(FormatError, match="not a run folder"):
        morphogen.generate(tmp_path, n=1)
    with pytest.raises(UsageError, match="not by a Model"):
        morphogen.generate(morphogen.load(run.path), n=1)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists(), "nothing half-made may be left"


def test_small_parsers() -> None:
    assert parse_options(["training.lr=1e-3", "family.kind=vq"]) == {"training": {"lr": 1e-3}, "family": {"kind": "vq"}}
    assert parse_cond(["labels=3", "size=2"]) == {"label": "3", "size": "2"}
    with pytest.raises(UsageError):
        parse_cond(["label=3", "labels=4"])
    with pytest.raises(UsageError):
        parse_options(["lr=1"])
    assert seconds(42) == "42 s" and seconds(200) == "3 min 20 s" and seconds(4000) == "1 h 06 min"


def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from morphogen.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["tran", "x"], 2, "did you mean 'train'"),
        (["train", "x"], 2, "--out"),
        (["train", "/nowhere", "--out", "/tmp/never"], 3, "no such file"),
        (["train", "x", "--out", "y", "--seed", "1_0"], 2, "not a whole number"),
        (["train", "x", "--out", "y", "--seed", "٣"], 2, "not a whole number"),
        (["train", "x", "--out", "y", "--minutes", "nan"], 2, "not a number"),
        (["generate", "/", "--out", "/tmp/never"], 4, "not a run folder"),
        (["generate", "/", "--out", "/tmp/never", "--cond", "x"], 2, "--cond name=value"),
    ],
)
def test_the_command_line_refuses_in_one_line(arguments: list[str], code: int, says: str) -> None:
    done = tool(*arguments)
    assert done.returncode == code and says in done.stderr and done.stdout == ""
    assert done.stderr.strip().count("\n") == 0 and done.stderr.startswith("error["), done.stderr


def test_the_command_line_prints_json(data: dict[str, Path], tmp_path: Path) -> None:
    done = tool("train", data["rows"], "--out", tmp_path / "run", "--family", "cart", "--no-report", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"] == "cart"
    done = tool("generate", tmp_path / "run", "--n", 3, "--out", tmp_path / "o.csv", "--cond", "kind=a", "--json")
    assert json.loads(done.stdout)["n"] == 3
    assert [line.split(",")[0] for line in (tmp_path / "o.csv").read_text().splitlines()] == ["kind", "a", "a", "a"]
    assert "cart" in json.loads(tool("list", "--json").stdout)["family"]


def test_caller_randomness_is_left_alone(data: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    morphogen.train(data["rows"], tmp_path / "run", family="masked", steps=1, options=TINY)
    assert torch.equal(torch.rand(3), expected)


def test_the_example_runs() -> None:
    script = Path(__file__).parents[2] / "examples" / "penguins.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'species': 'Gentoo'") == 3
