"""Language models: read from anywhere, drawn from, embedded with, exported."""

from morphogen.language.model import LanguageModel, load

__all__ = ["LanguageModel", "load"]
