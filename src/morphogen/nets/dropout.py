"""Drop-out whose draws have a name. torch's own come from one state of the whole process, which threads share in no order."""
from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_here = threading.local()


@contextlib.contextmanager
def keyed(key: int) -> Iterator[None]:
    """Inside, and in this thread alone, `drop` draws one mask after another from a stream that begins with `key`."""
    before = getattr(_here, "streams", None), getattr(_here, "key", 0)
    _here.streams, _here.key = {}, key
    try:
        yield
    finally:
        _here.streams, _here.key = before


def drop(x: Tensor, share: float, training: bool) -> Tensor:
    """x with a `share` of its elements set to 0 and the others divided by 1 - share (Srivastava et al. 2014); x itself out of training."""
    if not share or not training:
        return x
    stream = None if torch.compiler.is_compiling() else _stream(x.device)
    if stream is None:
        return F.dropout(x, share, True)
    kept = torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(1 - share, generator=stream)
    return x * kept.div_(1 - share)


def _stream(device: torch.device) -> torch.Generator | None:
    streams = getattr(_here, "streams", None)
    if streams is None:
        return None
    if device not in streams:
        streams[device] = torch.Generator(device).manual_seed(_here.key)
    return streams[device]
