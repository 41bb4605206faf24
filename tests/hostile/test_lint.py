"""No pickle, no code out of data, no network: held by reading every line of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import morphogen

ROOT = Path(morphogen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

CODE_FROM_DATA = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "dbm",
    "yaml",
    "runpy",
    "imp",
    "code",
    "codeop",
    "copyreg",
    "jsonpickle",
}
NETWORK = {
    "socket",
    "socketserver",
    "ssl",
    "http",
    "urllib.request",
    "urllib.error",
    "urllib3",
    "ftplib",
    "smtplib",
    "poplib",
    "imaplib",
    "telnetlib",
    "xmlrpc",
    "requests",
    "httpx",
    "aiohttp",
    "websockets",
    "huggingface_hub",
    "webbrowser",
    "datasets",
}
PARSERS = {"xml", "lxml"}  # XML entities
NATIVE = {"ctypes", "cffi"}  # native code by name
MALLOC = "engine/heap.py"  # two functions of the C library, named there
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "breakpoint",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "np.load",
    "numpy.load",
    "np.save",
    "os.system",
    "os.popen",
    "importlib.util.spec_from_file_location",
    "importlib.machinery.SourceFileLoader",
}
ATTRIBUTES = {"hub", "read_pickle", "to_pickle", "from_pretrained", "load_state_dict_from_url", "read_html", "read_xml", "unsafe_load"}
KEYWORDS = {"allow_pickle", "shell", "trust_remote_code", "weights_only"}
# Other programs are started by these only, each with a list of arguments that no data can choose.
STARTS = {
    "sandbox.py": "bubblewrap",
    "tokens/chat.py": "the renderer of templates",
    "codecs/workers.py": "molecules and pictures on all cores",
    "cli/terminal/input.py": "the person's own editor",
}
# Modules are imported by name here only, the names being tables of ours or installed entry points.
BY_NAME = {"__init__.py", "errors.py", "registry.py", "formats/tables/__init__.py"}


def faults(tree: ast.AST, name: str) -> Iterator[str]:
    """What a file may not do."""
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for module in modules:
            top = module.split(".")[0]
            if {top, module} & (CODE_FROM_DATA | NETWORK | PARSERS) or set(module.split(".")[1:]) & ATTRIBUTES:
                yield f"imports {module}"
            if top in NATIVE and name != MALLOC:
                yield f"imports {module}"
            if top in ("subprocess", "multiprocessing") and name not in STARTS:
                yield f"imports {module}"
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)
            and node.id in ("eval", "exec", "compile", "__import__", "__builtins__")
        ):
            yield f"uses {node.id}"
        if isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            if whole in CALLS or node.attr in ATTRIBUTES or whole.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
                yield f"uses {whole}"
            if node.attr == "import_module" and name not in BY_NAME:
                yield f"uses {whole}"
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                    yield f"says {keyword.arg}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_sec_the_package_runs_no_data_and_talks_to_nobody(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    assert not list(faults(ast.parse(path.read_text(encoding="utf-8")), name)), name


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import torch.hub",
        "torch.hub.load('x')",
        "torch.load(p)",
        "import torch\nx = torch.load",
        "np.load(p, allow_pickle=True)",
        "numpy.load(p)",
        "import yaml",
        "f = eval",
        "exec(x)",
        "compile(x, '', 'exec')",
        "__import__('os')",
        "from urllib.request import urlopen",
        "from urllib import request",
        "import urllib.request as u",
        "import socket",
        "from http import client",
        "import http.server",
        "import requests",
        "from xml.etree import ElementTree",
        "import ctypes",
        "os.system('x')",
        "os.execv(a, b)",
        "import subprocess",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=y)",
        "importlib.import_module(x)",
        "pd.read_pickle(p)",
        "AutoModel.from_pretrained(p)",
        "f(trust_remote_code=flag)",
        "import marshal, json",
        "import joblib",
        "from multiprocessing import shared_memory",
    ],
)
def test_the_lint_sees(line: str) -> None:
    assert list(faults(ast.parse(line), "x.py"))


@pytest.mark.parametrize(
    "line",
    [
        "from urllib.parse import unquote",
        "model.eval()",
        "re.compile(x)",
        "torch.compile(net)",
        "a.load(p)",
        "from . import code",
        "f(allow_pickle=False)",
    ],
)
def test_the_lint_lets_pass(line: str) -> None:
    assert not list(faults(ast.parse(line), "x.py"))
