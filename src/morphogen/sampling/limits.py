"""What a schema, a regex or a grammar may ask for, checked by reading it, before any compiler sees it.

Everything here refuses: a keyword that is not known would be ignored by compilers, and an answer that ignores a rule is no answer.
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from morphogen.errors import UsageError

BYTES, DEPTH, PROPERTIES, REPEATS, STATES, PARTS = 64 * 1024, 32, 500, 1000, 50_000, 1000
REGEX_BYTES, PATTERNS = 8 * 1024, 50
LARGEST = 1e308  # about what a float can be

NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"}
ONE, SEVERAL, NAMED = {"items", "additionalProperties"}, {"anyOf", "oneOf", "allOf", "prefixItems"}, {
    "properties", "patternProperties", "$defs", "definitions"}
COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
VALUES = {"type", "enum", "const", "required", "pattern", "format", "$ref"} | COUNTS | NUMBERS
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}


def _refuse(what: str, where: str = "", remedy: str = "") -> UsageError:
    return UsageError(what if len(what) <= 200 else what[:197] + "...", where=where[:120], remedy=remedy)


def sized(text: str, what: str, most: int = BYTES) -> str:
    """The text if it is one and not too long."""
    if not isinstance(text, str):
        raise _refuse(f"a {what} is text, not {type(text).__name__}")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > most:
        raise _refuse(f"the {what} has {size:,} bytes", remedy=f"at most {most:,} are read")
    if re.search("[\x00\ud800-\udfff]", text):
        raise _refuse(f"the {what} has characters that no text has", remedy="leave out zero bytes and lone surrogates")
    return text


# ------------------------------------------------------------------ schemas
def checked_schema(schema: Any) -> dict[str, Any]:
    """The schema as a plain dict, its patterns with ASCII classes, if every part of it is known and within limits.

    Raises UsageError that names what is not.
    """
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _refuse(f"the schema is no JSON ({error})") from None
    sized(text, "schema")
    if _nesting(re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)) > 4 * DEPTH:
        raise _refuse("the schema is nested too deeply", remedy=f"at most {DEPTH} schemas lie in each other")
    try:
        read = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refuse(f"the schema is no JSON ({error})") from None
    if not isinstance(read, dict):
        raise _refuse(f"the schema is {type(read).__name__}, not an object", remedy='begin with {"type": ...}')
    refs: list[tuple[str, str]] = []
    places: set[str] = set()
    named = patterned = 0
    for where, one, depth in _schemas(read, "#", 1):
        places.add(where)
        if depth > DEPTH:
            raise _refuse("the schema is nested too deeply", where, f"at most {DEPTH} schemas lie in each other")
        named += len(one.get("properties") or ()) + len(one.get("patternProperties") or ())
        patterned += len(one.get("patternProperties") or ())
        if patterned > PATTERNS:  # each is compared with each
            raise _refuse("the schema has too many patternProperties", where, f"at most {PATTERNS} in all")
        if named > PROPERTIES or len(places) > 2 * PARTS:
            raise _refuse("the schema has too many parts", where, f"at most {PROPERTIES} properties and {2 * PARTS} schemas")
        _check_keywords(one, where)
        if "$ref" in one:
            refs.append((where, _target(one["$ref"], where)))
    for where, target in refs:
        if target not in places:
            raise _refuse(f"$ref {target!r} leads to no schema of this document", where, "refer to #/$defs/NAME")
    return read


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _nesting(text: str) -> int:
    """How deep brackets of any kind go."""
    depth = most = 0
    for c in text:
        if c in "([{":
            depth += 1
            most = max(most, depth)
        elif c in ")]}":
            depth -= 1
    return most


def _schemas(one: Any, where: str, depth: int) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Every schema in a schema, as (pointer, dict, depth). True and False are schemas too, with nothing in them."""
    if isinstance(one, bool):
        yield where, {}, depth
        return
    if not isinstance(one, dict):
        raise _refuse(f"{json.dumps(one)[:60]} is no schema", where)
    for key in NAMED & one.keys():  # before anybody counts what is in them
        if not isinstance(one[key], dict):
            raise _refuse(f"{key} takes schemas by name", where)
    yield where, one, depth
    for key, value in one.items():
        at = f"{where}/{key.replace('~', '~0').replace('/', '~1')}"
        if key in ONE:
            yield from _schemas(value, at, depth + 1)
        elif key in SEVERAL:
            if not isinstance(value, list) or not value:
                raise _refuse(f"{key} takes a list of schemas", where)
            for i, part in enumerate(value):
                yield from _schemas(part, f"{at}/{i}", depth + 1)
        elif key in NAMED:
            for name, part in value.items():
                yield from _schemas(part, f"{at}/{name.replace('~', '~0').replace('/', '~1')}", depth + 1)


