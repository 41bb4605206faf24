import pytest
import torch
from torch import nn

from morphogen.contracts import Batch, Given, Partial, Request
from morphogen.errors import UsageError
from morphogen.families.common import Standard, counted, need_array, paste, stepwise
from morphogen.spaces import Array, Tokens


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.frozen = nn.Linear(1, 1), nn.Dropout()
        self.frozen.eval()
        self.seen, self.closed = [], False

    @stepwise
    def stream(self, request):
        try:
            for i in range(3):
                self.seen.append((torch.is_grad_enabled(), self.layer.training))
                yield Partial(self.layer(torch.ones(1, 1)), done=i == 2)
        finally:
            self.closed = True


def test_steps_run_without_gradients_in_evaluation_mode_and_nothing_leaks():
    toy = Toy()
    for part in toy.stream(Request(torch.arange(1))):
        assert torch.is_grad_enabled() and toy.training and toy.layer.training and not toy.frozen.training
        assert not part.x.requires_grad
    assert toy.seen == [(False, False)] * 3


def test_closing_early_closes_the_stream_itself():
    toy = Toy()
    stream = toy.stream(Request(torch.arange(1)))
    next(stream)
    stream.close()
    assert toy.closed and torch.is_grad_enabled() and len(toy.seen) == 1


def test_an_error_leaves_the_mode_as_it_was():
    class Broken(Toy):
        @stepwise
        def stream(self, request):
            yield Partial(torch.zeros(1))
            raise UsageError("no")

    toy = Broken()
    with pytest.raises(UsageError):
        list(toy.stream(Request(torch.arange(1))))
    assert toy.layer.training and torch.is_grad_enabled()


def test_known_and_padding_do_not_count():
    x, known = torch.randn(2, 3, 4), torch.zeros(2, 1, 4, dtype=torch.bool)
    known[:, :, 0] = True
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    count = counted(Batch(x, torch.arange(2), torch.ones(2), mask=mask, given=Given(x, known)))
    assert count[:, 0].tolist() == [[0, 1, 1, 1], [0, 1, 0, 0]]
    assert torch.equal(paste(x + 1, Given(x, known))[..., 0], x[..., 0])


def test_standard_has_mean_zero_and_deviation_one_over_what_counts():
    torch.manual_seed(0)
    x = torch.randn(500, 2, 3, 3) * torch.tensor([5.0, 0.1]).view(1, 2, 1, 1) + 3
    x[400:] = 1e6
    weight = torch.ones(500)
    weight[400:] = 0
    standard = Standard(Array((2, 3, 3)))
    assert torch.equal(standard(x), x)
    standard.calibrate(Batch(x, torch.arange(500), weight))
    z = standard(x)[:400]
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    assert (z.std((0, 2, 3)) - 1).abs().max() < 1e-2
    assert torch.allclose(standard.inverse(z), x[:400], atol=1e-4)


def test_a_constant_channel_is_left_alone():
    standard = Standard(Array((1,)))
    standard.calibrate(Batch(torch.full((8, 1), 4.0), torch.arange(8), torch.ones(8)))
    assert standard(torch.full((2, 1), 4.0)).abs().max() == 0


def test_only_arrays():
    with pytest.raises(UsageError, match="flow models arrays, not a"):
        need_array(Tokens(5, 3), "flow")
