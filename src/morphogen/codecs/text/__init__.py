"""Text <-> Tokens: text files, folders of them, JSON lines; and short texts said about other things. No torch here."""
from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from morphogen import files, spaces
from morphogen.codecs.sources import METADATA, Listing, Skips, json_lines, said_about
from morphogen.codecs.text import columns, pairs, passages
from morphogen.codecs.text.tokens import Tokeniser, hashed_grams, to_bytes, train_bpe
from morphogen.contracts import Claim, Given, Item
from morphogen.errors import DataError, UsageError
from morphogen.spaces import Tokens

SUFFIXES = frozenset({".txt", ".md", ".rst", ".text", ".tex", ".abc", ".log", ".org", ".adoc", ".srt", ".vtt", ".py", ".js", ".ts", ".c",
                      ".h", ".cpp", ".rs", ".go", ".java", ".rb", ".sh", ".sql", ".html", ".css", ".xml"})
LINES = frozenset({".jsonl", ".ndjson"})
MINIMUM = 64  # bytes: below that there is nothing to learn from
SMALL = 300_000  # bytes of text up to which single bytes learn better than word pieces
LONGEST = 4096  # tokens a passage may have when its length is found in the data
MASK = re.compile(r"<mask(?::([0-9]{1,5}))?>")
SHAPES = {"lines": "one entry a line", "paragraphs": "entries separated by blank lines", "prose": "continuous prose, cut into passages"}


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How text becomes tokens; 0 and auto = found in the data."""

    tokens: str = "auto"
    "bytes, bpe (word pieces learned from the data), or auto: bytes below 300 kB of text."
    vocab: int = 0
    "How many word pieces, the end included; 0: 1024 to 4096 by how much text there is."
    length: int = 0
    "Most tokens in a passage, the end included."
    entries: str = "auto"
    "What one item is: lines, paragraphs (between blank lines), prose (passages of whole paragraphs), or auto."
    encoding: str = "utf-8"
    "Encoding of files without a byte-order mark."


class TextCodec:
    """Text as bytes or byte-level BPE, closed by an end id; any text comes back exactly.

    Files are cut while reading, before a tokeniser exists: passages hold at most a number of BYTES that follows from
    `length` (one byte a byte token, 2.5 a BPE token). With `length` 0 it becomes that of the longest passage found, unless
    the longest hundredth is far longer than the rest. A passage with more tokens loses its tail, and its end id with it.
    """

    name: ClassVar[str] = "text"
    Config: ClassVar[type] = TextConfig
    feature_name: ClassVar[str] = "hashed frequencies of 1- to 4-byte runs"

    def __init__(self, config: TextConfig | None = None) -> None:
        self.config = config or TextConfig()
        self.space: spaces.Space = Tokens(257, self.config.length or 512, end=256)
        self.tokeniser, self.tails = Tokeniser(), 0
        self.skips, self.notes = Skips(), []
        _check(self.config)

    # ---------------------------------------------------------------- files
    @staticmethod
    def claims(listing: Listing) -> Claim:
        """The share of text files; JSON lines only if they have a `text` field; rows with a column of that name."""
        if (table := listing.look()) is not None:
            return Claim(0.96 if (column := columns.text_column(table)) else 0.0, f"texts in column '{column}'")
        if not listing.files:
            return Claim(0.0, "no files")
        found = [file for file in listing.files if _is_text(file)]
        rest = [file for file in listing.files if file.name.lower() in METADATA]
        share = len(found) / max(1, len(listing.files) - len(rest))
        # a `text` field says more than the ending of a table of JSON lines
        surest = 0.97 if found and all(file.suffix.lower() in LINES for file in found) else 0.9
        return Claim(surest * share, f"{len(found):,} of {len(listing.files):,} files are text")

    def read(self, listing: Listing) -> Iterator[Item]:
        """Yield passages or entries; what was found goes to `notes`, unusable lines and files to `skips`.

        Raises DataError when there is no text, or a single file is not text.
        """
        if listing.look() is not None:
            items, cuts = columns.read(listing, self.skips, lambda total: self._budget(total)[1])
            self.notes += [f"{cuts:,} long texts were cut in pieces"] * (cuts > 0)
            yield from self._without_leaks(items)
            return
        chosen = [f for f in listing.files if _is_text(f) and f.name.lower() not in METADATA] or list(listing.files)
        budget = self._budget(sum(file.stat().st_size for file in chosen))
        found: Counter[str] = Counter()
        items: list[Item] = []
        for file in chosen:
            try:
                new, shape = self._read_file(file, listing.name_of(file), *budget, alone=len(chosen) == 1)
            except DataError as error:
                if len(chosen) == 1:
                    raise
                self.skips.add(listing.name_of(file), error.what)
                continue
            found[shape] += len(new)
            items += new
        self.skips.check(len(items) + self.skips.count)
        if not items:
            place = chosen[0] if len(chosen) == 1 else listing.root
            raise DataError("there is no text", where=place, remedy=f"give at least {MINIMUM} bytes")
        self.notes += [f"{count:,} items: {SHAPES.get(shape, shape)}" for shape, count in found.items() if count]
        if self.config.entries == "auto" and set(found) & set(SHAPES):
            self.notes[-1] += " (--set codec.entries=lines, paragraphs or prose says otherwise)"
        yield from self._without_leaks(items)

    def _read_file(self, file: Path, name: str, packed: int, entry: int, *, alone: bool) -> tuple[list[Item], str]:
        if file.suffix.lower() in LINES:
            return self._read_lines(file, name, entry), "JSON lines"
        text = passages.read_text(file, self.config.encoding)
        if not text.strip("\ufeff \t\n\v\f\u200b"):
            raise DataError("the file is empty or blank", where=file, remedy=f"give at least {MINIMUM} bytes of text")
        shape = passages.shape_of(text) if self.config.entries == "auto" else self.config.entries
        raws, cuts = passages.entries(text, shape, packed if shape == "prose" else entry)
        if cuts:
            self.notes.append(f"{cuts:,} entries longer than {entry:,} bytes were cut in pieces")
        group = lambda i: passages.block(name, i, len(raws)) if alone else name
        return [Item(raw, {}, group(i), f"{name}:{i + 1}") for i, raw in enumerate(raws)], shape

    def _read_lines(self, file: Path, name: str, budget: int) -> list[Item]:
        rows: list[tuple[str, dict[str, Any], str, str | None]] = []
        for number, row in json_lines(file, self.skips):
            try:
                texts = pairs.taken(row)
            except DataError as error:
                self.skips.add(f"{name}:{number}", error.what)
                continue
            cond, group = said_about(row)
            group = group or (f"{name}:{number}" if len(texts) > 1 else "")  # turns of one conversation stay together
            for given, text in texts:
                parts = [text] if given is not None or len(to_bytes(text)) <= budget else passages.packed(text, budget)
                rows += [(part, cond, group, given) for part in parts]
        return [Item(text, cond, group or passages.block(name, i, len(rows)), f"{name}:{i + 1}", given)
                for i, (text, cond, group, given) in enumerate(rows)]

    def _without_leaks(self, items: list[Item]) -> Iterator[Item]:
        """Exact copies join the group of the first, so that a split cannot put the same text on both sides."""
        first: dict[str, str] = {}
        for item in items:
            first.setdefault(item.raw, item.group)
        copies = len(items) - len(first)
        if len(first) == 1 and copies:
            self.notes.append(f"all {len(items):,} items are the same text: a model can only repeat it")
        elif copies:
            self.notes.append(f"{copies:,} of {len(items):,} items are exact copies of others: what repeats is learned by heart")
        for item in items:
            yield item if item.group == first[item.raw] else replace(item, group=first[item.raw])

    def _budget(self, total: int) -> tuple[int, int]:
        """Bytes of (a packed passage, an entry)."""
        single = self._bytes(total)
        if self.config.length:
            n = max(8, self.config.length - 1)
            return (n, n) if single else (int(2.5 * n), int(2.5 * n))
        # at least some thirty passages, or nothing could be held out
        return max(64, min(511 if single else 900, total // 32)), 1023 if single else 1536

    def _bytes(self, total: int) -> bool:
        few = total < SMALL and self.tokeniser.content is None  # a fitted codec reads by what it has
        return self.config.tokens == "bytes" or (self.config.tokens == "auto" and few)

    # ---------------------------------------------------------------- tokens
    def fit(self, items: Sequence[Item]) -> None:
        """Choose and train the tokeniser, measure the length. Raises DataError when there is too little text."""
        texts = [item.raw for item in items]
        total = sum(len(to_bytes(text)) for text in texts)
        if total < MINIMUM or len(texts) < 2:
            found = f"{total:,} bytes in {len(texts):,} item{'s' * (len(texts) != 1)}"
            raise DataError(f"too little text to learn from ({found})", remedy=f"give at least {MINIMUM} bytes in 2 or more items")
        if self._bytes(total):
            self.tokeniser = Tokeniser()
        else:
            vocab = self.config.vocab or (1024 if total < 1_000_000 else 2048 if total < 4_000_000 else 4096)
            self.tokeniser = train_bpe(texts, vocab - 1)
        length = self.config.length
        if not length:
            sizes = np.sort([len(self.tokeniser.ids(text)) + 1 for text in texts])
            usual = int(sizes[math.ceil(0.99 * len(sizes)) - 1])
            length = min(LONGEST, -(-int(sizes[-1] if sizes[-1] <= 1.5 * usual else usual) // 8) * 8)
            self.tails = int((sizes > length).sum())
        self.space = Tokens(self.tokeniser.size + 1, length, end=self.tokeniser.size)

    def describe(self) -> list[str]:
        """What was decided, one line each."""
        assert isinstance(self.space, Tokens)
        kind = "bytes" if self.tokeniser.content is None else f"{self.tokeniser.size:,} word pieces learned from the text"
        tails = f" ({self.tails:,} items lose their tail)" if self.tails else ""
        return [f"tokens are {kind}, at most {self.space.length:,} an item{tails}"]

    def encode(self, raw: str) -> np.ndarray:
        """(n,) int64 ids, n <= length, closed by the end id if there is room."""
        assert isinstance(self.space, Tokens)
        return np.array([*self.tokeniser.ids(raw), self.space.end][: self.space.length], np.int64)

    def pair(self, given: str, raw: str) -> Given:
        """(n,) ids of a prompt and what follows it, no token across the seam; the prompt's are known. Raises DataError."""
        assert isinstance(self.space, Tokens)
        return pairs.pair(self.tokeniser, self.space, given, raw)

    def decode(self, x: Any) -> str:
        """The text up to the first end; broken UTF-8 shows as U+FFFD."""
        assert isinstance(self.space, Tokens)
        ids = np.asarray(x).tolist()
        return self.tokeniser.text(ids[: ids.index(self.space.end)] if self.space.end in ids else ids)

    # what lossless coding asks for: a file as one running text
    @property
    def seam(self) -> int:
        """The token between items of a running text: a new line."""
        return self.tokeniser.ids("\n")[0]

    @property
    def alike(self) -> list[int]:
        """All ids of a running text, sorted so that neighbours begin alike."""
        return sorted(range(self.tokeniser.size), key=lambda i: self.tokeniser.pieces[i])

    def tokens_of(self, data: bytes) -> np.ndarray | None:
        """(n,) ids that `bytes_of` turns back into exactly these bytes; None when there are none (word pieces need UTF-8)."""
        if self.tokeniser.content is None:
            return np.frombuffer(data, np.uint8).astype(np.int64)
        try:
            ids = np.array(self.tokeniser.ids(data.decode()), np.int64)
        except UnicodeDecodeError:
            return None
        return ids if self.bytes_of(ids) == data else None

    def bytes_of(self, ids: Any) -> bytes:
        """The bytes of a running text."""
        return b"".join(self.tokeniser.pieces[i] for i in np.asarray(ids).tolist())

    def given(self, raw: str) -> Given:
        """A text is a beginning with an open end. `<mask>` is one unknown token, `<mask:12>` twelve; then the end is closed.

        Raises UsageError when it does not fit the length.
        """
        space = self.space
        assert isinstance(space, Tokens)
        ids: list[int] = []
        known: list[bool] = []
        for i, part in enumerate(MASK.split(raw)):  # text, count or None, text, ...
            new = self.tokeniser.ids(part) if i % 2 == 0 else [space.end or 0] * int(part or 1)
            ids, known = ids + new, known + [i % 2 == 0] * len(new)
        if len(ids) > space.length:
            raise UsageError(f"{len(ids):,} tokens do not fit the model's {space.length:,}", remedy="shorten what is given")
        x, mask = np.full(space.length, space.end, np.int64), np.full(space.length, MASK.search(raw) is not None)
        x[: len(ids)], mask[: len(ids)] = ids, known
        return Given(x, mask)

    def read_given(self, path: Path) -> list[str]:
        """What `generate --given` continues or fills: each `text` of a JSONL file, else the whole file as one beginning."""
        if path.suffix.lower() in LINES:
            return [row["text"] for _, row in json_lines(path, self.skips) if isinstance(row.get("text"), str)]
        return [passages.read_text(path, self.config.encoding).rstrip("\n")]

    # ---------------------------------------------------------------- outputs
    def write(self, raws: Sequence[str], out: Path, meta: Sequence[dict[str, Any]]) -> list[Path]:
        """One JSON line {"text", ...meta} a text; `out` gets the ending .jsonl if it has none of its own."""
        path = Path(out)
        path = path if path.suffix.lower() in LINES else path.with_name(path.name + ".jsonl")
        rows = ({"text": to_bytes(raw).decode(), **more} for raw, more in zip(raws, meta or [{}] * len(raws), strict=True))
        files.write_lines(path, (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
        return [path]

    def preview(self, raws: Sequence[str]) -> dict[str, Any]:
        """For people to look at."""
        return {"kind": "text", "texts": list(raws)}

    def explain(self, raw: str, parts: Any) -> list[tuple[str, float]]:
        """(word, sum over its tokens) from left to right; an `<end>` where the end was looked at too."""
        out: list[tuple[bytes, float]] = []
        for token, part in zip(self.encode(raw).tolist(), np.asarray(parts).tolist()):
            piece = self.tokeniser.pieces[token] if token < self.tokeniser.size else b"<end>"
            if not out or piece == b"<end>" or (piece[:1].isspace() and not out[-1][0][-1:].isspace()):
                out.append((piece, part))
            else:
                out[-1] = (out[-1][0] + piece, out[-1][1] + part)
        return [(piece.decode("utf-8", "replace").strip() or "blank", part) for piece, part in out]

    def features(self, raws: Sequence[str]) -> np.ndarray:
        """(N, 256) float32 of length 1 each (0 for an empty text)."""
        return np.stack([hashed_grams(to_bytes(raw), 64, 4) for raw in raws]) if len(raws) else np.zeros((0, 256), np.float32)

    def size_of(self, raw: str) -> tuple[int, str]:
        """Bytes of what `encode` keeps, so that bits per byte of a text cut short stay honest."""
        assert isinstance(self.space, Tokens)
        ids = self.tokeniser.ids(raw)[: self.space.length]
        return sum(len(self.tokeniser.pieces[i]) for i in ids), "byte"

    def state(self) -> dict[str, Any]:
        """All that `load` needs, as JSON; `tokenizer` is the content of a tokenizer.json (None = bytes)."""
        return {"space": spaces.to_json(self.space), "tokenizer": self.tokeniser.content}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Raises FormatError when the tokenizer is damaged."""
        self.space, self.tokeniser = spaces.from_json(state["space"]), Tokeniser(state["tokenizer"])


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """How a short text about something becomes tokens."""

    length: int = 0
    "Most tokens, the end included; 0: long enough for 99 % of the captions, at most 128."
    vocab: int = 0
    "Word pieces; 0: bytes for little text, else 1024."


class CaptionCodec:
    """A short text as a condition: ids (L,) closed and padded by the end id. Nothing said is an empty caption."""

    name: ClassVar[str] = "caption"
    Config: ClassVar[type] = CaptionConfig

    def __init__(self, config: CaptionConfig | None = None) -> None:
        self.config = config or CaptionConfig()
        self.tokeniser = Tokeniser()
        self.space: spaces.Space = Tokens(257, self.config.length or 64, end=256)

    def fit(self, values: Sequence[Any]) -> None:
        """Measure captions and train word pieces if there are many. Raises DataError when nothing is said at all."""
        texts = [str(value) for value in values if value is not None and str(value).strip()]
        if not texts:
            raise DataError("all captions are empty", remedy="leave the condition out")
        total = sum(len(to_bytes(text)) for text in texts)
        bpe = self.config.vocab or (1024 if total >= 30_000 else 0)
        self.tokeniser = train_bpe(texts, bpe - 1) if bpe else Tokeniser()
        lengths = np.sort([len(self.tokeniser.ids(text)) + 1 for text in texts])
        length = self.config.length or min(128, int(lengths[math.ceil(0.99 * len(lengths)) - 1]))
        self.space = Tokens(self.tokeniser.size + 1, max(2, length), end=self.tokeniser.size)

    def encode(self, value: Any) -> np.ndarray:
        """(L,) int64; None and "" are ends only; a longer caption loses its tail."""
        assert isinstance(self.space, Tokens)
        x = np.full(self.space.length, self.space.end, np.int64)
        ids = [] if value is None else self.tokeniser.ids(str(value))[: self.space.length]
        x[: len(ids)] = ids
        return x

    def decode(self, x: Any) -> str:
        """The caption up to the first end."""
        assert isinstance(self.space, Tokens)
        ids = np.asarray(x).tolist()
        return self.tokeniser.text(ids[: ids.index(self.space.end)] if self.space.end in ids else ids)

    def draw(self, uniforms: np.ndarray) -> list[str] | None:
        """None: captions are not drawn from the data, so nothing is said."""
        return None

    def state(self) -> dict[str, Any]:
        """All that `load` needs, as JSON."""
        return {"space": spaces.to_json(self.space), "tokenizer": self.tokeniser.content}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.space, self.tokeniser = spaces.from_json(state["space"]), Tokeniser(state["tokenizer"])


def _is_text(file: Path) -> bool:
    """By ending; a file without a known one if its first bytes are text."""
    suffix = file.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix in LINES or suffix in ("", ".dat"):
        try:
            with file.open("rb") as handle:
                head = handle.read(4096)
        except OSError:
            return False
        if suffix in LINES:
            return any(field in head for field in pairs.FIELDS)
        return bool(head) and not passages.kind_of(head) and b"\0" not in head and _utf8(head)
    return False


def _utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 4  # a character cut by the window
    return True


def _check(config: TextConfig) -> None:
    if config.tokens not in ("auto", "bytes", "bpe"):
        raise UsageError(f"unknown tokens '{config.tokens}'", remedy="choose auto, bytes or bpe")
    if config.entries not in ("auto", *SHAPES):
        raise UsageError(f"unknown entries '{config.entries}'", remedy="choose auto, lines, paragraphs or prose")
    if config.vocab and not 258 <= config.vocab <= 1_000_000:
        raise UsageError(f"a vocabulary of {config.vocab} is not between 258 and 1,000,000", remedy="256 bytes and the end come first")
    if config.length and not 2 <= config.length <= 1_000_000:
        raise UsageError(f"a length of {config.length} is not between 2 and 1,000,000", remedy="give another length")
