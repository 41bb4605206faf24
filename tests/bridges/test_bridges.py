"""Bridges: exact round trips, true densities, known values, and state that survives saving."""
import math

import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from morphogen.bridges import bridges, route
from morphogen.bridges.bins import Bins
from morphogen.bridges.bits import AnalogBits
from morphogen.bridges.one_hot import OneHot
from morphogen.bridges.serialise import Serialise
from morphogen.bridges.standardise import fit_normal, from_normal, to_normal
from morphogen.contracts import Given
from morphogen.errors import UsageError
from morphogen.sampling import draws
from morphogen.spaces import Array, Record, Tokens

KEYS = torch.arange(4000)
ROWS = Record((("word", Tokens(5, 1)), ("gap?", Tokens(2, 1)), ("gap", Array((1,))), ("price", Array((1,))), ("smooth", Array((1,)))))


def table(n=4000):
    keys = KEYS[:n]
    smooth = draws.normal(keys, "smooth").exp()
    gone = draws.uniform(keys, "gone") < 0.2
    price = torch.where(draws.uniform(keys, "spike") < 0.3, 9.99, draws.normal(keys, "price") * 5 + 40)
    return {"word": (draws.uniform(keys, "word") ** 2 * 5).long()[:, None], "gap?": gone.long()[:, None],
            "gap": torch.where(gone, 0.0, draws.normal(keys, "gap") - 3)[:, None], "price": price[:, None], "smooth": smooth[:, None]}


def reloaded(bridge, space):
    again = type(bridge)(space)
    again.load_state_dict(load(save({k: v.contiguous() for k, v in bridge.state_dict().items()})))
    assert again.target == bridge.target
    return again


# ------------------------------------------------------------------- numbers to normal scores
@settings(max_examples=40, deadline=None)
@hypothesis_given(st.lists(st.one_of(st.floats(-(2.0**99), 2.0**99, width=32), st.sampled_from([0.0, 1.0, 9.99])), min_size=2, max_size=80))
def test_normal_scores_are_finite_and_monotone(values):
    x = torch.tensor(values)
    z = to_normal(x, fit_normal(x))
    assert z.isfinite().all()
    order = x.argsort()
    assert (z[order].diff() >= -1e-5).all()
    assert from_normal(z, fit_normal(x)).isfinite().all()


def test_heavy_tails_become_normal_and_come_back():
    x = torch.tan(math.pi * (draws.uniform(KEYS, "cauchy") - 0.5))  # Cauchy: no mean, no variance
    knots = fit_normal(x)
    z = to_normal(x, knots)
    assert abs(float(z.mean())) < 0.02 and abs(float(z.std()) - 1) < 0.03
    assert abs(float((z.abs() < 1).float().mean()) - 0.683) < 0.02
    back = from_normal(z, knots)
    assert ((back - x).abs() <= 1e-4 * (1 + x.abs())).all()


def test_normal_draws_reproduce_spikes_exactly_and_at_their_rate():
    price = table()["price"][:, 0]
    knots = fit_normal(price)
    drawn = from_normal(draws.normal(draws.seeded(1, 20000), "z"), knots)
    assert abs(float((drawn == 9.99).float().mean()) - 0.3) < 0.015
    assert float(drawn.min()) >= float(price.min()) - 3 and abs(float(drawn[drawn != 9.99].mean()) - 40) < 0.3


def test_a_discrete_column_only_gives_its_own_values():
    x = (draws.uniform(KEYS, "d") * 7).floor()
    drawn = from_normal(draws.normal(draws.seeded(2, 5000), "z") * 2, fit_normal(x))
    assert set(drawn.tolist()) == set(range(7))


def test_continuous_values_are_not_verbatim_copies():
    x = draws.normal(KEYS[:500], "c")
    drawn = from_normal(draws.normal(draws.seeded(3, 500), "z"), fit_normal(x))
    assert torch.isin(drawn, x).float().mean() < 0.02


