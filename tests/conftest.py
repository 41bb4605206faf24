"""The whole suite runs without a network, session fixtures too, and with few threads."""
from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

HERE = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Only this machine may be talked to: processes of one training find each other over the loopback."""

    def checked(name: str) -> Any:
        real = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in HERE:
                raise AssertionError(f"a connection to {address!r} was attempted")
            return real(self, address)

        return connect

    def resolve(host: Any, *args: Any, **more: Any) -> Any:
        if host is not None and host not in HERE and host != socket.gethostname():
            raise AssertionError(f"the address of {host!r} was asked for")
        return found(host, *args, **more)

    found = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, checked(name))
        patch.setattr(socket, "getaddrinfo", resolve)
        yield
