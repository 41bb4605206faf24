"""What goes on around a draw: streams, threads, penalties, drafts, limits and stretched positions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.language.conftest import checkpoint, tokenizer

from morphogen.adapt.lora import LoRAConfig, adapt, adapter_state
from morphogen.engine import loop
from morphogen.errors import UsageError
from morphogen.formats.peft import write_peft
from morphogen.language import load

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def model(llama: tuple[Path, Any]) -> Any:
    return load(llama[0])


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with 64 more rows than its tokenizer has ids."""
    folder = tmp_path_factory.mktemp("wide")
    checkpoint(folder / "model", vocab_size=tokenizer(folder / "tokenizer") + 64)
    return load(folder / "model")


def elsewhere(work: Callable[[], Any]) -> list[Any]:
    """What a thread of its own gives within five seconds."""
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(work()), daemon=True)
    thread.start()
    thread.join(5)
    return out


def test_a_streams_ids_are_the_answers(model: Any) -> None:
    ids = [7, 8, 9] * 10
    for most in (47, 50):  # the end lies within a draft at 50
        options = {"temperature": 0, "lookup": True, "max_tokens": most}
        pieces = [*model.stream(ids, **options)]
        assert [i for piece in pieces for i in piece.ids] == model.answers([ids], **options)[0][0].ids


def test_a_stream_that_waits_keeps_nobody_waiting_and_may_change_threads(model: Any) -> None:
    options = {"temperature": 0.9, "seed": 3, "max_tokens": 6}
    whole = model.generate(PROMPT, **options)
    stream = model.stream(PROMPT, **options)
    first = elsewhere(lambda: next(stream))
    assert elsewhere(lambda: model.generate(PROMPT, **options)) == [whole]
    assert "".join(piece.text for piece in [*first, *stream]) == whole


def test_numbers_in_another_thread_are_without_the_adapter(llama: tuple[Path, Any], tmp_path: Path) -> None:
    found = load(llama[0])
    net = adapt(load(llama[0]).net, LoRAConfig(rank=2, targets=("o_proj",)))
    state = adapter_state(net).renamed(lambda path: f"model.{path}")
    for _, b in state.pairs.values():
        b.fill_(0.5)
    write_peft(tmp_path / "adapter", state)
    name, ids, plain = found.load_adapter(tmp_path / "adapter"), found.encode(PROMPT), found.logits(found.encode(PROMPT))
    with found._engine(1).adapting(name):  # as a step of a draw does
        here, there = found.logits(ids), elsewhere(lambda: found.logits(ids))
    assert (there[0] == plain).all() and (here != plain).any()


def test_rows_beyond_the_tokenizer_are_neither_drafted_nor_looked_back_at(model: Any, wide: Any) -> None:
    options = {"temperature": 2.0, "seed": 1, "max_tokens": 24}
    assert model.generate(PROMPT, draft=wide, **options) == model.generate(PROMPT, **options)
    beyond = [5, wide.tokenizer.size + 3]
    assert wide.answers([beyond], repetition=1.2, **options)[0][0].ids
    with pytest.raises(UsageError, match="draft model"):
        model.infill("a", "b", draft="small")


def test_the_contexts_end_cuts_no_answer_in_two(model: Any) -> None:
    pytest.importorskip("llguidance")
    import json

    schema = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 3}
    for seed in range(4):
        found = model.answers([[7] * (model.context - 40)], schema=schema, seed=seed, max_tokens=200)[0][0]
        assert found.reason == "stop" and len(json.loads(found.text)) >= 3


def test_beams_stop_at_stop_strings_and_refuse_what_they_would_ignore(model: Any, t5: tuple[Path, Any]) -> None:
    whole = model.answers([PROMPT], beams=3, max_tokens=12)[0][0]
    mark = whole.text[3:5]
    cut = model.answers([PROMPT], beams=3, max_tokens=12, stop=mark)[0][0]
    assert cut.text == whole.text[: whole.text.index(mark)] and cut.reason == "stop" and cut.stats["tokens"] == len(cut.ids)
    for wish in ({"logit_bias": {5: -100.0}}, {"repetition": 1.2}, {"logprobs": 1}, {"best_of": 4}):
        with pytest.raises(UsageError, match="beams take no"):
            model.answers([PROMPT], beams=3, max_tokens=2, **wish)
    with pytest.raises(UsageError, match="for decoders"):
        load(t5[0]).generate("hello", beams=2, max_tokens=2)


def test_a_stop_string_found_at_the_very_end_is_the_reason(model: Any) -> None:
    drawn = ((seed, model.generate(PROMPT, temperature=0.9, seed=seed, max_tokens=12)) for seed in range(100))
    seed, text = next((seed, text) for seed, text in drawn if len(text) > 4 and text[-1] not in text[:-1] and text[-1].isalpha())
    stop = [text[-2:] + "more", text[-1]]  # the first is open until there is no more text
    found = model.answers([PROMPT], temperature=0.9, seed=seed, max_tokens=12, stop=stop)[0][0]
    assert found.text == text[:-1] and found.reason == "stop"


def test_odd_calls_are_refused(model: Any, bert: tuple[Path, Any]) -> None:
    with pytest.raises(UsageError, match="list of prompts"):
        model.answers(PROMPT)
    with pytest.raises(UsageError, match="slots from 1"):
        model.answers([PROMPT], slots=-1)
    with pytest.raises(UsageError, match="0 slots for 1"):
        next(loop.Engine(model.net, slots=0).run([loop.Sequence_([1], lambda *_: 0, lambda _: True, 1)]))
    encoder = load(bert[0])
    for work in (lambda: encoder.generate("the [MASK] " + "fox " * 250), lambda: encoder.score("fox " * 250)):
        with pytest.raises(UsageError, match="160 positions"):
            work()


def test_a_long_text_is_scored_in_parts(model: Any) -> None:
    text, rows = "the quick brown fox jumps over the lazy dog " * 8, []
    ids = model.encode(text)
    want = -torch.from_numpy(model.logits(ids)[:-1]).double().log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).mean()
    hook = model.net.register_forward_hook(lambda _, __, logits: rows.append(logits.shape[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("morphogen.language.model.CHUNK", 16)
        assert model.score(text) == pytest.approx(float(want), abs=1e-5)
    hook.remove()
    assert max(rows) <= 16 and sum(rows) == len(ids) - 1


STRETCHED = {
    "dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
                          "max_position_embeddings": 16}),
    "longrope": ("Phi3", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8,
                                              "long_factor": [2.0 + 0.3 * i for i in range(8)], "original_max_position_embeddings": 16},
                          "original_max_position_embeddings": 16, "max_position_embeddings": 128}),
}


@pytest.mark.parametrize("kind", STRETCHED)
def test_texts_past_the_first_length_are_turned_as_transformers_does(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, values = STRETCHED[kind]
    theirs = checkpoint(tmp_path, name, f"{name}ForCausalLM", **values)
    monkeypatch.setattr(loop, "CHUNK", 8)
    found = load(tmp_path)
    found.context = 160
    prompts = [[7, 8, 9, 10, 11, 12] * 5, [20, 21, 22], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]
    want = []
    for ids in prompts:
        one = theirs.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, attention_mask=torch.ones(1, len(ids)))
        want.append(one[0, len(ids) :].tolist())
    for lookup in (False, True):
        assert [row[0].ids for row in found.answers(prompts, temperature=0, max_tokens=16, lookup=lookup)] == want
