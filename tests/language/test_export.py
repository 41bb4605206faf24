"""Written models read back: by us, by transformers, by gguf's own reader; runs of ours too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import morphogen
from morphogen.api.answers import answers
from morphogen.errors import DataError, UsageError
from morphogen.language import load

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "a.txt").write_text("the quick brown fox jumps over the lazy dog.\n\n" * 60)
    return morphogen.train(folder / "a.txt", folder / "run", family="gpt", size="tiny", steps=30).path


def test_hf_folder_is_transformers(llama: tuple[Path, Any], tmp_path: Path) -> None:
    import transformers

    made = morphogen.export(llama[0], tmp_path / "out", format="hf")
    assert made["kl"] < 1e-9 and made["top1"] == 1
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    tok = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tok(PROMPT)["input_ids"]
    assert ids == load(llama[0]).encode(PROMPT)
    with torch.no_grad():
        assert (again(torch.tensor([ids])).logits - llama[1](torch.tensor([ids])).logits).abs().max() <= 1e-5
    messages = [{"role": "user", "content": "hi"}]
    theirs = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(theirs) == load(tmp_path / "out").prompt_of(messages)
    with pytest.raises(UsageError, match="exists"):
        morphogen.export(llama[0], tmp_path / "out")


def test_how_a_model_wants_to_be_drawn_goes_along(llama: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(llama[0], tmp_path / "base")
    wishes = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "eos_token_id": 1}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(wishes))
    morphogen.export(tmp_path / "base", tmp_path / "out", format="hf")
    assert load(tmp_path / "out").source.defaults == {"temperature": 0.7, "top_p": 0.9}


@pytest.mark.parametrize(("quantise", "kl"), [("f32", 1e-8), ("f16", 1e-4), ("q8_0", 0.01)])
def test_gguf_round_trip(llama: tuple[Path, Any], tmp_path: Path, quantise: str, kl: float) -> None:
    made = morphogen.export(llama[0], tmp_path / "m.gguf", format="gguf", quantise=quantise)
    assert made["kl"] <= kl
    found = load(tmp_path / "m.gguf", weights="float32")
    assert found.encode(PROMPT) == load(llama[0]).encode(PROMPT)
    assert found.template is not None
    from gguf import GGUFReader

    reader = GGUFReader(tmp_path / "m.gguf")
    assert str(bytes(reader.fields["general.architecture"].parts[-1]), "utf-8") == "llama"
    back = morphogen.export(tmp_path / "m.gguf", tmp_path / "hf", format="hf")
    assert back["kl"] < 1e-9


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Qwen2", {"tie_word_embeddings": True}),
        ("Qwen3", {"head_dim": 32}),
        ("Gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
        ("Olmo2", {}),
        ("Phi3", {}),
        (
            "Llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1e5,
                    "factor": 4.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
        ),
    ],
)
def test_gguf_of_other_kinds(kind: str, values: dict[str, Any], tmp_path: Path) -> None:
    from tests.language.conftest import checkpoint

    checkpoint(tmp_path / "a", kind, f"{kind}ForCausalLM", **values)
    made = morphogen.export(tmp_path / "a", tmp_path / "m.gguf", format="gguf")
    assert made["kl"] < 1e-8 and made["top1"] == 1


def test_run_is_a_language_model_and_leaves(run: Path, tmp_path: Path) -> None:
    import transformers

    found = morphogen.load(run)
    text = found.generate("the quick ", temperature=0, max_tokens=20)
    assert isinstance(text, str) and found.decode(found.encode("naïve 東京")) == "naïve 東京"
    made = morphogen.export(run, tmp_path / "hf")
    assert made["kl"] < 1e-9
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager").eval()
    ids = [found.source.start[0], *found.encode("the quick ")]
    with torch.no_grad():
        want = theirs(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(found.logits(ids) - want[:, : found.logits(ids).shape[1]]).max() <= 1e-5
    assert load(tmp_path / "hf").generate("the quick ", temperature=0, max_tokens=20) == text
    assert morphogen.export(run, tmp_path / "m.gguf", format="gguf", quantise="q8_0")["kl"] < 0.05
    assert load(tmp_path / "m.gguf").generate("the quick ", temperature=0, max_tokens=5)[:3] == text[:3]
    with pytest.raises(UsageError, match="chat template"):
        found.chat([{"role": "user", "content": "hi"}])


def test_files_of_prompts_are_gone_on_with(llama: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(llama[0])
    words = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "small", "model", "words"]
    rows: list[dict[str, Any]] = [{"id": i, "prompt": f"the {w}"} for i, w in enumerate(words)]
    rows[3] = {"id": 3, "messages": [{"role": "user", "content": "hi"}]}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    options = {"temperature": 0.8, "seed": 1, "max_tokens": 6}
    answers(model, tmp_path / "in.jsonl", tmp_path / "whole.jsonl", **options)
    asked, calls = model.answers, []

    def failing(*a: Any, **k: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return asked(*a, **k)

    monkeypatch.setattr(model, "answers", failing)
    with pytest.raises(KeyboardInterrupt):
        answers(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", **options)
    assert not (tmp_path / "out.jsonl").exists()
    calls.append(1)
    answers(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", **options)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert len(calls) == 2 + 1 + 1  # the first tile was there and was not drawn again
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        answers(model, tmp_path / "bad.jsonl", tmp_path / "x.jsonl")


def test_command_line(llama: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from morphogen.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(w) for w in words])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    code, out, _ = call("generate", str(llama[0]), "--prompt", PROMPT, "--max-tokens", "6", "--temperature", "0", "--seed", "1", "--json")
    value = json.loads(out)
    assert (code == 0 and value["tokens"] <= 6 and value["prompt_tokens"] == 4) or value["prompt_tokens"] > 0
    assert {"text", "prefill_tok_s", "decode_tok_s"} <= set(value)
    code, out, _ = call("generate", str(llama[0]), "--prompt", PROMPT, "--max-tokens", "6", "--temperature", "0")
    assert code == 0 and out.rstrip("\n") == value["text"].rstrip("\n")
    code, _, err = call("generate", str(llama[0]), "--prompt", PROMPT, "--schema", '{"type": "banana"}')
    assert code == 2 and err.count("\n") == 1
    code, _, err = call("generate", str(tmp_path), "--prompt", PROMPT)
    assert code == 4 and err.count("\n") == 1
    code, _, err = call("generate", str(llama[0]))
    assert code == 2 and "prompt" in err
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    code, out, _ = call(
        "generate", str(llama[0]), "--input", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--max-tokens", "3"
    )
    assert code == 0 and len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
