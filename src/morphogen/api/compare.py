"""compare: every family that fits, on equal time, on one page: which should I use?"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch, check_count, seconds
from morphogen.api.evaluate import Judged, judge
from morphogen.api.train import train
from morphogen.api.watching import load_previews
from morphogen.errors import Interrupted, MorphogenError, UsageError
from morphogen.files import check_output, write_json, write_text
from morphogen.plan import is_classical, make_plan
from morphogen.registry import PRESETS, resolve
from morphogen.run import Run


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
    Returns {"use", "why", "rows", "failed", "report"}; `failed` says of families that gave no result why.
    """
    watch, out, begun = watch or Watch(), Path(out), time.monotonic()
    check_output(out, force=force, inputs=(data,))
    wishes: dict[str, Any] = {"cond": tuple(cond), "seed": seed, "size": size}
    asked = list(dict.fromkeys(PRESETS.get(name, name) for name in families or ()))
    for name in asked:
        resolve("family", name)
    if n is not None:
        check_count(n)
    plan = make_plan(data, **wishes, minutes=minutes, options=options)
    if most := getattr(plan.codec.config, "pictures", 0):  # the sample that was read: everyone learns and is judged on the same one
        options = {**(options or {}), "codec": {**(options or {}).get("codec", {}), "pictures": most}}
    names = sorted(asked or plan.defaults["compare"], key=lambda name: not is_classical(name))
    neural = [name for name in names if not is_classical(name)]
    share = max(0.05, 0.8 * minutes / max(1, len(neural)))
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    judged: dict[str, Judged] = {}
    for i, name in enumerate(names):
        watch.say(f"{name} ({i + 1} of {len(names)})", "head")
        own = {k: v for k, v in (options or {}).items() if k == "codec" or not is_classical(name)}
        try:
            run = train(data, out / name, family=name, minutes=share, **wishes, device=device, options=own, force=force, watch=watch)
            theirs = make_plan(data, family=name, **wishes, options=own)
            judged[name] = judge(run.model(), theirs, plan.part(plan.train), plan.part(plan.held_out), {}, n=n, seed=1, watch=watch)
        except Interrupted as stopped:  # the other families are not wanted either
            raise Interrupted(stopped.what, where=out / name, remedy="finished runs stay there; --force begins again") from None
        except MorphogenError as error:
            watch.say(f"{name} does not fit these data: {error}", "warn")
            failed[name] = str(error)
            continue
        runs[name] = run
    if not runs:
        raise UsageError("no family fits these data", remedy="name one with --families")
    return _page(out, data, plan, judged, runs, failed, begun, watch)


def _page(
    out: Path, data: Any, plan: Any, judged: dict[str, Judged], runs: dict[str, Run], failed: dict[str, str], begun: float, watch: Watch
) -> dict[str, Any]:
    from morphogen.evaluation.page import Lines, Row, Strips
    from morphogen.evaluation.recommend import recommend
    from morphogen.evaluation.report import render_compare

    took = {name: float(runs[name].provenance().get("seconds", 0.0)) for name in judged}
    use, why = recommend({name: one.result for name, one in judged.items()}, took)
    name = Path(data).name if isinstance(data, str | Path) else "data"
    rows = [
        Row(
            family=k,
            metrics=one.result.metrics,
            seconds=took[k],
            preview=plan.codec.preview(one.raws[:10]),
            verdict=one.result.verdict,
            tone=one.result.tone,
            classical=is_classical(k),
        )
        for k, one in judged.items()
    ]
    rows += [Row(family=k, metrics=(), seconds=math.nan, classical=is_classical(k), failed=why) for k, why in failed.items()]
    sections: list[Any] = [
        Lines(title="What was found", lines=[*plan.found, *plan.warnings, f"compared in {seconds(time.monotonic() - begun)}"])
    ]
    for k in judged:
        strip = load_previews(runs[k].path / "samples")
        if len(strip) > 1:
            sections.append(Strips(title=f"{k} while learning", steps=strip))
    html = render_compare(
        rows, title=f"Which family for {name}?", date=time.strftime("%Y-%m-%d"), recommended=use, because=why, sections=sections
    )
    write_text(out / "compare.html", html)
    answer = {
        "use": use,
        "why": why,
        "rows": [
            {
                "family": k,
                "classical": is_classical(k),
                "seconds": took[k],
                "parameters": runs[k].provenance().get("parameters"),
                "draw_per_second": len(one.raws) / max(one.draw_seconds, 1e-9),
                "metrics": [m.to_json() for m in one.result.metrics],
                "verdict": one.result.verdict,
            }
            for k, one in judged.items()
        ],
        "failed": failed,
    }
    write_json(out / "compare.json", answer)
    watch.say(f"use {use} {why}", "good")
    return {**answer, "report": str(out / "compare.html")}
