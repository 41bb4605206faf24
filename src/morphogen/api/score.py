"""score: how odd each item is, from which score on that is remarkable, which parts of it are odd, and who tells better."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.api.common import Watch
from morphogen.api.given import Opened, named
from morphogen.contracts import Item
from morphogen.errors import DataError, UsageError, suggest
from morphogen.files import check_output, new_folder, write_text
from morphogen.run import Run

WAYS = {"model": "the model", "neighbours": "nearest neighbours", "forest": "an isolation forest"}
NORMAL = ("normal", "good", "ok", "fine", "regular", "inlier", "benign", "negative", "no", "false", "0")
KINDS = {
    "exact": "exact log-probability",
    "bound": "bound on the log-probability",
    "estimate": "estimated log-density",
    "reconstruction": "reconstruction: distance to what the model makes of it",
    "nearest neighbour": "distance to the nearest training items",
}
HEATS, SHOWN, TRIED, PLAIN = 200, 5, 400, 1024


def score(
    data: Any,
    run: Run | str | Path,
    *,
    out: str | Path | None = None,
    rate: float = 0.01,
    by: str = "model",
    label: str | None = None,
    normal: Sequence[str] = (),
    conditional: bool = False,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """How odd each item of `data` is to a run: a score (higher = odder), a conformal p-value, an alarm at `rate`, the odd parts.

    Held-out items of the run calibrate: of honest new items a share of at most `rate` is alarmed. `by`: model, neighbours or
    forest. `label`: the column (or "labels" for class folders) that says which items are normal, `normal` its values; with it
    the AUROC of all three is measured, without it they are tried on anomalies made from held-out items. `conditional`: score
    given what items say about the model's conditions. `out`: a .csv or .jsonl file, or a folder that gets heat maps too.
    Raises UsageError, DataError, FormatError.
    """
    watch, target = watch or Watch(), None if out is None else Path(out)
    if not 0 < rate < 1:
        raise UsageError(f"--rate {rate} is not a share", remedy="give a number between 0 and 1, such as 0.01")
    if by not in WAYS:
        raise UsageError(f"unknown way '{by}'", remedy=suggest(by, WAYS))
    if target is not None:
        check_output(target, force=force, inputs=(data,))
        if target.is_dir() and any(target.iterdir()) and not (target / "scores.csv").is_file():
            raise UsageError("the folder was not written by score; it is not overwritten", where=target, remedy="choose another name")
    opened = Opened(run, device, watch)
    items = opened.read(data)
    labels = _labels(opened, data, items, label, normal)
    judge = _Judge(opened, seed, conditional)
    if by == "model" and judge.standard is None:
        watch.say(f"{judge.family} gives no likelihood and no reconstruction: distances to training items are used instead", "warn")
        by = "neighbours"
    found = judge.score(items, by)
    sure = judge.separates(found, labels)
    answer = _answer(judge, items, found, by, rate, sure, labels)
    for line in answer["notes"]:
        watch.say(line, "warn")
    if target is not None:
        _write(opened, target, items, answer, found)
    return {**answer, "out": str(target) if target is not None else None}


@dataclass
class _Found:
    """What is known about a list of items: scores by each way, and the model's parts."""

    scores: dict[str, np.ndarray]
    parts: list[Any] | None = None
    kind: str = ""


