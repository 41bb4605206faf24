"""Deliberately broken codecs, families, bridges and metrics: each is caught, by a sentence that names the promise it breaks."""
from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from morphogen.codecs.table import TableCodec
from morphogen.contracts import Claim, Given, Item, LogProb
from morphogen.evaluation.evidence import Evidence
from morphogen.evaluation.metric import Metric
from morphogen.registry import resolve
from morphogen.sampling import draws
from morphogen.spaces import Tokens
from morphogen.testing import (
    BrokenPromise,
    Case,
    bridge_cases,
    check_bridge,
    check_codec,
    check_condition,
    check_family,
    check_metric,
    family_cases,
)
from morphogen.testing.metrics import evidence
from morphogen.testing.powers import check_grammar
from morphogen.testing.promise import untouched
from morphogen.testing.samples import check_sample, plain, same
from morphogen.testing.trees import close, equal, scattered

Break = Callable[[Any], None]


def caught(check: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BrokenPromise) as error:
        check()
    assert sentence in str(error.value) and "\n" not in str(error.value), str(error.value)


def around(method: Callable[..., Any], change: Callable[..., Any]) -> Callable[..., Any]:
    """`change(method, *arguments)` in place of a method."""
    return lambda *arguments, **named: change(method, *arguments, **named)


# ---------------------------------------------------------------- families
def case(family: str, name: str) -> Case:
    return next(c for c in family_cases(resolve("family", family)) if c.name == name)


def drawn(change: Callable[[Any, Any], Any]) -> Break:
    """The last Partial's x changed by (x, request)."""

    def apply(family: Any) -> None:
        stream = family.stream

        def changed(request: Any) -> Any:
            for part in stream(request):
                yield dataclasses.replace(part, x=change(part.x, request))

        family.stream = changed

    return apply


def lost(change: Callable[..., Any]) -> Break:
    """The loss changed by (loss, batch)."""

    def apply(family: Any) -> None:
        forward = family.forward
        family.forward = lambda batch, phase="main": change(forward(batch, phase), batch)

    return apply


def scaled(loss: Any, factor: Any) -> Any:
    return dataclasses.replace(loss, total=loss.total * factor)


def no_grad_left(family: Any) -> None:
    stream = family.stream

    def changed(request: Any) -> Any:
        for part in stream(request):
            torch.set_grad_enabled(False)
            yield part

    family.stream = changed


def never_done(family: Any) -> None:
    stream = family.stream
    family.stream = lambda request: (dataclasses.replace(part, done=False) for part in stream(request))


def unused(family: Any) -> None:
    family.extra = nn.Parameter(torch.zeros(3))


def counting(family: Any) -> None:
    family.register_buffer("drawn", torch.zeros(1))
    stream = family.stream

    def changed(request: Any) -> Any:
        family.drawn += 1
        return stream(request)

    family.stream = changed


def forgetful(family: Any) -> None:
    rows = family.rows
    del family.rows
    family.register_buffer("rows", rows, persistent=False)


def writes_into(loss: Any, batch: Any) -> Any:
    batch.x.mul_(0.5)
    return loss


def blurred(family: Any) -> None:
    family.log_prob = lambda batch: LogProb(batch.x.flatten(1).sum(1) - batch.x.mean(), "exact")


def unsettled(family: Any) -> None:
    stream = family.stream

    def changed(request: Any) -> Any:
        for part in stream(request):
            yield part if part.done else dataclasses.replace(part, x=(part.x + 1) % 2)

    family.stream = changed


def loads_nothing(family: Any) -> None:
    family.load_state_dict = lambda state: None


def blind(family: Any) -> None:
    forward = family.forward
    family.forward = lambda batch, phase="main": forward(dataclasses.replace(batch, given=None), phase)


def from_the_first(family: Any) -> None:
    family.log_prob = lambda batch: LogProb(batch.x.sum(1) - batch.x[0].sum(), "exact")


