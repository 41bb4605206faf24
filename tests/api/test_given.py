"""score, nearest, reconstruct, interpolate, vary as a person uses them: one path for pictures, tables and text, for every family."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import morphogen
from morphogen.api.latent import _level_for, slerp
from morphogen.api.score import heat
from morphogen.cli import main
from morphogen.errors import DataError, FormatError, UsageError
from morphogen.evaluation import anomaly
from morphogen.run import Run
from morphogen.trust import provenance

TINY = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 1, "checks": 2, "batch": 16}}
CASES = [
    ("pictures", "diffusion"), ("pictures", "flow"), ("pictures", "vae"), ("pictures", "gan"), ("pictures", "kde"),
    ("rows", "autoregressive"), ("rows", "masked"), ("rows", "cart"), ("rows", "vae"), ("lines", "autoregressive"),
    ("lines", "ngram"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer made anomalies and trees: what is tested here does not hang on their number."""
    monkeypatch.setattr(sys.modules["morphogen.api.score"], "TRIED", 16)
    monkeypatch.setattr(anomaly, "TREES", 30)


def picture(shade: float, rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(-60, 60, 8)
    return np.clip(shade + ramp[None] * rng.choice([-1, 1]) + rng.normal(0, 8, (8, 8)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(104):
        Image.fromarray(picture(100 + 20 * (i % 3), rng)).save(folder / "pictures" / f"{i:03d}.png")
    for side, make in (("normal", lambda: picture(110, rng)), ("abnormal", lambda: rng.integers(0, 255, (8, 8)).astype(np.uint8))):
        (folder / "test" / side).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(make()).save(folder / "test" / side / f"{i}.png")
    with (folder / "rows.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["kind", "size", "weight"])
        for i in range(160):
            size = round(float(rng.normal(10 if i % 2 else 20)), 1)
            out.writerow(["ab"[i % 2], size, round(2 * size + float(rng.normal(0, 0.3)), 1)])
    words = ("old", "red", "big", "sly"), ("fox", "dog", "cat", "hen"), ("runs", "sits", "eats")
    (folder / "lines.txt").write_text("\n".join(f"the {a} {b} {c}" for a in words[0] for b in words[1] for c in words[2] for _ in range(3)))
    return {k: folder / v for k, v in {"pictures": "pictures", "rows": "rows.csv", "lines": "lines.txt", "test": "test"}.items()}


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    folder, out = tmp_path_factory.mktemp("runs"), {}
    for name, family in CASES:
        options = TINY if family not in ("cart", "ngram", "kde") else {}
        out[name, family] = morphogen.train(data[name], folder / f"{name}-{family}", family=family, steps=5, options=options)
    return out


def size(raw: Any) -> Any:
    return raw.shape if isinstance(raw, np.ndarray) else sorted(raw) if isinstance(raw, dict) else type(raw)


# ---------------------------------------------------------------- score
@pytest.mark.parametrize("case", [c for c in CASES if c[1] != "flow"], ids=lambda c: "-".join(c))
def test_every_family_scores_and_names_its_kind(runs: Any, data: dict[str, Path], case: tuple[str, str]) -> None:
    answer = morphogen.score(data[case[0]], runs[case], rate=0.1)
    kinds = {
        "diffusion": "reconstruction", "vae": "bound", "masked": "bound", "gan": "nearest neighbour",
        "autoregressive": "exact", "ngram": "exact", "cart": "estimate", "kde": "estimate",
    }  # fmt: skip
    assert answer["kind"] == kinds[case[1]]
    assert all(0 < row["p"] <= 1 and np.isfinite(row["score"]) and row["alarm"] == (row["p"] <= 0.1) for row in answer["items"])
    assert answer["threshold"] is None or all(row["alarm"] == (row["score"] >= answer["threshold"]) for row in answer["items"])
    if case[1] in ("vae", "cart"):
        again = morphogen.score(data[case[0]], runs[case], rate=0.1)
        assert [row["score"] for row in again["items"]] == [row["score"] for row in answer["items"]]


def test_labels_give_the_auroc_of_all_three_ways(runs: Any, data: dict[str, Path], tmp_path: Path) -> None:
    answer = morphogen.score(data["test"], runs["pictures", "kde"], out=tmp_path / "s.csv", rate=0.2)
    ways = answer["separates"]["ways"]
    assert set(ways) == {"model", "neighbours", "forest"} and answer["separates"]["labels"]
    assert all(w["low"] <= w["auroc"] <= w["high"] for w in ways.values())
    assert ways["model"]["auroc"] > 0.95 and ways["neighbours"]["auroc"] > 0.95
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert len(rows) == 24 and rows[0]["item"] == "abnormal/0.png" and rows[0]["odd"] == "True"
    assert provenance.read(tmp_path / "s.csv")["verb"] == "score"
    with pytest.raises(FormatError, match="score"):
        morphogen.replay(tmp_path / "s.csv", tmp_path / "again.csv")


def test_a_rival_that_separates_better_is_named(runs: Any, data: dict[str, Path]) -> None:
    answer = morphogen.score(data["test"], runs["pictures", "vae"])  # five steps of training know nothing yet
    ways = answer["separates"]["ways"]
    if ways["neighbours"]["better"] > 0:
        assert "better here than the model. Say --by" in answer["verdict"]
    by = morphogen.score(data["test"], runs["pictures", "vae"], by="neighbours")
    assert by["by"] == "neighbours" and by["kind"] == "nearest neighbour" and "parts" not in by["items"][0]


def test_odd_parts_are_words_columns_and_regions(runs: Any, tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("kind,size,weight\na,20.0,40.1\nb,20.1,\na,19.8,99.0\n".replace("40.1\nb,20.1,", "40.1\nb,10.0,20.1"))
    answer = morphogen.score(tmp_path / "odd.csv", runs["rows", "cart"], rate=0.1)
    worst = max(answer["items"], key=lambda row: row["score"])
    assert worst["item"].endswith(":4") or worst["parts"][0]["part"].startswith("weight"), answer["items"]
    assert worst["parts"][0]["part"] == "weight = 99.0"
    (tmp_path / "odd.jsonl").write_text('{"text": "the old fox runs"}\n{"text": "the old zzqx runs"}\n')
    plain, odd = morphogen.score(tmp_path / "odd.jsonl", runs["lines", "ngram"])["items"]
    assert odd["score"] > plain["score"] and odd["parts"][0]["part"] == "zzqx"
    torn = np.asarray(picture(110, np.random.default_rng(3))).copy()
    torn[5:7, 2:4] = 255 - torn[5:7, 2:4]
    (tmp_path / "pics").mkdir()
    Image.fromarray(torn).save(tmp_path / "pics" / "torn.png")
    made = morphogen.score(tmp_path / "pics", runs["pictures", "diffusion"], out=tmp_path / "heat", rate=0.2)
    assert made["items"][0]["heat"] == "00000.png"
    with Image.open(tmp_path / "heat" / "00000.png") as shown:
        assert shown.size == (160, 160) and (tmp_path / "heat" / "scores.csv").is_file()


def test_a_heat_map_is_red_where_it_is_hot() -> None:
    grey = io.BytesIO()
    Image.fromarray(np.full((4, 4), 128, np.uint8)).save(grey, "PNG")
    share = np.zeros((4, 4))
    share[1, 2] = 1
    pixels = np.asarray(Image.open(io.BytesIO(heat(grey.getvalue(), share))), int)
    red = pixels[..., 0] - pixels[..., 1]
    assert pixels.shape == (160, 160, 3) and red[50, 90] > 100 and red[50, 30] == 0 and red[10, 90] == 0


def test_a_label_may_be_a_column_the_run_never_saw(runs: Any, data: dict[str, Path], tmp_path: Path) -> None:
    rows = list(csv.reader(data["rows"].read_text().splitlines()))[1:40]
    lines = ["kind,size,weight,state", *[",".join([*r, "fine"]) for r in rows], "a,10.0,41.0,broken", "b,20.0,19.0,broken"]
    (tmp_path / "l.csv").write_text("\n".join(lines) + "\n")
    answer = morphogen.score(tmp_path / "l.csv", runs["rows", "cart"], label="state")
    assert answer["separates"]["on"].startswith("2 odd and 39 normal")
    with pytest.raises(UsageError, match="--normal"):
        morphogen.score(tmp_path / "l.csv", runs["rows", "cart"], label="kind")
    with pytest.raises(UsageError, match="did you mean 'state'"):
        morphogen.score(tmp_path / "l.csv", runs["rows", "cart"], label="stat")


def test_too_few_held_out_items_are_said(runs: Any, data: dict[str, Path]) -> None:
    answer = morphogen.score(data["rows"], runs["rows", "cart"], rate=0.001)
    assert answer["threshold"] is None and answer["alarms"] == 0 and "cannot vouch" in answer["notes"][0]
    wrongs: list[dict[str, Any]] = [{"rate": 0.0}, {"rate": 1.5}, {"by": "magic"}]
    for wrong in wrongs:
        with pytest.raises(UsageError):
            morphogen.score(data["rows"], runs["rows", "cart"], **wrong)


def test_the_alarm_rate_is_kept_on_fresh_items_like_the_held_out(runs: Any, data: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    lines = ["kind,size,weight"]
    for i in range(400):
        size = round(float(np.clip(rng.normal(10 if i % 2 else 20), 8, 22)), 1)
        lines.append(f"{'ab'[i % 2]},{size},{round(2 * size + float(rng.normal(0, 0.3)), 1)}")
    (tmp_path / "fresh.csv").write_text("\n".join(lines) + "\n")
    answer = morphogen.score(tmp_path / "fresh.csv", runs["rows", "cart"], rate=0.2)
    assert 0.05 < answer["alarms"] / 400 < 0.4  # 32 held-out items vouch for a fifth to about +-0.15


# ---------------------------------------------------------------- nearest
def test_copies_are_found_and_shown(runs: Any, data: dict[str, Path], tmp_path: Path) -> None:
    run = runs["pictures", "kde"]
    (tmp_path / "out").mkdir()
    for i in (3, 5):
        (tmp_path / "out" / f"{i}.png").write_bytes((data["pictures"] / f"{i:03d}.png").read_bytes())
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)).save(tmp_path / "out" / "new.png")
    answer = morphogen.nearest(tmp_path / "out", run, k=2, out=tmp_path / "page.html")
    new, trained = answer["items"][-1], [r for r in answer["items"][:2] if r["exact"]]
    assert not new["copy"] and new["closer"] == 0.0 and len(trained) >= 1
    assert trained[0]["nearest"][0] == {"train": f"00{trained[0]['item']}", "distance": 0.0} and len(trained[0]["nearest"]) == 2
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png") == 12 and "probably" in page
    with pytest.raises(UsageError, match="exists already"):
        morphogen.nearest(tmp_path / "out", run, out=tmp_path / "page.html")


def test_what_a_run_made_can_be_looked_up(runs: Any, tmp_path: Path) -> None:
    for case, name in ((("rows", "cart"), "o.csv"), (("lines", "ngram"), "o.jsonl")):
        morphogen.generate(runs[case], tmp_path / name, n=5)
        answer = morphogen.nearest(tmp_path / name, runs[case])
        assert len(answer["items"]) == 5 and all(len(r["nearest"]) == 3 for r in answer["items"])


# ---------------------------------------------------------------- reconstruct
CAN = [c for c in CASES if c[1] not in ("gan", "autoregressive", "ngram", "flow")]


@pytest.mark.parametrize("case", CAN, ids=lambda c: "-".join(c))
def test_reconstructions_lie_as_the_items_do(runs: Any, data: dict[str, Path], case: tuple[str, str]) -> None:
    answer = morphogen.reconstruct(data[case[0]], runs[case])
    assert answer["n"] == len(answer["raws"]) == len(answer["items"]) and np.isfinite(answer["error"]["value"])
    assert all(size(r) == size(answer["raws"][0]) for r in answer["raws"])
    assert ("pca" in answer) == (case == ("pictures", "vae"))
    if case[1] == "diffusion":
        return
    again = morphogen.reconstruct(data[case[0]], runs[case])
    assert all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(answer["raws"], again["raws"], strict=True))


def test_level_0_changes_nothing(runs: Any, data: dict[str, Path]) -> None:
    for family in ("diffusion", "flow"):
        assert morphogen.reconstruct(data["pictures"], runs["pictures", family], level=0.0)["error"]["value"] < 1e-4
    with pytest.raises(UsageError, match="--level"):
        morphogen.reconstruct(data["pictures"], runs["pictures", "flow"], level=2.0)


def test_a_bridged_run_decodes_through_both(data: dict[str, Path], tmp_path: Path) -> None:
    morphogen.train(data["pictures"], tmp_path / "kl", family="vae", steps=3, options={**TINY, "family": {"grid": 2}})
    run = morphogen.train(data["pictures"], tmp_path / "both", bridge=tmp_path / "kl", steps=3, options=TINY)
    answer = morphogen.reconstruct(data["pictures"], run, level=0.2)
    assert "latent" in answer["how"] and answer["raws"][0].shape == (8, 8, 1) and answer["latent"] == 64
    morphogen.train(data["pictures"], tmp_path / "vq", family="vae", steps=3, options={**TINY, "family": {"kind": "vq", "grid": 2}})
    run = morphogen.train(data["pictures"], tmp_path / "gpt", bridge=tmp_path / "vq", steps=3, options=TINY)
    assert "first stage" in morphogen.reconstruct(data["pictures"], run)["how"]
    assert morphogen.vary("3", run, n=2, distance=1.0)["raws"][0].shape == (8, 8, 1)
    assert len(morphogen.interpolate(0, 1, tmp_path / "both", n=3)["raws"]) == 3


@pytest.mark.parametrize("case", [("pictures", "gan"), ("lines", "ngram")], ids=lambda c: "-".join(c))
def test_families_that_cannot_say_which_can(runs: Any, data: dict[str, Path], case: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=f"a {case[1]} run has no latent.*vae, diffusion"):
        morphogen.reconstruct(data[case[0]], runs[case])
    with pytest.raises(UsageError, match="vae, diffusion or flow"):
        morphogen.interpolate(0, 1, runs[case])
    if case[1] == "gan":
        with pytest.raises(UsageError, match="no way to begin"):
            morphogen.vary(0, runs[case])


# ---------------------------------------------------------------- interpolate
def test_the_way_between_two_items_is_stamped_and_keyed(runs: Any, data: dict[str, Path], tmp_path: Path) -> None:
    ends = (str(data["pictures"] / "000.png"), str(data["pictures"] / "007.png"))
    for family in ("vae", "flow"):
        answer = morphogen.interpolate(*ends, runs["pictures", family], tmp_path / family, n=5)
        files = sorted((tmp_path / family).glob("*.png"))
        assert len(files) == 5 and provenance.read(files[0])["verb"] == "interpolate"
        assert [row["share"] for row in answer["items"]] == [0, 0.25, 0.5, 0.75, 1]
        again = morphogen.interpolate(*ends, runs["pictures", family], tmp_path / f"{family}-2", n=5)
        assert all(np.array_equal(a, b) for a, b in zip(answer["raws"], again["raws"], strict=True))
    rows = morphogen.interpolate(0, f"{data['rows']}:3", runs["rows", "vae"], tmp_path / "way.csv", n=4)
    assert len(rows["raws"]) == 4 and (tmp_path / "way.csv").is_file()


def test_items_are_meant_by_file_number_or_both(runs: Any, data: dict[str, Path]) -> None:
    run = runs["pictures", "vae"]
    for wrong, match in (("nowhere.png", "no such item"), ("99999", "no item 99999"), (f"{data['rows']}:9999", ".")):
        with pytest.raises((UsageError, DataError), match=match):
            morphogen.vary(wrong, run)
    with pytest.raises(UsageError, match="nothing between"):
        morphogen.interpolate(0, 1, run, n=1)


def test_slerp_keeps_the_shell() -> None:
    a, b = torch.eye(4)[0] * 2, torch.eye(4)[1] * 2
    way = slerp(a, b, torch.linspace(0, 1, 5, dtype=torch.float64))
    assert torch.allclose(way.norm(dim=1), torch.full((5,), 2.0)) and torch.allclose(way[0], a) and torch.allclose(way[-1], b)
    assert torch.allclose(way[2, :2], torch.full((2,), 2 / 2**0.5))
    straight = slerp(a, 3 * a, torch.linspace(0, 1, 3, dtype=torch.float64))
    assert torch.allclose(straight[1], 2 * a)


# ---------------------------------------------------------------- vary
@pytest.mark.parametrize("case", [c for c in CASES if c[1] not in ("gan", "flow")], ids=lambda c: "-".join(c))
def test_variations_are_keyed_and_measured(runs: Any, case: tuple[str, str]) -> None:
    answer = morphogen.vary(2, runs[case], n=5, distance=0.8, seed=4)
    assert answer["n"] == len(answer["raws"]) == 5 and 0 <= answer["level"] <= 1
    assert answer["range"][0] <= answer["distance"] <= answer["range"][1]
    again = morphogen.vary(2, runs[case], n=7, distance=0.8, seed=4)
    for a, b in zip(answer["raws"], again["raws"]):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_distance_0_gives_the_item_back_where_the_family_can(runs: Any, data: dict[str, Path]) -> None:
    source = np.asarray(Image.open(data["pictures"] / "004.png"))
    for family in ("diffusion", "flow", "kde"):
        answer = morphogen.vary(str(data["pictures"] / "004.png"), runs["pictures", family], n=2, distance=0.0)
        assert answer["level"] == 0 and all(np.abs(r[..., 0].astype(int) - source).max() <= 1 for r in answer["raws"])
    text = morphogen.vary(1, runs["lines", "ngram"], n=3, distance=0.0)
    assert len(set(text["raws"])) == 1 and text["distance"] == 0


def test_the_level_that_reaches_a_distance_is_found() -> None:
    level, reached = _level_for(lambda v: 3 * v, 1.2, lambda share: None)
    assert abs(level - 0.4) < 0.01 and abs(reached - 1.2) < 0.03
    assert _level_for(lambda v: 0.5 + v, 0.3, lambda share: None) == (0.0, 0.5)
    assert _level_for(lambda v: v, 7.0, lambda share: None) == (1.0, 1.0)


# ---------------------------------------------------------------- command line
def test_the_command_line_prints_results_on_stdout(
    runs: Any, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs["pictures", "vae"].path)
    for arguments in (
        ["score", str(data["test"]), "--rate", "0.1"],
        ["nearest", str(data["test"]), "--k", "2"],
        ["reconstruct", str(data["test"]), "--out", str(tmp_path / "r")],
        ["interpolate", "0", "5", "--n", "3", "--out", str(tmp_path / "i")],
        ["vary", "3", "--n", "2", "--distance", "1", "--out", str(tmp_path / "v")],
    ):
        with pytest.raises(SystemExit) as done:
            main([*arguments, "--run", run, "--json"])
        out = capsys.readouterr()
        assert done.value.code == 0 and isinstance(json.loads(out.out), dict), out.err
    with pytest.raises(SystemExit) as done:
        main(["vary", "nowhere.png", "--run", run, "--out", str(tmp_path / "w")])
    assert done.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith("error[usage]: no such item")


def test_score_replaces_only_what_it_wrote(tmp_path: Path) -> None:
    """Before the run is opened: --force must not cost a folder of something else, nor an hour of scoring."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="not written by score"):
        morphogen.score(["a"], tmp_path / "no-run", out=tmp_path / "photos", force=True)
    assert (tmp_path / "photos" / "a.png").read_bytes() == b"x"
