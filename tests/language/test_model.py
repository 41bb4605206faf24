"""Language models in hand, against transformers and against themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import morphogen
from morphogen.errors import DataError, UsageError
from morphogen.language import load

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def model(llama: tuple[Path, Any]) -> Any:
    return load(llama[0])


def test_logits_and_score_are_transformers(llama: tuple[Path, Any], model: Any) -> None:
    ids = model.encode(PROMPT)
    with torch.no_grad():
        want = llama[1](torch.tensor([ids])).logits[0]
    got = model.logits(ids)
    assert got.dtype == np.float32 and got.shape == want.shape
    assert np.abs(got - want.numpy()).max() <= 1e-5
    nats = -want[:-1].double().log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).mean()
    assert model.score(PROMPT) == pytest.approx(float(nats), abs=1e-5)
    assert model.decode(ids) == PROMPT


def test_greedy_is_transformers(llama: tuple[Path, Any], model: Any) -> None:
    ids = model.encode(PROMPT)
    want = llama[1].generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0, len(ids) :].tolist()
    got = model.answers([PROMPT], temperature=0, max_tokens=40)[0][0]
    assert got.ids == want
    assert got.text == model.decode(want) and got.reason in ("stop", "length")


def test_beams_are_transformers(llama: tuple[Path, Any], model: Any) -> None:
    ids = model.encode(PROMPT)
    want = llama[1].generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, num_beams=4, early_stopping=False)
    got = model.answers([PROMPT], beams=4, max_tokens=12)[0][0]
    want = list(want[0, len(ids) :].tolist())
    assert got.ids == want[: len(got.ids)]


def test_stream_joins_to_generate_and_seeds_name_the_draw(model: Any) -> None:
    options = {"temperature": 0.9, "seed": 3, "max_tokens": 30, "top_p": 0.95}
    whole = model.generate(PROMPT, **options)
    pieces = list(model.stream(PROMPT, **options))
    assert "".join(p.text for p in pieces) == whole and pieces[-1].done and pieces[-1].stats["tokens"] <= 30
    assert whole == model.generate(PROMPT, **options) != model.generate(PROMPT, **{**options, "seed": 4})


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_lookup_and_draft_change_nothing(model: Any, temperature: float) -> None:
    prompt = "a b a b a b a b a b"
    options = {"temperature": temperature, "seed": 5, "max_tokens": 48}
    plain = model.answers([prompt], lookup=False, **options)[0][0].ids
    assert model.answers([prompt], lookup=True, **options)[0][0].ids == plain
    assert model.answers([prompt], lookup=False, draft=model, **options)[0][0].ids == plain


def test_slots_change_nothing(model: Any) -> None:
    prompts = [PROMPT, "a small", "def f(x):", "naïve", "words"]
    options = {"temperature": 0.7, "seed": 2, "max_tokens": 20, "n": 2}
    one = model.answers(prompts, slots=1, **options)
    assert [[a.ids for a in row] for row in one] == [[a.ids for a in row] for row in model.answers(prompts, slots=4, **options)]
    assert one[0][0].ids != one[0][1].ids


def test_stop_strings_and_limits(model: Any) -> None:
    text = model.generate(PROMPT, temperature=0.9, seed=1, max_tokens=40)
    mark = text[4:7]
    cut = model.answers([PROMPT], temperature=0.9, seed=1, max_tokens=40, stop=mark)[0][0]
    assert cut.text == text[: text.index(mark)] and cut.reason == "stop"
    assert len(model.answers([PROMPT], max_tokens=5, temperature=0)[0][0].ids) <= 5
    with pytest.raises(DataError, match="cannot fit"):
        model.generate("x" * 10_000)
    with pytest.raises(UsageError, match="max_tokens"):
        model.generate(PROMPT, max_tokens=0)
    with pytest.raises(UsageError, match="temperatur"):
        model.generate(PROMPT, temprature=1)


def test_logprobs_and_best_of(llama: tuple[Path, Any], model: Any) -> None:
    found = model.answers([PROMPT], temperature=0, max_tokens=8, logprobs=3)[0][0]
    with torch.no_grad():
        ids = model.encode(PROMPT) + found.ids
        logp = llama[1](torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(found.ids) - 1
    for i, (token, value, best) in enumerate(found.logprobs):
        assert token == found.ids[i] and value == pytest.approx(float(logp[start + i, token]), abs=1e-4)
        assert best[0][0] == token and len(best) == 3
    several = model.answers([PROMPT], seed=1, max_tokens=8, n=1, best_of=6)[0]
    every = model.answers([PROMPT], seed=1, max_tokens=8, n=6, best_of=6)[0]
    assert several[0].ids == every[0].ids and len(every) == 6


def test_chat_keeps_special_tokens_out(model: Any) -> None:
    ids = model.prompt_of([{"role": "user", "content": "hi <|im_end|> there"}])
    assert ids.count(model.tokenizer.special["<|im_end|>"]) == 1
    assert isinstance(model.chat([{"role": "user", "content": "hi"}], max_tokens=5, temperature=0), str)
    with pytest.raises(DataError, match="message 0"):
        model.chat([{"role": "emperor", "content": "hi"}])


def test_schema_regex_and_grammar_hold(model: Any) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    for seed in range(5):
        value = json.loads(model.generate(PROMPT, schema=schema, seed=seed, max_tokens=100))
        assert set(value) == {"age"} and 0 <= value["age"] <= 99
        assert model.generate(PROMPT, regex="(yes|no)", seed=seed, max_tokens=20) in ("yes", "no")
    with pytest.raises(UsageError):
        model.generate(PROMPT, schema={"type": "banana"})
    with pytest.raises(UsageError):
        model.generate(PROMPT, regex="(a")


def test_infill_asks_with_the_tokenizers_own_marks(model: Any, bert: tuple[Path, Any]) -> None:
    assert isinstance(model.infill("def f(x):", "return x", max_tokens=6, seed=1), str)
    with pytest.raises(UsageError, match="middle"):
        load(bert[0]).infill("a", "b")


def test_ids_outside_are_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="not below"):
        model.logits([10**6])
    with pytest.raises(UsageError, match="positions"):
        model.logits([1] * 1000)
    with pytest.raises(UsageError, match="no ids"):
        model.logits([])


def test_int8_is_near_and_drawn_from(llama: tuple[Path, Any], model: Any) -> None:
    from morphogen.engine.int8 import available
    from morphogen.engine.packed import PackedDecoder

    if not available():
        pytest.skip("no 8-bit routine here")
    packed = load(llama[0], weights="int8")
    assert isinstance(packed.drawing_net, PackedDecoder)
    from morphogen.engine.cache import Run
    from morphogen.engine.loop import Engine

    ids = model.encode(PROMPT * 4)
    exact = torch.from_numpy(model.logits(ids)).log_softmax(-1)
    engine = Engine(packed.drawing_net, limit=160)
    got = engine.forward(ids, [Run(0, len(ids), 0, 0)], list(range(len(ids)))).log_softmax(-1)
    assert float((exact.exp() * (exact - got)).sum(-1).mean()) < 0.01
    one = torch.cat([step(engine, ids, i) for i in range(len(ids))]).log_softmax(-1)
    assert (one - got).abs().max() < 0.02  # prompt at once and token by token
    assert (
        packed.answers([PROMPT], temperature=0, max_tokens=20, lookup=False)[0][0].ids
        == packed.answers([PROMPT], temperature=0, max_tokens=20, lookup=True)[0][0].ids
    )


def test_four_bits_of_a_file_are_drawn_with_as_they_are(llama: tuple[Path, Any], tmp_path: Path) -> None:
    from morphogen.engine import int4, int8
    from morphogen.engine.cache import Run
    from morphogen.engine.loop import Engine
    from morphogen.engine.packed import PackedDecoder
    from morphogen.language.export import export

    if not (int4.available() and int8.available()):
        pytest.skip("no 4-bit routine here")
    export(load(llama[0], weights="float32"), tmp_path / "m.gguf", form="gguf", quantise="q4_1")
    found = load(tmp_path / "m.gguf")
    net = found.drawing_net
    assert isinstance(net, PackedDecoder) and "_weight_int4pack_mm_for_cpu" in str(net.body.graph)
    ids = found.encode(PROMPT * 4)
    exact = torch.from_numpy(found.logits(ids)).log_softmax(-1)
    engine = Engine(net, limit=160)
    got = engine.forward(ids, [Run(0, len(ids), 0, 0)], list(range(len(ids)))).log_softmax(-1)
    assert float((exact.exp() * (exact - got)).sum(-1).mean()) < 0.002
    one = torch.cat([step(engine, ids, i) for i in range(len(ids))]).log_softmax(-1)
    assert (one - got).abs().max() < 0.05  # prompt at once and token by token


def step(engine: Any, ids: list[int], i: int) -> torch.Tensor:
    from morphogen.engine.cache import Run

    return engine.forward([ids[i]], [Run(0, 1, 0, i)], [0])


def test_embeddings_are_the_mean_of_hidden_states(llama: tuple[Path, Any], bert: tuple[Path, Any], t5: tuple[Path, Any]) -> None:
    texts = ["the quick brown fox", "a small model writes small words", "fox"]
    for folder, theirs in (bert, llama, t5):
        found = load(folder)
        got = found.embed(texts)
        body = getattr(theirs, "bert", None) or getattr(theirs, "model", None) or theirs.encoder
        with torch.no_grad():
            want = [body(torch.tensor([found.encode(t)])).last_hidden_state[0].mean(0).numpy() for t in texts]
        assert got.shape == (3, 64) and np.abs(got - np.stack(want)).max() < 1e-5
    ranked = load(bert[0]).rank(texts[0], texts)
    assert ranked[0][0] == 0 and ranked[0][1] == pytest.approx(1, abs=1e-5)


def test_encoder_fills_its_masks(bert: tuple[Path, Any]) -> None:
    found = load(bert[0])
    text = found.generate("the <mask> brown fox", temperature=0)
    ids = found.encode("the quick brown fox")
    ids[ids.index(found.tokenizer.ids("quick")[0])] = found.tokenizer.mask
    with torch.no_grad():
        logits = bert[1](torch.tensor([ids])).logits[0, ids.index(found.tokenizer.mask)]
    logits[list(found.tokenizer.special.values())] = -torch.inf
    assert found.tokenizer.text([int(logits.argmax())]).strip().removeprefix("##") in text
    with pytest.raises(UsageError, match="no mask"):
        found.generate("the brown fox")
    assert found.score("the quick brown fox") > 0


def test_t5_is_transformers(t5: tuple[Path, Any]) -> None:
    found = load(t5[0])
    source = found.encode("a small model writes")
    want = t5[1].generate(input_ids=torch.tensor([source]), max_new_tokens=20, do_sample=False)[0, 1:].tolist()
    got = found.answers(["a small model writes"], temperature=0, max_tokens=20)[0][0]
    assert got.ids == want[: len(got.ids)]
    with torch.no_grad():
        logits = t5[1](input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, 5, 6]])).logits[0].numpy()
    assert np.abs(found.logits([0, 5, 6], source=source) - logits).max() < 1e-5


def test_public_load(llama: tuple[Path, Any]) -> None:
    assert morphogen.load(llama[0]).generate(PROMPT, max_tokens=4, temperature=0) == load(llama[0]).generate(
        PROMPT, max_tokens=4, temperature=0
    )


def test_adapters_are_chosen_by_name(llama: tuple[Path, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import copy

    folders = []
    for n in range(2):
        torch.manual_seed(n)
        tuned = peft.get_peft_model(copy.deepcopy(llama[1]), peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
        with torch.no_grad():
            for name, p in tuned.named_parameters():
                if "lora_" in name:
                    p.copy_(torch.randn_like(p) * 0.3)
        tuned.save_pretrained(tmp_path / f"a{n}")
        folders.append((tmp_path / f"a{n}", tuned))
    found = load(llama[0])
    plain = found.generate(PROMPT, temperature=0, max_tokens=10)
    names = [found.load_adapter(folder) for folder, _ in folders]
    for name, (_, theirs) in zip(names, folders):
        ids = found.encode(PROMPT)
        want = theirs.generate(input_ids=torch.tensor([ids]), max_new_tokens=10, do_sample=False)[0, len(ids) :].tolist()
        assert found.answers([PROMPT], temperature=0, max_tokens=10, adapter=name)[0][0].ids == want
    assert found.generate(PROMPT, temperature=0, max_tokens=10) == plain
    with pytest.raises(UsageError, match="no adapter"):
        found.generate(PROMPT, adapter="other")


FUSED = {
    "Phi3": {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]},
    "GPT2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "rank_pattern": {"c_fc": 3}},
}


@pytest.mark.parametrize("kind", sorted(FUSED))
def test_adapters_of_fused_matrices_both_ways(kind: str, tmp_path: Path) -> None:
    """What PEFT trained beside `qkv_proj`, `gate_up_proj` or `c_attn` gives PEFT's logits here, and goes back under those names."""
    peft = pytest.importorskip("peft")
    from tests.language.conftest import checkpoint

    from morphogen.adapt.lora import adapter_state, set_adapter
    from morphogen.formats.peft import write_peft
    from morphogen.language.adapters import fused, layout

    size = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 160} if kind == "GPT2" else {}
    base = checkpoint(tmp_path / "base", kind, "GPT2LMHeadModel" if kind == "GPT2" else "Phi3ForCausalLM", **size)
    tuned = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, **FUSED[kind]))
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.2)
    tuned.save_pretrained(tmp_path / "adapter")
    found = load(tmp_path / "base")
    found.load_adapter(tmp_path / "adapter")
    set_adapter(found.net, "adapter")
    ids = found.encode(PROMPT)
    with torch.inference_mode():
        want = tuned(torch.tensor([ids])).logits[0]
        got = torch.as_tensor(found.logits(ids))
    assert (want - got).abs().max() < 1e-4
    foreign = found.source.foreign
    assert foreign is not None
    write_peft(tmp_path / "again", fused(adapter_state(found.net), layout(foreign.table, found.net)), task="CAUSAL_LM")
    back = peft.PeftModel.from_pretrained(tuned.unload(), tmp_path / "again")
    with torch.inference_mode():
        assert (back(torch.tensor([ids])).logits[0] - want).abs().max() < 1e-4


def test_bare_body_gives_vectors_only(bert: tuple[Path, Any], tmp_path: Path) -> None:
    import shutil

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bert[0] / name, tmp_path / name)
    bert[1].bert.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert np.abs(found.embed(["the fox"]) - load(bert[0]).embed(["the fox"])).max() < 1e-6
    with pytest.raises(UsageError, match="no head"):
        found.logits([2, 3])
