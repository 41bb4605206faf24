"""Every answer keeps to its schema, regex or grammar, whoever writes it; what cannot be kept to is refused by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny

from morphogen.errors import ResourceError, UsageError
from morphogen.sampling.limits import check_lark, check_regex, checked_schema, plain_classes
from morphogen.sampling.structured import Constraint, constraint_maker

pytest.importorskip("llguidance")
TINY = Tiny()
PERSON = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "age", "tags"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
        "ok": {"type": ["boolean", "null"]},
    },
}
TREE = {
    "$ref": "#/$defs/t",
    "$defs": {
        "t": {
            "type": "object",
            "additionalProperties": False,
            "required": ["v"],
            "properties": {
                "v": {"type": "integer", "multipleOf": 3, "minimum": -9, "maximum": 99},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 2},
            },
        }
    },
}
EITHER = {"anyOf": [{"const": {"a": 1}}, {"type": "string", "pattern": "^x[yz]{1,3}$"}, {"type": "string", "format": "date"}]}


def person(x: Any) -> bool:
    return (
        isinstance(x, dict)
        and set(x) <= {"name", "age", "tags", "ok"}
        and {"name", "age", "tags"} <= set(x)
        and 1 <= len(x["name"]) <= 12
        and type(x["age"]) is int
        and 0 <= x["age"] <= 150
        and 1 <= len(x["tags"]) <= 3
        and set(x["tags"]) <= {"red", "green"}
        and x.get("ok") in (None, True, False)
    )


def tree(x: Any) -> bool:
    return (
        set(x) <= {"v", "kids"}
        and type(x["v"]) is int
        and x["v"] % 3 == 0
        and -9 <= x["v"] <= 99
        and len(x.get("kids", [])) <= 2
        and all(map(tree, x.get("kids", [])))
    )


def either(x: Any) -> bool:
    return x == {"a": 1} or (isinstance(x, str) and bool(re.fullmatch(r"x[yz]{1,3}|\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", x)))


def balanced(text: str) -> bool:
    while (less := text.replace("()", "").replace("[]", "")) != text:
        text = less
    return text == ""


TASKS: dict[str, tuple[dict[str, Any], Callable[[str], Any]]] = {
    "person": ({"schema": PERSON}, lambda s: person(json.loads(s))),
    "tree": ({"schema": json.dumps(TREE)}, lambda s: tree(json.loads(s))),
    "either": ({"schema": EITHER}, lambda s: either(json.loads(s))),
    "regex": ({"regex": r"(?:[a-c]{2,4}|\d+\.\d{2})(-é)?"}, lambda s: re.fullmatch(r"(?:[a-c]{2,4}|\d+\.\d{2})(-é)?", s)),
    "anchored": ({"regex": "^ab|cd$"}, lambda s: re.fullmatch("ab|cd", s)),
    "lark": ({"grammar": 'start: "(" start ")" | "[" start "]" | "(" ")" start? | "[]"'}, balanced),
    "gbnf": (
        {"grammar": 'root ::= item ("," item){0,3}\nitem ::= "yes" | "no" | [0-9]+ "%"'},
        lambda s: re.fullmatch(r"((yes|no|\d+%)(,|$)){1,4}", s),
    ),
    "json in lark": (
        {"grammar": 'start: "answer: " obj\nobj: %json {"type": "boolean"}'},
        lambda s: re.fullmatch("answer: (true|false)", s),
    ),
}


def written(state: Constraint, seed: int, most: int = 3000) -> tuple[str, bool]:
    """What random weights write; the end is taken when it wins."""
    generator, ids = torch.Generator().manual_seed(seed), []
    while not state.ended and len(ids) < most:
        logits = torch.rand(TINY.size, generator=generator)
        ids.append(int(logits.masked_fill(~state.mask(), -torch.inf).argmax()))
        state.advance(ids[-1])
    return TINY.text(ids[:-1]), state.ended


def check(name: str, draws: range) -> None:
    given, valid = TASKS[name]
    make = constraint_maker(TINY, **given)
    for seed in draws:
        text, ended = written(make(), seed)
        assert ended and valid(text), (seed, text)


@pytest.mark.parametrize("name", TASKS)
def test_every_draw_of_random_weights_is_valid(name: str) -> None:
    check(name, range(100))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_thousand_of_a_thousand_are_valid(name: str) -> None:
    check(name, range(1000, 2000))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"schema": PERSON}, '{"name": "Ann",\n  "age": 7, "tags": ["red"], "ok": null}'),
        ({"schema": TREE}, '{"v":3,"kids":[{"v":-9},{"v":0,"kids":[]}]}'),
        ({"schema": EITHER}, '"xyz"'),
        ({"schema": {"type": "object"}}, '{"any": [1, {"thing": "é\\n"}]}'),
        ({"regex": "a/b|c\nd"}, "c\nd"),
        ({"regex": "a/b"}, "a/b"),
        ({"schema": {"type": "string", "pattern": "b"}}, '"abc"'),
        ({"grammar": 'start: WORD (" " WORD)*\nWORD: /[a-z]+/'}, "hello big world"),
    ],
)
def test_what_is_valid_can_be_written(given: dict, text: str) -> None:
    state = constraint_maker(TINY, **given)()
    for i in TINY.ids(text):
        mask = state.mask()
        assert mask[i], (text, TINY.text([i]))
        state.advance(i)
    assert state.complete and state.mask()[list(TINY.eos)].all()


def test_an_end_only_where_the_answer_is_whole() -> None:
    state = constraint_maker(TINY, regex="ab?")()
    mask = state.mask()
    assert not mask[list(TINY.eos)].any() and not mask[TINY.special["<|start|>"]] and not state.complete
    with pytest.raises(UsageError, match="against the grammar"):
        state.copy().advance(TINY.eos[0])
    with pytest.raises(UsageError, match="against the grammar"):
        state.copy().advance(TINY.ids("z")[0])
    state.advance(TINY.ids("a")[0])
    assert state.complete and not state.finished and state.mask()[list(TINY.eos)].all()
    state.advance(TINY.ids("b")[0])
    assert state.finished and state.mask().nonzero()[:, 0].tolist() == sorted(TINY.eos)
    state.advance(TINY.eos[1])
    assert state.ended and state.mask().nonzero()[:, 0].tolist() == sorted(TINY.eos)
    with pytest.raises(UsageError, match="against the grammar"):
        state.advance(TINY.ids("b")[0])


def test_sequences_do_not_see_each_other_and_logits_may_be_wider() -> None:
    make = constraint_maker(TINY, regex="abcd|x", vocab=TINY.size + 13)
    one, other = make(), make()
    one.advance(TINY.ids("x")[0])
    assert one.finished and not other.finished and other.mask().shape == (TINY.size + 13,) and not other.mask()[TINY.size :].any()


def test_what_is_forced_is_told_and_may_be_taken() -> None:
    state = constraint_maker(
        TINY, schema={"type": "object", "additionalProperties": False, "required": ["trueab"], "properties": {"trueab": {"type": "null"}}}
    )()
    state.advance(TINY.ids("{")[0])
    state.advance(TINY.ids('"')[0])
    ids = state.forced()
    assert ids and 'trueab"'.startswith(TINY.text(ids))
    for i in ids:
        assert state.mask()[i]
        state.advance(i)
    assert constraint_maker(TINY, regex="[ab]")().forced() == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "nothing given"),
        ({"regex": "a", "grammar": "start: /a/"}, "regex and grammar"),
        ({"schema": {"type": "string", "contains": {}}}, "'contains'"),
        ({"schema": {"properties": {"a": {"uniqueItems": True}}}}, "'uniqueItems'"),
        ({"schema": {"x-guidance": {"lenient": True}}}, "'x-guidance'"),
        ({"schema": {"$ref": "http://x/y"}}, "outside"),
        ({"schema": {"$ref": "#/default", "default": {"foo": 1}}}, "no schema of this document"),
        ({"schema": {"format": "zip"}}, "format"),
        ({"schema": '{"a": 1, "a": 2}'}, "twice"),
        ({"schema": {"oneOf": [{"type": "string"}, {"minLength": 2}]}}, "oneOf"),
        ({"schema": {"minimum": 3, "maximum": 1, "type": "integer"}}, "nsatisfiable|fulfilled"),
        ({"schema": {"$ref": "#"}}, "fulfilled"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"regex": "(a)\\1"}, "back-reference"),
        ({"regex": "(?P<n>a)(?P=n)"}, "back-reference"),
        ({"regex": "(a"}, "cannot be compiled"),
        ({"regex": "a\\"}, "backslash"),
        ({"regex": "[a&&b]"}, "fulfilled"),
        ({"regex": "(a{1000}){51}"}, "states"),
        ({"regex": "a{1001}"}, "1000"),
        ({"grammar": "start: foo"}, "unknown name"),
        ({"grammar": "start: start"}, "fulfilled"),
        ({"grammar": "start: <[0-9]>"}, "special token"),
        ({"grammar": 'start: %json {"not": {}}'}, "'not'"),
        ({"grammar": "root ::= foo"}, "foo"),
        ({"grammar": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000}, "65,536"),
        ({"grammar": "start: " + "(" * 9000 + '"a"' + ")" * 9000}, "nested"),
        ({"schema": {"enum": ["x" * 70_000]}}, "65,536"),
        ({"schema": {"properties": {f"p{i}": {} for i in range(501)}}}, "500 properties"),
    ],
    ids=lambda x: x if isinstance(x, str) else json.dumps(x)[:40],
)
def test_refused_in_one_line_that_names_it(given: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        constraint_maker(TINY, **given)
    assert len(caught.value.line()) < 500


def test_a_grammar_that_gives_up_later_raises_and_never_lets_go() -> None:
    state = constraint_maker(TINY, grammar='start: (("a" "b"){400}){400}')()
    with pytest.raises(ResourceError, match="grammar"):
        for i in TINY.ids("a") + TINY.ids("b") * 5:
            state.mask()
            state.advance(i)
    with pytest.raises(ResourceError, match="grammar"):
        state.mask()


def test_reading_alone_is_enough_for_what_is_good() -> None:
    for good in (
        "",
        "a|b",
        "(?i)x",
        "(?P<year>\\d{4})-(?:a|b)+?",
        "[]a]",
        "[^]a]",
        "[^^]",
        "[a[^^]]]",
        "[[:alpha:]-]",
        "\\p{L}\\u{1F600}\\x41",
        "a{2,}",
        "[(]",
        "\\(",
    ):
        assert check_regex(good) == good
    assert check_lark('// (note\nstart: "(((" /[\\/]a\\/(b)/i # (\n') and checked_schema({"title": "t", "examples": [{"odd": 1}]})


def test_classes_are_ascii() -> None:
    assert plain_classes(r"\d[a\d\]][^\w]\\d\D\w") == r"[0-9][a0-9\]][^0-9A-Za-z_]\\d\D[0-9A-Za-z_]"
    assert plain_classes(r"[^^]\d") == "[^^][0-9]"
    assert checked_schema({"pattern": r"^\d$"}) == {"pattern": "^[0-9]$"}
    assert check_lark('start: "\\\\d" /\\d\\/[\\w]/i // \\d\n') == 'start: "\\\\d" /[0-9]\\/[0-9A-Za-z_]/i // \\d\n'
    schema = 'start: %json\n{"pattern": "\\\\d"}\n'
    assert check_lark(schema) == schema, "patterns of a schema are ASCII by themselves"


@pytest.mark.parametrize(
    ("given", "before"),
    [
        ({"regex": r"\d"}, ""),
        ({"grammar": r"start: /\d/"}, ""),
        ({"grammar": 'start: %json {"type": "string", "pattern": "^\\\\d$"}'}, '"'),
        ({"schema": {"type": "object", "patternProperties": {r"^\d$": {}}, "additionalProperties": False}}, '{"'),
    ],
    ids=str,
)
def test_a_digit_is_one_of_ten_wherever_it_is_asked_for(given: dict, before: str) -> None:
    state = constraint_maker(TINY, **given)()
    for token in TINY.ids(before):
        state.advance(token)
    mask = state.mask()
    assert mask[TINY.ids("7")[0]] and not mask[TINY.ids("\u0663")[0]], "an Arabic three is no digit to many readers"


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": 5}, "properties takes schemas by name"),
        ({"patternProperties": 5}, "patternProperties takes schemas by name"),
        ({"minimum": 10**400}, "no number"),
        ({"multipleOf": 1.23456789e-6}, "at most 4 digits"),
        ({"multipleOf": 1_000_000}, "at most 4 digits"),
        ({"multipleOf": 0}, "at most 4 digits"),
    ],
    ids=str,
)
def test_a_schema_is_refused_by_reading_it(schema: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        checked_schema(schema)


def test_what_follows_a_class_is_counted() -> None:
    assert checked_schema({"multipleOf": 0.25}) and checked_schema({"multipleOf": 100.0})
    for regex, says in (("[^^](a{1000}){1000}]", "states"), ("[^^](?=a)]", "look-around")):
        with pytest.raises(UsageError, match=says):
            check_regex(regex)


@pytest.mark.parametrize("kind", ["schema", "regex"])
def test_a_mask_costs_little(kind: str) -> None:
    make = constraint_maker(TINY, **({"schema": PERSON} if kind == "schema" else {"regex": "[a-z]{100,200}"}))
    best = float("inf")
    for _ in range(3):
        state, start = make(), time.process_time()
        for n in range(1, 60):
            state.advance(int((torch.rand(TINY.size, generator=torch.Generator().manual_seed(n)) * state.mask()).argmax()))
            if state.ended:
                break
        best = min(best, (time.process_time() - start) / n)
    assert best < 5e-4


def test_sec_hostile_tasks_are_refused_or_compiled_within_a_second() -> None:
    """In a process of its own: a crash of the compiler is a crash of that process."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "hostile.py"), str(here)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-500:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) >= 500
    assert not [c for c in cases if c["free"]], "unconstrained"
    assert not [c for c in cases if not c["made"] and not c["error"].startswith("usage")]
    assert not [c for c in cases if c["error"].startswith("later") and "resources" not in c["error"]]
    assert max(c["seconds"] for c in cases) < 2.5, "a second of the clock, and some for a busy machine"
