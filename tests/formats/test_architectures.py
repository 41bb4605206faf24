"""Every architecture against transformers: logits in full and with a cache, folders both ways."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest
import torch
from tests.formats.tiny import DECODERS, ENCODERS, SEQ2SEQ, make

from morphogen.errors import FormatError
from morphogen.formats.hf import open_folder, save_folder
from morphogen.formats.shards import Shards, write_shards
from morphogen.nets.attention import KVCache

pytestmark = pytest.mark.filterwarnings("ignore")


def reopened(path: Path):
    """The folder as transformers loads it."""
    import transformers

    config = json.loads((path / "config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            getattr(transformers, config["architectures"][0]).from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
        )


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_parity(name: str, tmp_path: Path) -> None:
    theirs = make(name, tmp_path / "a")
    foreign = open_folder(tmp_path / "a", Shards)
    net = foreign.net()
    ids = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs(ids).logits
        got = net(ids)
        assert (got - want).abs().max() <= 1e-5
        short = name not in ("llama-dynamic", "phi3-long")  # these change their mind about earlier keys as a text grows
        cache, parts = KVCache(64), [(0, 7), (7, 8), (8, 23), (23, 24), (24, 40)]
        if short:
            cached = torch.cat([net(ids[:, a:b], cache=cache) for a, b in parts], 1)
            assert (cached - want).abs().max() <= 1e-5
    save_folder(tmp_path / "b", foreign, net, write_shards)
    again = open_folder(tmp_path / "b", Shards).net()
    with torch.no_grad():
        assert torch.equal(again(ids), got)
        assert (reopened(tmp_path / "b")(ids).logits - want).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_parity(name: str, tmp_path: Path) -> None:
    theirs = make(name, tmp_path / "a")
    foreign = open_folder(tmp_path / "a", Shards)
    net = foreign.net()
    ids = torch.randint(5, 97, (2, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 25:] = False
    with torch.no_grad():
        pad = torch.where(mask, ids, theirs.config.pad_token_id or 0)
        want = theirs(pad, attention_mask=mask.long()).logits
        assert (net(pad, mask=mask) - want)[mask].abs().max() <= 1e-5
    save_folder(tmp_path / "b", foreign, net, write_shards)
    with torch.no_grad():
        assert (reopened(tmp_path / "b")(pad, attention_mask=mask.long()).logits - want)[mask].abs().max() <= 1e-5


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_seq2seq_parity(name: str, tmp_path: Path) -> None:
    theirs = make(name, tmp_path / "a")
    foreign = open_folder(tmp_path / "a", Shards)
    net = foreign.net()
    generator = torch.Generator().manual_seed(1)
    source, ids = torch.randint(3, 97, (2, 30), generator=generator), torch.randint(3, 97, (2, 20), generator=generator)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1, 21:] = False
    with torch.no_grad():
        want = theirs(input_ids=source, attention_mask=mask.long(), decoder_input_ids=ids).logits
        cond = net.read(source, mask)
        assert (net(ids, cond=cond) - want).abs().max() <= 1e-5
        cache = KVCache(64)
        cached = torch.cat([net(ids[:, a:b], cond=cond, cache=cache) for a, b in [(0, 1), (1, 2), (2, 11), (11, 20)]], 1)
        assert (cached - want).abs().max() <= 1e-5
    save_folder(tmp_path / "b", foreign, net, write_shards)
    with torch.no_grad():
        again = reopened(tmp_path / "b")
        assert (again(input_ids=source, attention_mask=mask.long(), decoder_input_ids=ids).logits - want).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "auto_evil"}, "not supported"),
        ({"num_attention_heads": 5}, "divisor"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": 900}, "claims"),
        ({"vocab_size": 3}, "shape"),
        ({"hidden_act": "__class__"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "evil"}}, "rope_type"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": 2}, "no place"),
        ({"num_hidden_layers": 4}, "claims"),
    ],
)
def test_lying_config(change: dict, says: str, tmp_path: Path) -> None:
    make("llama2", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FormatError, match=says) as caught:
        open_folder(tmp_path, Shards).net()
    assert "\n" not in caught.value.line()


ODD = [None, 0, -1, 1, 3, 7, 10**6, 10**12, 2**63, 1e308, -0.5, True, False, "", "x", "../../etc", [], [1], ["full_attention"], {},
       {"rope_type": "yarn"}, [[[]]], "gelu", 65536, 1024]  # fmt: skip


def _damaged(folder: Path, n: int, seed: int) -> None:
    """Half the copies are damaged as bytes, half have odd values in one to three places."""
    from benchmarks.mutation import mutants

    path = folder / "config.json"
    good = path.read_bytes()
    rng = random.Random(seed)
    copies = [*mutants(good, n // 2, seed)]
    for _ in range(n - n // 2):
        values = json.loads(good)
        for key in rng.sample(sorted(values), rng.choice([1, 1, 2, 3])):
            values[key] = rng.choice(ODD)
        copies.append(json.dumps(values).encode())
    for data in copies:
        path.write_bytes(data)
        try:
            open_folder(folder, Shards).net()
        except FormatError as error:
            assert "\n" not in error.line()
    path.write_bytes(good)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "qwen3-moe", "bert", "t5"])
def test_damaged_configs(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    _damaged(tmp_path, 40, 1)


@pytest.mark.slow
def test_ten_thousand_damaged_configs(tmp_path: Path) -> None:
    for i, name in enumerate(["llama3", "gemma3", "qwen3-moe", "bert", "t5"]):
        make(name, tmp_path / name)
        _damaged(tmp_path / name, 2000, i)
