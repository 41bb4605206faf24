"""Molecules for people: drawings, .smi, .csv, .sdf with three-dimensional shapes. Imports of RDKit stay inside functions."""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen import files
from morphogen.codecs.molecule.chemistry import derive, parse, quiet
from morphogen.codecs.workers import each
from morphogen.errors import UsageError

WIDTH, HEIGHT = 280, 200
FORMULA = ("=", "+", "-", "@", "\t", "\r")
SEED = 2015  # ETKDG wants one; with it fixed the same molecule gets the same shape


def write(raws: Sequence[str], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]:
    """Write .smi, .csv, .tsv, .jsonl or .sdf, or (without an ending) a folder of drawings with molecules.csv and metadata.jsonl.

    Raises UsageError for another ending.
    """
    raws = list(raws)  # short, unlike what is made of them
    rows = [{"smiles": raw, **(meta[i] if i < len(meta) else {})} for i, raw in enumerate(raws)]
    suffix = out.suffix.lower()
    if suffix in (".csv", ".tsv"):
        files.write_text(out, table(rows, "\t" if suffix == ".tsv" else ","))
    elif suffix in (".smi", ".smiles", ".txt"):
        files.write_text(out, "".join(f"{row['smiles']} {_name(i)}\n" for i, row in enumerate(rows)))
    elif suffix in (".jsonl", ".ndjson"):
        files.write_text(out, _lines(rows))
    elif suffix in (".sdf", ".sd"):
        blocks = each(shape, raws, least=100)
        files.write_text(out, "".join(_record(i, block, said, row) for i, ((block, said), row) in enumerate(zip(blocks, rows))))
    elif not suffix:
        return _folder(raws, out, rows)
    else:
        raise UsageError(f"molecules are not written as '{suffix}'", where=out, remedy="end the name in .smi, .csv or .sdf, or in nothing")
    return [out]


def _name(i: int) -> str:
    return f"molecule-{i:05d}"


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps({k: _plain(v) for k, v in row.items()}, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def table(rows: Sequence[dict[str, Any]], delimiter: str) -> str:
    """Rows as CSV; words a spreadsheet would run as a formula get a ' in front (OWASP, CSV injection)."""
    names = list(dict.fromkeys(k for row in rows for k in row)) or ["smiles"]
    out = []
    for row in [dict(zip(names, names)), *rows]:
        buffer = io.StringIO(newline="")
        cells = [_plain(row.get(name, "")) for name in names]
        safe = ["'" + c if isinstance(c, str) and c.startswith(FORMULA) else c for c in cells]
        csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n").writerow(safe)  # so that cells with either of them are quoted
        out.append(buffer.getvalue()[:-2] + "\n")
    return "".join(out)


def _folder(raws: Sequence[str], out: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    names = [f"{i:05d}.png" for i in range(len(raws))]
    rows = [{"file_name": name, **row} for name, row in zip(names, rows)]
    with files.new_folder(out) as folder:
        for raw, name in zip(raws, names):
            (folder / name).write_bytes(drawing(raw))
        (folder / "molecules.csv").write_text(table(rows, ","), encoding="utf-8")
        (folder / "metadata.jsonl").write_text(_lines(rows), encoding="utf-8")
    return [*(out / name for name in names), out / "molecules.csv"]


def _record(i: int, block: str, said: str, row: dict[str, Any]) -> str:
    """One record of an SDF. What is no molecule is an empty record, so that record i is always item i."""
    lines = block.split("\n") if block else ["", "", "", "  0  0  0  0  0  0  0  0  0  0999 V2000", "M  END", ""]
    lines[0] = _name(i)
    fields = {**row, "coordinates": said}
    text = "".join(f">  <{k}>\n{str(_plain(v)).replace(chr(10), ' ')}\n\n" for k, v in fields.items())
    return "\n".join(lines) + text + "$$$$\n"


def shape(texts: Sequence[str]) -> list[list[str]]:
    """[mol block, how it came by its coordinates] of each: ETKDGv3 (Wang et al. 2020) and MMFF94, hydrogens included.

    A molecule that cannot be embedded is drawn flat, and says so; what is no molecule has no block.
    """
    with quiet() as chem:
        return [_shape(chem, text) for text in texts]


def _shape(chem: Any, text: str) -> list[str]:
    from rdkit.Chem import AllChem

    flat = parse(text)
    if flat is None:
        return ["", "none: not a molecule"]
    mol = chem.AddHs(flat)
    how: Any = AllChem
    params = how.ETKDGv3()
    params.randomSeed, params.maxIterations, params.useRandomCoords = SEED, 20, mol.GetNumAtoms() > 120
    if how.EmbedMolecule(mol, params) != 0:
        how.Compute2DCoords(flat)
        return [chem.MolToMolBlock(flat), "2-D: no three-dimensional shape was found"]
    if how.MMFFHasAllMoleculeParams(mol):
        how.MMFFOptimizeMolecule(mol, maxIters=200)
        return [chem.MolToMolBlock(mol), "3-D: ETKDGv3, MMFF94"]
    return [chem.MolToMolBlock(mol), "3-D: ETKDGv3"]


def drawing(raw: str) -> bytes:
    """A PNG of the structure; a grey card for what is no molecule."""
    mol = parse(raw)
    if mol is None:
        return _card()
    from rdkit.Chem.Draw import rdMolDraw2D

    with quiet():
        canvas = rdMolDraw2D.MolDraw2DCairo(WIDTH, HEIGHT)
        rdMolDraw2D.PrepareAndDrawMolecule(canvas, mol)
        canvas.FinishDrawing()
        return canvas.GetDrawingText()


def _card() -> bytes:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), (238, 238, 238))
    ImageDraw.Draw(image).text((WIDTH // 2 - 45, HEIGHT // 2 - 6), "not a molecule", fill=(120, 120, 120))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def preview(raws: Sequence[str]) -> dict[str, Any]:
    """{"kind": "image", "png": [...], "texts": [SMILES and two figures of each]}."""
    said = derive(raws, ("qed", "logp"))
    texts = [
        f"{raw} · not a molecule" if d["qed"] is None else f"{raw} · QED {d['qed']:.2f}, logP {d['logp']:.1f}" for raw, d in zip(raws, said)
    ]
    return {"kind": "image", "png": [drawing(raw) for raw in raws], "texts": texts}
