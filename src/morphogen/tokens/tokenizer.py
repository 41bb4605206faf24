"""Text to ids and back, over the `tokenizers` library, such that nothing in a text ever becomes a special token. No torch here.

The library matches added tokens inside any text, and some of its models (Unigram, WordPiece) know special tokens as ordinary pieces. So
the tokenizer that reads text is a twin of the model's own in which every special token has a random name that nobody can write: the ids
are the same, the names are not. Text in which special tokens count (a chat template's own) has them renamed just before.
"""

from __future__ import annotations

import json
import re
import secrets
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from morphogen.errors import FormatError
from morphogen.tokens.decode import Decoder, Spelling
from morphogen.tokens.fast import Engine, build_engine
from morphogen.tokens.normalise import normaliser_of
from morphogen.tokens.strict import check_spec, refuse
from morphogen.tokens.unigram import Unigram, unigram_of

T = TypeVar("T")
KEYS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")  # of a tokenizer.json; what else stands there is not read
ENOUGH = 1 << 16  # characters after which building the fast engine pays for itself


def guarded(call: Callable[[], T], what: str, where: object = "") -> T:
    """Run the library; its errors and panics (which are no Exceptions) become one FormatError."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, FormatError):
        raise
    except BaseException as error:
        raise FormatError(f"{what} ({' '.join(str(error).split())[:120]})", where=where, remedy="the tokenizer is damaged") from None


def _twin(spec: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    """The tokenizer.json with special tokens renamed wherever they stand, without merges that could make one, without truncation."""
    model = dict(spec["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {renamed.get(name, name): i for name, i in vocab.items()}
    else:
        model["vocab"] = [[renamed.get(name, name), score] for name, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if isinstance(model.get("merges"), list):
        model["merges"] = [m for m in model["merges"] if (m.replace(" ", "", 1) if isinstance(m, str) else "".join(m)) not in renamed]
    # Whether one stands by itself (`single_word`) is seen where it is renamed: a neighbour's new name is a word.
    added = [
        {**t, "content": renamed[t["content"]], "single_word": False} if t["content"] in renamed else t for t in spec["added_tokens"]
    ]
    return json.dumps(
        {**spec, "version": "1.0", "model": model, "added_tokens": added, "truncation": None, "padding": None}, ensure_ascii=False
    )


class Tokenizer:
    """A model's vocabulary and how it reads and spells text.

    `spec`: a checked tokenizer.json; `special`: further texts that are special tokens; `roles`: bos, unk, pad, mask, cls, sep as ids and
    eos as a tuple. Raises FormatError when the library cannot build it.
    """

    def __init__(
        self, spec: dict[str, Any], *, special: Iterable[str] = (), roles: Mapping[str, Any] | None = None, where: object = ""
    ) -> None:
        import tokenizers

        pairs = check_spec(spec, where)
        names = [""] * len(pairs)
        for name, i in pairs:
            names[i] = name
        ids = dict(pairs)
        held = {t["content"] for t in spec.get("added_tokens") or ()}
        wanted = {t["content"] for t in spec.get("added_tokens") or () if t.get("special")} | {s for s in special if s in ids}
        if not (isinstance(spec.get("normalizer"), dict) and "sentencepiece" in spec["normalizer"]):
            wanted = {name for name in wanted if len(name) > 1}  # a letter of the alphabet is text, whatever a file says ("!" for padding)
        spec = {
            **{key: spec.get(key) for key in KEYS},
            "added_tokens": [
                *({**_plain_token(t["content"], t["id"]), **t, "special": t["content"] in wanted} for t in spec.get("added_tokens") or ()),
                *(_plain_token(name, ids[name], special=True) for name in sorted(wanted - held, key=ids.__getitem__)),
            ],
        }
        self.size = len(names)
        self.special: dict[str, int] = {name: ids[name] for name in sorted(wanted, key=ids.__getitem__)}
        roles = roles or {}
        self.bos, self.unk, self.pad = roles.get("bos"), roles.get("unk"), roles.get("pad")
        self.mask, self.cls, self.sep = roles.get("mask"), roles.get("cls"), roles.get("sep")
        self.eos: tuple[int, ...] = tuple(roles.get("eos") or ())
        self.note = ""  # what had to be assumed about it, for people
        self._content = zlib.compress(json.dumps({**spec, "version": "1.0"}, ensure_ascii=False).encode("utf-8", "surrogatepass"), 1)
        nonce = secrets.token_hex(8)
        # Letters and digits, numbers of one length: no normaliser changes such a name and none is the beginning of another. It has ends of
        # the sort it had: a token beside it may ask whether it stands by itself.
        ends = lambda name, letter, other: letter if re.match(r"\w", name) else other
        self._renamed = {n: f"{ends(n[0], 'z', '<')}q{nonce}x{i:07d}{ends(n[-1], 'x', '>')}" for n, i in self.special.items()}
        self._normalise = normaliser_of(spec, where)
        "What sentencepiece does to a text; the twin then leaves it as it is."
        twin = _twin({**spec, "normalizer": None} if self._normalise else spec, self._renamed)
        self._twin = guarded(lambda: tokenizers.Tokenizer.from_str(twin), "the tokenizers library refuses it", where)
        for token in spec["added_tokens"]:
            if self._twin.token_to_id(self._renamed.get(str(token["content"]), str(token["content"]))) != token["id"]:
                refuse(f"the added token {token['content'][:40]!r} cannot have id {token['id']}", where)
        self.spelling = Spelling(spec, names, frozenset(self.special.values()))
        self._flags = {t["content"]: {k for k in ("single_word", "lstrip", "rstrip") if t.get(k)} for t in spec["added_tokens"]}
        every = sorted((n for n in self._flags if len(n) > 1 or n not in self.special), key=len, reverse=True)
        self._any_added = re.compile("|".join(map(re.escape, every))) if every else None
        own = unigram_of(spec) if self._normalise else None
        self._engine: Engine | Unigram | None = own
        self._twin_json, self._read = "" if own else twin, 0
        self._around = self._wrapping()

    def _wrapping(self) -> tuple[list[int], list[int]] | None:
        """What `encode` puts before and after the ids of a text; None when it is not that simple."""
        bare = guarded(lambda: self._twin.encode("a", add_special_tokens=False).ids, "cannot encode")
        full = guarded(lambda: self._twin.encode("a", add_special_tokens=True).ids, "cannot encode")
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return None

    def _fast(self, characters: int) -> Engine | Unigram | None:
        """The fast engine once enough text was read for building it to pay; None where the vocabulary does not allow it."""
        self._read += characters
        if self._twin_json and self._read >= ENOUGH:
            source, self._twin_json = self._twin_json, ""
            self._engine = build_engine(source, self._twin)
        return self._engine

    def _normal(self, text: str) -> str:
        """The text as the twin and the engine take it."""
        return self._normalise(_clean(text)) if self._normalise else _clean(text)

    def _encode(self, text: str, *, around: bool) -> list[int]:
        text = self._normal(text)
        engine = self._fast(len(text))
        if engine is not None and (not around or self._around is not None):
            ids = engine.encode(text)
            if ids is not None:
                before, after = self._around if around and self._around else ([], [])
                return [*before, *ids, *after] if before or after else ids
        return guarded(lambda: self._twin.encode(text, add_special_tokens=around).ids, "cannot encode")

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text, nothing added. Special tokens written in it count only with `special=True`."""
        if special and self.special:
            return self.marked(text, "")
        return self._encode(text, around=False)

    def marked(self, text: str, mark: str) -> list[int]:
        """The ids of a text in which special tokens count, except where `mark` breaks them up; the marks themselves are no text."""
        text = _clean(text)
        found = [m for m in (self._any_added.finditer(text) if self._any_added else ()) if m[0] in self.special and self._alone(m)]
        if self._normalise is None:
            pieces, at = [], 0
            for m in found:
                pieces += [text[at : m.start()], self._renamed[m[0]]]
                at = m.end()
            named = "".join([*pieces, text[at:]]).replace(mark, "")
            ids = guarded(lambda: self._twin.encode(named, add_special_tokens=False).ids, "cannot encode")
            kept = self.spelling.special - {self.unk}
            if [i for i in ids if i in kept] == [i for i in (self.special[m[0]] for m in found) if i in kept]:
                return ids  # else a normaliser or another added token got into a name
        return self._between(text, mark, found)

    def _alone(self, m: re.Match[str]) -> bool:
        """Whether no letter or digit stands beside a special token that is one only by itself."""
        beside = m.string[m.start() - 1 : m.start()] + m.string[m.end() : m.end() + 1]
        return "single_word" not in self._flags[m[0]] or not re.search(r"\w", beside)

    def _between(self, text: str, mark: str, found: Sequence[re.Match[str]]) -> list[int]:
        """The ids of a text with special tokens at these places, each stretch between them read by itself."""
        ids: list[int] = []
        at, bare = 0, False
        for token in (*found, None):
            part = text[at : token.start() if token else None]
            flags = self._flags[token[0]] if token else ()
            part = part.lstrip() if bare else part
            part = part.rstrip() if "lstrip" in flags else part
            ids += self._encode(part.replace(mark, ""), around=False)
            if token:
                ids.append(self.special[token[0]])
                at, bare = token.end(), "rstrip" in flags
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text with what the model's own files put around it; special tokens written in it do not count."""
        return self._encode(text, around=True)

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts."""
        if self._fast(sum(map(len, texts))) is not None:
            return [self._encode(text, around=True) for text in texts]
        clean = [self._normal(text) for text in texts]
        return [e.ids for e in guarded(lambda: self._twin.encode_batch_fast(clean, add_special_tokens=True), "cannot encode")]

    def text(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of ids; special tokens are left out unless `special`. Bytes that are no UTF-8 become U+FFFD."""
        decoder = self.decoder(special=special)
        return "".join([decoder.feed(i) for i in ids]) + decoder.flush()

    def piece(self, i: int) -> bytes:
        """The exact bytes id i stands for inside a text; b"" for special tokens. Raises IndexError outside 0..size-1."""
        if not 0 <= i < self.size:
            raise IndexError(i)
        return b"" if i in self.spelling.special else self.spelling.bytes_of(i)

    def decoder(self, *, special: bool = False) -> Decoder:
        """A fresh incremental decoder."""
        return Decoder(self.spelling, special=special)

    def content(self) -> str:
        """A tokenizer.json that loads as this tokenizer."""
        return zlib.decompress(self._content).decode("utf-8", "surrogatepass")


def _plain_token(name: str, i: int, *, special: bool = False) -> dict[str, Any]:
    return {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}


def _clean(text: str) -> str:
    """Text without lone surrogates, which no encoding of UTF-8 has."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
