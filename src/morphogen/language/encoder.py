"""What encoders are for: vectors of texts, and words in place of masks."""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from morphogen.errors import UsageError
from morphogen.language.drawing import Answer, Drawing
from morphogen.nets.seq2seq import EncoderDecoder
from morphogen.sampling.choice import choose_token
from morphogen.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from morphogen.language.model import LanguageModel

MASKS = re.compile(r"<mask>|\[MASK\]")


def with_masks(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which <mask> or [MASK] stands for a token to be found, with what goes around it."""
    if tokenizer.mask is None:
        raise UsageError("the model's tokenizer has no mask token", remedy="use embed and rank with this model")
    whole = tokenizer.encode("x")
    inner = tokenizer.ids("x")
    at = next(i for i in range(len(whole) - len(inner) + 1) if whole[i:i + len(inner)] == inner)
    out = whole[:at]
    for n, part in enumerate(MASKS.split(text)):
        out += ([tokenizer.mask] if n else []) + tokenizer.ids(part)
    return out + whole[at + len(inner):]


def fill(net: nn.Module, tokenizer: Tokenizer, ids: list[int], drawing: Drawing, key: Tensor) -> Answer:
    """The text with its masks filled, the surest place first, each given those filled before."""
    x, choice = torch.tensor([ids]), drawing.choice()
    hidden = [i for i, t in enumerate(ids) if t == tokenizer.mask]
    if not hidden:
        raise UsageError("there is no mask to fill", remedy="write <mask> where a word is asked for")
    banned = torch.zeros(1, 1, dtype=torch.bool)
    with torch.inference_mode():
        while hidden:
            logits = net(x, at=torch.tensor([hidden]))[0][:, : tokenizer.size].float()
            if banned.shape[1] != logits.shape[1]:
                banned = torch.zeros(1, logits.shape[1], dtype=torch.bool)
                banned[0, [i for i in tokenizer.special.values() if i < logits.shape[1]]] = True
            logits = logits.masked_fill(banned, -torch.inf)
            surest = int(logits.softmax(-1).amax(-1).argmax())
            place = hidden.pop(surest)
            x[0, place] = int(choose_token(logits[surest][None], key, place, choice))
    out = x[0].tolist()
    return Answer(tokenizer.text(out), out, "stop", {"prompt_tokens": len(ids), "tokens": ids.count(tokenizer.mask or -1)})


@torch.inference_mode()
def score(net: nn.Module, tokenizer: Tokenizer, ids: list[int]) -> float:
    """Mean of -log p of each token given all others, each masked in turn (pseudo-likelihood, Salazar et al. 2020)."""
    places = [i for i, t in enumerate(ids) if t not in tokenizer.special.values()]
    if not places or tokenizer.mask is None:
        raise UsageError("there is nothing to score", remedy="give a longer text, and a model with a mask token")
    total = 0.0
    for part in (places[i:i + 32] for i in range(0, len(places), 32)):
        x = torch.tensor([ids] * len(part))
        at = torch.tensor(part)[:, None]
        want = x.gather(1, at)
        x.scatter_(1, at, tokenizer.mask)
        total -= float(torch.log_softmax(net(x, at=at)[:, 0].double(), -1).gather(1, want).sum())
    return total / len(places)


@torch.inference_mode()
def embed(model: LanguageModel, texts: Sequence[str], batch: int) -> np.ndarray:
    """(N, D) float32; texts of like length go together, and the order of the result is that of the texts."""
    net, pooling = model.net, model.source.pooling
    rows = [_cut(ids, model.context, model.tokenizer) for ids in model.tokenizer.batch(list(texts))]
    out: list[np.ndarray | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    pad = model.tokenizer.pad or 0
    for part in (order[i:i + batch] for i in range(0, len(order), batch)):
        longest = max(1, max(len(rows[i]) for i in part))
        x = torch.full((len(part), longest), pad)
        mask = torch.zeros(len(part), longest, dtype=torch.bool)
        for n, i in enumerate(part):
            x[n, : len(rows[i])], mask[n, : len(rows[i])] = torch.tensor(rows[i], dtype=torch.int64), True
        h = _hidden(net, x, mask)
        pooled = _pool(h, mask, pooling.get("mode", "mean"))
        if pooling.get("normalise"):
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        for n, i in enumerate(part):
            out[i] = pooled[n].float().numpy()
    return np.stack([o for o in out if o is not None]) if rows else np.zeros((0, 0), np.float32)


def _cut(ids: list[int], most: int, tokenizer: Tokenizer) -> list[int]:
    """A text that is too long loses its tail, but not the token that closes it."""
    if len(ids) <= most:
        return ids
    close = ids[-1:] if ids[-1] in tokenizer.special.values() else []
    return ids[: most - len(close)] + close


def _hidden(net: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    if isinstance(net, EncoderDecoder):
        sequence = net.read(x, mask).sequence
        assert sequence is not None
        return sequence
    return net(x, mask=mask, hidden=True)


def _pool(h: Tensor, mask: Tensor, mode: str) -> Tensor:
    real = mask[..., None]
    match mode:
        case "cls":
            return h[:, 0]
        case "max":
            return h.masked_fill(~real, -torch.inf).amax(1)
        case "last":
            return h[torch.arange(len(h)), mask.sum(1) - 1]
    return (h * real).sum(1) / real.sum(1).clamp(min=1)
