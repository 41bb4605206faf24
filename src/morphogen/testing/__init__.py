"""Public conformance checks: what every codec, bridge, family and metric must do, ours and other people's alike."""
from morphogen.testing.bridges import check_bridge
from morphogen.testing.cases import Case, batch_of, bridge_cases, family_cases
from morphogen.testing.codecs import check_codec, check_condition
from morphogen.testing.families import check_compiles, check_family
from morphogen.testing.metrics import check_metric
from morphogen.testing.promise import BrokenPromise

__all__ = [
    "BrokenPromise", "Case", "batch_of", "bridge_cases", "check_bridge", "check_codec", "check_compiles", "check_condition", "check_family",
    "check_metric", "family_cases",
]
