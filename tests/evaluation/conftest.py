"""Forests are small here: the laws told apart are far apart."""
from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphogen.evaluation.judges.TREES", 15)
    monkeypatch.setattr("morphogen.evaluation.judges.JOBS", 1)
