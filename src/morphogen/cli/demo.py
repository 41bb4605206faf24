"""morphogen demo"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from morphogen.cli.console import Console, Number, result


def demo(
    *,
    out: Path = Path("demo"),
    minutes: Number = 3.2,
    force: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train on packaged digits, emoji, penguins and Python's own docstrings; one report.

    Parameters
    ----------
    out
        A new folder for data, runs and report.html.
    minutes
        Training time, shared by the models.
    force
        Replace a demo folder that exists.
    json
        Print one JSON object on stdout.
    """
    from morphogen.api.demo import demo as show

    watch = Console()
    try:
        answer = show(out, minutes=minutes, force=force, watch=watch)
    finally:
        watch.close()
    return result(answer, [f"report: {answer['report']}"], json)
