"""What packing a model frees goes back to the system at once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

MAPPED_FROM = -3  # glibc's M_MMAP_THRESHOLD: pieces from this size on are mapped by themselves, and unmapped when freed


@contextmanager
def returning() -> Iterator[None]:
    """Within it, and once after it, freed memory leaves the process: glibc would keep as much as a small model's own size.

    Does nothing with another C library.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        libc.mallopt(MAPPED_FROM, 1 << 18)
    except (AttributeError, OSError, TypeError):
        yield
        return
    try:
        yield
    finally:
        libc.mallopt(MAPPED_FROM, 32 << 20)  # as glibc's own rule would have it by now
        libc.malloc_trim(0)
