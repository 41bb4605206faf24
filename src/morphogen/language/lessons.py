"""What a language model is tuned on: rows of JSON as ids of its own tokenizer, and which of them are learned."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from morphogen.codecs.sources import Skips
from morphogen.codecs.text.pairs import taken
from morphogen.contracts import Given, Item
from morphogen.errors import DataError
from morphogen.language.source import Source
from morphogen.spaces import Tokens

LONGEST = 2048  # tokens a row may have
LARGEST_LINE = 4 << 20


@dataclass(frozen=True)
class Lesson:
    """Ids and which of them are known beforehand. `names`: what must stay on one side of a split. `whole`: it may be cut into parts."""

    ids: list[int]
    known: list[bool]
    names: tuple[str, ...] = ()
    whole: bool = False


class Ids:
    """The codec of rows that are ids already."""

    name: ClassVar[str] = "ids"

    def __init__(self, space: Tokens) -> None:
        self.space = space

    def encode(self, raw: Sequence[int]) -> np.ndarray:
        return np.asarray(raw, np.int64)

    def pair(self, given: Sequence[bool], raw: Sequence[int]) -> Given:
        return Given(np.asarray(raw, np.int64), np.asarray(given, bool))


@dataclass
class Lessons:
    """Items of ids for `Ids(space)`; the model reads the first of them after id `start`."""

    space: Tokens
    start: int
    items: list[Item]
    warnings: list[str] = field(default_factory=list)


def rows_of(data: Any) -> Iterator[tuple[str, Any]]:
    """(where, row) of a JSON Lines file, or of rows in memory. A line that is no JSON comes as None. Raises DataError."""
    if not isinstance(data, str | Path):
        yield from ((f"row {i}", row) for i, row in enumerate(data))
        return
    path = Path(data).expanduser()
    if not path.is_file():
        raise DataError("no such file", where=path, remedy="give a file of JSON lines with messages, prompt and completion, or text")
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LARGEST_LINE), b""), 1):
            rest = line
            while len(rest) == LARGEST_LINE and not rest.endswith(b"\n"):  # too long: one row that is none, not several
                line, rest = b"-", file.readline(LARGEST_LINE)
            if line.strip():
                try:
                    yield f"{path.name}, line {number}", json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    yield f"{path.name}, line {number}", None


def read_lessons(source: Source, data: Any) -> tuple[list[Lesson], Skips]:
    """Every row as the model reads it. Rows that cannot be used are counted; raises DataError, naming their lines, when none is left."""
    out: list[Lesson] = []
    skips = Skips()
    for where, row in rows_of(data):
        try:
            if not isinstance(row, dict):
                raise DataError("not a JSON object")
            json.dumps(row, ensure_ascii=False).encode()
            names = tuple(f"{k} {row[k]}" for k in ("source", "group") if isinstance(row.get(k), str | int))
            out += [Lesson(ids, known, names, whole) for ids, known, whole in _read(source, row)]
        except UnicodeEncodeError:
            skips.add(where, "half a surrogate pair, which is no character")
        except DataError as error:
            skips.add(where, f"{error.what} ({error.where})" if error.where else error.what)
    if not out:
        raise DataError("nothing to learn from", where="; ".join(skips.first[:2]) or data,
                        remedy="give lines with messages, prompt and completion, or text")
    return out, skips


def _read(source: Source, row: dict[str, Any]) -> list[tuple[list[int], list[bool], bool]]:
    tokenizer = source.tokenizer
    end = list(tokenizer.eos[:1])
    if "messages" in row:
        if source.template is None:
            raise DataError("the base has no chat template for `messages`: give `prompt` and `completion`, or take a base tuned for chat")
        return [(ids, known, False) for ids, known in _conversation(source, row["messages"], row.get("tools"))]
    (given, text), = taken({k: row[k] for k in ("prompt", "completion", "text") if k in row})
    whole = [*source.start, *tokenizer.encode(text)]
    if given is None:
        ids = [*whole, *(end if whole[-1:] != end else [])]
        return [(ids, [False] * len(ids), True)]
    prompt = [*source.start, *tokenizer.encode(given)]
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):  # the seam runs through a token of the whole
        whole = [*prompt, *tokenizer.ids(text[len(given):])]
    ids = [*whole, *(end if whole[-1:] != end else [])]
    return [(ids, [True] * len(prompt) + [False] * (len(ids) - len(prompt)), False)]


def _conversation(source: Source, messages: Any, tools: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """One row, or several where the template writes earlier turns otherwise than later ones; only the assistant's turns are learned."""
    assert source.template is not None
    told = isinstance(messages, list) and [m.get("role") if isinstance(m, dict) else None for m in messages]
    turns = [i for i, role in enumerate(told or ()) if role == "assistant" and i]
    if not turns:
        raise DataError("`messages` has no turn of the assistant after another's")
    ids: list[int] = []
    known: list[bool] = []
    for i in turns:
        before = source.template.encode(source.tokenizer, messages[:i], tools=tools, reply=True)
        after = source.template.encode(source.tokenizer, messages[: i + 1], tools=tools, reply=False)
        n = next((k for k, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
        ends = [k for k in range(n, len(after)) if after[k] in source.tokenizer.eos]
        last = ends[-1] if ends else len(after) - 1
        if ids and after[: len(ids)] != ids:
            yield _closed(ids, known, source.tokenizer.eos)
            ids, known = [], []
        known = [*known, *[True] * (n - len(known)), *[False] * (last + 1 - n), *[True] * (len(after) - last - 1)]
        ids = after
    yield _closed(ids, known, source.tokenizer.eos)


def _closed(ids: list[int], known: list[bool], eos: tuple[int, ...]) -> tuple[list[int], list[bool]]:
    """What follows the last learned token goes; where it is no end of text, one is put."""
    n = len(known) - next((k for k, v in enumerate(reversed(known)) if not v), len(known))
    end = [] if not n or ids[n - 1] in eos else list(eos[:1])
    return [*ids[:n], *end], [*known[:n], *[False] * len(end)]


def prepare(lessons: Sequence[Lesson], source: Source, vocab: int, start: int | None = None) -> Lessons:
    """Lessons as items of one Space. What is longer than the context loses the beginning of its prompt; texts are cut into parts.

    The id that all rows begin with (`start`) is what the model reads first and is no part of them: positions stay what they were.
    Raises DataError when nothing is left.
    """
    tokenizer = source.tokenizer
    firsts = {lesson.ids[0] for lesson in lessons if lesson.ids} if start is None else {start}
    first = firsts.pop() if len(firsts) == 1 else tokenizer.bos if tokenizer.bos is not None else (tokenizer.eos or (0,))[0]
    longest = min(source.context, LONGEST) - 1
    used = set().union(*(lesson.ids for lesson in lessons))
    pad = next((i for i in (tokenizer.pad, *range(vocab - 1, -1, -1)) if i is not None and i not in used), None)
    if pad is None:
        raise DataError("every id of the vocabulary occurs, none is left to pad with", remedy="leave out rows with rare characters")
    cut = lost = 0
    rows: list[tuple[list[int], list[bool], tuple[str, ...]]] = []
    for lesson in lessons:
        skip = int(lesson.ids[:1] == [first])
        ids, known = lesson.ids[skip:], lesson.known[skip:]
        if len(ids) > longest and lesson.whole:
            rows += [(ids[i : i + longest], known[i : i + longest], lesson.names) for i in range(0, len(ids), longest)]
            continue
        if len(ids) > longest:
            cut, ids, known = cut + 1, ids[-longest:], known[-longest:]
            if not any(known):
                lost += 1
                continue
        if not all(known):
            rows.append((ids, known, lesson.names))
    if not rows:
        raise DataError("no row has anything to learn within the model's context", remedy=f"shorten them to {longest:,} tokens")
    groups = grouped([(*names, "=" + hashlib.sha256(repr(ids).encode()).hexdigest()) for ids, _, names in rows])
    # the padding id after a row is known, so that its first one, which ends the row, is not learned
    items = [Item((*ids, pad), group=group, given=(*known, True)) for (ids, known, _), group in zip(rows, groups)]
    warnings = [f"{cut:,} rows are longer than {longest:,} tokens and lost the beginning of their prompt"] if cut else []
    warnings += [f"{lost:,} rows were left out: their answers alone are longer than that"] if lost else []
    return Lessons(Tokens(vocab, max(len(item.raw) for item in items), end=pad), first, items, warnings)


def grouped(names: Sequence[Iterable[str]]) -> list[str]:
    """One group for each row, the same for all rows that are joined by a name."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    firsts = []
    for row in names:
        first, *rest = row
        firsts.append(first)
        for name in rest:
            a, b = sorted((top(first), top(name)))
            above[b] = a
        top(first)
    return [top(first) for first in firsts]
