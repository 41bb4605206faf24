"""The compressed file: any damage is seen, anywhere."""
import hashlib
import json
import os
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.coding.container import expand, pack, squeeze, unpack
from morphogen.errors import FormatError

HEADER = {"run": "abc", "files": [["a", 3]]}


@settings(max_examples=15, deadline=None)
@given(blocks=st.lists(st.binary(max_size=50), max_size=5))
def test_header_and_blocks_come_back(blocks):
    header, found = unpack(pack(HEADER, blocks), "x")
    assert found == blocks and header["run"] == "abc" and header["files"] == [["a", 3]]


def test_a_changed_byte_at_every_position_is_refused():
    data = pack(HEADER, [b"block one", b"", b"two"])
    for at in range(len(data)):
        for change in (1, 128):
            wrong = bytearray(data)
            wrong[at] ^= change
            with pytest.raises(FormatError):
                unpack(bytes(wrong), "x")


def test_cut_at_every_length_or_lengthened_is_refused():
    data = pack(HEADER, [b"block one"])
    for n in range(len(data)):
        with pytest.raises(FormatError):
            unpack(data[:n], "x")
    with pytest.raises(FormatError):
        unpack(data + b"\0", "x")


def test_other_files_are_named_for_what_they_are_not():
    with pytest.raises(FormatError, match="not a file made by"):
        unpack(b"PK\x03\x04 something", "x")
    with pytest.raises(FormatError, match="another version"):
        unpack(b"MGC9" + b"\0" * 60, "x")


def test_xz_blocks_never_grow_beyond_what_they_claim():
    bomb = squeeze(b"\0" * 10_000_000)
    assert len(bomb) < 5000
    with pytest.raises(FormatError):
        expand(bomb, 1000)
    with pytest.raises(FormatError):
        expand(os.urandom(100), 1000)
    tracemalloc.start()
    with pytest.raises(FormatError):
        expand(bomb, -2)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000, "less than none is not without limit"
    tracemalloc.stop()
    assert expand(squeeze(b""), 0) == b""


def test_a_header_of_another_form_is_refused():
    head = squeeze(small := json.dumps({"version": 1, "sizes": 3}).encode())
    body = b"MGC1" + struct.pack("<II", len(head), len(small)) + head + b"abc"
    with pytest.raises(FormatError, match="contradicts itself"):
        unpack(body + hashlib.blake2b(body, digest_size=16).digest(), "x")
