"""One dict literal per axis: name -> where it lives and what it is in one line. Resolved lazily, so listing imports nothing.

Other people's plug-ins join through the entry-point group `morphogen`: an entry named `codec.NAME`, `family.NAME` or
`metric.NAME` points at the class; its first docstring line is its description.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, NamedTuple

from morphogen.errors import UsageError, suggest


class Entry(NamedTuple):
    target: str
    line: str


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
    "kde": Entry("morphogen.families.kde:KDE", "classical: kernel density, a training row plus noise"),
    "cart": Entry("morphogen.families.cart:Cart", "classical: sequential decision trees, one field after another; hard to beat on tables"),
    "neighbour": Entry("morphogen.families.neighbour:Neighbour", "classical: blends of neighbouring training rows; the copying yardstick"),
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
    "obedience": Entry(
        "morphogen.evaluation.obedience:obedience", "asked conditions against those worked out of the outputs: rank correlation, agreement"
    ),
    "copying": Entry("morphogen.evaluation.copying:copying", "distance to the nearest training item against that of held-out items"),
    "legal": Entry("morphogen.evaluation.quality:legal", "share of outputs that keep the data's own rules"),
}

AXES = {"codec": CODECS, "condition": CONDITIONS, "family": FAMILIES, "metric": METRICS}


@cache
def plugins() -> dict[str, dict[str, Entry]]:
    """Entries of other installed packages, by axis."""
    from importlib.metadata import entry_points

    found: dict[str, dict[str, Entry]] = {axis: {} for axis in AXES}
    for point in entry_points(group="morphogen"):
        axis, _, name = point.name.partition(".")
        if axis in found and name and name not in AXES[axis]:
            found[axis][name] = Entry(point.value, f"from {point.dist.name if point.dist else point.module}")
    return found


def entries(axis: str) -> dict[str, Entry]:
    """All known names of an axis ("codec", "condition", "family", "metric"), ours first."""
    return {**AXES[axis], **plugins()[axis]}


def resolve(axis: str, name: str) -> Any:
    """The class or function behind a name. Raises UsageError with the nearest name when there is none."""
    known = entries(axis)
    name = PRESETS.get(name, name) if axis == "family" else name
    if name not in known:
        raise UsageError(f"unknown {axis} '{name}'", remedy=suggest(name, [*known, *(PRESETS if axis == "family" else ())]))
    module, _, attribute = known[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)
