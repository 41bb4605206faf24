"""Docs cannot drift: what is generated agrees with the code, commands parse, examples run, links and quotes lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import docs_world

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
MORE = [*sorted((ROOT / "src").rglob("README.md")), *(ROOT / n / "README.md" for n in ("benchmarks", "recipes", "examples", "tests"))]
GENERATED = ROOT / "docs" / "reference"
# Pages whose commands are run in order, in one folder; `test_extending.py` runs the others' own examples.
RUN = ["README.md", "docs/quickstart.md", "docs/how-to.md", "docs/language.md"]
QUICK = {("docs/how-to.md", "Your own table"), ("docs/how-to.md", "Odd items")}
# What is not run, and why.
LEFT_OUT = {
    "make": "installs; its target is looked up",
    "source": "the shell's own",
    "open": "opens a browser",
    "pip": "installs",
    "torchrun": "starts processes; the command inside is parsed, tests/training starts some",
    "pre-commit": "another program",
    "python": "a module or script; it must be there",
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(heading above, language, text) of each fenced block."""
    out, heading = [], ""
    inside: list[str] | None = None
    language = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if inside is None:
                inside, language = [], line[3:].strip()
            else:
                out.append((heading, language, "\n".join(inside)))
                inside = None
        elif inside is not None:
            inside.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert inside is None, f"{page}: a block is not closed"
    return out


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """(heading, command line) of the shell blocks."""
    for heading, language, text in blocks(page):
        if language in ("", "sh", "console") and GENERATED not in page.parents:
            for line in text.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ").strip()
                if line.split(" ")[0] in {"morphogen", *LEFT_OUT}:
                    yield heading, line


# ------------------------------------------------------------------ what is generated
def test_generated_docs_agree_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of benchmarks are left to `make lint`: running one must not fail the tests."""
    from docs.generate import stale, wanted

    for name in ("COLUMNS", "NO_COLOR", "TERM"):
        monkeypatch.setenv(name, "")  # taken back afterwards
    assert stale(wanted(figures=False)) == [], "run `make docs`"


def test_the_reference_is_whole() -> None:
    """Nothing public is missing: verbs, names, families, codecs."""
    import morphogen
    from morphogen.cli import VERBS
    from morphogen.registry import CODECS, FAMILIES

    for page, names in (("cli", VERBS), ("api", morphogen.__all__), ("options", [*CODECS, *FAMILIES])):
        titles = {t.partition("(")[0] for t in re.findall(r"^##+ (.+)$", (GENERATED / f"{page}.md").read_text(encoding="utf-8"), re.M)}
        assert set(names) <= titles, set(names) - titles


# ------------------------------------------------------------------ links, files, quotes
def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in found}


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http:", "https:")):
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:src|tests|docs|benchmarks|recipes|examples)/[\w./-]*)", page.read_text(encoding="utf-8")):
        if page.parent.name != "benchmarks" or not name.startswith("benchmarks/results"):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.name == "README.md" or f"({page.relative_to(ROOT / 'docs')})" in index, page


@cache
def templates() -> list[str]:
    """Every line of every string of the package, with … where something is put in."""
    out = []
    for path in sorted((ROOT / "src" / "morphogen").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                out.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                out.append(node.value)
    return sorted({" ".join(line.split()) for text in out for line in text.splitlines()})


def symptoms() -> list[str]:
    """Quoted messages: code in the first cell of the tables."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [re.split(r"(?<!\\) \| ", line[2:])[0] for line in text.splitlines() if line.startswith("| ")]
    return [quote for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]


ELSEWHERE = {  # quotes that are not the package's own words
    "morphogen needs Python 3.11 or newer", "morphogen: command not found", "make setup", "pip install 'morphogen[…]'", ".bin", ".pt",
    "<|im_start|>", "vae",
}


@pytest.mark.parametrize("quote", symptoms())
def test_quoted_messages_are_real(quote: str) -> None:
    if quote in ELSEWHERE:
        return
    if code := re.fullmatch(r"error\[(.+)\]", quote):
        assert code[1] in error_codes()
        return
    # what is put in may be a longer part of the template or nothing: the words around it must be there, in this order
    parts = [part.strip() for part in quote.split("…")]
    pattern = ".*?".join(re.escape(part) for part in parts)
    assert any(re.search(pattern, line) for line in templates() if all(part in line for part in parts)), quote


def error_codes() -> set[str]:
    from docs.generate import error_classes

    return {code.strip("`") for _, _, code, _ in error_classes()}


def test_every_error_type_has_an_entry() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert {c for c in error_codes() if f"`error[{c}]`" not in page} == set()


