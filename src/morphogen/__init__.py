"""Learn how data is structured, then make more of it."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Synthesizer", "compare", "compress", "decompress", "evaluate", "export", "generate", "inspect", "interpolate", "list_", "load",
    "nearest", "reconstruct", "replay", "score", "train", "tune", "vary",
]

if TYPE_CHECKING:
    from morphogen.api import (
        compare,
        compress,
        decompress,
        evaluate,
        export,
        generate,
        inspect,
        interpolate,
        list_,
        load,
        nearest,
        reconstruct,
        replay,
        score,
        train,
        tune,
        vary,
    )
    from morphogen.api.estimator import Synthesizer


def __getattr__(name: str) -> Any:
    # Verbs load on first use, so that `import morphogen` stays without torch.
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("morphogen.api.estimator" if name == "Synthesizer" else "morphogen.api"), name)
    raise AttributeError(f"module 'morphogen' has no attribute {name!r}")