def _check_keywords(one: dict[str, Any], where: str) -> None:
    for key, value in list(one.items()):
        if key in NOTES or key in ONE or key in SEVERAL or key in NAMED:
            if key == "$id" and where != "#":
                raise _refuse("schema keyword '$id' is not supported inside a schema", where)
            for pattern in value if key == "patternProperties" else ():
                check_regex(pattern, f"{where}/patternProperties")
        elif key not in VALUES:
            raise _refuse(f"schema keyword '{key}' is not supported", where, "leave it out, and check the answer for it yourself")
        elif key in COUNTS and not (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= REPEATS):
            raise _refuse(f"{key} = {json.dumps(value)[:40]}", where, f"give a whole number up to {REPEATS}")
        elif key == "minProperties" and value > 1:  # names of further properties may repeat in an answer, which counts them once
            raise _refuse("minProperties above 1 is not supported", where, "name the properties in 'required'")
        elif key in NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST):
            raise _refuse(f"{key} = {json.dumps(value)[:40]} is no number", where)
        elif key == "multipleOf":
            _check_multiple(value, where)
        elif key == "pattern":
            one["pattern"] = plain_classes(check_regex(value, f"{where}/pattern"))
        elif key == "format" and value not in FORMATS:
            raise _refuse(f"format {json.dumps(value)[:40]} is not supported", where, "known are " + ", ".join(sorted(FORMATS)))
        elif key == "required" and not (isinstance(value, list) and len(value) <= PROPERTIES):
            raise _refuse("required takes a list of names", where)


def _check_multiple(value: float, where: str) -> None:
    """A divisor d needs d states, counted in its last decimal."""
    digits = format(Decimal(repr(value)), "f")  # all of them: the usual six would hide what follows
    digits = digits.rstrip("0").replace(".", "") if "." in digits else digits
    if len(digits.lstrip("0")) > 4 or value < 1e-6:
        raise _refuse(f"multipleOf = {value!r}", where, "give a positive number of at most 4 digits")


def _target(ref: Any, where: str) -> str:
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise _refuse(f"$ref {json.dumps(ref)[:80]} leads outside the document", where, "refer to #/$defs/NAME")
    return unquote(ref)


# ------------------------------------------------------------------ regexes
_REGEX = re.compile(r"""
    (?P<skip>\\[pPxuU]\{[^{}]*\})
  | \\(?P<escape>.)
  | (?P<flags>\(\?[ims]*(?:-[ims]+)?\))
  | (?P<open>\((?:\?P?<[A-Za-z_]\w*>|\?[ims]*(?:-[ims]+)?:|(?!\?)))
  | (?P<foreign>\(\?(?:P?[=>!]|<[=!])?.?)
  | (?P<close>\))
  | \{\s*(?P<low>\d*)\s*(?P<comma>,?)\s*(?P<high>\d*)\s*\}
  | (?P<class>\[)
  | (?P<bar>\|)
  | (?P<other>.)
""", re.VERBOSE | re.DOTALL)


def check_regex(text: Any, where: str = "") -> str:
    """The regex if it is within limits. Raises UsageError for look-around, back-references, deep nesting and large repeats."""
    sized(text, "regex", REGEX_BYTES)
    sizes, last, at = [0], 0, 0  # size of what was read at each depth, and of the last part, which a repeat multiplies
    starts = 0
    while at < len(text):
        found = _REGEX.match(text, at)
        if found is None:
            raise _refuse(f"the regex ends in the middle of something at {at}", where)
        at = found.end()
        if found["class"]:
            at, last = _class_end(text, at, where), 1
            sizes[-1] += last
        elif found["foreign"] is not None:
            what = "look-around" if re.match(r"\(\?<?[=!]", found[0]) else "back-reference" if found[0].startswith("(?P=") else "group"
            raise _refuse(f"the regex has a {what} {found[0]!r}, which is not supported", where, "say it without")
        elif found["flags"] is not None:
            last = 0
        elif found["open"] is not None:
            starts += 1
            sizes.append(0)
            if starts > DEPTH:
                raise _refuse("the regex is nested too deeply", where, f"at most {DEPTH} groups lie in each other")
        elif found["close"] is not None:
            if starts == 0:
                raise _refuse(f"the regex closes a group that is not open at {at - 1}", where)
            starts -= 1
            last = sizes.pop()
            sizes[-1] += last
        elif found["low"] is not None and (found["low"] or found["high"]):
            times = max(int(n) for n in (found["low"], found["high"]) if n) if len(found[0]) < 40 else REPEATS + 1
            if times > REPEATS:
                raise _refuse(f"the regex repeats {found[0][:40]} times", where, f"at most {REPEATS}")
            sizes[-1] += last * max(times - 1, 0)
            last *= max(times, 1)
        else:
            if found[0] == "\\":
                raise _refuse("the regex ends in a backslash", where)
            if found["escape"] is not None and (found["escape"] in "123456789k"):
                raise _refuse(f"the regex has a back-reference {found[0]!r}", where, "write out what it stands for")
            last = 1
            sizes[-1] += last
        if sum(sizes) > STATES:
            raise _refuse(f"the regex comes to more than {STATES:,} states", where, "repeat less")
    return text


