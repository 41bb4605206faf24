"""What a codec can do, the verbs use: derived conditions, rules, repairs, grammars, previews with sound, for a modality made here."""
from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import morphogen
from api.brackets import LENGTH, BracketCodec, faults_of, strings
from morphogen import registry
from morphogen.api.common import Watch
from morphogen.api.valid import draw_valid
from morphogen.api.watching import load_previews, save_preview
from morphogen.contracts import Item
from morphogen.errors import FormatError, UsageError
from morphogen.plan import make_plan
from morphogen.run import Run
from morphogen.sampling import draws
from morphogen.testing import check_codec
from morphogen.trust import provenance

TINY = {"net": {"size": "tiny", "width": 16, "depth": 1}, "training": {"previews": 1, "checks": 2, "batch": 16}}


class Ear(Watch):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str, kind: str = "info") -> None:
        self.lines.append(f"{kind}: {line}")


@pytest.fixture(scope="module", autouse=True)
def plugged() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.CODECS, "bracket", registry.Entry("api.brackets:BracketCodec", "brackets"))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("brackets") / "all.brk"
    path.write_text("\n".join(strings(400)))
    return path


FAMILIES = ("autoregressive", "ngram", "masked")


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    steps = {"masked": 300}
    out = {f: morphogen.train(data, folder / f, family=f, steps=steps.get(f, 30), options=TINY if f != "ngram" else {}) for f in FAMILIES}
    out["asked"] = morphogen.train(data, folder / "asked", family="autoregressive", steps=60, cond=("lean", "kind"), options=TINY)
    return out


def test_the_codec_keeps_every_promise(tmp_path: Path) -> None:
    check_codec(BracketCodec, [Item(s) for s in strings(60)], tmp_path)


