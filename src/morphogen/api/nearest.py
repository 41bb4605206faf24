"""nearest: the training items an output lies closest to, and whether that is closer than honest new items come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.api.common import Watch, check_count
from morphogen.api.given import Opened, named
from morphogen.files import check_output, write_text
from morphogen.run import Run

COPY = 0.99
PAIRS = 48


def nearest(
    data: Any,
    run: Run | str | Path,
    *,
    k: int = 3,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """The `k` training items closest to each item of `data`, in the codec's features, beside what held-out items reach.

    Distances count in the median distance of a held-out item to its nearest training item. `closer` is the share of held-out
    items that lie further from theirs; above 0.99 an item is probably a copy. `out`: a page that shows pairs side by side.
    Raises UsageError, DataError.
    """
    from morphogen.evaluation.copying import fingerprint

    watch = watch or Watch()
    check_count(k, "k", 1000)
    if out is not None:
        check_output(Path(out), force=force)
    opened = Opened(run, device, watch)
    items = opened.read(data)
    train, yard = opened.train, opened.yard
    raws = [item.raw for item in items]
    distance, index = yard.nearest(raws, k)
    closer = yard.closer_than(distance[:, 0])
    seen = {fingerprint(item.raw, opened.codec) for item in train}
    same = np.array([fingerprint(raw, opened.codec) in seen for raw in raws], bool)
    rows = [
        {
            "item": named(item, i),
            "closer": None if np.isnan(closer[i]) else round(float(closer[i]), 4),
            "copy": bool(same[i] or closer[i] > COPY),
            "exact": bool(same[i]),
            "nearest": [
                {"train": named(train[j], j), "distance": round(float(d), 4)} for j, d in zip(index[i].tolist(), distance[i], strict=True)
            ],
        }
        for i, item in enumerate(items)
    ]
    answer = {
        "run": str(opened.folder.path),
        "feature": yard.name,
        "searched": len(yard.order),
        "held_out": len(yard.distances),
        "copies": sum(row["copy"] for row in rows),
        "exact": int(same.sum()),
        "verdict": _verdict(rows, distance[:, 0], len(yard.distances)),
        "items": rows,
        "out": None if out is None else str(out),
    }
    if out is not None:
        write_text(Path(out), _page(opened, items, train, distance, index, answer))
    return answer


def _verdict(rows: list[dict[str, Any]], distance: np.ndarray, held: int) -> str:
    n, copies, exact = len(rows), sum(r["copy"] for r in rows), sum(r["exact"] for r in rows)
    middle = f"half of them lie within {float(np.median(distance)):.2f} of a training item (held-out items: 1.00)"
    if held < 20:
        return f"{exact:,} of {n:,} equal a training item; {middle}. Too few items were held out to call anything else a copy."
    if not copies:
        return f"none of {n:,} is closer to a training item than 99 % of real new items are; {middle}."
    expected = "" if n < 100 else " (1 % is honest)"
    return (
        f"{copies:,} of {n:,} are closer to a training item than 99 % of real new items{expected}: probably "
        f"{'a copy' if copies == 1 else 'copies'}, {exact:,} of them exact; {middle}."
    )


def _page(
    opened: Opened, items: Sequence[Any], train: Sequence[Any], distance: np.ndarray, index: np.ndarray, answer: dict[str, Any]
) -> str:
    from morphogen.evaluation.page import Copies, Lines, Page
    from morphogen.evaluation.report import render

    each = max(1, PAIRS // distance.shape[1])
    chosen = np.argsort(distance[:, 0], kind="stable")[:each].tolist()
    pairs = [(i, j, float(d)) for i in chosen for j, d in zip(index[i].tolist(), distance[i], strict=True)]
    codec = opened.codec
    sections: list[Any] = [
        Copies(
            title="The closest first",
            generated=codec.preview([items[i].raw for i, _, _ in pairs]),
            nearest=codec.preview([train[j].raw for _, j, _ in pairs]),
            distances=[d for _, _, d in pairs],
            note=f"Left the item, right a training item. Distances in {answer['feature']}; 1 is the median of held-out items.",
        ),
        Lines(
            title="Which they are",
            lines=[(answer["items"][i]["item"], ", ".join(n["train"] for n in answer["items"][i]["nearest"])) for i in chosen],
        ),
    ]
    tone = "poor" if answer["copies"] > max(1, 0.02 * len(items)) else "good"
    return render(
        Page(
            title="Closest training items",
            subtitle=f"{len(items):,} items beside {answer['searched']:,} that {opened.folder.path.resolve().name} learned from",
            verdict=answer["verdict"],
            date=time.strftime("%Y-%m-%d"),
            tone=tone,
            sections=sections,
        )
    )
