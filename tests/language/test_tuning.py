"""Tuning a language model from elsewhere: only answers are learned, the merged folder says what the adapter says, and others read both."""
from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import morphogen
from morphogen.errors import DataError, FormatError, UsageError
from morphogen.families.autoregressive import Autoregressive, AutoregressiveConfig, shifted
from morphogen.formats.peft import Adapter
from morphogen.language.lessons import Ids, grouped, prepare, read_lessons, rows_of
from morphogen.language.source import open_source
from morphogen.language.tuning import fused
from morphogen.model import Model
from morphogen.spaces import Tokens
from morphogen.training.data import Dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
WORDS = ["brown", "fox", "jumps", "over", "small", "model", "writes", "words", "return", "def", "naive", "quick"]
FAST = {"training": {"lr": 0.01, "keep": "last", "ema": 0.0, "lanes": 1}}


def chat(word: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"the {word}"}, {"role": "assistant", "content": answer}], "source": word}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [chat(w, "lazy dog" if i % 2 else "café") for i, w in enumerate(WORDS)]
    return write(tmp_path_factory.mktemp("data") / "data.jsonl", rows)


@pytest.fixture(scope="module")
def tuned(llama: tuple[Path, Any], data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("tuned") / "out"
    return out, morphogen.tune(llama[0], data, out, steps=40, options=FAST)


def messages(word: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"the {word}"}]


