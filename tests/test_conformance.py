"""Everything in the registry passes the public checks: a new entry is tried without a line here."""
from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from morphogen.config import NetConfig, make
from morphogen.plan import claim, read
from morphogen.registry import entries, resolve
from morphogen.sampling import draws
from morphogen.spaces import Array
from morphogen.testing import Case, bridge_cases, check_bridge, check_codec, check_compiles, check_condition, check_family, check_metric
from morphogen.testing.cases import family_cases

VALUES: dict[str, list[Any]] = {"number": [1, 2.5, -3, 7, 7], "label": ["a", "b", "a", 3], "caption": ["a cat", "two dogs", "a cat sits"]}
LONG = ("picture", "signal", "text-label", "text-both", "slots-none", "grid-none", "row-label", "vector-label")


def tried(name: str, case: Case) -> Any:
    """Every family on every kind of Space in a few seconds; with every condition on all of them in the long run."""
    return pytest.param(name, case, marks=pytest.mark.slow if case.name.startswith(LONG) else (), id=f"{name}-{case}")


FAMILIES = [tried(name, case) for name in entries("family") for case in family_cases(resolve("family", name))]
BRIDGES = [(name, case) for name in entries("bridge") for case in bridge_cases(resolve("bridge", name))]


@pytest.mark.parametrize(("name", "case"), FAMILIES)
def test_family_keeps_its_promises(name: str, case: Case) -> None:
    check_family(case.make, case.batch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), FAMILIES)
def test_loss_of_family_is_one_graph(name: str, case: Case) -> None:
    check_compiles(case.make(), case.batch)


@pytest.mark.parametrize(("name", "case"), BRIDGES, ids=str)
def test_bridge_keeps_its_promises(name: str, case: Case) -> None:
    check_bridge(case.make, case.batch.x, case.batch.mask)


HEAVY = ("c2st", "tstr", "rare", "columns", "copying")  # grow a forest or resample the rows for each figure


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in HEAVY else ()) for n in entries("metric")])
def test_metric_keeps_its_promises(name: str) -> None:
    check_metric(resolve("metric", name))


@pytest.mark.parametrize("name", entries("condition"))
def test_condition_keeps_its_promises(name: str) -> None:
    check_condition(resolve("condition", name), VALUES[name])


@pytest.mark.parametrize("name", entries("codec"))
def test_codec_keeps_its_promises(name: str, data: dict[str, list[Path]], tmp_path: Path) -> None:
    assert data.get(name), f"put a small data set for '{name}' into tests/data or morphogen.samples"
    for i, path in enumerate(data[name]):
        codec, items = read(path)[-2:]
        check_codec(lambda codec=codec: type(codec)(codec.config), items[:200], tmp_path / str(i), path)


def test_net_config_is_resolved() -> None:
    kind = resolve("family", "flow")
    family = kind(Array((1, 8, 8)), {}, make(kind.Config, {"net": {"size": "tiny"}}))
    net: NetConfig = family.config.net
    assert net.width > 0 and net.depth > 0, "derived values must be filled in, so that they are saved"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Small data sets by the codec that claims them: those in tests/data, pictures, sentences and penguins."""
    from morphogen.codecs.sources import scan
    from morphogen.testing.metrics import sentences

    here = tmp_path_factory.mktemp("data")
    for i, keys in enumerate(draws.seeded(0, 40).split(1)):
        (here / "pictures" / f"class {i % 2}").mkdir(parents=True, exist_ok=True)
        pixels = (draws.uniform(keys, "p", 0, (9, 7, 3))[0] * 256).byte().numpy()
        Image.fromarray(pixels).save(here / "pictures" / f"class {i % 2}" / f"{i}.png")
    (here / "words.txt").write_text("\n".join(sentences(200, 0)) + "\n")
    (here / "penguins.csv").write_bytes(resources.files("morphogen.samples").joinpath("penguins.csv").read_bytes())
    found: dict[str, list[Path]] = {}
    for path in sorted([*here.iterdir(), *(Path(__file__).parent / "data").iterdir()]):
        found.setdefault(claim(scan(path))[0], []).append(path)
    return found
