"""What a table holds, and the checked reading of a stranger's config."""
from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from morphogen.errors import FormatError
from morphogen.nets.architecture import Architecture, Rotary

LIMITS = {"width": 65_536, "depth": 1_024, "heads": 4_096, "hidden": 1 << 20, "vocab": 4 << 20, "length": 1 << 28}


@dataclass(frozen=True)
class Name:
    """One tensor of theirs and the parameters of ours in it. `{i}` is the layer, `{e}` the expert.

    `ours`: several when theirs holds them one after another along its first axis (after `turned`, which transposes).
    """

    theirs: str
    ours: tuple[str, ...]
    turned: bool = False
    beside: str = ""
    "A parameter of ours that must be there too; with ! in front, must not."

    def applies(self, have: Container[str]) -> bool:
        """Whether a net with these parameters has this tensor."""
        bare = self.beside.removeprefix("!")
        return all(o.partition("[")[0] in have for o in self.ours) and (not bare or (bare in have) != self.beside.startswith("!"))


def same(ours: str, theirs: str, leaves: str, ends: str = "weight bias") -> list[Name]:
    """Names that differ by what stands in front only: every `leaf.end` of the two word lists."""
    return [Name(f"{theirs}{leaf}.{end}", (f"{ours}{leaf}.{end}",)) for leaf in leaves.split() for end in ends.split()]


def pairs(ours: str, theirs: str, leaves: dict[str, str], ends: str = "weight bias") -> list[Name]:
    """Names given as {theirs: ours}; several of ours are parted by blanks. Ends in `.weight` and `.bias`."""
    return [
        Name(f"{theirs}{a}.{end}", tuple(f"{ours}{leaf}.{end}" for leaf in b.split())) for a, b in leaves.items() for end in ends.split()
    ]


@dataclass(frozen=True)
class Table:
    """`role`: decoder, encoder or seq2seq. `cls`: the class a Hugging Face config names. `ignored`: tensors without use here."""

    cls: str
    role: str
    read: Callable[[Facts], Architecture]
    names: tuple[Name, ...]
    write: Callable[[Architecture], dict[str, Any]] | None = None
    "config.json of a model that was not read from one."
    mend: Callable[[Architecture], dict[str, Any]] | None = None
    "What is put into the config.json it was read from, when saving."
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq", "attn.masked_bias", "embeddings.position_ids")
    prefix: str = "model."
    "What Hugging Face puts in front of the body's names when there is a head; a bare body lacks it."
    extra: dict[str, Any] = field(default_factory=dict)


