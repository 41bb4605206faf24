"""What is said, and saying nothing in each of the ways that exist."""
import pytest
import torch

from morphogen.errors import UsageError
from morphogen.nets.conditioner import Conditioner
from morphogen.spaces import Array, Record, Tokens

SPACES = {"class": Tokens(5, 1), "size": Array((2,)), "a.caption": Tokens(20, 6, end=0)}


def values(n: int = 4) -> dict[str, torch.Tensor]:
    text = torch.randint(1, 20, (n, 6))
    text[:, 4:] = 0
    return {"class": torch.randint(0, 5, (n, 1)), "size": torch.randn(n, 2), "a.caption": text}


def test_shapes_and_no_conditions() -> None:
    torch.manual_seed(0)
    conditioner = Conditioner(SPACES, 32)
    cond = conditioner(values(), 4)
    assert conditioner.width == 32 and conditioner.has_sequence
    assert cond is not None and cond.vector is not None and cond.sequence is not None and cond.mask is not None
    assert cond.vector.shape == (4, 32) and cond.sequence.shape == (4, 7, 32)
    assert cond.mask.tolist() == [[True] * 6 + [False]] * 4  # the learned first, four words, one end
    none = Conditioner({}, 32)
    assert none.width == 0 and not none.has_sequence and none({}, 4) is None


def test_a_dropped_row_says_what_nothing_says() -> None:
    torch.manual_seed(0)
    conditioner = Conditioner(SPACES, 32).eval()
    x = values()
    dropped, nothing, all_said = conditioner(x, 4, torch.tensor([0.05, 0.5, 0.9, 0.0])), conditioner({}, 4), conditioner(x, 4)
    torch.testing.assert_close(dropped.vector[[0, 3]], nothing.vector[[0, 3]])
    torch.testing.assert_close(dropped.vector[[1, 2]], all_said.vector[[1, 2]])
    assert dropped.mask[0].tolist() == [True] + [False] * 6
    torch.testing.assert_close(dropped.sequence[0, :1], nothing.sequence[0])
    assert conditioner(x, 4, torch.full((4,), 0.5), rate=1.0).mask[:, 1:].any().item() is False


def test_a_missing_value_in_one_row_says_nothing() -> None:
    torch.manual_seed(0)
    conditioner, x = Conditioner({"class": Tokens(5, 1), "size": Array((2,))}, 16), values()
    x = {"class": torch.tensor([[2], [-1]]), "size": torch.tensor([[0.1, 0.2], [float("nan"), 1.0]])}
    torch.testing.assert_close(conditioner(x, 2).vector[1], conditioner({}, 1).vector[0])
    conditioner(x, 2).vector.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in conditioner.parameters())


def test_text_padding_changes_nothing_and_every_parameter_is_reached() -> None:
    torch.manual_seed(0)
    conditioner, x = Conditioner(SPACES, 32), values()
    short = dict(x, **{"a.caption": x["a.caption"][:, :5]})
    torch.testing.assert_close(conditioner(x, 4).vector, conditioner(short, 4).vector, rtol=1e-5, atol=1e-5)
    cond = conditioner(x, 4, torch.tensor([0.0, 1.0, 1.0, 1.0]))
    (cond.vector.square().sum() + (cond.sequence * cond.mask[..., None]).square().sum()).backward()
    assert [n for n, p in conditioner.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(UsageError, match="condition 'x' cannot be a record"):
        Conditioner({"x": Record((("a", Tokens(2, 1)),))}, 16)