def _class_end(text: str, at: int, where: str) -> int:
    """Where the character class that began just before `at` is over; classes may hold classes."""
    depth, first = 1, True  # a bracket that closes is a sign like others where it stands first
    at += text.startswith("^", at)
    while at < len(text):
        c = text[at]
        if c == "\\":
            at += 2
        elif c == "]" and not first:
            depth, at = depth - 1, at + 1
            if depth == 0:
                return at
        elif c == "[":
            depth, at = depth + 1, at + 1 + text.startswith("^", at + 1)
            if depth > DEPTH:
                raise _refuse("the regex is nested too deeply", where)
            first = True
            continue
        else:
            at += 1
        first = False
    raise _refuse("the regex has a character class that is not closed", where)


def plain_classes(text: str) -> str:
    """A checked regex with \\d and \\w as ASCII: what fits is the same to every reader, whichever Unicode tables it has."""
    out, at, end = [], 0, 0
    while at < len(text):
        c = text[at]
        if c == "\\":
            inside = {"d": "0-9", "w": "0-9A-Za-z_"}.get(text[at + 1: at + 2])
            out.append(text[at: at + 2] if inside is None else inside if at < end else f"[{inside}]")
            at += 2
            continue
        if c == "[" and at >= end:
            end = _class_end(text, at + 1, "")
        out.append(c)
        at += 1
    return "".join(out)


# ------------------------------------------------------------------ grammars
_LARK = re.compile(r"""
    (?P<string>"(?:[^"\\\n]|\\[^\n])*"i?)
  | (?P<comment>(?://|\#)[^\n]*)
  | (?P<regex>/(?!/)(?:[^/\\\n]|\\[^\n])+/(?P<flags>[a-zA-Z]*))
  | (?P<json>%json\b)
  | (?P<other>.|\n)
""", re.VERBOSE)


def check_lark(text: str) -> str:
    """The grammar, its regexes with ASCII classes, if they and schemas in it are within limits, and so are rules, groups and repeats.

    Raises UsageError for what is not.
    Options of `llguidance` that change what a rule means (stop, max_tokens, temperature, special tokens, @grammars) are refused.
    """
    sized(text, "grammar")
    out, rest, at = [], [], 0
    while at < len(text):
        found = _LARK.match(text, at)
        assert found is not None  # `other` takes anything
        begin, at, regex = at, found.end(), found["regex"]
        if regex:
            check_regex(regex[1:len(regex) - 1 - len(found["flags"])].replace("\\/", "/"), "in the grammar")
            if set(found["flags"]) - set("imslu"):
                raise _refuse(f"regex flags '{found['flags'][:10]}' are not supported", "in the grammar")
            rest.append(" r ")
        elif found["json"]:
            try:
                start = at + len(text[at:]) - len(text[at:].lstrip())
                inner, at = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant).raw_decode(text, start)
            except (ValueError, RecursionError) as error:
                raise _refuse(f"%json is followed by no JSON ({error})", "in the grammar") from None
            checked_schema(inner)
            rest.append(" j ")
        else:
            rest.append(" s " if found["string"] else "\n" if found["comment"] else found[0])
        out.append(plain_classes(regex) if regex else text[begin:at])
    _check_rules("".join(rest))
    return "".join(out)


def _check_rules(bare: str) -> None:
    """`bare`: a grammar without strings, regexes, schemas and comments."""
    bare = re.sub(r"%llguidance\s*\{\s*\}", " ", bare)
    for sign, what in ((r"%(?!ignore\b|import\b)[^\s{]*", "directive"), (r"<[^>\s]*>?", "special token"), (r"@\w*", "grammar reference"),
                       (r"\w+\s*=", "option"), (r"::\S*", "parameter"), (r'["`\']\S*', "open string")):
        found = re.search(sign, bare)
        if found:
            raise _refuse(f"the grammar has a {what} '{found[0][:40]}', which is not supported", remedy="rules speak of text alone")
    if _nesting(bare) > DEPTH:
        raise _refuse("the grammar is nested too deeply", remedy=f"at most {DEPTH} groups lie in each other")
    rules, groups = bare.count(":"), len(re.findall(r"[(\[{~?*+]", bare))
    if rules > PROPERTIES or rules + groups > PARTS or bare.count("|") + len(re.findall(r"[\w-]+", bare)) > 8 * PARTS:
        raise _refuse("the grammar has too many parts", remedy=f"at most {PROPERTIES} rules and {PARTS} groups and repeats in all")
    total = 1
    for low, high in re.findall(r"[{~]\s*(\d*)\s*(?:,|\.\.)?\s*(\d*)", bare):
        times = max((int(n) if len(n) < 10 else STATES for n in (low, high) if n), default=1)
        total *= max(times, 1)
        if times > REPEATS:
            raise _refuse(f"the grammar repeats something {times:,} times", remedy=f"at most {REPEATS}")
    if total > STATES * REPEATS:
        raise _refuse("the repeats of the grammar multiply to too much", remedy="repeat less")
