"""tune: a run goes on learning from other data and is a whole run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import morphogen
from morphogen.adapt.lora import load_adapter
from morphogen.api.common import Watch
from morphogen.cli import _call
from morphogen.codecs.text import TextCodec, pairs
from morphogen.contracts import Item
from morphogen.errors import DataError, FormatError, Interrupted, ResourceError, UsageError
from morphogen.formats.peft import read_peft
from morphogen.run import Run
from morphogen.spaces import Tokens
from morphogen.training import estimate
from morphogen.training.data import Dataset
from morphogen.training.trainer import Trainer

TINY = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 0, "checks": 2, "batch": 16}}
SOME = {"training": {"previews": 0, "checks": 2, "batch": 16}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of two kinds each, and a base of text, of pictures and of rows."""
    w, rng = tmp_path_factory.mktemp("tune"), np.random.default_rng(0)
    (w / "a.txt").write_text("\n".join(f"the {a} {b} runs" for a in ("old", "red", "big", "sly") for b in ("fox", "dog", "cat", "hen")
                                       for _ in range(6)))
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in rng.integers(0, 9, (70, 2)).tolist()]
    rows.append({"prompt": "x" * 300, "completion": "too long"})
    (w / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, shade in (("dark", 40), ("light", 210)):
        (w / name).mkdir()
        for i in range(60):
            pixels = np.clip(rng.normal(shade, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(w / name / f"{i}.png")
    (w / "a.csv").write_text("kind,size\n" + "\n".join(f"{'ab'[i % 2]},{rng.normal(10):.2f}" for i in range(100)))
    (w / "b.csv").write_text("kind,size\n" + "\n".join(f"a,{rng.normal(12):.2f}" for _ in range(60)))
    morphogen.train(w / "a.txt", w / "text", family="autoregressive", steps=40, options=TINY)
    morphogen.train(w / "dark", w / "pictures", family="diffusion", steps=40, options=TINY)
    morphogen.train(w / "a.csv", w / "rows", family="masked", steps=30, options=TINY)
    return w


def test_text_by_pairs_into_a_whole_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    answer = morphogen.tune(folder / "text", folder / "b.jsonl", out, rank=2, steps=60, options=SOME)
    assert answer["new"]["tuned"] < answer["new"]["base"] - 0.5 and answer["own"]["items"] > 0
    assert answer["merge_difference"] < 1e-4 and answer["items"] == 70 and "1 of 71" in answer["skipped"][0]
    run = Run.load(out)
    assert run.recipe["tune"]["base_model"] == run.provenance()["parents"][0]
    assert run.recipe["tune"]["lora"]["rank"] == 2
    texts = morphogen.generate(out, n=4, seed=1)
    assert len(texts) == 4
    # the adapter beside it makes the base what the run is
    base, merged = Run.load(folder / "text").model(), run.model()
    load_adapter(base.family, read_peft(out / "adapter", lambda path: "net." + path.removeprefix("model.")))
    data = Dataset(merged, [Item("1+2=3", given="1+2=")]).batch(torch.tensor([0]), torch.tensor([0]), plain=True)
    with torch.no_grad():
        assert float(base.family.eval()(data).total) == pytest.approx(float(merged.family(data).total), abs=1e-4)


@pytest.mark.parametrize(("base", "data", "full"), [("pictures", "light", False), ("rows", "b.csv", False), ("pictures", "light", True)])
def test_other_kinds_of_data(folder: Path, tmp_path: Path, base: str, data: str, full: bool) -> None:
    answer = morphogen.tune(folder / base, folder / data, tmp_path / "out", steps=30, rank=2, full=full, options=SOME)
    assert answer["new"]["tuned"] < answer["new"]["base"]
    assert (answer["share"] == 1) == full and (tmp_path / "out" / "adapter").exists() != full
    before, after = (Run.load(p).model().family.state_dict() for p in (folder / base, tmp_path / "out"))
    assert set(before) == set(after)
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("standard"))  # not calibrated anew


def test_a_tuned_run_is_evaluated_and_tuned_again(folder: Path, tmp_path: Path) -> None:
    morphogen.tune(folder / "pictures", folder / "light", tmp_path / "once", steps=8, rank=1, options=SOME)
    answer = morphogen.evaluate(tmp_path / "once", n=40)
    assert answer["metrics"] and "What tuning changed" in (tmp_path / "once" / "report.html").read_text()
    again = morphogen.tune(tmp_path / "once", folder / "dark", tmp_path / "twice", steps=8, rank=1, options=SOME)
    assert again["own"] is not None


def test_resumed_is_what_it_would_have_been(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"training": {**SOME["training"], "lanes": 2}}
    morphogen.tune(folder / "pictures", folder / "light", tmp_path / "whole", steps=12, rank=2, options=options)
    step = Trainer.step

    def stopped(self: Any) -> Any:
        if self.steps == 5:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", stopped)
    with pytest.raises(Interrupted):
        morphogen.tune(folder / "pictures", folder / "light", tmp_path / "parts", steps=12, rank=2, options=options)
    monkeypatch.setattr(Trainer, "step", step)
    morphogen.tune(folder / "pictures", folder / "light", tmp_path / "parts", resume=True)
    assert Run.load(tmp_path / "whole").provenance()["model"] == Run.load(tmp_path / "parts").provenance()["model"]
    shutil.rmtree(tmp_path / "parts" / "adapter")
    again = morphogen.tune(folder / "pictures", folder / "light", tmp_path / "parts", resume=True)
    assert again["method"] == "lora"


def test_what_cannot_be_tuned(folder: Path, tmp_path: Path) -> None:
    morphogen.train(folder / "a.csv", tmp_path / "cart", family="cart")
    with pytest.raises(UsageError, match="fitted in one pass"):
        morphogen.tune(tmp_path / "cart", folder / "b.csv", tmp_path / "out")
    with pytest.raises(FormatError, match="not a run folder"):
        morphogen.tune(folder / "a.csv", folder / "b.csv", tmp_path / "out")
    with pytest.raises(UsageError, match="exists already"):
        morphogen.tune(folder / "rows", folder / "b.csv", folder / "text")
    with pytest.raises(FormatError, match="not a tuning"):
        shutil.copytree(folder / "rows", tmp_path / "cut")
        (tmp_path / "cut" / "model.safetensors").unlink()
        morphogen.tune(folder / "rows", folder / "b.csv", tmp_path / "cut", resume=True)
    assert not (tmp_path / "out").exists()


def test_memory_is_said_before_the_first_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ear(Watch):
        lines: list[str] = []

        def say(self, line: str, kind: str = "info") -> None:
            self.lines.append(line)

    morphogen.tune(folder / "rows", folder / "b.csv", tmp_path / "out", steps=1, rank=1, options=SOME, watch=Ear())
    said, begun = (next(i for i, line in enumerate(Ear.lines) if word in line) for word in ("of memory beside", "training 1 steps"))
    assert said < begun
    monkeypatch.setattr(estimate, "available", lambda: 1 << 20)
    with pytest.raises(ResourceError, match=r"training needs about .* of memory, 1 MiB are free.*more memory"):
        morphogen.tune(folder / "rows", folder / "b.csv", tmp_path / "none", steps=1, rank=1, options=SOME)
    assert not (tmp_path / "none").exists()


def test_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", str(folder / "rows"), str(folder / "b.csv"), "--out", str(tmp_path / "out"), "--steps", "4", "--rank", "2"]
    assert _call([*arguments, "--set", "lora.alpha=4", "--set", "training.previews=0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["steps"] == 4 and answer["method"] == "lora"
    assert Run.load(tmp_path / "out").recipe["tune"]["lora"]["alpha"] == 4
    assert _call([*arguments, "--set", "net.width=3"]) == 2


# ---------------------------------------------------------------- known parts
def test_only_the_answer_is_learned(folder: Path) -> None:
    model = Run.load(folder / "text").model()
    items = [Item("1+2=3", given="1+2="), Item("old fox"), Item("7+7=14", given="7+7=")]
    batch = Dataset(model, items).batch(torch.arange(3), torch.arange(3))
    assert batch.given is not None
    assert batch.given.known.sum(1).tolist() == [4, 0, 4]
    assert float(model.family(batch).weight) == 2 + 8 + 3  # what follows, and the end
    none = Dataset(model, items[1:2]).batch(torch.arange(1), torch.arange(1))
    assert none.given is None


def test_pairs_keep_the_seam(tmp_path: Path) -> None:
    codec = TextCodec()
    codec.space = Tokens(257, 12, end=256)
    both = codec.pair("ab", "abcd")
    assert both.x.tolist() == [97, 98, 99, 100, 256] and both.known.tolist() == [True, True, False, False, False]
    with pytest.raises(DataError, match="13 tokens do not fit"):
        codec.pair("ab", "ab" + "c" * 10)
    with pytest.raises(DataError, match="begin"):
        codec.pair("x", "ab")


def test_conversations_become_one_pair_a_turn() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "bye"},
                {"role": "assistant", "content": "bye!"}]
    first, second = pairs.taken({"messages": messages})
    assert first == ("user: hi\nassistant: ", "user: hi\nassistant: yes?")
    assert second[0] is not None and second[0].endswith("user: bye\nassistant: ") and second[1].endswith("bye!")
    for row, words in (({"messages": [{"role": "boss", "content": "x"}]}, "unknown role"), ({"messages": messages[:1]}, "no turn"),
                       ({"prompt": "a"}, "no `completion`"), ({"messages": 3}, "not a list"), ({}, "no `text`"),
                       ({"text": "\ud800"}, "surrogate"),
                       ({"messages": [{"role": "assistant", "content": ""}]}, "`content` is empty")):
        with pytest.raises(DataError, match=words):
            pairs.taken(row)


def test_pairs_can_be_trained_on_from_the_start(folder: Path, tmp_path: Path) -> None:
    run = morphogen.train(folder / "b.jsonl", tmp_path / "run", family="autoregressive", steps=4, options={**TINY, "codec": {"length": 64}})
    assert run.recipe["data"]["items"] == 70