class Facts:
    """A config.json (a dict from a stranger) behind checks: whole numbers within limits, named in every complaint."""

    def __init__(self, values: dict[str, Any], where: object = "config.json") -> None:
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def fail(self, key: str, want: str) -> FormatError:
        shown = repr(self.values.get(key))[:60]
        return FormatError(f"'{key}' is {shown}, not {want}", where=self.where, remedy="the config is damaged or of another kind")

    def whole(self, key: str, most: int, default: int | None = None, least: int = 1) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.fail(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None, most: float = 1e12) -> float:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= abs(value) <= most:
            raise self.fail(key, "a number in reach")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return default if value is None else value

    def one_of(self, key: str, known: dict[str, str], default: str) -> str:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str) or value not in known:
            raise self.fail(key, "one of " + ", ".join(known))
        return known[value]

    def part(self, key: str) -> Facts:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.fail(key, "an object")
        return Facts(value or {}, f"{self.where}: {key}")

    def numbers(self, key: str, n: int) -> tuple[float, ...]:
        value = self.values.get(key)
        good = isinstance(value, list) and len(value) == n and all(isinstance(v, int | float) and abs(v) < 1e12 for v in value)
        if not good or value is None:
            raise self.fail(key, f"a list of {n} numbers")
        return tuple(float(v) for v in value)

    def layers(self, key: str, depth: int, word: str) -> tuple[int, ...] | None:
        """Layers whose entry in a list of words is `word`; None when there is no such list."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != depth or not all(isinstance(v, str) for v in value):
            raise self.fail(key, f"a list of {depth} words")
        return tuple(i for i, v in enumerate(value) if v == word)


ACTS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh", "relu": "relu", "gelu_python": "gelu"}


def decoder(f: Facts) -> dict[str, Any]:
    """The fields of an Architecture that nearly all decoders write the same way."""
    width, depth = f.whole("hidden_size", LIMITS["width"]), f.whole("num_hidden_layers", LIMITS["depth"])
    heads = f.whole("num_attention_heads", LIMITS["heads"])
    kv = f.whole("num_key_value_heads", LIMITS["heads"], heads)
    if "head_dim" not in f and width % heads:
        raise f.fail("num_attention_heads", f"a divisor of hidden_size {width}")
    if heads % kv:
        raise f.fail("num_key_value_heads", f"a divisor of the {heads} heads")
    head = f.whole("head_dim", LIMITS["width"], width // heads)
    if head % 2:
        raise f.fail("head_dim", "even")
    return {
        "width": width, "depth": depth, "heads": heads, "kv_heads": kv, "head_width": head,
        "hidden": f.whole("intermediate_size", LIMITS["hidden"]), "act": f.one_of("hidden_act", ACTS, "silu"),
        "eps": f.number("rms_norm_eps", 1e-6), "tied": f.flag("tie_word_embeddings", False), "head_norm": "",
        "rotary": rotary(f, head),
    }


def rotary(f: Facts, head: int, key: str = "", theta: float = 10000.0) -> Rotary:
    """Rotary positions from `rope_parameters` (of one kind of layer: `key`) or the older `rope_theta` and `rope_scaling`."""
    given = f.part("rope_parameters")
    if key and key in given:
        given = given.part(key)
    old = f.part("rope_scaling")
    scaling = given if given.values else old
    theta = given.number("rope_theta", f.number("rope_theta", theta))
    share = given.number("partial_rotary_factor", f.number("partial_rotary_factor", 1.0))
    kind = scaling.values.get("rope_type", scaling.values.get("type", "default"))
    original = scaling.whole("original_max_position_embeddings", LIMITS["length"], 0) or f.whole(
        "original_max_position_embeddings", LIMITS["length"], f.whole("max_position_embeddings", LIMITS["length"], 2048))
    base = {"theta": theta, "share": share, "factor": scaling.number("factor", 1.0), "original": original}
    match kind:
        case "default" | None:
            return Rotary(theta=theta, share=share)
        case "linear" | "dynamic":
            return Rotary(kind=kind, **base)
        case "llama3":
            return Rotary(kind=kind, low=scaling.number("low_freq_factor", 1.0), high=scaling.number("high_freq_factor", 4.0), **base)
        case "yarn":
            return _yarn(f, scaling, base)
        case "longrope" | "su":
            return _longrope(f, scaling, base, int(head * share) // 2)
    raise scaling.fail("rope_type", "one of default, linear, dynamic, llama3, yarn, longrope")


def _yarn(f: Facts, s: Facts, base: dict[str, Any]) -> Rotary:
    import math

    factor = s.number("factor", 0.0) or f.whole("max_position_embeddings", LIMITS["length"]) / base["original"]
    m, whole = s.number("mscale", 0.0), s.number("mscale_all_dim", 0.0)
    scale = lambda by: 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0
    attention = s.number("attention_factor", scale(m) / scale(whole) if m and whole else scale(1.0))
    return Rotary(kind="yarn", low=s.number("beta_slow", 1.0), high=s.number("beta_fast", 32.0), attention=attention,
                  truncate=s.flag("truncate", True), **{**base, "factor": factor})


def _longrope(f: Facts, s: Facts, base: dict[str, Any], pairs: int) -> Rotary:
    import math

    # the length ratio rules where both lengths are said, as the original implementation has it
    longest = f.whole("max_position_embeddings", LIMITS["length"], base["original"])
    factor = s.number("factor", 0.0) or longest / base["original"]
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(base["original"]))
    return Rotary(kind="longrope", short=s.numbers("short_factor", pairs), long=s.numbers("long_factor", pairs),
                  attention=s.number("attention_factor", usual), **base)


def expand(names: tuple[Name, ...], depth: int, experts: int = 0) -> Iterator[Name]:
    """Names with every layer and expert put in."""
    for name in names:
        layers = range(depth) if "{i}" in name.theirs else (0,)
        for i in layers:
            for e in range(experts) if "{e}" in name.theirs else (0,):
                put = lambda text, i=i, e=e: text.replace("{i}", str(i)).replace("{e}", str(e))
                yield Name(put(name.theirs), tuple(put(o) for o in name.ours), name.turned, put(name.beside))
