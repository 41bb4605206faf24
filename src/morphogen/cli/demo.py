"""morphogen demo"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Console, Force, Json, Number, result


def demo(
    *,
    out: Path = Path("demo"),
    minutes: Number = 3.8,
    force: Force = False,
    json: Json = False,
) -> int:
    """Train on packaged digits, emoji, penguins and Python's own docstrings; one report.

    Parameters
    ----------
    out
        A new folder for data, runs and report.html.
    minutes
        Training time, shared by the models.
    """
    from morphogen.api.demo import demo as show

    with Console() as watch:
        answer = show(out, minutes=minutes, force=force, watch=watch)
    return result(answer, [f"report: {answer['report']}"], json)
