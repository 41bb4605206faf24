"""Foreign architectures, one file each: how to read a config.json, and which tensor is which."""
from __future__ import annotations

import importlib

from morphogen.errors import FormatError, suggest
from morphogen.formats.tables.table import Name, Table, expand

__all__ = ["Name", "Table", "expand", "kinds", "table_of"]

# model_type of a config.json -> the module that knows it
MODULES = {
    "llama": "llama", "mistral": "llama", "qwen2": "llama", "qwen3": "llama", "smollm3": "llama",
    "phi3": "phi3", "olmo2": "olmo2", "gemma2": "gemma", "gemma3_text": "gemma", "gemma3": "gemma",
    "mixtral": "experts", "qwen3_moe": "experts", "gpt2": "gpt2",
    "bert": "bert", "roberta": "bert", "xlm-roberta": "bert", "distilbert": "bert", "modernbert": "modernbert",
    "t5": "t5", "mt5": "t5",
}


def kinds() -> list[str]:
    """Every model_type that is read."""
    return sorted(MODULES)


def table_of(kind: str) -> Table:
    """The table of a model_type. Raises FormatError naming the supported ones."""
    if kind not in MODULES:
        remedy = suggest(kind, MODULES) + " (morphogen runs no code of a model)"
        raise FormatError(f"architecture '{kind[:60]}' is not supported", remedy=remedy)
    return importlib.import_module(f"morphogen.formats.tables.{MODULES[kind]}").TABLES[kind]
