"""Runs apart: renders chat templates under limits. Its own process, its own small world: the standard library and Jinja, nothing of ours.

A template is a program from strangers. Access is bounded by an allow-list of syntax, filters, tests, attributes and by Jinja's immutable
sandbox; work is bounded by a budget of loop rounds, by limits on what operators may make, by the length of the output, by this process's
address space and by its parent, which ends it after a second. Requests and answers are JSON after four bytes of length.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import Any

TEMPLATE = 64 << 10  # characters
ROUNDS = 100_000  # loop rounds a rendering may take
STRING = 1 << 20  # characters or members an operator may make
ROOM = 32 << 20  # bytes of address space a rendering may add


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NODES = words("""Template Output TemplateData Name NSRef Const Tuple List Dict Pair Keyword CondExpr Filter Test Call Getitem Getattr Slice
    Concat Compare Operand Mul Div FloorDiv Add Sub Mod Pow And Or Not Neg Pos For If Macro CallBlock FilterBlock Assign AssignBlock
    With Scope Break Continue""")
FILTERS = words("""abs capitalize count d default dictsort e escape first float groupby indent int items join last length list lower map max
    min reject rejectattr replace reverse round safe select selectattr sort string sum title tojson trim unique upper""")
TESTS = words("""boolean defined divisibleby eq equalto == even false float ge >= greaterthan gt > in integer iterable le <= lessthan
    lower lt < mapping ne != none number odd sameas sequence string true undefined upper""")
# Methods a template may call on text, lists and dicts: work is bounded by the process's limits.
METHODS = words("""strip lstrip rstrip split rsplit splitlines startswith endswith upper lower title capitalize replace join find rfind
    index count removeprefix removesuffix partition rpartition isdigit isalpha isalnum isspace isupper islower items keys values get
    copy format""")
LOOP = words("index index0 revindex revindex0 first last length previtem nextitem cycle changed depth depth0")


class Refused(Exception):
    """The template does what no chat template needs."""


class Raised(Exception):
    """The template itself refuses the conversation."""


def numbers(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > ROUNDS:
        raise Refused(f"a range of {len(found):,}")
    return found


def to_json(x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    if (isinstance(indent, int) and indent > 16) or (isinstance(indent, str) and len(indent) > 16):
        raise Refused("an indent that wide")
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def bounded_indent(original: Any) -> Any:
    def indent(text: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
        if (isinstance(width, int) and width > 64) or (isinstance(width, str) and len(width) > 64):
            raise Refused("an indent that wide")
        return original(text, width, first, blank)

    return indent


def raise_exception(message: Any) -> None:
    raise Raised(str(message)[:500])


def strftime_now(form: str) -> str:
    from datetime import datetime

    if len(form) > 100:
        raise Refused("a date format that long")
    return datetime.now().strftime(form)


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Operators may not make much from little. Raises Refused."""
    if operator == "%" and isinstance(left, str | bytes):
        raise Refused("formatting with %")
    if operator == "**" and not (abs(left) <= 1 << 32 and abs(right) <= 16):
        raise Refused("a power that large")
    if operator == "*":
        for one, times in ((left, right), (right, left)):
            if isinstance(one, str | bytes | list | tuple) and isinstance(times, int) and len(one) * times > STRING:
                raise Refused("repeating text that often")
    if operator in "+*" and isinstance(left, int) and isinstance(right, int) and max(left.bit_length(), right.bit_length()) > 4096:
        raise Refused("numbers that large")
    if operator == "+" and sum(len(x) for x in (left, right) if isinstance(x, str | list | tuple)) > 16 * STRING:
        raise Refused("text that long")


def build() -> Any:
    """The environment transformers renders chat templates in, with less in it."""
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.runtime
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "%", "+"])
        left = ROUNDS

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            if isinstance(obj, jinja2.runtime.LoopContext):
                return attr in LOOP
            if isinstance(obj, str | list | tuple | dict | int | float):
                return attr in METHODS
            return super().is_safe_attribute(obj, attr, value)

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise Refused(f"the attribute {str(attribute)[:40]!r} of a {type(obj).__name__}")

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            check_operator(operator, left, right)
            return super().call_binop(context, operator, left, right)

    env = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation], cache_size=0)

    def counted(values: Any) -> Any:
        for value in values:
            env.left -= 1
            if env.left < 0:
                raise Refused(f"more than {ROUNDS:,} loop rounds")
            yield value

    env.filters = {k: v for k, v in env.filters.items() if k in FILTERS} | {
        "tojson": to_json,
        "indent": bounded_indent(env.filters["indent"]),
        "_counted": counted,
    }
    env.tests = {k: v for k, v in env.tests.items() if k in TESTS}
    keep = {k: env.globals[k] for k in ("dict", "namespace", "joiner", "cycler")}
    env.globals = {**keep, "range": numbers, "raise_exception": raise_exception, "strftime_now": strftime_now}
    return env


