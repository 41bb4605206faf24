"""compare: every family that fits, on equal time, on one page: which should I use?"""
from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch, seconds
from morphogen.api.evaluate import judge
from morphogen.api.train import load_previews, train
from morphogen.errors import MorphogenError, UsageError
from morphogen.files import check_output, write_json, write_text
from morphogen.plan import _classical, make_plan


def compare(
    data: Any,
    out: str | Path,
    *,
    minutes: float = 10.0,
    families: Sequence[str] | None = None,
    seed: int = 0,
    cond: Sequence[str] = (),
    size: str | None = None,
    n: int | None = None,
    device: str = "auto",
    options: dict[str, dict[str, Any]] | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train the families that suit `data` on equal time, measure them alike, write runs, compare.html and compare.json to `out`.

    `minutes` is the time of the whole comparison: classical families take seconds, networks share the rest equally.
    Returns {"use", "why", "rows", "report"}.
    """
    watch, out, begun = watch or Watch(), Path(out), time.monotonic()
    check_output(out, force=force, inputs=(Path(data),) if isinstance(data, str | Path) else ())
    plan = make_plan(data, cond=cond, seed=seed, size=size, options=options)
    names = list(families or plan.defaults["compare"])
    neural = [name for name in names if not _classical(name)]
    share = max(0.05, 0.8 * minutes / max(1, len(neural)))
    rows, runs, plans = [], {}, {}
    for i, name in enumerate(sorted(names, key=lambda k: not _classical(k))):
        watch.say(f"{name} ({i + 1} of {len(names)})", "head")
        try:
            run = train(data, out / name, family=name, minutes=share, seed=seed, cond=cond, size=size, device=device,
                        options=options if not _classical(name) else {k: v for k, v in (options or {}).items() if k == "codec"},
                        force=force, watch=watch, report=False)
        except MorphogenError as error:
            watch.say(f"{name} does not fit these data: {error}", "warn")
            continue
        runs[name], plans[name] = run, make_plan(data, family=name, cond=cond, seed=seed, size=size, options=options and {"codec": options.get("codec", {})})
    if not runs:
        raise UsageError("no family fits these data", remedy="name one with --family")
    judged = {}
    for name, run in runs.items():
        watch.say(f"measuring {name}")
        one = plans[name]
        judged[name] = judge(run.model(), one, plan.part(plan.train), plan.part(plan.held_out), {}, n=n, seed=1, watch=watch)
    for name, result in judged.items():
        origin = runs[name].provenance()
        rows.append({
            "family": name, "classical": _classical(name), "seconds": origin.get("seconds"), "parameters": origin.get("parameters"),
            "draw_per_second": len(result.raws) / max(result.draw_seconds, 1e-9), "metrics": [m.to_json() for m in result.result.metrics],
            "verdict": result.result.verdict,
        })
    return _page(out, data, plan, judged, runs, rows, begun, watch)


def _page(out: Path, data: Any, plan: Any, judged: Any, runs: Any, rows: list[dict[str, Any]], begun: float, watch: Watch) -> dict[str, Any]:
    from morphogen.evaluate.report import render_compare
    from morphogen.evaluate.suite import recommend

    use, why = recommend({name: one.result for name, one in judged.items()}, {row["family"]: row for row in rows})
    previews = {name: plan.codec.preview(one.raws[:10]) for name, one in judged.items()}
    strips = {name: load_previews(run.path / "samples") for name, run in runs.items()}
    metrics = {name: one.result.metrics for name, one in judged.items()}
    name = Path(data).name if isinstance(data, str | Path) else "data"
    html = render_compare(title=f"Which family for {name}?", use=use, why=why, rows=rows, metrics=metrics, previews=previews, strips=strips,
                          found=[*plan.found, f"compared in {seconds(time.monotonic() - begun)}"])
    write_text(out / "compare.html", html)
    answer = {"use": use, "why": why, "rows": rows}
    write_json(out / "compare.json", answer)
    watch.say(f"use {use}: {why}", "good")
    return {**answer, "report": str(out / "compare.html")}
