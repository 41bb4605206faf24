"""Beam search: the likeliest texts that can be found by keeping the best few beginnings at every step."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from morphogen.errors import UsageError
from morphogen.language.drawing import Answer, Drawing, Writer
from morphogen.nets.attention import KVCache
from morphogen.sampling import draws

if TYPE_CHECKING:
    from morphogen.language.model import LanguageModel


def beam_search(model: LanguageModel, ids: list[int], drawing: Drawing) -> list[Answer]:
    """`n` answers by `beams` beams, ranked by mean log-probability a token (length penalty 1, as transformers has it).

    Stops when no open beam can beat the worst finished one. Raises UsageError where draws are asked for too.
    """
    if drawing.schema is not None or drawing.regex is not None or drawing.grammar is not None or drawing.adapter is not None:
        raise UsageError("beams cannot follow a grammar or an adapter", remedy="draw, or leave the beams out")
    if drawing.logit_bias or drawing.choice().looks_back or drawing.best_of or drawing.logprobs:
        raise UsageError("beams take no logit_bias, penalties, best_of or logprobs", remedy="draw, or leave the beams out")
    if drawing.n > drawing.beams:
        raise UsageError(f"{drawing.n} answers from {drawing.beams} beams", remedy="ask for at least as many beams")
    net, k, eos = model.drawing_net, drawing.beams, set(model.tokenizer.eos)
    began = time.perf_counter()
    cache, beams, totals = KVCache(model.context), [list[int]()], torch.zeros(1)
    done: list[tuple[float, list[int]]] = []
    most = min(drawing.max_tokens, model.context - len(ids))
    with torch.inference_mode():
        logits = net(torch.tensor([ids]), cache=cache)[:, -1, : model.tokenizer.size]
        for length in range(1, most + 1):
            scores = totals[:, None] + logits.float().log_softmax(-1)
            best, flat = scores.flatten().topk(min(2 * k, scores.numel()))
            rows, tokens = (flat // scores.shape[1]).tolist(), (flat % scores.shape[1]).tolist()
            kept: list[tuple[int, int, float]] = []
            for row, token, total in zip(rows, tokens, best.tolist()):
                if token in eos:
                    done.append((total / length, [*beams[row], token]))
                elif len(kept) < k:
                    kept.append((row, token, total))
            done = sorted(done, key=lambda d: -d[0])[:k]
            if not kept or (len(done) == k and done[-1][0] >= kept[0][2] / length) or length == most:
                if length == most:
                    done += [(total / length, [*beams[row], token]) for row, token, total in kept]
                break
            beams = [[*beams[row], token] for row, token, _ in kept]
            totals = torch.tensor([total for _, _, total in kept])
            take = torch.tensor([row for row, _, _ in kept])
            cache.layers = {i: (a[take], b[take]) for i, (a, b) in cache.layers.items()}
            logits = net(torch.tensor([[token] for _, token, _ in kept]), cache=cache)[:, -1, : model.tokenizer.size]
    out = []
    for score, tokens in sorted(done, key=lambda d: -d[0])[: drawing.n]:
        writer = Writer(model.tokenizer, drawing, draws.seeded(0, 1), ids)
        for token in tokens:
            if writer.done(token):
                break
        writer.flush()
        n = len(writer.ids)  # a stop string may stand before the beam's end
        out.append(writer.answer("length", {"prompt_tokens": len(ids), "tokens": n, "score": score,
                                            "decode_tok_s": n / max(time.perf_counter() - began, 1e-9)}))
    return out
