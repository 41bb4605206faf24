"""One dict literal per axis: name -> where it lives and what it is in one line. Resolved lazily, so listing imports nothing.

Other people's plug-ins join through the one entry-point group `morphogen`: an entry named `AXIS.NAME` (`codec.knitting`,
`family.mesh`, `bridge.NAME`, `metric.NAME`, `condition.NAME`) points at the class or function. What is said of it is its
distribution's summary, so that listing imports nothing. A plug-in that is broken costs one warning and nothing else.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeVar

from morphogen.errors import MorphogenError, ResourceError, UsageError, suggest

GROUP = "morphogen"
T = TypeVar("T")


class PluginWarning(UserWarning):
    """An installed plug-in that cannot be used: one line that names its distribution."""


class Entry(NamedTuple):
    """`dist`: the distribution a plug-in came with, and its version; "" for our own."""

    target: str
    line: str
    dist: str = ""


CODECS = {
    "image": Entry(
        "morphogen.codecs.image:ImageCodec", "folders of PNG, JPEG, WebP, GIF, BMP pictures, with class folders, labels or captions"
    ),
    "level": Entry("morphogen.codecs.level:LevelCodec", "game levels: Sokoban and other text grids, Tiled JSON maps; solved, drawn"),
    "molecule": Entry("morphogen.codecs.molecule:MoleculeCodec", "molecules: tables of SMILES, .smi, SDF; writes these and drawings"),
    "music": Entry("morphogen.codecs.music:MusicCodec", "ABC tunes and MIDI files; writes ABC, MIDI, sound and piano rolls"),
    "table": Entry("morphogen.codecs.table:TableCodec", "CSV, Parquet or JSONL rows: numbers, categories, dates, missing values"),
    "text": Entry(
        "morphogen.codecs.text:TextCodec", "text files, folders of them or JSONL with a text field; bytes or trained byte-level BPE"
    ),
}

CONDITIONS = {
    "label": Entry("morphogen.codecs.label:LabelCodec", "one of a few names"),
    "number": Entry("morphogen.codecs.label:NumberCodec", "a number"),
    "caption": Entry("morphogen.codecs.text:CaptionCodec", "a short text"),
}

FAMILIES = {
    "vae": Entry("morphogen.families.vae:VAE", "variational autoencoder: a smooth, VQ or finite-scalar latent; fast, a little soft"),
    "gan": Entry(
        "morphogen.families.gan:GAN", "relativistic adversarial pair with zero-centred gradient penalties: sharp, one step to draw"
    ),
    "diffusion": Entry(
        "morphogen.families.diffusion:Diffusion", "EDM-preconditioned denoiser: best quality for pictures and vectors, many steps to draw"
    ),
    "flow": Entry("morphogen.families.flow:Flow", "rectified flow: straight paths from noise to data, few steps to draw"),
    "autoregressive": Entry("morphogen.families.autoregressive:Autoregressive", "GPT: the next token from those before; exact likelihood"),
    "masked": Entry("morphogen.families.masked:Masked", "BERT: any tokens from any others; fills gaps, draws in a few rounds"),
    "seq2seq": Entry("morphogen.families.seq2seq:Seq2Seq", "T5: an encoder reads the condition, a decoder writes the answer"),
    "ngram": Entry("morphogen.families.ngram:Ngram", "classical: interpolated Kneser-Ney or Witten-Bell counts; trains in seconds"),
    "mixture": Entry("morphogen.families.mixture:Mixture", "classical: Gaussian mixture by EM"),
    "latent_class": Entry(
        "morphogen.families.latent_class:LatentClass",
        "classical: mixture of token shares by EM; exact likelihood of small pictures with few levels",
    ),
    "kde": Entry("morphogen.families.kde:KDE", "classical: kernel density, a training row plus noise"),
    "cart": Entry("morphogen.families.cart:Cart", "classical: sequential decision trees, one field after another; hard to beat on tables"),
    "neighbour": Entry("morphogen.families.neighbour:Neighbour", "classical: blends of neighbouring training rows; the copying yardstick"),
}

# Tried in this order: the shortest way to a Space a family accepts, earlier bridges first.
BRIDGES = {
    "one_hot": Entry("morphogen.bridges.one_hot:OneHot", "a row to a vector: normal scores of numbers, centred one-hot words"),
    "serialise": Entry("morphogen.bridges.serialise:Serialise", "a row to tokens, a few a column"),
    "bins": Entry("morphogen.bridges.bins:Bins", "numbers to tokens: quantiles, or the steps the data have"),
    "bits": Entry("morphogen.bridges.bits:AnalogBits", "tokens to numbers: analog bits"),
}

PRESETS = {"gpt": "autoregressive", "bert": "masked", "t5": "seq2seq"}

METRICS = {
    "prdc": Entry("morphogen.evaluation.quality:prdc", "precision, recall, density, coverage by nearest neighbours"),
    "frechet": Entry("morphogen.evaluation.quality:frechet", "Fréchet distance between feature Gaussians"),
    "c2st": Entry("morphogen.evaluation.quality:c2st", "how well a classifier tells generated from real (0.5 = not at all)"),
    "tstr": Entry("morphogen.evaluation.quality:tstr", "train on synthetic, test on real, beside train on real"),
    "likelihood": Entry("morphogen.evaluation.likelihood:bits", "bits per dimension or per byte on held-out data"),
    "rare": Entry("morphogen.evaluation.diversity:rare", "share of rare categories that come back, and how often"),
    "columns": Entry("morphogen.evaluation.diversity:columns", "shapes of a table's columns and the correlations between them"),
    "wording": Entry("morphogen.evaluation.diversity:wording", "variety, repetition and vocabulary of texts"),
    "unique": Entry("morphogen.evaluation.diversity:unique", "share of outputs of tokens that no other output equals"),
    "legal": Entry("morphogen.evaluation.quality:legal", "share of outputs that keep the data's own rules"),
    "obedience": Entry(
        "morphogen.evaluation.obedience:obedience", "asked conditions against those worked out of the outputs: rank correlation, agreement"
    ),
    "copying": Entry("morphogen.evaluation.copying:copying", "distance to the nearest training item against that of held-out items"),
}

AXES = {"codec": CODECS, "condition": CONDITIONS, "bridge": BRIDGES, "family": FAMILIES, "metric": METRICS}
# What the tool itself asks of a class before it uses it; the whole promise is checked by `morphogen.testing`.
NEEDED = {
    "codec": ("Config", "claims", "read", "fit", "encode", "decode", "write", "given", "state", "load", "preview", "features", "size_of"),
    "condition": ("fit", "encode", "draw", "state", "load"),
    "bridge": ("leads", "fit", "encode", "decode", "given", "parts", "volume"),
    "family": ("accepts", "Config", "Sampling", "forward", "stream"),
    "metric": ("__call__",),
}


def warn(entry: Entry | str, why: object) -> None:
    """Say once that a plug-in is left out, and which distribution it belongs to."""
    dist = entry if isinstance(entry, str) else entry.dist
    line = " ".join(f"plug-in {dist} is left out: {why}".split())[:300]
    warnings.warn("".join(c for c in line if c.isprintable()), PluginWarning, stacklevel=2)


@cache
def plugins() -> dict[str, dict[str, Entry]]:
    """Entries of other installed packages, by axis. Those that no axis can take are left out with a warning."""
    from importlib.metadata import entry_points

    found: dict[str, dict[str, Entry]] = {axis: {} for axis in AXES}
    for point in entry_points(group=GROUP):
        dist = f"{point.dist.name} {point.dist.version}" if point.dist else point.module
        axis, _, name = point.name.partition(".")
        if axis not in found or not name.isidentifier():
            warn(dist, f"entry '{point.name}' is not named AXIS.NAME with AXIS one of {', '.join(AXES)}")
        elif name in AXES[axis] or (axis == "family" and name in PRESETS):
            warn(dist, f"{axis} '{name}' is a name of morphogen's own")
        elif name in found[axis]:
            if found[axis][name].target != point.value:  # an editable install may be listed twice
                warn(dist, f"{axis} '{name}' is taken by {found[axis][name].dist}")
        else:
            summary = (point.dist.metadata["Summary"] if point.dist and "Summary" in point.dist.metadata else "") or f"a {axis}"
            found[axis][name] = Entry(point.value, f"{' '.join(summary.split())[:100]} (from {dist})", dist)
    return found


def entries(axis: str) -> dict[str, Entry]:
    """All known names of an axis ("codec", "condition", "bridge", "family", "metric"), ours first."""
    return {**AXES[axis], **plugins()[axis]}


def resolve(axis: str, name: str) -> Any:
    """The class or function behind a name. Raises UsageError with the nearest name when there is none, ResourceError when it
    belongs to a plug-in that cannot be loaded."""
    known = entries(axis)
    name = PRESETS.get(name, name) if axis == "family" else name
    if name not in known:
        raise UsageError(f"unknown {axis} '{name}'", remedy=suggest(name, [*known, *(PRESETS if axis == "family" else ())]))
    module, _, attribute = known[name].target.partition(":")
    if not known[name].dist:
        return getattr(importlib.import_module(module), attribute)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing strangers' code can raise anything
        raise _unusable(axis, name, f"{type(error).__name__}: {error}") from None
    missing = [each for each in NEEDED[axis] if not hasattr(found, each)]
    if missing:
        raise _unusable(axis, name, f"it has no {', '.join(missing[:3])}")
    return found


def _unusable(axis: str, name: str, why: str) -> ResourceError:
    dist = entries(axis)[name].dist
    return ResourceError(f"{axis} '{name}' of plug-in {dist} cannot be used ({why})", remedy="update it or uninstall it")


def usable(axis: str) -> Iterator[tuple[str, Any]]:
    """(name, class or function) of an axis; plug-ins that cannot be loaded are left out with a warning."""
    for name in entries(axis):
        found = tried(axis, name, lambda name=name: resolve(axis, name))
        if found is not None:
            yield name, found


def tried(axis: str, name: str, work: Callable[[], T]) -> T | None:
    """`work()`, which calls code of that entry. What a plug-in raises becomes a warning and None; our own errors pass."""
    entry = entries(axis)[name]
    if not entry.dist:
        return work()
    try:
        return work()
    except MorphogenError as error:
        warn(entry, error.what)
    except Exception as error:  # a stranger's fault must not take the tool down
        warn(entry, f"{axis} '{name}' raised {type(error).__name__}: {error}")
    return None