@pytest.mark.parametrize("breach", ["grammar", "derive", "faults", "texts", "audio"])
def test_broken_promises_are_found(tmp_path: Path, breach: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BracketCodec.preview
    wrong: dict[str, Any] = {
        "grammar": lambda self: type("Refusing", (), {"start": lambda s: 0, "advance": lambda s, a, b: 0,
                                                      "allowed": lambda s, a, b: np.arange(5) == 4})(),
        "derive": lambda self, raws, names: [{}] * len(raws),
        "faults": lambda self, raw, attempt: BracketCodec.given(self, raw + "((" * LENGTH),
    }
    if breach in ("texts", "audio"):
        monkeypatch.setattr(BracketCodec, "preview", lambda self, raws: {**whole(self, raws), breach: ["a\nb"] * len(raws)})
    else:
        monkeypatch.setattr(BracketCodec, breach, wrong[breach])
    with pytest.raises((AssertionError, TypeError, ValueError)):
        check_codec(BracketCodec, [Item(s) for s in strings(60)], tmp_path)


# ------------------------------------------------------------------ derived conditions
def test_conditions_are_worked_out_when_asked_for(data: Path) -> None:
    plan = make_plan(data, family="ngram", cond=("lean", "kind"))
    assert plan.conditions == {"lean": "number", "kind": "label"}
    assert all(set(item.cond) == {"lean", "kind"} for item in plan.items)
    assert plan.items[3].cond == BracketCodec().derive([plan.items[3].raw], ["lean", "kind"])[0]
    assert any("worked out of each item" in line for line in plan.found)
    plain = make_plan(data, family="ngram")
    assert plain.conditions == {} and plain.items[0].cond == {} and any("lean" in line for line in plain.picked)


def test_an_unknown_condition_names_what_can_be_worked_out(data: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'lean'"):
        make_plan(data, cond=("leen",))
    with pytest.raises(UsageError, match="choose one of kind, lean"):
        make_plan(data, cond=("weight",))


def test_what_the_data_say_is_believed() -> None:
    from morphogen.worked_out import derive

    items = [Item("()", {"kind": "mine"}), Item("[]")]
    assert derive(BracketCodec(), items, ["kind"]) == items


def test_what_was_worked_out_is_kept_beside_the_run(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from morphogen import worked_out
    from morphogen.api.evaluate import plan_again

    before = plan_again(runs["asked"])
    monkeypatch.setattr(worked_out, "_WORKED_OUT", {})
    monkeypatch.setattr(BracketCodec, "derive", lambda *_: pytest.fail("worked out again"))
    again = plan_again(runs["asked"])
    assert [item.cond for item in again.items] == [item.cond for item in before.items] and again.items[0].cond
    assert again.train == before.train


def test_a_sample_is_worked_out_where_there_is_no_time_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from morphogen import worked_out

    monkeypatch.setattr(worked_out, "_WORKED_OUT", {})
    monkeypatch.setattr(worked_out, "FIRST", 10)
    slow = BracketCodec.derive
    monkeypatch.setattr(BracketCodec, "derive", lambda self, raws, names: (time.sleep(0.002 * len(raws)), slow(self, raws, names))[1])
    items = [Item(s) for s in strings(400)]
    whole, (line, *_), _ = worked_out.work_out(BracketCodec(), items, ["lean"], room=0.2, seed=1)
    known = [i for i, item in enumerate(whole) if item.cond["lean"] is not None]
    assert 10 <= len(known) <= 150 and f"worked out of {len(known)} of 400 items" in line and "--minutes" in line
    assert known[0] < 100 and known[-1] > 300, "drawn from everywhere"
    again, (line, *_), _ = worked_out.work_out(BracketCodec(), items, ["lean"], room=60.0, seed=1)
    assert again == whole and f"worked out of {len(known)} of 400 items" in line, "the same data have the same values all along"
    monkeypatch.setattr(worked_out, "_WORKED_OUT", {})
    every, (line, *_), _ = worked_out.work_out(BracketCodec(), items, ["lean"], room=60.0, seed=1)
    assert "each item" in line and [every[i].cond for i in known] == [whole[i].cond for i in known]
    assert all(item.cond["lean"] is not None for item in every)


def test_what_is_not_said_is_nothing(runs: dict[str, Run]) -> None:
    model = runs["asked"].model()
    cond = model.cond({"lean": [None, 4.5], "kind": [None, "round"]})
    assert cond["lean"].isnan().flatten().tolist() == [True, False] and int(cond["kind"][0]) < 0 <= int(cond["kind"][1])
    plain, silent = (model.family.conditioner(c, 2).vector for c in ({}, {k: v[:1].expand(2, -1) for k, v in cond.items()}))
    assert torch.equal(plain, silent), "as if there were no condition"


def test_asked_values_are_numbers_and_names(runs: dict[str, Run], tmp_path: Path) -> None:
    morphogen.generate(runs["asked"], tmp_path / "out", n=2, cond={"lean": "4.50", "kind": "round"})
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [(row["lean"], row["kind"]) for row in rows] == [(4.5, "round")] * 2
    with pytest.raises(UsageError, match="not a number"):
        morphogen.generate(runs["asked"], n=1, cond={"lean": "much"})
    with pytest.raises(UsageError, match="unknown label 'oval'"):
        morphogen.generate(runs["asked"], n=1, cond={"kind": "oval"})


def test_evaluation_works_out_whether_asked_values_came(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphogen.evaluation.judges.TREES", 10)
    monkeypatch.setattr("morphogen.evaluation.judges.JOBS", 1)
    answer = morphogen.evaluate(runs["asked"], n=60)
    by_name = {m["name"]: m for m in answer["metrics"]}
    obeyed, error, kind = by_name["obedience:lean"], by_name["error of asked:lean"], by_name["agreement:kind"]
    assert obeyed["floor"] == pytest.approx(1.0) and error["floor"] == 0.0 and kind["floor"] == 1.0
    assert obeyed["low"] <= obeyed["value"] <= obeyed["high"] and obeyed["baseline"]["name"] == "ngram"
    assert 0 < by_name["unique"]["value"] <= 1 and "distinct 4-grams" not in by_name and 0 <= by_name["legal"]["value"] <= 1
    page = Path(answer["report"]).read_text()
    assert page.count("<audio controls") > 4 and "data:image/gif" in page


# ------------------------------------------------------------------ rules
@pytest.mark.parametrize("family", FAMILIES)
def test_valid_items_keep_the_rules_and_belong_to_their_key(runs: dict[str, Run], family: str) -> None:
    raw = morphogen.generate(runs[family], n=32, seed=3)
    many = morphogen.generate(runs[family], n=32, seed=3, valid=True)
    before, after = (sum(not faults_of(one) and len(one) >= 4 for one in some) for some in (raw, many))
    assert (after == 32 if family != "masked" else after > before), (before, after)
    assert morphogen.generate(runs[family], n=3, seed=3, valid=True, batch=1) == many[:3]


def test_repairs_keep_what_was_good(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A masked model redraws from the first fault on, and no more."""
    model = runs["masked"].model()
    keys = draws.seeded(3, 48)
    raw = model.generate(keys)
    monkeypatch.setattr("morphogen.api.valid.ATTEMPTS", 1)
    made, good = draw_valid(model, keys, None, None, None)
    mended = [(a, b, faults_of(a)[0]) for a, b in zip(raw, made) if faults_of(a) and faults_of(a)[0] > 0]
    assert len(mended) > 5 and all(a[:at] == b[:at] and a != b for a, b, at in mended)
    assert [a for a, fine in zip(raw, good) if fine and not faults_of(a) and len(a) >= 4] == [
        b for a, b in zip(raw, made) if not faults_of(a) and len(a) >= 4
    ], "what keeps the rules is left alone"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_user_gave_stays(runs: dict[str, Run], family: str) -> None:
    made = morphogen.generate(runs[family], n=12, given=["([", "((("], valid=True)
    assert all(one.startswith(("([", "(((")[i % 2]) for i, one in enumerate(made))
    assert morphogen.generate(runs[family], n=3, given=["([", "((("], valid=True) == made[:3]


def test_a_faulty_beginning_is_refused(runs: dict[str, Run]) -> None:
    with pytest.raises(UsageError, match="cannot begin a legal item: token 2"):
        morphogen.generate(runs["ngram"], n=2, given=["()]"], valid=True)
    with pytest.raises(UsageError, match="cannot begin"):
        morphogen.generate(runs["ngram"], n=2, given=["(" * 10], valid=True)


def test_what_stays_faulty_is_marked_and_counted(runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BracketCodec, "checks", lambda self, raw, cond: {"begins round": raw.startswith("("), "never": "[" not in raw})
    monkeypatch.setattr("morphogen.api.valid.ATTEMPTS", 1)
    ear = Ear()
    morphogen.generate(runs["ngram"], tmp_path / "out", n=60, valid=True, watch=ear)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    bad = sum(not row["valid"] for row in rows)
    assert 0 < bad < 60 and any(line.startswith(f"warn: {bad} of 60 still break") for line in ear.lines)


def test_without_rules_there_is_nothing_to_keep(runs: dict[str, Run]) -> None:
    model = runs["ngram"].model()
    model.codec = SimpleNamespace(name="bare", space=model.codec.space)
    with pytest.raises(UsageError, match="bare items have no rules"):
        draw_valid(model, draws.seeded(0, 1), None, None, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_file_is_stamped_and_replays(runs: dict[str, Run], tmp_path: Path, family: str) -> None:
    begun = tmp_path / "begun.brk"
    begun.write_text("([ (\n")
    morphogen.generate(runs[family], tmp_path / "out", n=18, seed=1, given=begun, valid=True)
    for index in (7, 17):
        file = tmp_path / "out" / f"{index:05d}.brk"
        facts = provenance.read(file)
        assert facts["index"] == index and facts["valid"] is True
        assert morphogen.replay(file, tmp_path / f"again-{index}.brk").read_bytes() == file.read_bytes()
    morphogen.generate(runs[family], tmp_path / "other", n=2, given=["("])
    with pytest.raises(FormatError, match="handed over in Python"):
        morphogen.replay(tmp_path / "other" / "00000.brk", tmp_path / "x.brk")


# ------------------------------------------------------------------ tiles, previews
@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_in_flight_change_nothing(runs: dict[str, Run], family: str) -> None:
    model, keys, told = runs[family].model(), draws.seeded(5, 40), []
    one = model.generate(keys, batch=1)
    assert model.generate(keys, batch=3, progress=told.append) == one and told[-1] == 1.0 and told == sorted(told)


def test_an_error_in_a_tile_in_flight_is_the_callers(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, x: Any) -> str:
        raise ValueError("no")

    monkeypatch.setattr(BracketCodec, "decode", broken)
    with pytest.raises(ValueError, match="no"):
        runs["ngram"].model().generate(draws.seeded(5, 70), batch=4)


def test_rows_of_one_tile_know_equally_much_in_front(runs: dict[str, Run]) -> None:
    """What a row's neighbours know must not change the shapes it is computed with."""
    model, seen = runs["autoregressive"].model(), []
    whole = model.family.stream

    def watched(request: Any) -> Any:
        seen.append(request.given.known.sum(1).unique().tolist())
        return whole(request)

    model.family.stream = watched
    given = ["(", "()", "([", "(", "()()"] * 5
    raws = model.generate(draws.seeded(0, 25), given=given)
    assert seen and all(len(one) == 1 for one in seen) and all(r.startswith(g) for r, g in zip(raws, given))
    assert torch.equal(torch.tensor(sorted({one[0] for one in seen})), torch.tensor([1, 2, 4]))


def test_previews_survive_the_folder(tmp_path: Path) -> None:
    preview = BracketCodec().preview(strings(12))
    save_preview(tmp_path / "step-0000003", preview)
    save_preview(tmp_path / "step-0000010", {"kind": "text", "texts": ["a"]})
    (three, first), (ten, second) = load_previews(tmp_path)
    assert (three, ten) == (3, 10) and first == preview and second == {"kind": "text", "texts": ["a"]}
