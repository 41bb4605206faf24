"""What is asked of an answer, and the writer that turns logits into one: choice, grammar, stop strings, text."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from morphogen.errors import UsageError
from morphogen.sampling.choice import Choice, choose_token, logprobs, shaped
from morphogen.sampling.closing import RESERVE, Order, closers, closing
from morphogen.sampling.stops import Stops
from morphogen.tokens.tokenizer import Tokenizer

MOST_ANSWERS, MOST_LOGPROBS = 8, 20


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How an answer is drawn. What is 0 or None by default is off."""

    max_tokens: int = 256
    "At most this many new tokens; the context's end stops earlier."
    temperature: float = 1.0
    "Below 1 bolder, above 1 more varied; 0 takes the most likely token."
    top_k: int = 0
    "Only the k most likely tokens."
    top_p: float = 1.0
    "Only the fewest tokens that together reach this share."
    min_p: float = 0.0
    "Only tokens at least this likely relative to the best."
    typical: float = 1.0
    "Only the tokens of the most expected surprise that together reach this share."
    repetition: float = 1.0
    "Above 1 makes tokens that were read or written less likely."
    presence: float = 0.0
    "Taken from the logits of tokens that were written."
    frequency: float = 0.0
    "Taken from the logits of tokens that were written, once for each time."
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    "Numbers from -100 to 100 added to the logits of ids."
    seed: int = 0
    "Answer i depends on the seed and i alone."
    stop: tuple[str, ...] = ()
    "Strings that end an answer; they are not part of it."
    schema: Any = None
    "A JSON schema the answer keeps."
    regex: str | None = None
    "A regular expression the whole answer matches."
    grammar: str | None = None
    "A Lark grammar the answer keeps."
    logprobs: int = 0
    "Log-probabilities of the chosen and so many best tokens at each place."
    n: int = 1
    "How many answers."
    best_of: int = 0
    "Draw so many and keep the n that are likeliest by token."
    beams: int = 0
    "Search with so many beams instead of drawing."
    lookup: bool | None = None
    "Guess ahead what the text has said before; changes the speed, never the text. None: where the temperature is 0."
    adapter: str | None = None
    "Which loaded adapter acts."

    def choice(self) -> Choice:
        return Choice(**{f: getattr(self, f) for f in Choice.__dataclass_fields__})


