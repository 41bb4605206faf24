"""Other people's packages: the example is used end to end, and broken ones cost one line that names them."""
from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import morphogen
from morphogen import registry
from morphogen.errors import ResourceError
from morphogen.plan import claim

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "plugin"
ENTRIES = {"codec.knitting": "morphogen_knitting.charts:KnittingCodec", "family.mesh": "morphogen_knitting.mesh:Mesh"}
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make a distribution known as pip does: metadata beside its modules, on the path."""

    def installed(name: str, points: dict[str, str], code: str = "", source: Path | None = None) -> None:
        site = tmp_path / f"site-{name}"
        info = site / f"{name.replace('-', '_')}-2.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\nSummary: What {name} is\n")
        lines = [f"{point} = {target}" for point, target in points.items()]
        (info / "entry_points.txt").write_text("[morphogen]\n" + "\n".join(lines) + "\n")
        if code:
            (site / f"{name.replace('-', '_')}.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        if source is not None:
            monkeypatch.syspath_prepend(str(source))
        registry.plugins.cache_clear()

    yield installed
    monkeypatch.undo()
    registry.plugins.cache_clear()


# ---------------------------------------------------------------- the example
def test_the_example_is_small() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (EXAMPLE / "src").rglob("*.py"))
    assert lines < 150, f"a modality and a family in {lines} lines"


def test_the_example_works_end_to_end(install: Install, tmp_path: Path) -> None:
    install("morphogen-knitting", ENTRIES, source=EXAMPLE / "src")
    told = morphogen.list_()
    assert told["codec"]["knitting"] == "What morphogen-knitting is (from morphogen-knitting 2.1)" and "mesh" in told["family"]
    run = morphogen.train(EXAMPLE / "charts", tmp_path / "run")
    assert run.recipe["codec"]["name"] == "knitting" and run.recipe["family"]["name"] == "mesh"
    drawn = morphogen.generate(run, tmp_path / "new.knit", n=6, valid=True)
    assert (tmp_path / "new.knit").read_text() == "\n\n".join(drawn) + "\n"
    assert morphogen.generate(run, n=3, valid=True) == drawn[:3]
    half = drawn[0][: len(drawn[0]) // 2].replace("k", "-") + "".join("\n" if c == "\n" else "?" for c in drawn[0][len(drawn[0]) // 2 :])
    (filled,) = morphogen.generate(run, n=1, given=[half])
    assert filled[: len(half) // 2] == half[: len(half) // 2] and "?" not in filled
    answer = morphogen.evaluate(run, n=50)
    figures = {m["name"]: m["value"] for m in answer["metrics"]}
    assert figures["bits per stitch"] < 1.0 and figures["legal"] > 0.4
    assert "data:image/png" in Path(answer["report"]).read_text()
    replayed = morphogen.replay(tmp_path / "new.knit", tmp_path / "again.knit")
    assert replayed.read_bytes() == (tmp_path / "new.knit").read_bytes()


@pytest.mark.slow
def test_the_example_is_installed_and_used_in_a_fresh_environment(tmp_path: Path) -> None:
    """Built and installed by pip from its pyproject.toml alone; tool and conformance tests run in processes of their own."""
    import shutil

    source = tmp_path / "plugin"
    shutil.copytree(EXAMPLE, source)  # building writes beside the sources
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    shutil.rmtree(source / "src")  # what runs is what was installed
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def tool(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "morphogen", *words], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "knitting" in tool("list") and "from morphogen-knitting 1.0.0" in tool("list")
    tool("train", str(source / "charts"), "--out", "run")
    tool("generate", "run", "--n", "4", "--out", "new.knit")
    assert len((tmp_path / "new.knit").read_text().strip().split("\n\n")) == 4
    assert "legal" in tool("evaluate", "run", "--n", "60")
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(source / "tests")]
    done = subprocess.run(test, env=env, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---------------------------------------------------------------- broken ones
BROKEN = {
    "misnamed": ({"knitting": "misnamed:Codec"}, ""),
    "no-axis": ({"flavour.x": "no_axis:Codec"}, ""),
    "thief": ({"codec.table": "thief:Codec"}, ""),
    "missing": ({"codec.missing": "no_such_module:Codec"}, ""),
    "typing-error": ({"codec.wrong": "typing_error:Codec"}, "class Codec(:\n"),
    "leaver": ({"codec.leaver": "leaver:Codec"}, "import sys\nraise RuntimeError('I\\nleave')\n"),
    "empty": ({"codec.hollow": "empty:Codec"}, "class Codec: pass\n"),
    "raiser": ({"codec.raiser": "raiser:Codec"},
               "class Codec:\n    Config = read = fit = encode = decode = write = given = state = load = None\n"
               "    preview = features = size_of = None\n"
               "    @staticmethod\n    def claims(listing): raise KeyError('listing')\n"),
    "dead-end": ({"bridge.deadend": "dead_end:Bridge"}, "Bridge = 3\n"),
    "sour": ({"metric.sour": "sour:metric"}, "metric = 3\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_costs_one_line_that_names_it(name: str, install: Install, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n1,2\n3,4\n")
    from morphogen.codecs.sources import scan

    points, code = BROKEN[name]
    install(name, points, code)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert claim(scan(tmp_path / "data.csv"))[0] == "table"
        for axis in registry.AXES:
            assert set(registry.AXES[axis]) <= {known for known, _ in registry.usable(axis)}
        assert registry.resolve("codec", "table").__module__ == "morphogen.codecs.table"
    lines = {str(w.message) for w in caught}
    assert len(lines) == 1, lines
    (line,) = lines
    assert issubclass(caught[0].category, registry.PluginWarning)
    assert f"plug-in {name} 2.1 is left out" in line and "\n" not in line and len(line) <= 300


def test_asking_for_a_broken_plugin_says_what_to_do(install: Install) -> None:
    install("missing", *BROKEN["missing"])
    with pytest.raises(ResourceError, match=r"codec 'missing' of plug-in missing 2\.1 cannot be used .*update it or uninstall it"):
        registry.resolve("codec", "missing")


def test_the_command_line_prints_one_plain_line(install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from morphogen import cli

    install("thief", *BROKEN["thief"])
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as left:
            cli.main(["list"])
    warnings.showwarning = before
    assert left.value.code in (0, None)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["warning: plug-in thief 2.1 is left out: codec 'table' is a name of morphogen's own"]
    assert "table" in said.out


def test_a_metric_and_a_bridge_of_a_plugin_are_used(install: Install) -> None:
    code = (
        "from morphogen.evaluation.metric import Metric\nfrom morphogen.spaces import Tokens, Record\n"
        "def halves(evidence):\n    return [Metric(name='halves', value=0.5, n=1, line='always a half.')]\n"
        "class Bridge:\n    leads = (Tokens, Record)\n    def __init__(self, source): self.source = source\n"
        "    fit = encode = decode = given = parts = volume = None\n"
    )
    install("useful", {"metric.halves": "useful:halves", "bridge.rows": "useful:Bridge"}, code)
    from morphogen.bridges import route
    from morphogen.evaluation.suite import evaluate
    from morphogen.spaces import Record, Tokens
    from morphogen.testing.metrics import evidence

    assert [m.name for m in evaluate(evidence("rows"), only=["halves"]).metrics] == ["halves"]
    assert [type(bridge).__name__ for bridge in route(Tokens(3, 4), (Record,))] == ["Bridge"]
