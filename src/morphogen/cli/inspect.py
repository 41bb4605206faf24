"""morphogen inspect"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from morphogen.cli.console import Json, result


def inspect(
    first: Path,
    second: Path | None = None,
    /,
    *,
    json: Json = False,
) -> int:
    """Say what a run or a data set is, or where two runs first differ.

    Parameters
    ----------
    first
        A run folder, a GGUF file, a Hugging Face folder, or data.
    second
        Another run folder: prints the first difference.
    """
    from morphogen import api

    facts = api.inspect(first, second)
    if second is not None:
        found = facts["difference"]
        lines = (
            ["the runs are the same"]
            if found is None
            else [f"first difference: {found['where']}", f"  {first}: {found['first']}", f"  {second}: {found['second']}"]
        )
        return result(facts, lines, json)
    return result(facts, list(_lines(facts)), json)


def _lines(facts: dict[str, Any], indent: str = "") -> Any:
    for key, value in facts.items():
        if isinstance(value, dict | list) and not value:
            continue
        if isinstance(value, dict):
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{key}"
            yield from (f"{indent}  {v}" for v in value)
        elif value is not None:
            yield f"{indent}{key:<12} {value}"
