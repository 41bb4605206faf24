"""The plug-in keeps what morphogen promises its users: the public conformance suite, and nothing else, is needed here."""
from pathlib import Path

import pytest
from morphogen.testing import Case, check_codec, check_family, family_cases
from morphogen_knitting.charts import KnittingCodec
from morphogen_knitting.mesh import Mesh

CHARTS = Path(__file__).parent.parent / "charts"


def test_codec(tmp_path: Path) -> None:
    from morphogen.codecs.sources import scan

    check_codec(KnittingCodec, list(KnittingCodec().read(scan(CHARTS))), tmp_path, data=CHARTS)


@pytest.mark.parametrize("case", family_cases(Mesh), ids=str)
def test_family(case: Case) -> None:
    check_family(case.make, case.batch)
