"""GGUF, the file format of llama.cpp: a bounds-checked reader of our own, and a writer."""

from morphogen.formats.gguf.read import Gguf, GgufTensor, read_gguf
from morphogen.formats.gguf.write import Typed, write_gguf

__all__ = ["Gguf", "GgufTensor", "Typed", "read_gguf", "write_gguf"]