def unplain(family: Any) -> None:
    family.config = dataclasses.replace(family.config, net=dataclasses.asdict(family.config.net))


FAMILIES: dict[str, tuple[str, str, Break, str]] = {
    "draws from torch's global state": ("kde", "vector-none", drawn(lambda x, r: x + torch.randn_like(x)), "torch's global random state"),
    "draws what is nowhere in the Space": ("kde", "vector-none", drawn(lambda x, r: x[:, :3]), "must have the Space's shape"),
    "draws NaN": ("kde", "vector-none", drawn(lambda x, r: x / 0), "must hold no NaN"),
    "mixes rows in drawing": ("kde", "vector-none", drawn(lambda x, r: x - x.mean(0)), "must not depend on the batch"),
    "depends on the place": ("kde", "vector-none", drawn(lambda x, r: x + torch.arange(len(x))[:, None]), "must not depend on its place"),
    "ignores the keys": ("kde", "vector-none", drawn(lambda x, r: torch.ones_like(x)), "different keys must give different draws"),
    "changes known values": ("kde", "vector-none", drawn(lambda x, r: x + (r.given is not None)), "known values must come back exactly"),
    "leaves gradients off": ("kde", "vector-none", no_grad_left, "must leave the caller's grad mode alone"),
    "never says done": ("kde", "vector-none", never_done, "the last Partial is done"),
    "counts its draws in a buffer": ("kde", "vector-none", counting, "drawing must change no weight and no buffer"),
    "keeps what it learned out of buffers": ("kde", "vector-none", forgetful, "load_state_dict must restore the draws"),
    "log_prob mixes rows": ("kde", "vector-none", blurred, "log_prob must not mix rows"),
    "log_prob depends on the first row": ("kde", "vector-none", from_the_first, "log_prob must not mix rows"),
    "changes what has settled": ("ngram", "text-none", unsettled, "what has settled must not change"),
    "cuts rows short in a small batch": ("ngram", "text-none", drawn(lambda x, r: x if len(x) > 6 else x[:, :3]),
                                         "must not depend on the batch it is drawn in"),
    "loads nothing of what it learned": ("flow", "vector-none", loads_nothing, "load_state_dict must restore the draws"),
    "learns what is known": ("flow", "vector-none", blind, "known values must not count"),
    "a mean for the log": ("flow", "vector-none", lost(lambda loss, b: dataclasses.replace(
        loss, parts={"mean": loss.total.detach() / len(b.key)})), "parts and stats of a loss must add"),
    "a graph for the log": ("flow", "vector-none", lost(lambda loss, b: dataclasses.replace(loss, parts={"loss": loss.total})), "detached"),
    "a config that cannot be saved": ("flow", "vector-none", unplain, "the resolved config must survive being saved"),
    "takes a mean": ("flow", "vector-none", lost(lambda loss, b: scaled(loss, 1 / len(b.key))), "rows of weight 0 must leave the loss"),
    "counts rows of weight 0": ("flow", "vector-none", lost(lambda loss, b: dataclasses.replace(loss, weight=torch.tensor(12.0))),
                                "rows of weight 0 must not count"),
    "a loss of NaN": ("flow", "vector-none", lost(lambda loss, b: scaled(loss, float("nan"))), "the loss must be finite"),
    "a loss that rolls dice": ("flow", "vector-none", lost(lambda loss, b: scaled(loss, torch.rand(()))), "torch's global random state"),
    "writes into the batch": ("flow", "vector-none", lost(writes_into), "must not change its batch"),
    "a parameter nothing reaches": ("flow", "vector-none", unused, "none reaches extra"),
    "a loss without gradients": ("flow", "vector-none", lost(lambda loss, b: scaled(loss, 0.0).__class__(loss.total.detach(), loss.weight)),
                                 "must have gradients"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_broken_family_is_caught(name: str) -> None:
    kind, where, apply, sentence = FAMILIES[name]
    good = case(kind, where)

    def make() -> Any:
        family = good.make()
        apply(family)
        return family

    try:
        caught(lambda: check_family(make, good.batch), sentence)
    finally:
        torch.set_grad_enabled(True)


# ---------------------------------------------------------------- bridges
def encodes(change: Callable[[Any], Any]) -> Break:
    return lambda bridge: setattr(bridge, "encode", around(bridge.encode, lambda f, x, mask=None: (change(f(x, mask)[0]), None)))


def decodes(change: Callable[[Any], Any]) -> Break:
    return lambda bridge: setattr(bridge, "decode", around(bridge.decode, lambda f, z, keys: change(f(z, keys))))


def spoils(f: Callable[..., Any], x: Any, mask: Any = None) -> Any:
    out = f(x, mask)
    x["size"].zero_()
    return out


def in_hiding(bridge: Any) -> None:
    bridge.shift = 0.0
    fit, encode, decode = bridge.fit, bridge.encode, bridge.decode

    def fitted(x: Any, mask: Any) -> None:
        fit(x, mask)
        bridge.shift = 1.0

    bridge.fit, bridge.encode = fitted, lambda x, mask=None: (encode(x, mask)[0] + bridge.shift, None)
    bridge.decode = lambda z, keys: decode(z - bridge.shift, keys)


def decodes_in_hiding(bridge: Any) -> None:
    bridge.shift = 0.0
    fit, decode = bridge.fit, bridge.decode

    def fitted(x: Any, mask: Any) -> None:
        fit(x, mask)
        bridge.shift = 1e-5

    bridge.fit, bridge.decode = fitted, lambda z, keys: {**decode(z, keys), "size": decode(z, keys)["size"] + bridge.shift}


BRIDGES: dict[str, tuple[Break, str]] = {
    "takes its measure from the first row": (encodes(lambda z: z - z[:1]), "encode must not mix rows"),
    "decodes by an attribute": (decodes_in_hiding, "load_state_dict must restore decode"),
    "changes the batch in fit": (lambda b: setattr(b, "fit", around(b.fit, spoils)), "fit must not change the batch"),
    "decodes by dice": (decodes(lambda x: {**x, "size": torch.rand_like(x["size"])}), "decode must be a function of (z, keys)"),
    "encodes NaN": (encodes(lambda z: z / 0), "must hold no NaN"),
    "encodes across rows": (encodes(lambda z: z - z.mean(0)), "encode must not mix rows"),
    "encodes into another shape": (encodes(lambda z: z[:, :1]), "must have the Space's shape"),
    "decodes something else": (decodes(lambda x: {**x, "size": x["size"] + 1}), "encode must undo decode"),
    "decodes another field": (decodes(lambda x: {"size": x["size"]}), "must have the Space's fields"),
    "changes the batch": (lambda b: setattr(b, "encode", around(b.encode, spoils)), "must not change the batch"),
    "keeps what it fitted in an attribute": (in_hiding, "load_state_dict must restore encode"),
    "a volume of another shape": (lambda b: setattr(b, "volume", lambda x: torch.zeros(2)), "volume is one finite number a row"),
    "knows more than it was told": (
        lambda b: setattr(b, "given", around(b.given, lambda f, g: Given(f(g).x, torch.ones_like(f(g).known)))), "given must know nothing"),
    "parts that do not add up": (
        lambda b: setattr(b, "parts", around(b.parts, lambda f, each: {k: 2 * v for k, v in f(each).items()})), "parts add up"),
}


@pytest.mark.parametrize("name", BRIDGES)
def test_a_broken_bridge_is_caught(name: str) -> None:
    apply, sentence = BRIDGES[name]
    good = bridge_cases(resolve("bridge", "one_hot"))[0]

    def make() -> Any:
        bridge = good.make()
        apply(bridge)
        return bridge

    caught(lambda: check_bridge(make, good.batch.x), sentence)


# ---------------------------------------------------------------- codecs
ROWS = [Item({"size": float(i % 7), "word": "ab"[i % 2]}, {}, str(i), f"row {i}") for i in range(40)]


class Broken:
    """A table codec with one thing changed; what is not named here is the codec's own."""

    Config, name = TableCodec.Config, "table"
    claims = staticmethod(TableCodec.claims)
    changed: dict[str, Callable[..., Any]] = {}

    def __init__(self) -> None:
        self.inner = TableCodec()

    def __getattribute__(self, name: str) -> Any:
        if name in ("inner", "changed", "claims", "Config", "name") or name.startswith("__"):
            return object.__getattribute__(self, name)
        found = getattr(self.inner, name)
        return around(found, self.changed[name]) if name in self.changed else found


def forgets(f: Callable[..., Any], raw: Any) -> Any:
    raw["size"] = 1.0
    return f(raw)


class Remembering:
    """Encodes an item by what came before it."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, f: Callable[..., Any], raw: Any) -> Any:
        self.seen += 1
        return {**f(raw), "size": np.array([self.seen], np.float32)}


def lucky(f: Callable[..., Any], items: Any) -> None:
    f(items)
    f.__self__.luck = np.random.default_rng().random()  # type: ignore[attr-defined]


def luck_told(f: Callable[..., Any]) -> Any:
    return {**f(), "luck": f.__self__.luck}  # type: ignore[attr-defined]


def luck_kept(f: Callable[..., Any], state: Any) -> None:
    f(state)
    f.__self__.luck = state["luck"]  # type: ignore[attr-defined]


CODECS: dict[str, tuple[dict[str, Callable[..., Any]], str]] = {
    "fits by luck": ({"fit": lucky, "load": luck_kept, "state": luck_told}, "fit must be a function of the items"),
    "known that is no bool": ({"given": lambda f, raw: Given(f(raw).x, {k: v * 1.0 for k, v in f(raw).known.items()})}, "known is bool"),
    "known of another shape": ({"given": lambda f, raw: Given(f(raw).x, {k: np.ones(3, bool) for k in f(raw).x})}, "layout of a sample"),
    "features by the first": ({"features": lambda f, raws: f(raws) - f(raws[:1])}, "must not depend on the others"),
    "a preview of nothing": ({"preview": lambda f, raws: {}}, "a codec must do what its protocol says"),
    "encodes another type": ({"encode": lambda f, raw: {k: v.astype(float) for k, v in f(raw).items()}}, "Array samples are float32"),
    "encodes NaN": ({"encode": lambda f, raw: {**f(raw), "size": np.array([np.nan], np.float32)}}, "Array samples are finite"),
    "leaves a field out": ({"encode": lambda f, raw: {"size": f(raw)["size"]}}, "a Record has its fields in order"),
    "cannot take an item": ({"encode": lambda f, raw: f({})}, "encode must take every item that was read"),
    "changes the item": ({"encode": forgets}, "encode must not change the item"),
    "does not settle": ({"decode": lambda f, x: {**f(x), "size": min(f(x)["size"] + 1, 6)}}, "settle after one round"),
    "state that is no JSON": ({"state": lambda f: {**f(), "more": float("nan")}}, "state must be plain JSON"),
    "state that forgets": ({"load": lambda f, state: None}, "load(state()) must restore the Space"),
    "unknown unknowns": ({"given": lambda f, raw: Given(f(raw).x, {})}, "known has every field"),
    "previews too little": ({"preview": lambda f, raws: {**f(raws), "rows": []}}, "preview shows each item"),
    "features of NaN": ({"features": lambda f, raws: f(raws) / 0}, "features are finite"),
    "features by company": ({"features": lambda f, raws: f(raws) - f(raws).mean(0)}, "must not depend on the others"),
    "writes nothing": ({"write": lambda f, raws, out, meta: [out]}, "write returns the files it wrote"),
    "writes fewer": ({"write": lambda f, raws, out, meta: f(raws[:2], out, meta[:2])}, "read must find what write wrote"),
    "an item of no size": ({"size_of": lambda f, raw: (0, "")}, "size_of says how many units"),
    "rolls dice": ({"size_of": lambda f, raw: (np.random.rand() + 1, "column")}, "numpy's global random"),
}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_broken_codec_is_caught(name: str, tmp_path: Path) -> None:
    changed, sentence = CODECS[name]
    kind = type("Kind", (Broken,), {"changed": changed})
    caught(lambda: check_codec(kind, [dataclasses.replace(i, raw=dict(i.raw)) for i in ROWS], tmp_path), sentence)


def test_a_codec_that_remembers_or_claims_too_much_is_caught(tmp_path: Path) -> None:
    kind = type("Kind", (Broken,), {"changed": {"encode": Remembering()}})
    caught(lambda: check_codec(kind, ROWS, tmp_path), "load(state()) must restore encode")
    for claims, sentence in ((lambda listing: Claim(2.0), "from 0 to 1"), (lambda listing: listing.files[0], "without raising")):
        caught(lambda claims=claims: check_codec(type("Kind", (Broken,), {"claims": staticmethod(claims)}), ROWS, tmp_path), sentence)


class Unordered(TableCodec):
    def unpack(self, packed: Any, ids: Any) -> Any:
        return super().unpack(packed, np.sort(ids))


class Withheld(TableCodec):
    def read(self, listing: Any) -> Any:
        yield from super().hold(listing)

    def hold(self, listing: Any) -> Any:
        return list(super().hold(listing))[1:]


def test_a_codec_that_unpacks_or_holds_something_else_is_caught(tmp_path: Path) -> None:
    caught(lambda: check_codec(Unordered, ROWS, tmp_path), "unpack must give")
    (tmp_path / "rows.csv").write_text("size,word\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(40)))
    caught(lambda: check_codec(Withheld, ROWS, tmp_path, tmp_path / "rows.csv"), "hold must find what read yields")


def test_torch_is_known_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("a_codec_of_theirs")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kind = type("Kind", (Broken,), {"changed": {}, "__module__": module.__name__})
    check_codec(kind, ROWS, tmp_path)
    for name, value in (("nn", nn), ("Tensor", torch.Tensor), ("cat", torch.nn.functional.relu)):
        monkeypatch.setattr(module, name, value, raising=False)
        caught(lambda name=name: check_codec(kind, ROWS, tmp_path / name), "torch-free")
        monkeypatch.delattr(module, name)


class Endless:
    """A grammar that never lets a string end."""

    def start(self) -> int:
        return 0

    def allowed(self, state: int, left: int) -> np.ndarray:
        return np.array([True, True, False])

    def advance(self, state: int, token: int) -> int:
        return state


def test_a_grammar_without_an_end_is_caught() -> None:
    codec = SimpleNamespace(space=Tokens(3, 6, end=2), grammar=Endless, decode=lambda x: "")
    caught(lambda: check_grammar(codec, []), "must come to its end")


def test_samples_are_held_against_all_of_their_space() -> None:
    for x, space, sentence in (
        (np.array([0, 9]), Tokens(12, 2, slots=((0, 3), (3, 6))), "slots"),
        (np.array([1, 2, 1]), Tokens(3, 4, end=2), "nothing but padding follows the end"),
        (np.array([[1], [1]]), Tokens(3, 2), "one axis"),
    ):
        caught(lambda x=x, space=space: check_sample(x, space), sentence)
    check_sample(np.array([1, 2, 2]), Tokens(3, 4, end=2))
    check_sample(np.zeros(0, np.int64), Tokens(3, 4, end=2))
    same(np.array([200.0]), np.array([201.0]), "near", 1e-2)
    caught(lambda: same(np.array([200]), np.array([201]), "other ids", 1e-2), "other ids")


@dataclasses.dataclass
class Sheet:
    values: np.ndarray


def test_a_change_in_the_middle_of_a_long_array_is_seen() -> None:
    a, b = Sheet(np.zeros(5000)), Sheet(np.zeros(5000))
    assert plain(a) == plain(b)
    b.values[2500] = 1
    assert plain(a) != plain(b)


def test_numbers_that_are_none_equal_only_each_other() -> None:
    nan, inf = torch.tensor([float("nan")]), torch.tensor([float("inf")])
    assert equal(nan, nan.clone()) and equal(inf, inf.clone())
    assert not equal(nan, torch.zeros(1)) and not equal(inf, torch.full((1,), torch.finfo().max))
    close(torch.zeros(2, 0), torch.zeros(2, 0), "nothing is near nothing")


def test_random_states_are_watched_to_the_last_number_and_left_alone() -> None:
    np.random.seed(0)
    np.random.randn()  # numpy draws normals in pairs and keeps one

    def normal() -> None:
        with untouched("it"):
            np.random.randn()

    caught(normal, "numpy's global random state")
    before = torch.get_rng_state()
    case("kde", "vector-none").make()
    assert torch.equal(torch.get_rng_state(), before), "cases that are made leave the caller's state alone"


def test_known_fields_of_any_shape() -> None:
    x = {"picture": torch.zeros(8, 1, 4, 4), "number": torch.zeros(8, 1)}
    known = scattered(x, draws.seeded(0, 8))
    assert all(known[k].shape == v.shape for k, v in x.items())
    rows = known["picture"].flatten(1)
    assert (rows.all(1) | ~rows.any(1)).all() and rows.any() and not rows.all()


def test_a_broken_condition_is_caught() -> None:
    label = resolve("condition", "label")

    def make() -> Any:
        codec = label()
        codec.draw = lambda uniforms: ["never seen"] * len(uniforms)
        return codec

    caught(lambda: check_condition(make, ["a", "b"]), "what a condition draws it must encode")

    def dicing() -> Any:
        codec = label()
        codec.draw = lambda uniforms: ["a"] * len(uniforms) if np.random.rand() < 2 else []
        return codec

    caught(lambda: check_condition(dicing, ["a", "b"]), "a condition must leave numpy's global random state alone")


# ---------------------------------------------------------------- metrics
def figure(value: float = 0.5, **more: Any) -> list[Metric]:
    return [Metric(**{"name": "mine", "value": value, "n": 3, "line": "what it says.", **more})]


def greedy(what: Evidence) -> list[Metric]:
    what.train[0].raw.clear() if isinstance(what.train[0].raw, dict) else None
    return figure()


def noise_lover(what: Evidence) -> list[Metric]:
    gap = float(np.abs(what.features("generated").mean(0) - what.features("held-out").mean(0)).sum())
    return figure(gap, low=gap - 1e-6, high=gap + 1e-6, better="higher")


METRICS: dict[str, tuple[Callable[[Evidence], Any], str]] = {
    "NaN": (lambda e: figure(float("nan")), "must be finite"),
    "outside its interval": (lambda e: figure(low=0.6, high=0.7), "must lie within its interval"),
    "of nothing": (lambda e: figure(n=0), "how many items it rests on"),
    "without words": (lambda e: figure(line=""), "what the number means"),
    "the same name twice": (lambda e: figure() + figure(), "a name of its own"),
    "a bare number": (lambda e: 0.5, "a metric must"),
    "dice": (lambda e: figure(float(np.random.default_rng().random())), "must be a function of the evidence"),
    "prefers noise": (noise_lover, "must not prefer noise"),
    "changes the evidence": (greedy, "must not change the evidence"),
    "nothing anywhere": (lambda e: [], "must apply somewhere"),
    "fails on few": (lambda e: figure() if len(e.generated) > 5 else figure(1 / 0), "only two items"),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_broken_metric_is_caught(name: str) -> None:
    metric, sentence = METRICS[name]
    caught(lambda: check_metric(metric), sentence)


def test_good_evidence_differs_from_noise() -> None:
    for kind in ("rows", "words"):
        good, noise = evidence(kind), evidence(kind, noise=1.0)
        assert json.dumps([repr(r) for r in good.generated]) != json.dumps([repr(r) for r in noise.generated])
