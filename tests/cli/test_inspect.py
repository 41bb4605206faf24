"""inspect on the command line: what there is, a line each."""
from __future__ import annotations

from morphogen.cli.inspect import _lines


def test_what_is_empty_gets_no_heading() -> None:
    facts = {"kind": "data", "warnings": [], "found": ["a", "b"], "conditions": {}, "data": {"hash": 1}, "took": None}
    assert list(_lines(facts)) == ["kind         data", "found", "  a", "  b", "data", "  hash         1"]
