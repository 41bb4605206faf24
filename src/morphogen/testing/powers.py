"""What a codec promises with the powers it has, and what its grammar does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from morphogen.contracts import Augments, Checks, Derives, Explains, Faults, HasRunning, Identifies, Item, Packs, Pairs
from morphogen.spaces import Tokens
from morphogen.testing.promise import must
from morphogen.testing.samples import check_given, check_sample, same
from morphogen.testing.trees import pick

BYTES = (b"", b"a line\nand\r\nmore", "é".encode()[:1], bytes(range(256)))


def check_powers(codec: Any, items: Sequence[Item]) -> None:
    """What is derived, checked, mended, packed, added, explained and coded of real items, as far as the codec can."""
    some = list(items[:20])
    raws, space, encode = [item.raw for item in some], codec.space, codec.encode
    if isinstance(codec, Derives):
        check_derived(codec, raws)
    if isinstance(codec, Checks):
        for item in some:
            must(all(isinstance(ok, bool | np.bool_) for ok in codec.checks(item.raw, item.cond).values()), "checks: rule -> kept or not")
            codec.checks(item.raw, {})
    if isinstance(codec, Faults):
        for raw in raws:
            for attempt in (0, 1, 7):
                given = codec.faults(raw, attempt)
                if given is not None:
                    check_given(given, encode(raw), space, "faults")
    if isinstance(codec, Identifies):
        must([codec.identity(r) for r in raws] == [codec.identity(r) for r in raws], "identity is a function of the item")
    if isinstance(codec, Packs):
        stacked = codec.unpack(codec.pack(some), np.arange(len(some))[::-1])
        for i, raw in enumerate(reversed(raws)):
            check_sample(pick(stacked, i), space)
            same(pick(stacked, i), encode(raw), "unpack must give, in the order asked for, what encode makes", 1e-6)
    if isinstance(codec, Augments):
        for item in codec.augmented(some)[:20]:
            check_sample(encode(item.raw), space)
    if isinstance(codec, Pairs):
        for item in (item for item in some if item.given is not None):
            pair = codec.pair(item.given, item.raw)
            check_sample(pair.x, space)
            check_given(pair, pair.x, space, "pair")
    if isinstance(codec, Explains):
        for raw in raws:
            told = codec.explain(raw, _ones(encode(raw)))
            must(all(isinstance(name, str) and np.isfinite(part) for name, part in told), "explain: (name, finite number) a part")
    if isinstance(codec, HasRunning):
        for data in BYTES:
            ids = codec.tokens_of(data)
            must(ids is None or codec.bytes_of(ids) == data, "bytes_of must undo tokens_of, or tokens_of answer None")
        must(codec.seam in codec.alike and len(set(codec.alike)) == len(codec.alike), "alike: all ids of a running text, each once")


def check_derived(codec: Derives, raws: Sequence[Any]) -> None:
    """Each name has a line in words and, for each item, a value that depends on nothing else."""
    names = list(codec.derived)
    must(names and all(isinstance(line, str) and line for line in codec.derived.values()), "derived: name -> one line in words")
    found = codec.derive(raws, names)
    must(len(found) == len(raws) and all(set(one) == set(names) for one in found), "derive: one dict an item, every name in it")
    must(found == codec.derive(raws, names), "derive is a function of the item")
    must(found[1:3] == codec.derive(raws[1:3], names), "derived values of an item must not depend on the others")
    must(all(codec.derive([], [name]) == [] for name in names[:1]), "derive takes no items")
    for value in (v for one in found for v in one.values()):
        must(value is None or isinstance(value, str | bool) or np.isfinite(value), "derived values are words or finite numbers")


def check_grammar(codec: Any, items: Sequence[Item], walks: int = 20) -> None:
    """Every item is a legal string; any legal walk ends within the length and decodes; states are values."""
    space, grammar = codec.space, codec.grammar()
    must(isinstance(space, Tokens) and space.streams == 1, "a grammar speaks of one stream of tokens")
    for item in items[:50]:
        state = grammar.start()
        for i, token in enumerate(codec.encode(item.raw).tolist()):
            allowed = _allowed(grammar, state, space.length - i, space.vocab)
            must(allowed[token], f"the grammar refuses token {token} at {i} of a real item: {item.raw!r:.200}")
            if token == space.end:
                break
            state = grammar.advance(state, token)
    rng = np.random.default_rng(0)
    for _ in range(walks):
        state, out = grammar.start(), []
        for left in range(space.length, 0, -1):
            allowed = _allowed(grammar, state, left, space.vocab)
            token = int(rng.choice(np.flatnonzero(allowed)))
            out.append(token)
            if token == space.end:
                break
            state, before = grammar.advance(state, token), state
            must((_allowed(grammar, before, left, space.vocab) == allowed).all(), "advance must leave the state it was given alone")
        must(space.end is None or out[-1] == space.end, "whatever a grammar allows must come to its end within the length")
        check_sample(np.array(out, np.int64), space)
        codec.decode(np.array(out, np.int64))


def _allowed(grammar: Any, state: Any, left: int, vocab: int) -> np.ndarray:
    allowed = np.asarray(grammar.allowed(state, left))
    must(allowed.shape == (vocab,) and allowed.dtype == bool, "allowed is one bool a token")
    must(allowed.any(), f"a dead end with {left} positions left")
    return allowed


def _ones(x: Any) -> Any:
    return {k: _ones(v) for k, v in x.items()} if isinstance(x, dict) else np.ones(np.shape(x))
