"""Encoder-decoders write an answer to what they read: translation, summaries, T5's spans."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from morphogen.language.drawing import Answer, Drawing, Writer, constraints
from morphogen.nets.attention import KVCache

if TYPE_CHECKING:
    from morphogen.language.model import LanguageModel

LONGEST = 4096  # positions are relative: what ends a text is its end token, or this


def write(model: LanguageModel, source: list[int], drawing: Drawing, key: Tensor) -> Answer:
    """One answer, token by token."""
    net, foreign = model.net, model.source.foreign
    assert foreign is not None
    first = foreign.config.get("decoder_start_token_id")
    first = first if isinstance(first, int) else model.tokenizer.pad or 0
    writer = Writer(model.tokenizer, drawing, key, [first], constraints(model.tokenizer, drawing)())
    ids, cache, reason = [first], KVCache(LONGEST), "length"
    began = time.perf_counter()
    with torch.inference_mode():
        cond = net.read(torch.tensor([source]))  # type: ignore[operator]
        read = time.perf_counter()
        for _ in range(min(drawing.max_tokens, LONGEST - 1)):
            token = writer.choose(net(torch.tensor([ids[-1:]]), cond=cond, cache=cache)[0, -1].float(), len(ids))
            ids.append(token)
            if writer.done(token):
                reason = "stop"
                break
    writer.flush()
    spent = time.perf_counter() - read
    return writer.answer(
        reason,
        {
            "prompt_tokens": len(source),
            "tokens": len(ids) - 1,
            "prefill_tok_s": len(source) / max(read - began, 1e-9),
            "decode_tok_s": (len(ids) - 1) / max(spent, 1e-9),
            "prefill_seconds": read - began,
        },
    )
