"""A picture of a terminal: tmux capture-pane -e -p | python docs/terminal.py docs/chat.svg (no address of a font is left in it)."""
from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main(out: str, title: str = "morphogen chat") -> None:
    rows = Text.from_ansi(sys.stdin.read().rstrip())
    width = max(line.cell_len for line in rows.split("\n")) + 2
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(rows, soft_wrap=True)
    made = re.sub(r"@font-face\s*\{.*?\}", "", console.export_svg(title=title, unique_id="chat"), flags=re.DOTALL)
    Path(out).write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
