"""The verbs as plain functions; the command line is a thin skin over them."""
from morphogen.api.compare import compare
from morphogen.api.compress import compress, decompress
from morphogen.api.evaluate import evaluate
from morphogen.api.export import export
from morphogen.api.generate import generate
from morphogen.api.inspect import inspect, list_, load
from morphogen.api.latent import interpolate, reconstruct, vary
from morphogen.api.nearest import nearest
from morphogen.api.replay import replay
from morphogen.api.score import score
from morphogen.api.train import train
from morphogen.api.tune import tune

__all__ = [
    "compare", "compress", "decompress", "evaluate", "export", "generate", "inspect", "interpolate", "list_", "load", "nearest",
    "reconstruct", "replay", "score", "train", "tune", "vary",
]
