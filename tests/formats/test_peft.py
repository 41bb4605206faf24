"""PEFT's folders both ways, with peft and transformers as peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from morphogen.adapt.lora import LoRAConfig, adapt, adapter_state, load_adapter
from morphogen.adapt.merge import merge
from morphogen.contracts import Phase
from morphogen.errors import FormatError
from morphogen.formats.peft import Adapter, decoder_to_hf, read_peft, write_peft

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.filterwarnings("ignore")]

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 40}


class Foreign(nn.Module):
    """A Hugging Face model as a family: the same linear layers under the same names."""

    phases = (Phase(),)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.hf = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hf(x).logits


def ours(path: str) -> str:
    return "hf." + path


def theirs(path: str) -> str:
    return path.removeprefix("hf.")


def model(kind: str = "llama", tied: bool = False) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=tied)).eval()


IDS = torch.arange(12).view(2, 6)


def made_by_peft(folder: Path, kind: str = "llama", **config: Any) -> torch.Tensor:
    """Logits of an adapter that PEFT made, shook and wrote."""
    options = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **config}
    wrapped = peft.get_peft_model(model(kind), peft.LoraConfig(**options))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                p.add_(0.1 * torch.randn_like(p))
    wrapped.save_pretrained(str(folder))
    with torch.no_grad():
        return wrapped.eval()(IDS).logits


@pytest.mark.parametrize("config", [
    {}, {"use_rslora": True}, {"rank_pattern": {"layers.1.self_attn.q_proj": 6}, "alpha_pattern": {"down_proj": 11}},
    {"modules_to_save": ["lm_head"]}, {"target_modules": "all-linear"}, {"init_lora_weights": "gaussian", "lora_dropout": 0.5},
])
def test_an_adapter_of_peft_gives_the_same_here(tmp_path: Path, config: dict[str, Any]) -> None:
    kind = "qwen" if "use_rslora" in config else "llama"
    expected = made_by_peft(tmp_path, kind, **config)
    plain = model(kind)
    family = load_adapter(Foreign(plain), read_peft(tmp_path, ours))
    with torch.no_grad():
        base = model(kind)(IDS).logits
        got = family.eval()(IDS)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        assert (got - base).abs().max() > 1e-3
        merge(family, lambda f: f(IDS))
        torch.testing.assert_close(family(IDS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_an_adapter_of_ours_loads_in_peft(tmp_path: Path, kind: str) -> None:
    family = Foreign(model(kind))
    adapt(family, LoRAConfig(rank=3, alpha=5, targets=("q_proj", "v_proj", "up_proj"), whole=("lm_head",), rslora=kind == "qwen",
                             ranks={"layers.0.self_attn.v_proj": 5}, alphas={"up_proj": 2.5}))
    torch.manual_seed(2)
    with torch.no_grad():
        for p in family.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
        expected = family.eval()(IDS)
    write_peft(tmp_path, adapter_state(family), theirs, task="CAUSAL_LM")
    loaded = peft.PeftModel.from_pretrained(model(kind), str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, expected, atol=1e-5, rtol=1e-5)
    again = read_peft(tmp_path, ours)
    state = adapter_state(family)
    assert set(again.pairs) == set(state.pairs) and again.alpha == state.alpha and again.rslora == state.rslora
    assert all(torch.equal(a, state.pairs[k][0]) and torch.equal(b, state.pairs[k][1]) for k, (a, b) in again.pairs.items())


def test_convolutions_both_ways(tmp_path: Path) -> None:
    class Net(nn.Module):
        phases = (Phase(),)

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).relu())

    x = torch.randn(2, 3, 9, 9)
    family = adapt(Net(), LoRAConfig(rank=2, targets=("a", "b")))
    with torch.no_grad():
        for p in family.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
        expected = family(x)
    write_peft(tmp_path / "ours", adapter_state(family))
    loaded = peft.PeftModel.from_pretrained(Net(), str(tmp_path / "ours")).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), expected, atol=1e-5, rtol=1e-5)
        loaded.save_pretrained(str(tmp_path / "theirs"))
        torch.testing.assert_close(load_adapter(Net(), read_peft(tmp_path / "theirs"))(x), expected, atol=1e-5, rtol=1e-5)


def test_names_of_our_own_decoder() -> None:
    assert decoder_to_hf("net.layers.0.self_attn.q_proj") == "model.layers.0.self_attn.q_proj"
    assert decoder_to_hf("conditioner.parts.c0") == "conditioner.parts.c0"


def written(folder: Path, **config: Any) -> Path:
    write_peft(folder, Adapter({"a.q": (torch.ones(2, 4), torch.ones(3, 2))}, {"a.q": 4.0}))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.mark.parametrize(("config", "words"), [
    ({"use_dora": True}, "DoRA is not supported"), ({"peft_type": "LOHA"}, "kind LOHA"), ({"bias": "all"}, "trained biases"),
    ({"peft_type": "IA3"}, "kind IA3"), ({"layer_replication": [[0, 1]]}, "replicated layers"), ({"new_thing": 3}, "the option new_thing"),
    ({"init_lora_weights": "pissa_niter_4"}, "changed base weights"), ({"r": 5}, "has rank 2, the config says 5"),
    ({"alpha_pattern": {"(q|k)": 3}}, "is an expression"), ({"r": "8"}, "r = \"8\" is not valid"),
    ({"lora_bias": True}, "biases in lora_B"), ({"lora_alpha": None}, "lora_alpha = null is not valid"),
    ({"lora_alpha": float("nan")}, "lora_alpha = NaN is not valid"), ({"alpha_pattern": {"q": "x"}}, "q = \"x\" is not valid"),
    ({"lora_dropout": "x"}, "lora_dropout = \"x\" is not valid"),
])
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words.replace("(", r"\(")) as error:
        read_peft(written(tmp_path, **config))
    assert "\n" not in error.value.line()


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no adapter_config.json"):
        read_peft(tmp_path)
    folder = written(tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.a.q.lora_"

    def changed(**more: torch.Tensor | None) -> Path:
        new = {**tensors, **{k.replace("__", "."): v for k, v in more.items()}}
        save_file({k: v for k, v in new.items() if v is not None}, folder / "adapter_model.safetensors")
        return folder

    for more, words in (
        ({name + "B.weight": None}, "has no lora_B"), ({name + "A.weight": torch.ones(3, 4)}, "do not belong together"),
        ({name + "A.weight": torch.full((2, 4), torch.nan)}, "not finite"), ({name + "magnitude_vector": torch.ones(3)}, "DoRA"),
        ({"base_model.model.e.lora_embedding_A": torch.ones(2, 4)}, "embeddings"),
        ({"base_model.model.x.weight": torch.ones(2)}, "belongs to no LoRA"),
    ):
        with pytest.raises(FormatError, match=words):
            read_peft(changed(**more))
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(FormatError, match="pickle"):
        read_peft(folder)
