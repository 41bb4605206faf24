"""Public conformance checks: what every codec, bridge, family and metric must do, ours and other people's alike."""
from morphogen.testing.codecs import check_codec
from morphogen.testing.devices import check_bridge, check_family

__all__ = ["check_bridge", "check_codec", "check_family"]
