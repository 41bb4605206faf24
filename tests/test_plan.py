"""What is decided before the first step."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from morphogen.plan import make_plan


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "notes.txt"
    path.write_text("".join(f"Entry {i} is about the {i % 7}th of {i * 31 % 101} things.\n\n" for i in range(1000)))  # about 45 kB
    return path


@pytest.mark.parametrize(
    ("wishes", "share"),
    [
        ({"minutes": 5.0}, 0.2),
        ({"steps": 300}, 0.2),
        ({"minutes": 0.05}, None),  # a text read once or twice is not learned by heart
        ({"steps": 10}, None),
        ({"minutes": 5.0, "options": {"net": {"dropout": 0.0}}}, 0.0),
        ({"minutes": 5.0, "options": {"training": {"compile": True}}}, None),  # generated code has no drop-out
        ({"minutes": 5.0, "family": "masked"}, 0.2),
    ],
)
def test_drop_out_is_for_little_text_and_much_time(text: Path, wishes: dict[str, Any], share: float | None) -> None:
    plan = make_plan(text, **{"family": "autoregressive", **wishes})
    assert plan.family_config["net"].get("dropout") == share
    assert any("drop-out" in line for line in plan.picked) == bool(share)
