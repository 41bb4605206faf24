import torch
from torch import nn

from morphogen.contracts import Cond, Given, Request
from morphogen.sampling.guidance import Guided, both, guided


class Echo(nn.Module):
    """x + its condition + how much is known: every input shows in the output."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x, *, time=None, cond=None, given=None, mask=None, cache=None):
        self.rows.append(len(x))
        return x + cond.vector + (0 if given is None else given.known.float())


class Sampling:
    def __init__(self, guidance):
        self.guidance = guidance


def conditioner(cond, n):
    return Cond(cond["label"].float()) if "label" in cond else Cond(torch.zeros(n, 1))


def request(weight):
    return Request(torch.arange(3), cond={"label": torch.tensor([[1], [2], [3]])}, sampling=Sampling(weight))


def test_the_formula_is_exact():
    x = torch.randn(3, 1)
    net, cond = guided(Echo(), conditioner, request(2.5))
    assert torch.allclose(net(x, cond=cond), x + 2.5 * torch.tensor([[1.0], [2.0], [3.0]]))


def test_known_values_reach_both_halves():
    x, known = torch.randn(3, 1), torch.tensor([[True], [False], [True]])
    net, cond = guided(Echo(), conditioner, request(3.0))
    assert torch.allclose(net(x, cond=cond, given=Given(x, known)), x + 3 * torch.tensor([[1.0], [2.0], [3.0]]) + known.float())


def test_weight_one_and_no_conditions_are_off():
    echo = Echo()
    assert guided(echo, conditioner, request(1.0))[0] is echo
    assert guided(echo, lambda cond, n: None, request(4.0)) == (echo, None)


def test_outside_the_interval_nothing_is_doubled():
    echo, x = Echo(), torch.randn(3, 1)
    net, cond = guided(echo, conditioner, request(2.0), (0.3, 0.6))
    plain = net(x, time=torch.full((3,), 0.9), cond=cond)
    assert torch.equal(plain, x + cond.vector) and echo.rows == [3]
    assert torch.allclose(net(x, time=torch.full((3,), 0.5), cond=cond), x + 2 * cond.vector) and echo.rows == [3, 6]


def test_rows_outside_the_interval_stay_as_they_are():
    x = torch.randn(3, 1)
    net, cond = guided(Echo(), conditioner, request(2.0), (0.3, 0.6))
    mixed = net(x, time=torch.tensor([0.5, 0.9, 0.1]), cond=cond)
    assert torch.allclose(mixed, x + cond.vector * torch.tensor([[2.0], [1.0], [1.0]]))


def test_what_only_one_side_says_is_not_lost():
    vector, map_ = torch.ones(2, 4), torch.ones(2, 1, 3)
    for two in (both(Cond(vector, aligned=map_), Cond()), both(Cond(), Cond(vector, aligned=map_))):
        assert two.vector.shape == (4, 4) and two.vector.sum() == 8
        assert two.aligned.shape == (4, 1, 3) and two.aligned.sum() == 6
    halves = both(Cond(sequence=torch.ones(2, 3, 4, dtype=torch.float16)), Cond())
    assert halves.vector is None and halves.sequence.dtype == torch.float16 and halves.mask.sum(1).tolist() == [3, 3, 0, 0]


def test_sequences_of_unequal_length_are_padded():
    a = Cond(torch.ones(2, 4), torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    b = Cond(torch.zeros(2, 4), torch.ones(2, 1, 4), torch.ones(2, 1, dtype=torch.bool))
    two = both(a, b)
    assert two.vector.shape == (4, 4) and two.sequence.shape == (4, 3, 4)
    assert two.mask.tolist() == [[True] * 3] * 2 + [[True, False, False]] * 2
    nothing = both(a, Cond(torch.zeros(2, 4)))
    assert nothing.mask[2:].sum() == 0


def test_guided_is_a_net():
    net = Guided(Echo(), Cond(torch.zeros(3, 1)), 2.0)
    assert net(torch.zeros(3, 1), cond=Cond(torch.ones(3, 1))).tolist() == [[2.0]] * 3