def prepare(env: Any, source: str) -> Any:
    """Parse, check against the allow-lists, put every loop on the budget. Raises Refused or Jinja's syntax error."""
    from jinja2 import nodes

    if len(source) > TEMPLATE:
        raise Refused(f"a template of more than {TEMPLATE:,} characters")
    tree = env.parse(source)
    for node in list(walk(tree)):
        kind = type(node).__name__
        if kind not in NODES:
            raise Refused(f"{kind.lower()} on line {node.lineno}")
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            raise Refused(f"the filter {node.name[:40]!r} on line {node.lineno}")
        if isinstance(node, nodes.Test) and node.name not in TESTS:
            raise Refused(f"the test {node.name[:40]!r} on line {node.lineno}")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise Refused(f"the attribute {node.attr[:40]!r} on line {node.lineno}")
        if isinstance(node, nodes.For):
            node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
    return env.template_class.from_code(env, env.compile(tree), dict(env.globals))


def walk(tree: Any) -> Any:
    """All nodes, without recursion: depth is the author's to choose."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.iter_child_nodes())


def render(env: Any, template: Any, values: dict[str, Any], limit: int) -> str:
    env.left = ROUNDS
    out, size = [], 0
    for piece in template.root_render_func(template.new_context(values)):
        size += len(piece)
        if size > limit:
            raise Refused(f"more than {limit:,} characters of output")
        out.append(piece)
    return "".join(out)


def answer(env: Any, known: dict[str, Any], request: dict[str, Any]) -> dict[str, str]:
    import jinja2

    source = request["source"]
    try:
        if source not in known:
            if len(known) >= 8:
                known.clear()
            known[source] = prepare(env, source)
        if "values" not in request:
            return {"text": ""}
        return {"text": render(env, known[source], request["values"], request["limit"])}
    except Raised as error:
        return {"raised": str(error)}
    except Refused as error:
        return {"refused": str(error)}
    except jinja2.TemplateSyntaxError as error:
        return {"refused": f"syntax that is none ({str(error.message)[:200]}, line {error.lineno})"}
    except jinja2.exceptions.SecurityError as error:
        return {"refused": str(error)[:200]}
    except MemoryError:
        return {"refused": "more memory than a conversation needs"}
    except RecursionError:
        return {"refused": "endless nesting"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}


def size_now() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def limits(extra: int, base: int) -> None:
    """Bounds of the next rendering: address space above what stands, two seconds of processor time (the parent ends it earlier)."""
    try:
        import resource
    except ImportError:  # Windows: the allow-lists and the parent's clock remain
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 3, hard))
    if base:
        resource.setrlimit(resource.RLIMIT_AS, (base + ROOM + extra, resource.getrlimit(resource.RLIMIT_AS)[1]))


def confine() -> int:
    """No files, no processes, no core dumps from here on. The address space now, or 0 where it cannot be told."""
    try:
        import resource

        for name, value in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_NPROC", 0)):
            resource.setrlimit(getattr(resource, name), (value, value))
        base = size_now()
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        return base
    except (ImportError, OSError, ValueError, AttributeError):
        return 0


def main() -> None:
    sys.path[:0] = sys.argv[1:]
    given, taken = sys.stdin.buffer, sys.stdout.buffer
    env, known = build(), {}
    warm = "{% for m in x %}{{ m.a | trim }}{% endfor %}{{ strftime_now('%Y') }}"  # imports happen before files are closed to it
    answer(env, known, {"source": warm, "values": {"x": []}, "limit": 9})
    known.clear()
    base = confine()
    taken.write(struct.pack("<I", 0))
    taken.flush()
    while True:
        head = given.read(4)
        if len(head) < 4:
            return
        data = given.read(struct.unpack("<I", head)[0])
        limits(16 * len(data), base)
        try:
            found: dict[str, Any] = answer(env, known, json.loads(data))
            found["spent"] = bool(base and size_now() > base + ROOM // 4)  # better a fresh process than one that kept what it made
            reply = json.dumps(found).encode("ascii")
        except MemoryError:
            reply = b'{"refused": "more memory than a conversation needs", "spent": true}'
        taken.write(struct.pack("<I", len(reply)) + reply)
        taken.flush()


if __name__ == "__main__":
    main()
