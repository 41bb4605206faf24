"""morphogen replay"""
from __future__ import annotations

from pathlib import Path

from morphogen.cli.console import Device, Force, Json, result


def replay(
    file: Path,
    /,
    *,
    out: Path,
    run: Path | None = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> int:
    """Make a generated FILE again from its own provenance.

    Parameters
    ----------
    file
        A file that `morphogen generate` wrote.
    out
        Where to write it again; the same bytes on the same build.
    run
        Where the run folder lies now, when it was moved.
    """
    from morphogen import api
    from morphogen.api.common import Watch

    class Ear(Watch):
        """Keeps what is said."""

        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, line: str, kind: str = "info") -> None:
            self.lines.append(line)

    ear = Ear()
    made = api.replay(file, out, run=run, device=device, force=force, watch=ear)
    same = made.read_bytes() == file.read_bytes()
    lines = [f"{made} (the same bytes)"] if same else [f"{made} (the bytes differ)", *(f"differs  {line}" for line in ear.lines)]
    return result({"out": str(made), "same": same, "differs": [] if same else ear.lines}, lines, json)
