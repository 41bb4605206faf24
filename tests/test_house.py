"""The rules of the house, held by reading the source: layers, sizes, final classes, no unsafe calls, no torch where it does not belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import morphogen

ROOT = Path(morphogen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# Members of one line never import each other; imports only go to earlier lines.
LAYERS = [
    {"errors", "spaces", "contracts", "config", "registry", "files", "samples", "sandbox"},
    {"tokens"},
    {"codecs", "nets", "sampling", "coding"},
    {"engine"},
    {"bridges", "families"},
    {"model"},
    {"items", "formats"},
    {"training"},
    {"adapt", "evaluation", "trust"},
    {"run", "worked_out"},
    {"language"},
    {"plan"},
    {"api"},
    {"cli"},
]
LEVEL = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
# Within the ground floor there is an order too: errors and spaces stand alone.
GROUND = {"contracts": {"spaces"}, "config": {"errors"}, "registry": {"errors"}, "files": {"errors"}, "samples": {"files", "errors"},
          "sandbox": {"errors"}}

LONG_FUNCTIONS: dict[str, str] = {}
MANY_ARGUMENTS = {
    "api/train.py:train": "the verb's flags are fixed by contract",
    "api/generate.py:generate": "the verb's flags are fixed by contract",
    "api/evaluate.py:evaluate": "the verb's flags are fixed by contract",
    "api/compare.py:compare": "the verb's flags are fixed by contract",
    "api/demo.py:demo": "a verb",
    "api/tune.py:tune": "a verb",
    "api/estimator.py:__init__": "scikit-learn's parameters are arguments",
    "api/score.py:score": "the verb's flags are fixed by contract",
    "api/latent.py:interpolate": "a verb",
    "api/latent.py:vary": "a verb",
    "cli/score.py:score": "the verb's flags are fixed by contract",
    "cli/interpolate.py:interpolate": "a verb",
    "cli/vary.py:vary": "a verb",
    "cli/tune.py:tune": "a verb",
    "cli/train.py:train": "the verb's flags are fixed by contract",
    "cli/generate.py:generate": "the verb's flags are fixed by contract",
    "cli/compare.py:compare": "the verb's flags are fixed by contract",
    "plan.py:make_plan": "everything a person may have wished",
}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path, *, top: bool = False) -> set[str]:
    """Modules of ours (room names) or others (top-level names) that a file imports anywhere, or only when it is imported itself."""
    found = set()
    nodes = ast.walk(TREES[path]) if not top else _executed(TREES[path].body)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "morphogen" else {f"morphogen.{a.name}" for a in node.names}
    return found


def _executed(body: list[ast.stmt]):
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "testing", "__main__"):
        return
    for module in imports_of(path):
        parts = module.split(".")
        if parts[0] != "morphogen" or len(parts) < 2 or parts[1] in ("__version__",):
            continue
        other = parts[1]
        assert other != "testing", f"{path}: nothing imports testing"
        if other == room:
            continue
        if LEVEL[room] == 0:
            assert other in GROUND.get(room, set()), f"{path} imports {module}"
        else:
            assert LEVEL[other] < LEVEL[room], f"{path} ({room}) imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"{name}: split it along a seam that has a name"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            at = f"{name}:{node.name}"
            assert (node.end_lineno or 0) - node.lineno < 60 or at in LONG_FUNCTIONS or name.startswith("cli/"), (
                f"{at} is longer than 60 lines"
            )
            a = node.args
            count = len([x for x in [*a.posonlyargs, *a.args, *a.kwonlyargs] if x.arg not in ("self", "cls")])
            assert count <= 8 or at in MANY_ARGUMENTS, f"{at} has {count} arguments"


def test_classes_are_abstract_or_final() -> None:
    """No concrete class of ours is subclassed: wrap instead (exceptions form one family on purpose; Watch is a listener)."""
    ours = {n.name for t in TREES.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)}
    allowed = {"MorphogenError", "Watch"}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    name = ast.unparse(base).split(".")[-1]
                    assert name not in ours - allowed or name in ("Protocol",), f"{path}: {node.name} subclasses {name}"


UNSAFE = {"eval", "exec", "compile"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sec_no_unsafe_calls(path: Path) -> None:
    for module in imports_of(path):
        assert module.split(".")[0] not in ("pickle", "marshal", "shelve", "yaml", "joblib", "dill"), f"{path} imports {module}"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in UNSAFE, f"{path}: {name}"
            assert name not in ("torch.load", "torch.save"), f"{path}: {name}"
            for keyword in node.keywords:
                assert not (keyword.arg in ("allow_pickle", "shell") and getattr(keyword.value, "value", False)), f"{path}: {keyword.arg}"


@pytest.mark.parametrize("room", [
    "errors", "spaces", "contracts", "config", "registry", "files", "sandbox", "codecs", "samples", "cli", "plan"])
def test_rooms_without_torch(room: str) -> None:
    for path in FILES:
        if room_of(path) == room:
            assert not any(m.split(".")[0] == "torch" for m in imports_of(path, top=True)), f"{path} imports torch"


def test_nets_and_families_know_no_framework() -> None:
    for path in FILES:
        if room_of(path) in ("nets", "families", "sampling", "bridges"):
            bad = {m.split(".")[0] for m in imports_of(path)} & {"logging", "argparse", "rich", "cyclopts", "pathlib", "os", "sys"}
            assert not bad, f"{path} imports {bad}"
            text = path.read_text(encoding="utf-8")
            assert "torch.Generator" not in text, path


@pytest.mark.parametrize(
    "code",
    [
        "import morphogen",
        "import morphogen.cli; morphogen.cli.build()",
        "from morphogen.api import list_; list_()",
        "from morphogen.codecs import image, table, text",
    ],
)
def test_no_torch_at_start(code: str) -> None:
    script = f"{code}\nimport sys\nassert 'torch' not in sys.modules, 'torch was imported'\nassert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_no_torchvision() -> None:
    """Its registry build is for CUDA and breaks the CPU build of torch."""
    import importlib.util

    assert importlib.util.find_spec("torchvision") is None
