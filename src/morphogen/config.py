"""Config is a frozen keyword-only dataclass beside its class; attribute docstrings are the help. No torch here."""
from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from morphogen.errors import UsageError, suggest

C = TypeVar("C")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Size of a network. 0 (or empty) means: derived from `size` by the architecture, then saved resolved."""

    size: str = "small"
    "tiny, small, base or large: derives everything below."
    width: int = 0
    "Channels of the first level, or width of the residual stream."
    depth: int = 0
    "Blocks per level, or transformer layers."
    heads: int = 0
    "Attention heads."
    levels: int = 0
    "Resolutions of a convolutional net."
    patch: int = 0
    "Pixels per side that enter as one position."
    dropout: float = 0.0
    "Share of activations dropped in training."


SIZES = ("tiny", "small", "base", "large")


def make(cls: type[C], values: dict[str, Any] | None = None, where: str = "") -> C:
    """Build a config dataclass from plain values, validated; nested dataclasses from nested dicts.

    Raises UsageError naming the field, the value and the nearest known name.
    """
    from pydantic import TypeAdapter, ValidationError

    values = dict(values or {})
    hints = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in hints:
            raise UsageError(f"unknown option '{where}{key}' for {cls.__qualname__}", remedy=suggest(key, hints))
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        at = where + ".".join(str(p) for p in first["loc"])
        raise UsageError(f"option '{at}' = {first.get('input')!r} is not valid", remedy=first["msg"]) from None


def asdict(config: Any) -> dict[str, Any]:
    """A config as plain nested values, ready for TOML or JSON."""
    return dataclasses.asdict(config)


@cache
def help_of(module: str, cls: str) -> dict[str, tuple[str, str]]:
    """field -> (default as written, attribute docstring), read from source without importing the module."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    out: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            for item, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                    out[item.target.id] = (ast.unparse(item.value) if item.value else "", str(doc))
    return out


def cores() -> int:
    """Processor cores this process may use, at most 8: beyond that, memory is what is short."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, here))
