"""What is handed over in Python, and Parquet and Arrow files: one view of rows, whatever holds them, and the codec that takes it."""
from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from morphogen.codecs.rows import Rows, of_file, of_object
from morphogen.codecs.sources import scan
from morphogen.errors import DataError
from morphogen.plan import claim, read

pandas = pytest.importorskip("pandas")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PIXELS = (np.arange(30 * 6 * 5 * 3) * 7 % 251).astype(np.uint8).reshape(30, 6, 5, 3)
NAMES = ["cat", "dog"]
LABELS = [NAMES[i % 2] for i in range(30)]
TEXTS = [f"This is the sentence number {i}, and it says little." for i in range(30)]
SMILES = ["C" * n + "O" for n in range(1, 12)] + ["c1ccccc1" + "C" * n for n in range(1, 12)]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def items(source: Any) -> tuple[str, list[Any], list[dict[str, Any]]]:
    _, name, _, _, found = read(source)
    return name, [item.raw for item in found], [item.cond for item in found]


PICTURES: dict[str, Any] = {
    "array": PIXELS,
    "list of arrays": list(PIXELS),
    "list of Pillow images": [Image.fromarray(p) for p in PIXELS],
    "list of files as bytes": [png(p) for p in PIXELS],
    "dict of columns": {"image": PIXELS, "label": LABELS},
    "list of dicts": [{"image": Image.fromarray(p), "label": label} for p, label in zip(PIXELS, LABELS)],
    "data frame": pandas.DataFrame({"picture": list(PIXELS), "label": LABELS}),
    "pyarrow table of bytes": arrow.table({"image": [{"bytes": png(p), "path": None} for p in PIXELS], "label": LABELS}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_in_any_object(name: str) -> None:
    codec, raws, conds = items(PICTURES[name])
    assert codec == "image" and all(np.array_equal(a, b) for a, b in zip(raws, PIXELS, strict=True))
    labelled = any(isinstance(PICTURES[name], kind) for kind in (dict, pandas.DataFrame, arrow.Table)) or name == "list of dicts"
    assert [c.get("label") for c in conds] == (LABELS if labelled else [None] * 30)


def test_grey_pictures_and_odd_modes() -> None:
    assert items(PIXELS[..., 0])[1][0].shape == (6, 5, 1)
    palette = [Image.fromarray(p).convert("P") for p in PIXELS]
    assert items(palette)[1][0].shape == (6, 5, 3) and palette[0].mode == "P", "a person's image is left as it is"


ROWS = [{"x": i / 3, "word": "ab"[i % 2], "n": i % 5} for i in range(30)]
TABLES: dict[str, Any] = {
    "list of dicts": ROWS,
    "dict of columns": {name: [row[name] for row in ROWS] for name in ROWS[0]},
    "data frame": pandas.DataFrame(ROWS),
    "pyarrow table": arrow.Table.from_pylist(ROWS),
    "pyarrow batch": arrow.RecordBatch.from_pylist(ROWS),
    "structured array": np.array([(r["x"], r["word"], r["n"]) for r in ROWS], [("x", float), ("word", "U1"), ("n", int)]),
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_in_any_object(name: str) -> None:
    codec, raws, _ = items(TABLES[name])
    assert codec == "table" and raws == ROWS


def test_numbers_without_names() -> None:
    x = np.arange(60.0).reshape(20, 3) ** 2
    for source in (x, x.tolist(), x.astype(np.float32)):
        codec, raws, _ = items(source)
        assert codec == "table" and list(raws[4]) == ["x0", "x1", "x2"] and list(raws[4].values()) == x[4].tolist()


def test_texts_and_molecules_in_lists_and_frames() -> None:
    beside = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    for source in (TEXTS, tuple(TEXTS), np.array(TEXTS), {"text": TEXTS}, beside, arrow.table({"text": TEXTS})):
        codec, raws, conds = items(source)
        assert codec == "text" and raws == TEXTS
    assert items(beside)[2][1] == {"label": "dog"}
    for source in (SMILES, np.array(SMILES), pandas.DataFrame({"smiles": SMILES}), {"smiles": SMILES}):
        codec, raws, _ = items(source)
        assert codec == "molecule" and len(raws) == len(SMILES)
    short = pandas.DataFrame({"text": ["yes", "no"] * 15, "score": range(30)})
    assert claim(scan(short))[0] == "table", "short words beside numbers are a table's"


BAD = [42, None, object(), [], {}, [1, "a"], ["a", {"b": 1}], {"a": [1], "b": [1, 2]}, np.zeros((0, 3)), np.zeros((3, 4, 5)), np.array(3),
       np.zeros((2, 3, 8, 8), np.uint8), pandas.DataFrame(), arrow.table({"a": arrow.array([], arrow.int64())}), [[1], [1, 2]]]


@pytest.mark.parametrize("bad", BAD, ids=lambda b: type(b).__name__)
def test_what_holds_no_rows_is_refused_in_one_line(bad: Any) -> None:
    with pytest.raises(DataError) as error:
        read(bad)
    assert "\n" not in str(error.value)


def test_objects_are_never_changed() -> None:
    frame, pixels, rows = pandas.DataFrame(ROWS), PIXELS.copy(), [dict(r) for r in ROWS]
    before = frame.copy()
    for source in (frame, pixels, rows):
        items(source)
    pandas.testing.assert_frame_equal(frame, before)
    assert (pixels == PIXELS).all() and rows == ROWS
    table = of_object(rows)
    assert isinstance(table, Rows) and list(table) == list(table) == rows, "rows may be gone through again"


# ------------------------------------------------------------------- folders of `datasets`
def shards(folder: Path, table: Any, *, save: str) -> Path:
    """The table as two files: "parquet" as on the hub, "arrow" as save_to_disk writes it."""
    folder.mkdir(parents=True)
    half = table.num_rows // 2
    for i, part in enumerate((table.slice(0, half), table.slice(half))):
        if save == "parquet":
            (folder / "data").mkdir(exist_ok=True)
            parquet.write_table(part, folder / "data" / f"train-{i:05d}-of-00002.parquet")
        else:
            (folder / "train").mkdir(exist_ok=True)
            with arrow.OSFile(str(folder / "train" / f"data-{i:05d}-of-00002.arrow"), "wb") as out, \
                    arrow.ipc.new_stream(out, part.schema) as writer:
                writer.write_table(part)
            (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
            (folder / "train" / "state.json").write_text("{}")
            (folder / "train" / "dataset_info.json").write_text("{}")
    return folder


def as_dataset(columns: dict[str, Any], features: dict[str, Any]) -> Any:
    about = json.dumps({"info": {"features": features}})
    table = arrow.table(columns)
    return table.replace_schema_metadata({"huggingface": about})


@pytest.mark.parametrize("save", ["parquet", "arrow"])
def test_folders_of_shards(save: str, tmp_path: Path) -> None:
    kinds = {"label": {"_type": "ClassLabel", "names": NAMES}, "image": {"_type": "Image"}}
    numbers = [i % 2 for i in range(30)]
    pictures = as_dataset({"image": [{"bytes": png(p), "path": f"{i}.png"} for i, p in enumerate(PIXELS)], "label": numbers}, kinds)
    codec, raws, conds = items(shards(tmp_path / "pictures", pictures, save=save))
    assert codec == "image" and all(np.array_equal(a, b) for a, b in zip(raws, PIXELS, strict=True))
    assert [c["label"] for c in conds] == LABELS, "classes are told by their names"
    texts = as_dataset({"text": TEXTS, "label": numbers}, kinds)
    codec, raws, conds = items(shards(tmp_path / "texts", texts, save=save))
    assert codec == "text" and raws == TEXTS and conds[1] == {"label": "dog"}
    codec, raws, _ = items(shards(tmp_path / "rows", arrow.Table.from_pylist(ROWS), save=save))
    assert codec == "table" and raws == ROWS
    codec, raws, _ = items(shards(tmp_path / "molecules", arrow.table({"smiles": SMILES}), save=save))
    assert codec == "molecule" and len(raws) == len(SMILES)


def test_a_folder_of_pictures_with_metadata(tmp_path: Path) -> None:
    for i, pixels in enumerate(PIXELS):
        (tmp_path / f"{i:02d}.png").write_bytes(png(pixels))
    lines = [json.dumps({"file_name": f"{i:02d}.png", "label": LABELS[i]}) for i in range(30)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    codec, raws, conds = items(tmp_path)
    assert codec == "image" and len(raws) == 30 and [c["label"] for c in conds] == LABELS


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"ARROW1 and then nothing" if name.endswith("arrow") else b"PAR1 and nothing")
        with pytest.raises(DataError, match="not readable as") as error:
            of_file(tmp_path / name)
        assert "\n" not in str(error.value)
        with pytest.raises(DataError):
            read(tmp_path / name)


def test_bad_cells_are_skipped_and_counted() -> None:
    cells: list[Any] = [png(p) for p in PIXELS] * 10
    cells[77] = png(PIXELS[0])[:40]
    _, _, _, codec, found = read({"image": cells})
    assert len(found) == 299 and codec.skips.count == 1 and codec.skips.first[0].startswith("row 78: damaged PNG")