# ------------------------------------------------------------------ commands
def parse(line: str) -> None:
    """The real parser takes it. Raises CycloptsError."""
    from morphogen.cli import VERBS, build

    words = shlex.split(line, comments=True)
    assert words[1] in VERBS or words[1].startswith("-"), line
    if words[1] in VERBS:
        build().parse_args([w for w in words[1:] if w != "--debug"], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=name_of)
def test_commands_are_understood(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for _, line in commands(page):
        words = shlex.split(line, comments=True)
        if words[0] == "morphogen":
            parse(line.partition(" | ")[0])
        elif " -m morphogen " in line:
            parse("morphogen " + line.partition(" -m morphogen ")[2])
        elif words[0] == "make":
            assert all(w in targets for w in words[1:] if "=" not in w), line
        elif words[0] == "python":
            check_script(words, line)


def check_script(words: list[str], line: str) -> None:
    path = ROOT / (words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1])
    if words[1] != "-m" or words[2].split(".")[0] in ("benchmarks", "docs", "examples"):
        path = path if path.exists() else path.with_suffix("") / "__main__.py"
        source = path.read_text(encoding="utf-8")
        for flag in (w for w in words if w.startswith("--")):
            assert f'"{flag}"' in source, line


@pytest.mark.parametrize("page", [p for p in [*PAGES, *MORE] if GENERATED not in p.parents], ids=name_of)
def test_flags_in_running_text_exist(page: Path) -> None:
    from morphogen.cli import VERBS

    everything = " ".join(help_of(verb) for verb in VERBS) + " --help --version --debug --extra-index-url --check --show"
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for code in re.findall(r"`([^`\n]+)`", text):
        if not code.startswith(("python", "pip", "torchrun", "make", "pytest", "llama-")):
            verb = re.match(r"(?:morphogen )?([a-z]+)", code)
            own = help_of(verb[1]) if verb and verb[1] in VERBS and " --" in code else everything
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
                assert re.search(rf"{flag}\b", own + " --debug"), f"{name_of(page)}: {code}"


@cache
def help_of(verb: str) -> str:
    return next(text for heading, _, text in blocks(GENERATED / "cli.md") if heading == verb)


def test_examples_of_the_help_parse() -> None:
    from morphogen.cli import EXAMPLES

    for line in EXAMPLES.values():
        parse(line)


# ------------------------------------------------------------------ examples
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return docs_world.simple(tmp_path_factory.mktemp("docs"))


@pytest.fixture(scope="module")
def world(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "all"
    shutil.copytree(data, folder)
    return docs_world.models(folder)


def run_commands(page: Path, folder: Path, only: set[str] | None = None) -> None:
    with docs_world.inside(folder), docs_world.short_trainings(reports=only is None):
        for heading, line in commands(page):
            if line.startswith("morphogen") and (only is None or heading in only):
                docs_world.run(line)


def run_python(page: Path, folder: Path) -> None:
    source = "\n\n".join(text for _, language, text in blocks(page) if language == "python")
    with docs_world.inside(folder), docs_world.short_trainings():
        exec(compile(source, name_of(page), "exec"), {"__name__": "example"})


def test_python_of_the_readme_runs(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "penguins.csv", tmp_path)
    run_python(ROOT / "README.md", tmp_path)


def test_python_of_the_how_to_runs(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    shutil.copy(data / "table.csv", tmp_path)
    run_python(ROOT / "docs/how-to.md", tmp_path)


def test_quick_recipes_run(data: Path, tmp_path: Path) -> None:
    for name in {page for page, _ in QUICK}:
        shutil.copy(data / "table.csv", tmp_path)
        run_commands(ROOT / name, tmp_path, {heading for page, heading in QUICK if page == name})


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_commands_run(name: str, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "here")
    for run in {w for _, line in commands(ROOT / name) for w in re.findall(r"--out (runs/\S+|mine)", line)}:
        shutil.rmtree(tmp_path / "here" / run, ignore_errors=True)  # what the page makes itself
    run_commands(ROOT / name, tmp_path / "here")


@pytest.mark.slow
def test_python_of_language_models_runs(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "here")
    run_python(ROOT / "docs/language.md", tmp_path / "here")


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=name_of)
def test_python_blocks_are_run_somewhere(page: Path) -> None:
    """A page with Python in it is one of those that are run."""
    has = any(language == "python" for _, language, _ in blocks(page))
    run = ("README.md", "docs/how-to.md", "docs/language.md", "docs/extending.md")
    assert not has or name_of(page) in run, f"{page}: run it in this file"