def drawing_of(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> Drawing:
    """Options by name over a model's own defaults. Raises UsageError naming an unknown or unfit one."""
    from morphogen.config import make

    values = {**defaults, **{k: v for k, v in options.items() if v is not None}}
    if isinstance(values.get("stop"), str):
        values["stop"] = (values["stop"],)
    schema = values.pop("schema", None)
    drawing = dataclasses.replace(make(Drawing, values), schema=schema)
    for name, most in (("n", MOST_ANSWERS), ("logprobs", MOST_LOGPROBS), ("best_of", 16), ("beams", 16)):
        if not (1 if name == "n" else 0) <= getattr(drawing, name) <= most:
            raise UsageError(f"option '{name}' = {getattr(drawing, name)} is out of range", remedy=f"give at most {most}")
    if drawing.max_tokens < 1:
        raise UsageError(f"option 'max_tokens' = {drawing.max_tokens} asks for nothing", remedy="give 1 or more")
    if drawing.best_of and drawing.best_of < drawing.n:
        raise UsageError(f"best_of {drawing.best_of} is below n {drawing.n}", remedy="draw at least as many as are kept")
    if sum(v is not None for v in (drawing.schema, drawing.regex, drawing.grammar)) > 1:
        raise UsageError("schema, regex and grammar cannot be combined", remedy="give one of them")
    drawing.choice()
    Stops(drawing.stop)
    return drawing


@dataclass
class Answer:
    """What was written. `ids` end with the end token where one was drawn; `logprobs`: one (id, nats, best) a token, if asked for."""

    text: str
    ids: list[int]
    reason: str
    stats: dict[str, float]
    logprobs: list[tuple[int, float, list[tuple[int, float]]]] = field(default_factory=list)


@dataclass
class Piece:
    """What is new in a stream. The last one is `done`, has the reason (stop, length or cancelled) and the counts."""

    text: str
    ids: list[int]
    done: bool = False
    reason: str = ""
    stats: dict[str, float] = field(default_factory=dict)


@lru_cache(4)
def _closers(tokenizer: Tokenizer) -> Order:
    return closers(tokenizer.piece, tokenizer.size)


class Writer:
    """Chooses one token after another for one answer and keeps its text. `key` (1,) names its draws."""

    def __init__(self, tokenizer: Tokenizer, drawing: Drawing, key: Tensor, prompt: list[int], constraint: Any = None) -> None:
        self.tokenizer, self.drawing, self.key, self.constraint = tokenizer, drawing, key, constraint
        self.choice, self.stops, self.decoder = drawing.choice(), Stops(drawing.stop), tokenizer.decoder()
        self.prompt = [i for i in prompt if i < tokenizer.size]  # what penalties look back at; larger ids are never chosen
        self.ids, self.text, self.fresh = [], "", ""
        self.noted: list[tuple[int, float, list[tuple[int, float]]]] = []
        self.total = 0.0
        self.stopped = ""
        self.plan: list[int] | None = None  # how the answer can still end within its length

    def choose(self, logits: Tensor, position: int) -> int:
        """The id at a position from logits (V,)."""
        row = logits[None]
        if row.shape[1] > self.tokenizer.size:  # rows a model has beyond its tokenizer stand for nothing
            row = row[:, : self.tokenizer.size]
        if self.constraint is not None:
            mask = self.constraint.mask()
            row = row.masked_fill(~mask[None, : row.shape[1]], -torch.inf)
        seen = written = None
        if self.choice.looks_back:
            written = torch.tensor([self.ids], dtype=torch.int64)
            seen = torch.tensor([self.prompt + self.ids], dtype=torch.int64)
        token = int(choose_token(row, self.key, position, self.choice, seen, written))
        if self.constraint is not None and self.drawing.max_tokens - len(self.ids) <= RESERVE:
            token = self._ending(token)
        if self.drawing.logprobs or self.drawing.best_of:
            self._note(shaped(row, self.choice, seen, written), token)
        return token

    def _ending(self, token: int) -> int:
        """The token, or the next one on the way to an end where the token would leave too little room for any."""
        ends, left = self.tokenizer.eos, self.drawing.max_tokens - len(self.ids) - 1
        if token in ends:
            return token
        first = _closers(self.tokenizer)
        after = self.constraint.copy()
        after.advance(token)
        plan = closing(after, first, left)
        if plan is None:
            plan = self.plan if self.plan is not None else closing(self.constraint, first, left + 1)
            if plan is not None:
                token, plan = (plan[0], plan[1:]) if plan else (ends[0], [])
        self.plan = plan
        return token

    def _note(self, row: Tensor, token: int) -> None:
        own, best, values = logprobs(row, torch.tensor([token]), self.drawing.logprobs)
        self.total += float(own)
        self.noted.append((token, float(own), list(zip(best[0].tolist(), values[0].tolist()))))

    def done(self, token: int) -> bool:
        """Take the token in; True when it ends the answer."""
        self.ids.append(token)
        if self.constraint is not None:
            self.constraint.advance(token)
        if token in self.tokenizer.eos:
            self.stopped = "end"
            return True
        shown, met = self.stops.feed(self.decoder.feed(token))
        self._show(shown)
        if met:
            self.stopped = "stop string"
        return met or (self.constraint is not None and self.constraint.finished)

    def _show(self, text: str) -> None:
        self.text += text
        self.fresh += text

    def flush(self) -> None:
        """The answer is over: what was held back comes out."""
        if not self.stops.stopped:
            shown, met = self.stops.feed(self.decoder.flush())
            if not met:
                rest, met = self.stops.flush()
                shown += rest
            self._show(shown)
            if met:
                self.stopped = self.stopped or "stop string"

    def taken(self) -> str:
        """Text that is new since the last call."""
        fresh, self.fresh = self.fresh, ""
        return fresh

    def answer(self, reason: str, stats: dict[str, float]) -> Answer:
        return Answer(self.text, self.ids, "stop" if self.stopped else reason, stats, self.noted if self.drawing.logprobs else [])


def constraints(tokenizer: Tokenizer, drawing: Drawing) -> Callable[[], Any]:
    """A maker of fresh constraints, one an answer; of None where nothing is asked. Raises UsageError for an unfit schema."""
    if drawing.schema is None and drawing.regex is None and drawing.grammar is None:
        return lambda: None
    from morphogen.sampling.structured import constraint_maker

    return constraint_maker(tokenizer, schema=drawing.schema, regex=drawing.regex, grammar=drawing.grammar)
