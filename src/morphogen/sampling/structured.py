"""Answers that keep to a JSON schema, a regex or a grammar, by masking tokens; through `llguidance`, and fail closed.

Grammars are in llguidance's Lark syntax (rules `start: a | b`, terminals in capitals, `/regexes/`, `%json {schema}`, `%ignore`),
or in llama.cpp's GBNF (`root ::= ...`), which is translated. What is refused, and why, stands in `limits.py`.
In regexes and patterns \\d and \\w are ASCII.
"""
from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from morphogen.errors import MorphogenError, ResourceError, UsageError, needs
from morphogen.sampling.limits import DEPTH, STATES, _nesting, check_lark, check_regex, checked_schema, plain_classes, sized

SECONDS = 1.0
# One space, or a new line and what it is indented by: white space without end would be legal JSON and no answer.
JSON_STYLE = {"whitespace_pattern": r" |\n {0,40}", "json_allowed_escapes": 'nrbtf\\"', "lenient": False, "coerce_one_of": False}
GBNF_RULES = 150
KEPT = 4  # tokenizers made ready


class Vocabulary(Protocol):
    """What is asked of a tokenizer."""

    size: int
    eos: tuple[int, ...]

    def content(self) -> str: ...


class Constraint:
    """What may follow in one sequence. `mask`, then `advance` with the id that was put there; `finished` when only an end is left."""

    def __init__(self, matcher: Any, ends: tuple[int, ...], special: list[int], vocab: int) -> None:
        self._matcher, self._ends, self._vocab = matcher, ends, vocab
        self._special, self._endings = np.array(sorted(set(special) | set(ends)), dtype=np.int64), list(ends)
        self.ended = False

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token can follow."""
        return self.ended or bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """Whether what was written so far is a whole answer."""
        return self.ended or bool(self._matcher.is_accepting())

    def mask(self) -> Tensor:
        """(V,) bool, True = may follow; never all False. Raises ResourceError when the grammar can no longer tell."""
        out = None
        if not self.ended:
            bits = self._matcher.compute_bitmask()
            self._healthy()
            if not self.finished:
                out = np.unpackbits(np.frombuffer(bits, np.uint8), count=self._vocab, bitorder="little").view(bool)
                out[self._special] = False
        if out is None:
            out = np.zeros(self._vocab, bool)
        if self.complete:
            out[self._endings] = True
        if not out[out.argmax()]:
            raise ResourceError("the grammar leaves no token to choose", remedy="make it simpler, or see that it can be fulfilled")
        return torch.from_numpy(out)

    def advance(self, token: int) -> None:
        """Take the id that was chosen. Raises UsageError when it breaks the rules."""
        token = int(token)
        if token in self._ends and self.complete:
            self.ended = True
            return
        allowed = not self.ended and 0 <= token < self._vocab and token not in self._special
        if not allowed or self._matcher.try_consume_tokens([token]) != 1:
            self._healthy()
            raise UsageError(f"token {token} is against the grammar", remedy="choose among the mask")
        self._healthy()

    def forced(self) -> list[int]:
        """The ids that spell what the grammar leaves no choice about, as the tokenizer would; [] where there is one.

        The mask may also allow other spellings of the same text.
        """
        if self.finished:
            return []
        ids = [int(i) for i in self._matcher.compute_ff_tokens()]
        self._healthy()
        return ids if all(0 <= i < self._vocab and i not in self._special for i in ids) else []

    def copy(self) -> Constraint:
        """The same state; what is done to one is not seen by the other."""
        twin = Constraint(self._matcher.deep_copy(), self._ends, self._special.tolist(), self._vocab)
        twin.ended = self.ended
        return twin

    def _healthy(self) -> None:
        """In its error states the library allows an end anywhere; here that is an error."""
        if self._matcher.is_error():
            raise ResourceError(f"the grammar can no longer be followed ({_line(self._matcher.get_error())})", remedy="make it simpler")
        if self._matcher.is_stopped() and not self._matcher.is_accepting():
            raise ResourceError("the grammar cannot be fulfilled from here", remedy="see that every rule can come to an end")


def constraint_maker(
    tokenizer: Vocabulary, *, schema: Any = None, regex: str | None = None, grammar: str | None = None, vocab: int | None = None,
) -> Callable[[], Constraint]:
    """A function that gives a fresh Constraint for each sequence, from one of: a JSON schema (dict or text), a regex, a grammar.

    `vocab`: the width of the model's logits where it is not the tokenizer's size. Raises UsageError for what is invalid, not supported,
    cannot be fulfilled or takes more than a second to compile, ResourceError without `llguidance`.
    """
    given = [name for name, value in (("schema", schema), ("regex", regex), ("grammar", grammar)) if value is not None]
    if len(given) != 1:
        raise UsageError(f"{' and '.join(given) or 'nothing'} given to keep to", remedy="give one of schema, regex, grammar")
    library = needs("llguidance", "structured", "structured output")
    ends = tuple(int(i) for i in tokenizer.eos if i < (vocab or tokenizer.size))
    if not ends:
        raise UsageError("the tokenizer has no end token, so no answer could end", remedy="use a model with one")
    reader = _reader(library, tokenizer, ends)
    matcher = _within(SECONDS, lambda: _compiled(library, reader, _text(library, schema, regex, grammar), given[0]), given[0])
    special = [int(i) for i in getattr(tokenizer, "special", {}).values() if i < (vocab or tokenizer.size)]
    first = Constraint(matcher, ends, special, vocab or tokenizer.size)
    try:
        first.copy().mask()
    except MorphogenError as error:
        raise UsageError(f"the {given[0]} cannot be fulfilled", remedy=error.what) from None
    return first.copy


def _text(library: Any, schema: Any, regex: str | None, grammar: str | None) -> str:
    """The task in the library's own words, checked."""
    matcher = library.LLMatcher
    if regex is not None:
        return matcher.grammar_from_regex(plain_classes(check_regex(regex)))
    if grammar is not None:
        sized(grammar, "grammar")
        if "::=" in grammar:
            grammar = _from_gbnf(grammar)
        return matcher.grammar_from_lark(check_lark(grammar))
    try:
        return matcher.grammar_from_json_schema(json.dumps(checked_schema(schema)), overrides=JSON_STYLE)
    except ValueError as error:
        raise UsageError(f"the schema is not valid ({_line(error)})") from None


