"""Run by itself: makes a constraint of each of many hostile schemas, regexes and grammars; prints a line of JSON for each.

A crash or a hang of the compiler is seen from outside. Families are made by size, so that each limit is met from both sides.
"""

from __future__ import annotations

import json
import random
import string
import sys
import time
from functools import reduce
from typing import Any


def nested(n: int, wrap: Any, core: Any) -> Any:
    return reduce(lambda inner, _: wrap(inner), range(n), core)


def schemas() -> list[tuple[str, Any]]:
    text: dict[str, Any] = {"type": "string"}
    out: list[tuple[str, Any]] = []
    for n in (3, 30, 33, 60, 90, 900, 30_000):
        out.append(("schema nested arrays", '{"items":' * n + "{}" + "}" * n))
        out.append(("schema nested anyOf", '{"anyOf":[' * n + '{"type":"null"}' + "]}" * n))
        out.append(("schema nested brackets", "[" * n + "]" * n))
    for n in (2, 5, 8, 12, 16):
        out.append(("schema doubling allOf", nested(n, lambda a: {"allOf": [a, a]}, text)))
        out.append(
            ("schema product of anyOf", {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": text}} for j in range(n)]} for i in range(n)]})
        )
        names = {f"a{i}": {"properties": {"l": {"$ref": f"#/$defs/a{i + 1}"}, "r": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(n * 3)}
        out.append(("schema doubling $ref", {"$ref": "#/$defs/a0", "$defs": {**names, f"a{n * 3}": text}}))
    for n in (10, 100, 450, 1900, 3000):
        chain = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(n)}
        out.append(("schema chain of $ref", {"$ref": "#/$defs/a0", "$defs": {**chain, f"a{n}": text}}))
        deep = {f"a{i}": {"type": "array", "items": {"$ref": f"#/$defs/a{i + 1}"}, "minItems": 1} for i in range(n)}
        out.append(("schema chain of items", {"$ref": "#/$defs/a0", "$defs": {**deep, f"a{n}": text}}))
        out.append(("schema properties", {"type": "object", "properties": {f"p{i}": text for i in range(n)}}))
        out.append(
            (
                "schema required",
                {"type": "object", "properties": {f"p{i}": text for i in range(n)}, "required": [f"p{i}" for i in range(n)]},
            )
        )
        out.append(("schema enum", {"enum": [f"v{i}" for i in range(n)]}))
        out.append(("schema enum giant", {"enum": ["x" * n + str(i) for i in range(n)]}))
        out.append(("schema repeats", {"type": "array", "items": text, "minItems": n, "maxItems": n}))
        out.append(("schema repeats", {"type": "string", "minLength": n, "maxLength": 2 * n}))
        out.append(("schema multipleOf", {"type": "integer", "multipleOf": 7 ** len(str(n)) * n + 1}))
        out.append(("schema patterns", {"patternProperties": {f"^a{i}[a-z]*$": text for i in range(n)}}))
        out.append(("schema pattern", {"type": "string", "pattern": f"^(a|b)*a(a|b){{{n}}}$"}))
        out.append(("schema range", {"type": "integer", "minimum": -(10 ** min(n, 300)), "maximum": 10 ** min(n, 300)}))
    for ref in (
        "#",
        "#/$defs/x",
        "#/default",
        "#/properties",
        "#a",
        "other.json",
        "http://localhost/x",
        "file:///etc/passwd",
        "//x/y",
        "",
        3,
        None,
    ):
        out.append(("schema $ref", {"$ref": ref, "default": {"type": "string", "nonsense": 1}, "properties": {"a": text}}))
        out.append(("schema $ref", {"type": "object", "properties": {"a": {"$ref": ref}}, "required": ["a"]}))
    out.append(("schema $ref loop", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}))
    out.append(("schema $ref loop", {"allOf": [{"$ref": "#"}]}))
    for key, value in {
        "contains": text,
        "uniqueItems": True,
        "not": text,
        "if": text,
        "foo": 1,
        "nullable": True,
        "dependentRequired": {},
        "propertyNames": text,
        "$anchor": "a",
        "$dynamicRef": "#a",
        "unevaluatedItems": False,
        "x-guidance": {"lenient": True},
        "additionalItems": text,
        "contentEncoding": "base64",
        "format": "zip",
        "type": "strnig",
        "pattern": "(?=a)",
        "enum": [],
        "anyOf": [],
        "items": [text],
        "minLength": -1,
        "maxLength": 1.5,
        "multipleOf": 0,
        "minimum": "1",
        "required": "a",
    }.items():
        out.append((f"schema bad {key}", {key: value}))
        out.append((f"schema bad {key}", {"type": "object", "properties": {"a": {"type": "array", "items": {key: value}}}}))
    for bad in (
        "",
        "{",
        "nul",
        "NaN",
        '{"a":1,"a":2}',
        '{"minimum":NaN}',
        '{"const":1e999}',
        "[]",
        "3",
        '"x"',
        "null",
        "true",
        "\x00",
        '{"type":"\ud800"}',
        [],
        3,
        True,
        {"const": float("inf")},
        {1, 2},
        {"const": b"x"},
        '{"type":"string"}' + " " * 70_000,
    ):
        out.append(("schema no schema", bad))
    for one in (
        {"type": "integer", "minimum": 3, "maximum": 1},
        {"type": "string", "minLength": 3, "maxLength": 1},
        {"enum": ["a"], "const": "b"},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        {"type": "array", "items": False, "minItems": 1},
    ):
        out.append(("schema unfulfillable", one))
    return out


def regexes() -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for n in (2, 20, 31, 33, 100, 1000, 4000, 60_000):
        out += [
            ("regex nested", "(" * n + "a" + ")" * n),
            ("regex nested", "(?:" * n + "a" + "*)" * n),
            ("regex classes", "[" * n + "a" + "]" * n),
            ("regex repeats", f"a{{{n}}}"),
            ("regex repeats", f"(.{{{n}}}){{{n}}}"),
            ("regex repeats", f"((a{{{n}}})*){{{n},}}"),
            ("regex exponential", f"(a|b)*a(a|b){{{n}}}"),
            ("regex exponential", f".*a.{{{n}}}b|.*c.{{{n}}}d"),
            ("regex options", "a?" * n + "a" * n),
            ("regex alternatives", "|".join(f"w{i}" for i in range(n))),
            ("regex open", "(" * n),
            ("regex open", "a{" * n),
            ("regex unicode", f"(\\p{{L}}|\\p{{N}}){{1,{n}}}"),
        ]
    for bad in (
        "(",
        ")",
        "[",
        "[]",
        "[z-a]",
        "*",
        "+",
        "a**",
        "{3}",
        "a{3,1}",
        "a{99999999999}",
        "a{1001}",
        "\\",
        "\\8",
        "(a)\\1",
        "(?P<n>a)(?P=n)",
        "\\k<n>",
        "(?=a)b",
        "(?!a)b",
        "(?<=a)b",
        "(?<!a)b",
        "(?>a)",
        "(?x) a # (",
        "(?-u:\\xff)",
        "\\bfoo",
        "a^b",
        "a$b",
        "[a&&b]",
        "\\p{Nope}",
        "(?#c)a",
        "\x00",
        "(?P<1>a)",
        "(?",
        "(?P",
        "[[:alpha:]",
        "\ud800",
        "a" * 9000,
        "(?i-s:a)(?z)",
        "\\Q(",
        "(?P<n",
        "[^\\x00-\\x{10FFFF}]",
    ):
        out.append((f"regex bad {bad[:12]!r}", bad))
    out += [("regex empty repeat", x) for x in ("()*", "(|a)*", "(a*)*b", "((a*)*)*", "(a|)*{3}", "((a?){1000}){40}")]
    return out


def grammars() -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for n in (2, 20, 40, 400, 900, 5000, 60_000):
        out += [
            ("grammar nested", "start: " + "(" * n + '"a"' + ")" * n),
            ("grammar nested", "start: " + "[" * n + '"a"' + "]" * n),
            ("grammar nested regex", "start: /" + "(" * n + "a" + ")" * n + "/"),
            ("GBNF nested", "root ::= " + "(" * n + '"a"' + ")" * n),
            ("grammar repeats", f'start: "a"{{{n}}}'),
            ("grammar repeats", f'start: (("a" "b"){{{n}}}){{{n}}}'),
            ("grammar options", "start: " + '"a"? ' * n),
            ("grammar alternatives", "start: " + " | ".join(f'"w{i}"' for i in range(n))),
            ("GBNF repeats", f'root ::= "a"{{{n}}}'),
        ]
        if n <= 5000:
            rules = "\n".join(f'r{i}: "x{i}" | r{i + 1}' for i in range(n))
            out.append(("grammar chain of rules", f'start: r0\n{rules}\nr{n}: "z"'))
            rules = "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(n))
            out.append(("grammar doubling", f'start: R0\n{rules}\nR{n}: "z"'))
            rules = "\n".join(f'r{i} ::= "x" r{i + 1} | "y"' for i in range(n))
            out.append(("GBNF chain", f'root ::= r0\n{rules}\nr{n} ::= "z"'))
    for bad in (
        "",
        "start",
        "start:",
        "start: foo",
        "start: start",
        "start: A\nA: A",
        'start: "a',
        "start: /a",
        "start: /(?=a)/",
        "start: /(a)\\1/",
        'foo: "a"',
        'start: <|im_start|> "a"',
        "start: <[0-9]>",
        "start: <[*]>",
        "start: @other",
        'start: x\nx[stop="b"]: /.*/',
        "start: x\nx[max_tokens=3]: /.*/",
        '%llguidance {"no_forcing": true}\nstart: "a"',
        'start: %json {"contains": {}}',
        'start: %json {"x-guidance":{"lenient":true},"not":{}}',
        "start: %json",
        "start: %json {",
        'start: %regex {"substring_chars": "abc"}',
        'start: %lark { start: "a" }',
        "%import common.NOPE\nstart: NOPE",
        'start: a::3\na::_: "x"',
        'start: "a"{5,2}',
        'start: "a"~2000',
        "start: ~/a/",
        'start: "a" start',
        "start: a\na: b\nb: a",
        "root ::=",
        "root ::= foo",
        'root ::= "a',
        "root ::= [a",
        "root ::= root",
        '::= "a"',
        "root ::= (",
        "\x00",
        "start: \ud800",
        'start: "a"\nstart: "b"',
        "start: /[z-a]/",
        'start: "' + "a" * 70_000 + '"',
        "%declare X\nstart: X",
        '%override start: "a"',
        "start: /(?x)a # (/",
        "start: `a`",
        "start: 'a'",
    ):
        out.append((f"grammar bad {bad[:18]!r}", bad))
    return out


def scrambled(n: int) -> list[tuple[str, str, Any]]:
    """Seeds with characters changed: valid or not, nobody can say beforehand."""
    seeds = [
        ("schema", '{"type":"object","properties":{"a":{"type":"array","items":{"type":"integer"}}},"required":["a"]}'),
        ("regex", r"^(?:[a-z]+\d{2,5}|(x|y)*)\.(com|org)?$"),
        ("grammar", 'start: "(" (start | /[a-z]+/)* ")" | %json {"type":"null"}\n%ignore / /'),
    ]
    rng, out = random.Random(0), []
    for i in range(n):
        kind, text = seeds[i % 3]
        letters = list(text)
        for _ in range(rng.randint(1, 4)):
            letters[rng.randrange(len(letters))] = rng.choice([*string.punctuation, "", "a", "9", text[rng.randrange(len(text)) :][:6]])
        out.append((f"{kind} scrambled", kind, "".join(letters)))
    return out


def cases() -> list[tuple[str, str, Any]]:
    made = [
        *((name, "schema", x) for name, x in schemas()),
        *((name, "regex", x) for name, x in regexes()),
        *((name, "grammar", x) for name, x in grammars()),
    ]
    return [*made, *scrambled(max(90, 501 - len(made)))]


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    from tiny import Tiny

    from morphogen.errors import MorphogenError
    from morphogen.sampling.structured import constraint_maker

    tokenizer, rng = Tiny(), random.Random(1)
    constraint_maker(tokenizer, regex="a")  # the tokenizer is made ready once
    for name, kind, value in cases():
        start, error, free = time.perf_counter(), "", False
        try:
            made = constraint_maker(tokenizer, **{kind: value})
        except MorphogenError as caught:
            made, error = None, f"{caught.code}: {caught.line()}"
        seconds = time.perf_counter() - start
        if made is not None:
            state = made()
            try:
                for _ in range(25):
                    mask = state.mask()
                    free = free or bool(mask.all())
                    ids = mask.nonzero()[:, 0].tolist()
                    state.advance(rng.choice(ids))
                    if state.ended:
                        break
            except MorphogenError as caught:
                error = f"later {caught.code}: {caught.line()}"
        print(
            json.dumps({"name": name, "kind": kind, "made": made is not None, "error": error, "seconds": seconds, "free": free}), flush=True
        )


if __name__ == "__main__":
    main()
