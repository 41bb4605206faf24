"""Chemistry over many molecules on all given cores."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from morphogen.codecs.workers import LEAST, each


def over(job: str, items: Sequence[Any], least: int = LEAST, **options: Any) -> list[Any]:
    """`jobs()[job](items, **options)`, in order; on all cores when there are more than `least` items."""
    return list(each(jobs()[job], items, least=least, **options))


def jobs() -> dict[str, Callable[..., list[Any]]]:
    """What can be done with many molecules."""
    from morphogen.codecs.molecule import chemistry, outputs

    return {"survey": chemistry.survey, "vary": chemistry.vary, "derive": chemistry.derive, "features": chemistry.features,
            "shape": outputs.shape}