def _from_gbnf(grammar: str) -> str:
    if _nesting(grammar) > DEPTH or grammar.count("::=") > GBNF_RULES:  # the translator's work grows with their square
        raise UsageError("the grammar has too many parts", remedy=f"at most {DEPTH} groups in each other and {GBNF_RULES} rules in GBNF")
    translate = needs("llguidance.gbnf_to_lark", "structured", "GBNF").gbnf_to_lark
    try:
        return translate(grammar)
    except Exception as error:  # the translator raises bare Exceptions, and others on input it did not expect
        raise UsageError(f"the grammar is no GBNF ({_line(error)})", remedy="write Lark rules: start: ...") from None


def _compiled(library: Any, reader: Any, text: str, what: str) -> Any:
    """A matcher with its first mask worked out. Raises UsageError."""
    limits = library.LLParserLimits(
        initial_lexer_fuel=200_000, max_lexer_states=STATES, max_grammar_size=200_000, verbose_errors=False)
    matcher = library.LLMatcher(reader, text, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.deep_copy().compute_bitmask()
    if matcher.is_error():
        raise UsageError(f"the {what} cannot be compiled ({_line(matcher.get_error())})")
    notes = matcher.get_grammar_warnings()
    if notes:
        raise UsageError(f"not all of the {what} would be kept to ({_line(notes[0])})")
    return matcher


def _within(seconds: float, work: Callable[[], Any], what: str) -> Any:
    """What `work` gives, in a thread with room for deep recursion; UsageError when it is not there in time."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(work())
        except BaseException as error:  # the library's panics are no Exceptions
            box.append(error)

    with _LOCK:
        before = threading.stack_size(256 * 1024 * 1024)
        try:
            thread = threading.Thread(target=run)  # no daemon: native code that outlives the interpreter crashes it
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join(seconds)
    if not box:
        raise UsageError(f"the {what} takes more than {seconds:g} s to compile", remedy="make it simpler")
    if isinstance(box[0], MorphogenError):
        raise box[0]
    if isinstance(box[0], BaseException):
        raise UsageError(f"the {what} cannot be compiled ({_line(box[0])})")
    return box[0]


_LOCK = threading.Lock()
_READERS: OrderedDict[bytes, Any] = OrderedDict()


def _reader(library: Any, tokenizer: Vocabulary, ends: tuple[int, ...]) -> Any:
    """The library's own view of a tokenizer; kept, since it takes a second for a large vocabulary."""
    content = tokenizer.content()
    name = hashlib.sha256(f"{ends}{content}".encode("utf-8", "surrogatepass")).digest()
    with _LOCK:
        if name in _READERS:
            _READERS.move_to_end(name)
            return _READERS[name]
    try:
        made = library.LLTokenizer(content, eos_token=list(ends))
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise UsageError(f"structured output does not know this kind of tokenizer ({_line(error)})") from None
    with _LOCK:
        _READERS[name] = made
        while len(_READERS) > KEPT:
            _READERS.popitem(last=False)
    return made


def _line(error: object) -> str:
    return " ".join(str(error).split())[:160]