# ------------------------------------------------------------------- record -> vector
def test_one_hot_round_trip_given_and_state():
    x = table()
    bridge = OneHot(ROWS)
    bridge.fit(x)
    z, mask = bridge.encode(x)
    assert z.shape == (4000, 10) and mask is None and bridge.target == Array((10,))
    for again in (bridge, reloaded(bridge, ROWS)):
        back = again.decode(z, KEYS)
        assert torch.equal(back["word"], x["word"]) and torch.equal(back["gap?"], x["gap?"])
        assert all(torch.allclose(back[k], x[k], rtol=1e-3, atol=1e-4) for k in ("gap", "price", "smooth"))
        assert (back["price"][x["price"] == 9.99] == 9.99).all()
    assert bridge.volume(x) is None
    known = {k: torch.zeros(4000, 1, dtype=torch.bool) for k in x} | {"word": torch.ones(4000, 1, dtype=torch.bool)}
    given = bridge.given(Given(x, known))
    assert given.known[:, :5].all() and not given.known[:, 5:].any()
    assert torch.equal(given.x, z)
    assert z[:, :5].mean(0).abs().max() < 1e-5  # centred, so a rare word does not pull the mean


def test_nested_fields_are_refused_clearly():
    ragged = Record((("a", Array((1,))),), rows=None)
    for space in (Record((("picture", Array((3, 8, 8))),)), Record((("caption", Tokens(9, 20)),)), ragged, Tokens(3, 1)):
        for kind in (OneHot, Serialise):
            with pytest.raises(TypeError, match=r"picture|caption|ragged|Record"):
                kind(space)


# ------------------------------------------------------------------- record -> tokens
def test_serialise_round_trip_slots_and_state():
    x = table()
    bridge = Serialise(ROWS)
    bridge.fit(x)
    for again in (bridge, reloaded(bridge, ROWS)):
        z, _ = again.encode(x)
        low, high = torch.tensor(again.target.slots).T
        assert z.shape[1] == again.target.length == 8 and ((z >= low) & (z < high)).all()
        back = again.decode(z, KEYS)
        assert torch.equal(back["word"], x["word"])
        assert (back["price"][x["price"] == 9.99] == 9.99).all() and (back["gap"][x["gap?"] == 1] == 0).all()
        again_z = again.encode(back)[0]
        assert (again_z == z).float().mean() > 0.999  # a draw stays inside its place, but for rounding at its rim
        assert ((back["smooth"] - x["smooth"]).abs() / (0.05 + x["smooth"])).median() < 0.01


def test_serialise_volume_makes_a_true_density():
    """Under a histogram model over the tokens, the mean density of held-out normals equals the negative entropy."""
    space = Record((("v", Array((1,))),))
    train, test = ({"v": draws.normal(draws.seeded(s, 40000), "v")[:, None] * 3 + 1} for s in (1, 2))
    bridge = Serialise(space)
    bridge.fit(train)
    counts = torch.bincount(bridge.encode(train)[0][:, 0], minlength=64).float() + 0.1
    logp = (counts / counts.sum()).log()[bridge.encode(test)[0][:, 0]] - math.log(32)  # places: uniform
    entropy = 0.5 * math.log(2 * math.pi * math.e * 9)
    assert abs(float((logp + bridge.volume(test)).mean()) + entropy) < 0.03  # the two outermost bins are wide, so a little is lost there


def test_discrete_numbers_are_one_token_and_exact():
    x = {"v": ((draws.uniform(KEYS, "v") * 12).floor() / 4)[:, None]}
    bridge = Serialise(Record((("v", Array((1,))),)))
    bridge.fit(x)
    assert bridge.target == Tokens(12, 1, slots=((0, 12),))
    assert torch.equal(bridge.decode(bridge.encode(x)[0], KEYS)["v"], x["v"]) and (bridge.volume(x) == 0).all()


def test_serialise_given_knows_both_tokens_of_a_number():
    x = table()
    bridge = Serialise(ROWS)
    bridge.fit(x)
    known = {k: torch.full((4000, 1), k == "smooth") for k in x}
    assert bridge.given(Given(x, known)).known[0].tolist() == [False] * 6 + [True, True]


