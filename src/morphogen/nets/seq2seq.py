"""An encoder reads, a decoder writes and attends to what was read; both share one vocabulary (T5, arXiv 1910.10683)."""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from morphogen.contracts import Cond
from morphogen.nets.architecture import Architecture
from morphogen.nets.attention import Cache
from morphogen.nets.net import net
from morphogen.nets.transformer import Transformer


@net
class EncoderDecoder(nn.Module):
    """ids (B, L) given a source (B, S) -> logits (B, L, vocab). `a` is the architecture of both, `depth` the decoder's layers."""

    def __init__(self, vocab: int, length: int, a: Architecture, *, depth: int) -> None:
        super().__init__()
        self.architecture, self.length, self.causal = a, length, True
        self.encoder = Transformer(1, 1, length, replace(a, memory=0, tied=True), causal=False)
        self.decoder = Transformer(vocab, vocab, length, replace(a, memory=a.width, depth=depth), causal=True)
        del self.encoder.vocabulary  # it reads the decoder's vectors

    def read(self, source: Tensor, mask: Tensor | None = None) -> Cond:
        """What the decoder attends to, from source ids (B, S) and mask (B, S), True = real."""
        h = self.decoder.vocabulary(source)
        return Cond(None, self.encoder.body(h, mask), torch.ones_like(source, dtype=torch.bool) if mask is None else mask)

    def forward(self, x: Tensor, *, cond: Cond, cache: Cache | None = None, hidden: bool = False) -> Tensor:
        """Logits of decoder ids (B, L), given what `read` gave."""
        return self.decoder(x, cond=cond, cache=cache, hidden=hidden)
