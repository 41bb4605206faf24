"""demo: the main job on packaged data, and one report of all of it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from morphogen.api.common import Watch, seconds
from morphogen.api.evaluate import baseline_models, judge, plan_again, sample_sections
from morphogen.api.train import train
from morphogen.errors import UsageError
from morphogen.files import check_output, write_text

# name, data, family, share of the time, what is said about it, how many to judge
PARTS = (
    ("digits", "digits", "diffusion", 0.24, "Handwritten digits, asked for by class", 500),
    ("emoji", "emoji", None, 0.46, "Small pictures in colour with transparency", 96),
    ("penguins", "penguins", None, 0.06, "A table of penguins with missing values", 500),
    ("docstrings", "docstrings", "autoregressive", 0.24, "Python's own documentation", 64),
)


def demo(out: str | Path = "demo", *, minutes: float = 3.0, force: bool = False, watch: Watch | None = None) -> dict[str, Any]:
    """Unpack the sample data, train four models in `minutes`, generate, evaluate, and write report.html. Returns its path."""
    from morphogen.samples import unpack

    watch, out, begun = watch or Watch(), Path(out), time.monotonic()
    if force and out.is_dir():
        if any(out.iterdir()) and not (out / "data" / "CREDITS.md").is_file():
            raise UsageError("the folder is not a demo; it is not overwritten", where=out, remedy="choose another name with --out")
        shutil.rmtree(out)
    check_output(out)
    data = unpack(out / "data")
    sections: list[Any] = []
    verdicts = []
    for name, source, family, share, line, n in PARTS:
        watch.say(f"{name}: {line}", "head")
        cond = ("category",) if name == "emoji" else ()
        run = train(data[source], out / name, family=family, minutes=minutes * share, cond=cond, watch=watch)
        plan = plan_again(run)
        held = plan.part(plan.held_out)
        judged = judge(run.model(), plan, plan.part(plan.train), held, baseline_models(run, plan, watch), n=n, seed=1, watch=watch)
        watch.say(judged.result.verdict, "good")
        verdicts.append((f"{name} ({run.recipe['family']['name']})", judged.result.verdict))
        from dataclasses import replace

        mine = sample_sections(run, plan, judged)
        sections += [replace(section, title=f"{name}: {section.title.lower()}") for section in mine]
    report = out / "report.html"
    write_text(report, _page(verdicts, sections, time.monotonic() - begun, out))
    watch.say(f"all of it took {seconds(time.monotonic() - begun)}", "good")
    return {"report": str(report), "seconds": round(time.monotonic() - begun, 1), "verdicts": dict(verdicts)}


def _page(verdicts: list[tuple[str, str]], sections: list[Any], took: float, out: Path) -> str:
    from morphogen.evaluation.page import Command, Lines, Page
    from morphogen.evaluation.report import render

    head = Lines(title="In a sentence each", lines=verdicts)
    tail = Command(
        title="Your turn",
        command="\n".join(
            [
                f"morphogen generate {out}/digits --n 64 --cond label=7 --out sevens",
                f"morphogen generate {out}/penguins --n 100 --cond species=Gentoo --out gentoo.csv",
                "morphogen train YOUR_FOLDER --out runs/mine",
            ]
        ),
    )
    return render(
        Page(
            title="morphogen demo",
            subtitle="pictures, a table and a text, learned and made anew on this machine",
            verdict=f"Four models learned from four kinds of data in {seconds(took)}, without a network or a GPU. "
            "Each says below how good it is, "
            "whether a classical baseline would have done better, and whether it copied.",
            date=time.strftime("%Y-%m-%d"),
            sections=[head, *sections, tail],
        )
    )
