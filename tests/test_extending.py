"""docs/extending.md cannot drift: excerpts stand in the example as they are shown, the other blocks run one after the other."""
from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.S)


def test_excerpts_stand_in_the_example() -> None:
    excerpts = [text for _, text in BLOCKS if text.startswith("# examples/")]
    assert len(excerpts) >= 6
    for text in excerpts:
        first, _, body = text.partition("\n")
        assert body.rstrip() in (ROOT / first.removeprefix("# ")).read_text(encoding="utf-8"), f"no longer in {first}:\n{body}"


def test_the_other_blocks_run() -> None:
    code = "\n".join(textwrap.dedent(text) for kind, text in BLOCKS if kind == "python" and not text.startswith("# examples/"))
    names: dict[str, Any] = {"__name__": "extending"}
    exec(compile(code, "docs/extending.md", "exec"), names)
    assert {"Rounded", "spread"} <= set(names)