class _Judge:
    """The model and its two classical rivals, calibrated on the same held-out items."""

    def __init__(self, opened: Opened, seed: int, conditional: bool) -> None:
        from morphogen.evaluation.anomaly import MOST_TRAIN, Forest, Neighbours, Standard
        from morphogen.spaces import Array

        self.opened, self.seed, self.conditional = opened, seed, conditional
        self.family = opened.folder.recipe["family"]["name"]
        self.held = opened.held
        if len(self.held) < 2:
            raise DataError(
                "nothing was held out, so no threshold can be set",
                where=opened.folder.recipe["data"]["path"],
                remedy="train on 10 items or more",
            )
        # numbers of few are compared as they are, which tells more than features; anything else by the codec's features
        space = opened.codec.space
        self.plain = isinstance(space, Array) and None not in space.shape and space.size <= PLAIN
        points, features = self._views([item.raw for item in opened.train[:MOST_TRAIN]])
        self.neighbours, self.forest = Neighbours(points), Forest(features, seed)
        odds = self._odds(self.held, "scoring held-out items")
        self.standard = None if odds is None else Standard.fit(odds.views, odds.size)
        self.usual = None if odds is None or odds.parts is None else _usual(odds.parts)
        self.calm = self._scores([item.raw for item in self.held], odds)

    def _odds(self, items: Sequence[Item], what: str) -> Any:
        from morphogen.items import odds

        tell = lambda share: self.opened.watch.progress(what, share)
        cond = self.opened.cond(items) if self.conditional else None
        return odds(self.opened.model, [item.raw for item in items], cond, seed=self.seed, tell=tell)

    def _scores(self, raws: Sequence[Any], odds: Any) -> dict[str, np.ndarray]:
        points, features = self._views(raws)
        out = {"neighbours": self.neighbours(points), "forest": self.forest(features)}
        return out if self.standard is None or odds is None else {"model": self.standard(odds.views, odds.size), **out}

    def _views(self, raws: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """What nearest neighbours and the forest look at."""
        from morphogen.evaluation.evidence import featurise

        if self.plain:
            x = np.stack([np.ravel(self.opened.codec.encode(raw)) for raw in raws]).astype(np.float64)
            return x, x
        features = featurise(self.opened.codec, raws)
        return self.opened.yard.scaler(features), features

    def score(self, items: Sequence[Item], by: str) -> _Found:
        """Scores of items by all three ways; parts where the model's are asked for."""
        odds = self._odds(items, "scoring")
        parts = None if odds is None or odds.parts is None or by != "model" else [_excess(p, self.usual) for p in odds.parts]
        kind = odds.kind if odds is not None and by == "model" else "nearest neighbour" if by == "neighbours" else "isolation forest"
        return _Found(self._scores([item.raw for item in items], odds), parts, kind)

    def separates(self, found: _Found, labels: np.ndarray | None) -> dict[str, Any]:
        """Whose scores tell odd from normal how well: on labels, else on anomalies made from held-out items."""
        from morphogen.evaluation.anomaly import separation

        first = "model" if "model" in found.scores else "neighbours"
        if labels is not None:
            odd, rest = ({k: v[labels == side] for k, v in found.scores.items()} for side in (True, False))
            what = f"{int(labels.sum()):,} odd and {int((~labels).sum()):,} normal items, by their labels"
            return {"on": what, "labels": True, "ways": separation(odd, rest, first, self.seed)}
        made, rest = self._made()
        what = f"{len(made):,} anomalies made from held-out items (two mixed, or places jumbled) and {len(rest):,} left as they are"
        sides = [self._scores([i.raw for i in side], self._odds(side, "trying made anomalies")) for side in (made, rest)]
        return {"on": what, "labels": False, "ways": separation(sides[0], sides[1], first, self.seed)}

    def _made(self) -> tuple[Sequence[Item], Sequence[Item]]:
        from morphogen.evaluation.anomaly import jumbled, mixed

        rng, codec = np.random.default_rng([self.seed, 5]), self.opened.codec
        some = [self.held[i] for i in np.sort(rng.permutation(len(self.held))[: TRIED // 2])]
        samples = [codec.encode(item.raw) for item in some]
        odd = [x for make in (mixed, jumbled) for x in make(samples, codec.space, rng)]
        # the honest ones take the same way through the codec, or its rounding would tell them apart
        return [Item(codec.decode(x)) for x in odd], [Item(codec.decode(x), item.cond) for x, item in zip(samples, some, strict=True)]


# ---------------------------------------------------------------- the answer
def _answer(
    judge: _Judge, items: Sequence[Item], found: _Found, by: str, rate: float, sure: dict[str, Any], labels: np.ndarray | None
) -> dict[str, Any]:
    from morphogen.evaluation.anomaly import p_values, threshold

    p = {way: p_values(found.scores[way], judge.calm[way]) for way in found.scores}
    level = threshold(judge.calm[by], rate)
    notes = []
    if len(judge.held) + 1 < 1 / rate:
        notes.append(
            f"{len(judge.held)} held-out items cannot vouch for a rate of {rate:g}: no p-value falls below "
            f"{1 / (len(judge.held) + 1):.2g}; say --rate {1.5 / (len(judge.held) + 1):.2g}, or train on more items"
        )
    rows = []
    for i, item in enumerate(items):
        row: dict[str, Any] = {"item": named(item, i), "score": float(found.scores[by][i]), "p": float(p[by][i])}
        row["alarm"] = bool(p[by][i] <= rate)
        row |= {f"p_{way}": float(p[way][i]) for way in p if way != by}
        if labels is not None:
            row["odd"] = bool(labels[i])
        if found.parts is not None:
            row["parts"] = _parts(judge.opened.codec, item, found.parts[i])
        rows.append(row)
    return {
        "run": str(judge.opened.folder.path),
        "family": judge.family,
        "by": by,
        "kind": found.kind,
        "meaning": KINDS.get(found.kind, "how quickly random cuts set an item apart"),
        "rate": rate,
        "threshold": level if np.isfinite(level) else None,
        "held_out": len(judge.held),
        "alarms": sum(row["alarm"] for row in rows),
        "separates": sure,
        "verdict": _verdict(sure, by),
        "notes": notes,
        "items": rows,
    }


def _verdict(sure: dict[str, Any], by: str) -> str:
    """Who tells odd from normal best, in a sentence."""
    ways = sure["ways"]
    said = ", ".join(f"{WAYS[k]} {w['auroc']:.3f} [{w['low']:.3f}, {w['high']:.3f}]" for k, w in ways.items())
    line = f"AUROC on {sure['on']}: {said}."
    first = next(iter(ways))
    better = [k for k in ways if ways[k]["better"] > 0]
    if better:
        best = max(better, key=lambda k: ways[k]["auroc"])
        more = "Made anomalies are not yours: with labels (--label) this would be certain." if not sure["labels"] else ""
        advice = "" if by == best else f" Say --by {best}."
        verb = "separate" if best == "neighbours" else "separates"
        return f"{line} {WAYS[best][:1].upper() + WAYS[best][1:]} {verb} better here than {WAYS[first]}.{advice} {more}".rstrip()
    worse = all(w["better"] < 0 for k, w in ways.items() if k != first)
    end = f"{WAYS[first][:1].upper() + WAYS[first][1:]} separates better than both." if worse else "No rival is better beyond chance."
    return f"{line} {end}"


def _usual(parts: list[Any]) -> Any:
    """What a part of an honest item gets: by place where all items have the same places, else one number."""
    if isinstance(parts[0], dict):
        return {name: np.mean([p[name] for p in parts], axis=0) for name in parts[0]}
    if len({p.shape for p in parts}) == 1 and parts[0].ndim > 1:
        return np.mean(parts, axis=0)
    stacked = np.concatenate([np.ravel(p) for p in parts])
    return float(stacked[stacked != 0].mean()) if (stacked != 0).any() else 0.0


def _excess(part: Any, usual: Any) -> Any:
    if isinstance(part, dict):
        return {name: part[name] - usual[name] for name in part}
    # a token that was not looked at (padding) has no excess
    return np.where(part == 0, 0.0, part - usual) if isinstance(usual, float) else part - usual


def _parts(codec: Any, item: Item, parts: Any) -> list[dict[str, Any]]:
    """The oddest parts of an item in a person's words, oddest first."""
    from morphogen.contracts import Explains

    if isinstance(codec, Explains):
        named_parts = codec.explain(item.raw, parts)
    elif isinstance(parts, dict):
        named_parts = [(name, float(np.sum(part))) for name, part in parts.items()]
    elif parts.ndim == 1:
        named_parts = [(f"position {i}", float(v)) for i, v in enumerate(parts)]
    else:
        flat = parts.sum(0) if parts.ndim > 2 else parts
        places = np.argsort(flat, axis=None)[::-1][:SHOWN]
        where = [np.unravel_index(i, flat.shape) for i in places]
        named_parts = [("row {}, column {}".format(*w) if len(w) == 2 else f"place {w[0]}", float(flat[w])) for w in where]
    best = sorted(range(len(named_parts)), key=lambda i: -named_parts[i][1])[:SHOWN]
    return [{"part": named_parts[i][0], "excess": round(named_parts[i][1], 3)} for i in best if named_parts[i][1] > 0]


# ---------------------------------------------------------------- labels
def _labels(opened: Opened, data: Any, items: Sequence[Item], label: str | None, normal: Sequence[str]) -> np.ndarray | None:
    """(N,) True = odd, by the items' own labels; None without any."""
    if label is None:
        values = [item.cond.get("label") for item in items]
        known = {str(v).lower() for v in values}
        if None in values or len(known) < 2 or not (known & set(NORMAL)):
            return None
    else:
        values = _column(opened, data, items, {"labels": "label"}.get(label, label))
    chosen = {str(v).lower() for v in normal} or {v for v in NORMAL if v in {str(x).lower() for x in values}}
    odd = np.array([str(v).lower() not in chosen for v in values])
    if not chosen or odd.all() or not odd.any():
        seen = ", ".join(sorted({str(v) for v in values})[:8])
        raise UsageError(f"'{label}' does not tell normal from odd (it has {seen})", remedy="say which is normal with --normal VALUE")
    return odd


def _column(opened: Opened, data: Any, items: Sequence[Item], name: str) -> list[Any]:
    if all(name in item.cond for item in items):
        return [item.cond[name] for item in items]
    from morphogen.plan import read

    recipe = opened.folder.recipe["codec"]
    again = read(data, recipe["name"], {k: v for k, v in recipe.get("config", {}).items() if k != "first"})[-1]
    raws = {item.source: item.raw for item in again if isinstance(item.raw, dict)}
    found = [raws.get(item.source, {}) for item in items]
    if not any(name in row for row in found):
        known = {k for row in found for k in row} | {k for item in items for k in item.cond}
        raise UsageError(f"the data have no '{name}'", remedy=suggest(name, known) if known else "they carry no labels")
    return [row.get(name) for row in found]


# ---------------------------------------------------------------- files
def _write(opened: Opened, out: Path, items: Sequence[Item], answer: dict[str, Any], found: _Found) -> None:
    from morphogen.trust.provenance import stamp

    facts = {**opened.facts("score", out), **{k: answer[k] for k in ("by", "kind", "rate", "threshold", "held_out")}}
    rows = answer["items"]
    if out.suffix.lower() in (".csv", ".jsonl", ".ndjson", ".json"):
        write_text(out, _csv(rows) if out.suffix.lower() == ".csv" else "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        stamp(out, facts)
        return
    oddest = sorted(range(len(rows)), key=lambda i: -rows[i]["score"])[:HEATS]
    with new_folder(out) as folder:
        drawn = [] if found.parts is None else _heats(opened, items, found.parts, oddest)
        for i, png in drawn:
            rows[i]["heat"] = f"{i:05d}.png"
            (folder / rows[i]["heat"]).write_bytes(png)
        write_text(folder / "scores.csv", _csv(rows))
    stamp(out / "scores.csv", {**facts, "run": str(Path("..") / facts["run"])})


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(k for row in rows for k in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        parts = "; ".join(f"{p['part']} (+{p['excess']:g})" for p in row.get("parts", ()))
        writer.writerow({**row, **({"parts": parts} if "parts" in row else {})})
    return text.getvalue()


def _heats(opened: Opened, items: Sequence[Item], parts: list[Any], chosen: list[int]) -> list[tuple[int, bytes]]:
    """(item, PNG) of pictures with their odd regions in red; nothing for what is no picture."""
    from morphogen.spaces import Array, Tokens

    space, codec = opened.codec.space, opened.codec
    grid: tuple[Any, ...] = space.shape[1:] if isinstance(space, Array) else space.grid if isinstance(space, Tokens) else ()
    shown = codec.preview([items[i].raw for i in chosen[:1]])
    if len(grid) != 2 or shown["kind"] != "image":
        return []
    maps = {i: np.asarray(parts[i], float).reshape(-1, *grid).sum(0) for i in chosen}
    scale = float(np.percentile(np.stack(list(maps.values())), 99.5)) or 1.0
    pngs = codec.preview([items[i].raw for i in chosen])["png"]
    return [(i, heat(png, maps[i] / max(scale, 1e-9))) for i, png in zip(chosen, pngs, strict=True)]


def heat(png: bytes, share: np.ndarray, least: int = 160) -> bytes:
    """A picture in grey with `share` (H, W; 0 = usual, 1 and above = odd) laid over it in red, as PNG."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    base = Image.new("RGBA", picture.size, "white")
    grey = Image.alpha_composite(base, picture).convert("L")
    factor = max(1, -(-least // max(grey.size)))
    size = (grey.size[0] * factor, grey.size[1] * factor)
    pixels = np.asarray(grey.resize(size, Image.Resampling.NEAREST), float)[..., None].repeat(3, 2)
    mask = Image.fromarray((255 * np.clip(share, 0, 1)).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    weight = 0.75 * np.asarray(mask, float)[..., None] / 255
    mixed = 0.7 * pixels * (1 - weight) + np.array([255.0, 30.0, 30.0]) * weight + 40 * (1 - weight)
    out = io.BytesIO()
    Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