# ---------------------------------------------------------------- what is tuned
def test_the_answers_are_learned_by_heart(llama: tuple[Path, Any], data: Path, tuned: tuple[Path, dict[str, Any]]) -> None:
    out, answer = tuned
    assert answer["new"]["tuned"] < 0.5 * answer["new"]["base"] and answer["method"] == "lora" and answer["steps"] == 40
    assert answer["merge_difference"] < 1e-4 and 0 < answer["share"] < 0.2 and answer["general"]["base"] > 0
    model, base = morphogen.load(out), morphogen.load(llama[0])
    held = answer["held_out"]
    right = sum(model.chat(messages(w), temperature=0, max_tokens=12) == ("lazy dog" if i % 2 else "café") for i, w in enumerate(WORDS))
    assert right >= len(WORDS) - held
    assert base.chat(messages("fox"), temperature=0, max_tokens=12) != "lazy dog"
    assert {p.name for p in out.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", "adapter", "tune.json"}
    assert not (out / "state").exists() and json.loads((out / "tune.json").read_text())["items"] == len(WORDS)


def test_merged_weights_and_adapter_say_the_same(llama: tuple[Path, Any], tuned: tuple[Path, dict[str, Any]]) -> None:
    merged, beside = morphogen.load(tuned[0]), morphogen.load(llama[0])
    beside.load_adapter(tuned[0] / "adapter")
    for word in WORDS[:4]:
        asked = {"temperature": 0, "max_tokens": 10}
        assert merged.chat(messages(word), **asked) == beside.chat(messages(word), adapter="adapter", **asked)


def test_peft_and_transformers_read_it(llama: tuple[Path, Any], tuned: tuple[Path, dict[str, Any]]) -> None:
    import peft
    import transformers

    ids = torch.tensor([[0, 7, 30, 31, 32, 8]])
    ours = torch.from_numpy(morphogen.load(tuned[0]).logits(ids[0].tolist()))
    whole = transformers.AutoModelForCausalLM.from_pretrained(tuned[0], dtype=torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(llama[0], dtype=torch.float32)
    beside = peft.PeftModel.from_pretrained(base, tuned[0] / "adapter")
    with torch.no_grad():
        for theirs in (whole, beside):
            assert torch.allclose(theirs(ids).logits[0], ours, atol=1e-3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned[0])
    template = json.loads((llama[0] / "tokenizer_config.json").read_text())["chat_template"]
    assert tokenizer.chat_template == template and tokenizer.encode("naïve café") == morphogen.load(tuned[0]).encode("naïve café")


def test_resumed_is_what_it_would_have_been(
    llama: tuple[Path, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from morphogen.errors import Interrupted
    from morphogen.training.trainer import Trainer

    options = {"training": {"lr": 0.01, "checks": 4, "lanes": 2}}  # the average and the best are kept, too
    morphogen.tune(llama[0], data, tmp_path / "one", steps=8, options=options)
    own = Trainer.step

    def stopped(self: Any) -> Any:
        if self.steps == 4:
            signal.raise_signal(signal.SIGINT)
        return own(self)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, tests would ignore Ctrl-C
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        try:
            with pytest.raises(Interrupted):
                morphogen.tune(llama[0], data, tmp_path / "two", steps=8, options=options)
        finally:
            signal.signal(signal.SIGINT, before)
    state = next((tmp_path / "two" / "state").glob("step-*")) / "state.safetensors"
    assert state.stat().st_size < 800_000  # what is frozen is not in it
    morphogen.tune(llama[0], data, tmp_path / "two", resume=True)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert morphogen.tune(llama[0], data, tmp_path / "two", resume=True)["steps"] == 8  # nothing is left to do


def test_in_full_and_from_gguf(llama: tuple[Path, Any], data: Path, tmp_path: Path) -> None:
    from morphogen.language.export import export

    export(morphogen.load(llama[0]), tmp_path / "base.gguf", form="gguf")
    answer = morphogen.tune(tmp_path / "base.gguf", data, tmp_path / "out", steps=12, full=True, options=FAST)
    assert answer["method"] == "full" and answer["share"] == 1 and not (tmp_path / "out" / "adapter").exists()
    assert answer["new"]["tuned"] < answer["new"]["base"]
    assert morphogen.load(tmp_path / "out").chat(messages("fox"), temperature=0, max_tokens=3) is not None
    again = morphogen.tune(tmp_path / "out", data, tmp_path / "again", steps=2, rank=2, options=FAST)
    assert again["new"]["base"] == pytest.approx(answer["new"]["tuned"], rel=1e-3)


def test_the_verb(llama: tuple[Path, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from morphogen.cli import main

    with pytest.raises(SystemExit) as done:
        main(["tune", str(llama[0]), str(data), "--out", str(tmp_path / "out"), "--steps", "2", "--rank", "2"])
    assert not done.value.code
    said = capsys.readouterr().out
    assert "on general text" in said and "next: morphogen chat" in said


# ---------------------------------------------------------------- rows
def test_only_the_answer_counts(llama: tuple[Path, Any]) -> None:
    source = open_source(llama[0])
    assert source.foreign is not None
    found, _ = read_lessons(source, [chat("fox", "lazy dog"), chat("brown", "café")])
    lessons = prepare(found, source, source.foreign.vocab)
    assert lessons.start == 0  # <|im_start|>, which all rows begin with
    family = Autoregressive(lessons.space, {}, AutoregressiveConfig(), source.net(), lessons.start).train()
    batch = Dataset(Model(Ids(lessons.space), family), lessons.items).batch(torch.arange(2), torch.arange(2))
    loss = family(batch)
    answers = [[*source.tokenizer.ids(text), 1] for text in ("lazy dog", "café")]
    assert float(loss.weight) == sum(map(len, answers))
    logits = family.net(shifted(batch.x, 0))
    total = torch.zeros(())
    for row, answer in enumerate(answers):
        end = len(lessons.items[row].raw) - 1
        assert list(lessons.items[row].raw[end - len(answer) : end]) == answer
        total = total + F.cross_entropy(logits[row, end - len(answer) : end], torch.tensor(answer), reduction="sum")
    assert float(loss.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    wanted = torch.autograd.grad(total, list(family.net.parameters()))
    got = torch.autograd.grad(loss.total, list(family.net.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(got, wanted))


@pytest.mark.parametrize("shared", [0, 1, 7])
def test_one_line_of_rows_gives_what_each_gives(llama: tuple[Path, Any], shared: int) -> None:
    net = open_source(llama[0]).net()
    family = Autoregressive(Tokens(330, 24, end=329), {}, AutoregressiveConfig(), net, 0)
    draw = torch.Generator().manual_seed(shared)
    x = torch.randint(2, 300, (5, 24), generator=draw)
    x[:, :shared] = x[:1, :shared]
    counted = torch.rand(5, 24, generator=draw) < 0.4
    counted[1], counted[2, 9:], counted[3] = False, False, False
    counted[3, 0] = True
    nll = F.cross_entropy(net(shifted(x, 0)).flatten(0, 1), x.flatten(), reduction="none").view_as(x)
    assert torch.allclose(family._sparse_rows(x, counted, None), torch.where(counted, nll, 0.0), atol=1e-4)
    assert not family._sparse_rows(x, torch.zeros_like(counted), None).any()


def test_rows_of_all_kinds(llama: tuple[Path, Any], tmp_path: Path) -> None:
    source = open_source(llama[0])
    two = [*chat("fox", "lazy")["messages"], {"role": "user", "content": "a small"}, {"role": "assistant", "content": "model"}]
    rows = [{"messages": two}, {"prompt": "the quick ", "completion": "brown fox"}, {"text": "a small model"}, "{bad", {"other": 1},
            {"messages": [{"role": "user", "content": "x"}]}, {"messages": "x"}, {"prompt": "a"}, {"text": "\ud800"}]
    found, skips = read_lessons(source, write(tmp_path / "rows.jsonl", rows))
    assert skips.count == 6 and "rows.jsonl, line 4: " in skips.first[0] and "line 5: " in skips.first[1]
    ids = source.tokenizer.ids
    learned = [[i for i, k in zip(lesson.ids, lesson.known) if not k] for lesson in found]
    assert learned[0] == [*ids("lazy"), 1, *ids("model"), 1]
    assert learned[1][-1] == 1 and source.tokenizer.text(learned[1]) == "brown fox"
    assert learned[2] == [*ids("a small model"), 1]
    lessons = prepare(found, source, 330)
    assert lessons.start == 0  # bos, since rows begin differently
    assert all(item.raw[-1] == lessons.space.end and item.given[-1] for item in lessons.items)


def test_a_line_that_is_too_long_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphogen.language.lessons.LARGEST_LINE", 64)
    rows = [{"text": "a"}, {"text": "b" * 200}, {"text": "c"}]
    found = [*rows_of(write(tmp_path / "rows.jsonl", rows))]
    assert found == [("rows.jsonl, line 1", rows[0]), ("rows.jsonl, line 2", None), ("rows.jsonl, line 3", rows[2])]


def test_long_rows(llama: tuple[Path, Any]) -> None:
    source = open_source(llama[0])
    long = "the quick brown fox " * 60
    found, _ = read_lessons(source, [{"prompt": long, "completion": " lazy"}, {"prompt": "a", "completion": long}, {"text": long}])
    lessons = prepare(found, source, 330)
    most = source.context - 1
    assert max(len(item.raw) for item in lessons.items) == most + 1 and len(lessons.items) >= 3
    first = lessons.items[0]
    learned = [i for i, k in zip(first.raw, first.given) if not k]
    assert source.tokenizer.text(learned).strip() == "lazy" and learned[-1] == 1
    assert any("2 rows are longer" in w for w in lessons.warnings) and any("1 rows were left out" in w for w in lessons.warnings)
    texts = [i for item in lessons.items[1:] for i in item.raw[:-1]]
    assert texts == [*source.tokenizer.encode(long), 1]  # a text is cut into parts, nothing is lost


def test_groups_join_sources_and_copies() -> None:
    groups = grouped([("a", "=1"), ("b", "=2"), ("a", "=3"), ("c", "=2"), ("=4",), ("=4",), ("=5",)])
    assert groups[0] == groups[2] and groups[1] == groups[3] and groups[4] == groups[5]
    assert len(set(groups)) == 4


def test_what_cannot_be_tuned(llama: tuple[Path, Any], bert: tuple[Path, Any], data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encoder"):
        morphogen.tune(bert[0], data, tmp_path / "out", steps=1)
    with pytest.raises(DataError, match=r"x\.jsonl, line 1: "):
        morphogen.tune(llama[0], write(tmp_path / "x.jsonl", ["{bad"]), tmp_path / "out", steps=1)
    with pytest.raises(UsageError, match="exists already"):
        morphogen.tune(llama[0], data, data.parent, steps=1)
    with pytest.raises(UsageError, match="not overwritten"):
        morphogen.tune(llama[0], data.parent / "data.jsonl", tmp_path, steps=1, force=True)
    (tmp_path / "cut" / "state").mkdir(parents=True)
    (tmp_path / "cut" / "state" / "settings.json").write_text('{"base_model": "another"}')
    with pytest.raises(FormatError, match="not the one"):
        morphogen.tune(llama[0], data, tmp_path / "cut", resume=True)
    source = open_source(llama[0])
    source.template = None
    with pytest.raises(DataError, match="no chat template"):
        read_lessons(source, [chat("fox", "lazy")])
    assert not (tmp_path / "out").exists()


def test_matrices_that_others_hold_as_one() -> None:
    draw = torch.Generator().manual_seed(0)
    pairs = {n: (torch.randn(2, 6, generator=draw), torch.randn(rows, 2, generator=draw)) for n, rows in (("q", 4), ("k", 3), ("o", 5))}
    delta = lambda a, name: a.scale(name) * a.pairs[name][1] @ a.pairs[name][0]
    for alpha in (4.0, 0.0):
        adapter = Adapter(pairs, {"q": alpha, "k": 6.0, "o": 8.0})
        out = fused(adapter, {"qk": [("q", 4), ("k", 3)], "o": [("o", 5)]})
        assert set(out.pairs) == {"qk", "o"} and out.alpha["o"] == 8.0
        assert torch.allclose(delta(out, "qk"), torch.cat([delta(adapter, "q"), delta(adapter, "k")]), atol=1e-5)
