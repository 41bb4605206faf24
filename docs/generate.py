"""Write the generated parts of the docs, or check that they agree with the code: python -m docs.generate [--check]"""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGETS = [ROOT / "README.md", ROOT / "docs" / "reference.md"]
BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w -]+) -->\n).*?(<!-- end -->)", re.S)


def table(axis: str) -> str:
    """A Markdown table of one registry axis."""
    from morphogen.api.inspect import list_

    rows = list_()[axis]
    return "\n".join([f"| {axis} | what it is |", "|---|---|", *[f"| `{k}` | {v} |" for k, v in rows.items()]]) + "\n"


def help_of(verb: str) -> str:
    """The help page of a verb, as printed 100 columns wide."""
    import os

    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    from morphogen.cli import build

    out = io.StringIO()
    with redirect_stdout(out):
        build()([verb, "--help"] if verb != "morphogen" else ["--help"], exit_on_error=False)
    lines = [line.rstrip() for line in out.getvalue().strip().splitlines()]
    return "```\n" + "\n".join(lines) + "\n```\n"


def options(family: str) -> str:
    """Config and Sampling fields of a family, read from source."""
    import ast
    import importlib.util

    from morphogen.registry import FAMILIES

    module = FAMILIES[family].target.partition(":")[0]
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin
    out = [f"#### {family}", "", "| option | default | meaning |", "|---|---|---|"]
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ClassDef) and (node.name.endswith("Config") or node.name.endswith("Sampling")):
            kind = "family" if node.name.endswith("Config") else "sampling"
            for item, after in zip(node.body, [*node.body[1:], None]):
                if (
                    isinstance(item, ast.AnnAssign)
                    and isinstance(item.target, ast.Name)
                    and item.value is not None
                    and item.target.id != "net"
                ):
                    doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                    out.append(f"| `{kind}.{item.target.id}` | `{ast.unparse(item.value)}` | {doc} |")
    return "\n".join(out) + "\n"


def content(name: str) -> str:
    kind, _, rest = name.partition(" ")
    return {"table": table, "help": help_of, "options": options}[kind](rest)


def main() -> int:
    stale = []
    for path in TARGETS:
        text = path.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda m: m[1] + content(m["name"]) + m[3], text)
        if fresh != text:
            stale.append(path)
            if "--check" not in sys.argv:
                path.write_text(fresh, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print("out of date, run `make docs`: " + ", ".join(str(p.relative_to(ROOT)) for p in stale))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
