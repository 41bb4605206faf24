"""torch.compile for those who ask: the same run up to rounding, or one line that says why not."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.small import trainer, whole_state, write

from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.training import generated
from morphogen.training.optim import TrainConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write(folder)
    return folder


def test_what_cannot_be_is_said_in_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case, dropout, words in ((("pictures", "gan"), 0.0, "the loss of gan is not one graph"),
                                 (("rows", "diffusion"), 0.1, "does not go with drop-out")):
        with pytest.raises(UsageError, match=words) as caught:
            trainer(data, case, dropout=dropout, compile=True)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="choose one of them"):
        trainer(data, ("rows", "diffusion"), compile=True, activation_checkpointing=True)
    family, config = trainer(data, ("rows", "diffusion")).family, TrainConfig(compile=True)
    with pytest.raises(UsageError, match="one process, not 2"):
        generated.check(family, config, 2)

    def broken(*args: object, **more: object) -> None:
        raise RuntimeError("No working C++ compiler found\nin many lines")

    generated._missing.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", broken)
        with pytest.raises(UsageError, match=r"does not work here \(No working C\+\+ compiler found in many lines\).*g\+\+"):
            generated.check(family, config)
    generated._missing.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("case", [("pictures", "diffusion"), ("lines", "autoregressive"), ("rows", "diffusion"), ("pictures", "vae")])
def test_generated_code_learns_the_same(data: Path, tmp_path: Path, case: tuple[str, str]) -> None:
    """After five steps in two lanes weights agree to 1e-4 of their size, and a checkpoint of one goes on as the other."""
    plain, other = (trainer(data, case, lanes=2, compile=on) for on in (False, True))
    for run in (plain, other):
        for _ in range(5):
            run.step()
    for name, value in whole_state(plain).items():
        if name.startswith("model/"):
            torch.testing.assert_close(whole_state(other)[name], value, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    other.save(tmp_path)
    eager = trainer(data, case, lanes=2)
    warnings = eager.load(tmp_path)
    assert warnings is not None and "compiled True (now False)" in warnings[0]
    assert all(torch.equal(value, whole_state(eager)[name]) for name, value in whole_state(other).items() if name.startswith("model/"))
    eager.step()


@pytest.mark.slow
@pytest.mark.parametrize("case", [("pictures", "diffusion"), ("lines", "autoregressive")])
def test_generated_code_in_bfloat16(data: Path, case: tuple[str, str]) -> None:
    """Near what is worked out operation by operation: both round, at different places."""
    plain, other = (trainer(data, case, lanes=2, compile=on, precision="bfloat16") for on in (False, True))
    for _ in range(3):
        one, two = plain.step(), other.step()
        assert all(two[k] == pytest.approx(one[k], rel=0.03, abs=0.01) for k in one), (one, two)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 8, 8)])
def test_generated_code_draws_the_same(shape: tuple[int, ...]) -> None:
    """A hash in generated code is the same hash: its products overflow on purpose, which a compiler of indices must not undo."""
    torch.compiler.reset()
    keys = draws.seeded(3, 8)
    assert torch.equal(torch.compile(lambda k: draws.bits(k, "noise", 2, shape), fullgraph=True)(keys), draws.bits(keys, "noise", 2, shape))