# ------------------------------------------------------------------- array -> tokens
def test_bins_take_the_datas_own_levels_in_place_order():
    x = torch.randint(0, 4, (50, 3, 2, 5), generator=torch.Generator().manual_seed(0)) / 4.0
    bridge = Bins(Array((3, 2, 5)))
    bridge.fit(x)
    for again in (bridge, reloaded(bridge, Array((3, 2, 5)))):
        assert again.target == Tokens(4, 30, grid=(2, 5, 3))
        z, _ = again.encode(x)
        assert torch.equal(again.decode(z, KEYS[:50]), x)
        assert z[0, :3].tolist() == (x[0, :, 0, 0] * 4).long().tolist()  # channels of one place are neighbours
    assert torch.allclose(bridge.volume(x), torch.full((50,), 30 * math.log(4)))


def test_bins_of_continuous_vectors_have_a_true_density():
    x = draws.normal(KEYS, "x", 0, (2,)) * torch.tensor([1.0, 100.0])
    bridge = Bins(Array((2,)))
    bridge.fit(x)
    z, _ = bridge.encode(x)
    back = bridge.decode(z, KEYS)
    assert torch.equal(bridge.encode(back)[0], z) and (back - x).abs().max() < 100 * 8 / 256
    assert not bridge.target.grid and bridge.target.length == 2
    width = (x.max(0).values - x.min(0).values) / 256
    assert torch.allclose(bridge.volume(x), -width.log().sum().expand(4000), atol=1e-3)
    known = bridge.given(Given(x, torch.tensor([True, False]).expand(4000, 2))).known
    assert known[0].tolist() == [True, False]


def test_bins_per_coordinate_levels_and_constants():
    x = torch.tensor([[0.0, 5.0], [1.0, 5.0], [3.0, 5.0]])
    bridge = Bins(Array((2,)))
    bridge.fit(x)
    assert bridge.target.slots == ((0, 3), (0, 1))
    assert torch.equal(bridge.decode(bridge.encode(x)[0], KEYS[:3]), x) and bridge.volume(x).isfinite().all()
    assert bridge.encode(torch.tensor([[99.0, 99.0]]))[0].tolist() == [[2, 0]]


def test_ragged_arrays_are_refused():
    with pytest.raises(TypeError, match="fixed shape"):
        Bins(Array((1, None)))


# ------------------------------------------------------------------- tokens -> array
def test_analog_bits_round_trip_noise_slots_and_end():
    space = Tokens(11, 6, grid=(2, 3))
    x = torch.arange(66).remainder(11).view(11, 6)
    bridge = AnalogBits(space)
    z, _ = bridge.encode(x)
    assert bridge.target == Array((4, 2, 3)) and z.shape == (11, 4, 2, 3) and set(z.unique().tolist()) == {-1, 1}
    noisy = z + 0.5 * draws.normal(KEYS[:11], "n", 0, (4, 2, 3)).clamp(-1.9, 1.9)
    assert torch.equal(bridge.decode(noisy, KEYS[:11]), x)
    assert int(bridge.decode(torch.ones(1, 4, 2, 3), KEYS[:1]).max()) == 10  # 15 is no id
    ended = AnalogBits(Tokens(4, 5, end=3))
    assert ended.decode(ended.encode(torch.tensor([[1, 3, 0, 2, 1]]))[0], KEYS[:1]).tolist() == [[1, 3, 3, 3, 3]]
    slotted = AnalogBits(Tokens(8, 2, slots=((0, 2), (2, 8))))
    assert slotted.decode(torch.ones(1, 3, 2), KEYS[:1]).tolist() == [[1, 7]]
    known = bridge.given(Given(x, x > 3)).known
    assert known.shape == z.shape and torch.equal(known[:, 0], known[:, 3]) and torch.equal(known[:, 0].flatten(1), x > 3)


# ------------------------------------------------------------------- routes
def test_routes():
    assert route(ROWS, (Record,)) == []
    assert isinstance(route(ROWS, (Array,))[0], OneHot) and isinstance(route(ROWS, (Tokens, Array))[0], Serialise)
    assert isinstance(route(Array((1, 8, 8)), (Tokens,))[0], Bins) and isinstance(route(Tokens(5, 3), (Array,))[0], AnalogBits)
    with pytest.raises(UsageError, match="models rows of fields, and nothing here turns strings of tokens"):
        route(Tokens(5, 3), (Record,))
    assert all(source in (Record, Array, Tokens) for source, _ in bridges())
    assert bridges()[Record, Array](ROWS).target == Array((10,))
