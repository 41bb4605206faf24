"""Neighbours: samples lie on segments between near rows of one label."""
import pytest
import torch

from morphogen.contracts import Batch, Given, HasLogProb, Request
from morphogen.errors import DataError, UsageError
from morphogen.families.neighbour import Neighbour, NeighbourConfig, NeighbourSampling
from morphogen.sampling import draws
from morphogen.spaces import Array, Tokens


def fitted(x, conditions=None, cond=None, **config) -> Neighbour:
    family = Neighbour(Array(tuple(x.shape[1:])), conditions or {}, NeighbourConfig(**config))
    family.fit([Batch(x, draws.seeded(1, len(x)), torch.ones(len(x)), cond=cond or {})])
    return family


def sample(family, n, cond=None, given=None, **sampling):
    *_, part = family.stream(Request(draws.seeded(9, n), cond or {}, given, sampling=NeighbourSampling(**sampling)))
    return part.x


def test_samples_lie_between_a_row_and_one_of_its_nearest():
    x = draws.normal(draws.seeded(0, 60), "x", 0, (3,))
    family = fitted(x, neighbours=2)
    out = sample(family, 200)
    near = torch.cdist(x, x).topk(3, largest=False).indices[:, 1:]
    ends = torch.stack([x[:, None].expand(-1, 2, -1), x[near]], 2).flatten(0, 1)  # (segments, 2, 3)
    a, way = ends[:, 0], ends[:, 1] - ends[:, 0]
    t = (((out[:, None] - a) * way).sum(-1) / way.square().sum(-1)).clamp(0, 1)
    off = (out[:, None] - a - t[..., None] * way).norm(dim=-1).min(1).values
    assert off.max() < 1e-5 and not isinstance(family, HasLogProb) and family.keeps_rows


def test_blend_zero_gives_training_rows():
    x = draws.normal(draws.seeded(0, 30), "x", 0, (2,))
    out = sample(fitted(x), 50, blend=0.0)
    assert (out[:, None] == x).all(-1).any(1).all() and len(out.unique(dim=0)) > 15


def test_labels_and_known_values_are_respected():
    x = draws.normal(draws.seeded(0, 200), "x", 0, (2,)) + 30 * (torch.arange(200) % 2)[:, None]
    family = fitted(x, {"kind": Tokens(3, 1)}, {"kind": (torch.arange(200) % 2)[:, None]})
    assert (sample(family, 50, {"kind": torch.ones(50, 1, dtype=torch.int64)}) > 15).all()
    free = sample(family, 200)
    assert ((free > 20) | (free < 10)).all()  # never across labels
    given = Given(torch.tensor([[30.0, 0]]).expand(20, 2), torch.tensor([[True, False]]).expand(20, 2))
    out = sample(family, 20, given=given)
    assert (out[:, 0] == 30).all() and (out[:, 1] > 20).all()


def test_lonely_rows_and_single_rows_stand_alone():
    x = torch.tensor([[1.0, 2.0], [50, 50], [51, 51]])
    family = fitted(x, {"kind": Tokens(2, 1)}, {"kind": torch.tensor([[0], [1], [1]])})
    assert torch.equal(sample(family, 3, {"kind": torch.zeros(3, 1, dtype=torch.int64)}), x[:1].expand(3, 2))
    assert torch.equal(sample(fitted(x[:1]), 2), x[:1].expand(2, 2))


def test_rows_do_not_depend_on_their_neighbours_and_saving_changes_nothing():
    family = fitted(draws.normal(draws.seeded(0, 40), "x", 0, (1, 2, 2)))
    whole = sample(family, 6)
    *_, one = family.stream(Request(draws.seeded(9, 6)[2:3]))
    assert torch.allclose(one.x[0], whole[2], atol=1e-6)
    fresh = Neighbour(Array((1, 2, 2)), {}, NeighbourConfig())
    fresh.load_state_dict(family.state_dict())
    assert torch.equal(sample(fresh, 6), whole)


def test_refusals():
    with pytest.raises(DataError, match="no rows"):
        Neighbour(Array((2,)), {}, NeighbourConfig()).fit([])
    with pytest.raises(UsageError, match="too few"):
        Neighbour(Array((2,)), {}, NeighbourConfig(neighbours=0))
    with pytest.raises(UsageError, match="no rows yet"):
        sample(Neighbour(Array((2,)), {}, NeighbourConfig()), 1)
