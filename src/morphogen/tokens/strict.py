"""Tokenizer files are data from strangers: bounded reading, strict JSON, a structure checked before anything is built. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from morphogen.errors import FormatError

FILE = 96 << 20  # bytes a tokenizer file may have; the largest in use (Gemma 3) has 33 MB
VOCAB = 1 << 20  # tokens a vocabulary may have
TOKEN = 1 << 12  # characters a token may have
ADDED = 1 << 21  # characters all added tokens may have together; they become one pattern
DAMAGED = "the file is damaged or not a tokenizer of a kind we read"
MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def refuse(what: str, where: object = "", remedy: str = DAMAGED) -> NoReturn:
    raise FormatError(what, where=where, remedy=remedy)


def read_bytes(path: Path, limit: int = FILE) -> bytes:
    """A whole regular file of at most `limit` bytes. Raises FormatError for anything else, and names what is no model file."""
    path = Path(path)
    try:
        if not path.is_file():
            refuse("no such file", path, "check the path")
        if path.stat().st_size > limit:
            refuse(f"{path.stat().st_size:,} bytes are more than the {limit:,} a file of this kind may have", path)
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        refuse(f"cannot be read ({error.strerror or error})", path, "check the path and its permissions")
    if len(data) > limit:
        refuse(f"more than {limit:,} bytes", path)
    if data.startswith(b"version https://git-lfs"):
        refuse("this is a Git LFS pointer, not the file itself", path, "fetch it with `git lfs pull`")
    if data[:64].lstrip()[:9].lower() in (b"<!doctype", b"<html>"):
        refuse("this is a web page, not a tokenizer", path, "download the file itself")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:60]!r} stands twice")
            seen.add(key)
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def parse_json(data: bytes | str, where: object) -> Any:
    """JSON without duplicate keys, NaN or endless nesting. Raises FormatError."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        refuse(f"not readable as JSON ({str(error)[:120]})", where)


def read_object(path: Path, limit: int = FILE) -> dict[str, Any]:
    value = parse_json(read_bytes(path, limit), path)
    if not isinstance(value, dict):
        refuse("not a JSON object", path)
    return value


def check_regex(pattern: str, where: object) -> None:
    """Refuse a repetition inside a repetition: `(a+)+` takes exponential time in a backtracking engine."""
    if len(pattern) > 1 << 14:
        refuse("a pattern of more than 16,384 characters", where)
    inside, i = [False], 0  # for each open group: does it hold an unbounded repetition?
    while i < len(pattern):
        c = pattern[i]
        if c == "\\":
            i += 2
            continue
        if c == "[":
            i = _class_end(pattern, i)
        elif c == "(":
            inside.append(False)
        elif c in "*+" or (c == "{" and "," in pattern[i : i + 8] and pattern[i:].split("}")[0].endswith(",")):
            inside[-1] = True
        elif c == ")" and len(inside) > 1:
            held = inside.pop()
            after = pattern[i + 1 : i + 2]
            if held and (after in ("*", "+") if after else False):
                refuse(f"a pattern with a repetition inside a repetition, {pattern[:80]!r}", where, "such patterns can run for ever")
            inside[-1] |= held
        i += 1


def _class_end(pattern: str, i: int) -> int:
    """Index of the bracket that closes the character class opened at i (classes nest in Oniguruma)."""
    depth = 0
    while i < len(pattern):
        c = pattern[i]
        if c == "\\":
            i += 1
        elif c == "[":
            depth += 1
        elif c == "]":
            depth -= 1
            if not depth:
                return i
        i += 1
    return i


def parts(component: Any) -> Iterable[dict[str, Any]]:
    """The members of a normaliser, pre-tokeniser, decoder or post-processor, with sequences laid open, however deep."""
    stack = [component]
    while stack:
        part = stack.pop()
        if not isinstance(part, dict):
            continue
        if part.get("type") != "Sequence":
            yield part
            continue
        for key in ("processors", "decoders", "pretokenizers", "normalizers"):
            held = part.get(key)
            stack += reversed(held) if isinstance(held, list) else ()


def _names(model: Mapping[str, Any], where: object) -> list[tuple[str, int]]:
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        pairs = list(vocab.items())
    elif isinstance(vocab, list):
        if not all(isinstance(p, list) and len(p) == 2 and isinstance(p[1], int | float) for p in vocab):
            refuse("a vocabulary entry is not [piece, score]", where)
        pairs = [(p[0], i) for i, p in enumerate(vocab)]
    else:
        refuse("no vocabulary", where)
    if len(pairs) > VOCAB:
        refuse(f"a vocabulary of {len(pairs):,} tokens, at most {VOCAB:,}", where)
    for name, i in pairs:
        if type(name) is not str or len(name) > TOKEN or type(i) is not int or not 0 <= i < VOCAB:
            refuse(f"a vocabulary entry that is none: {str(name)[:40]!r} -> {str(i)[:20]!r}", where)
    return pairs


def check_spec(spec: dict[str, Any], where: object) -> list[tuple[str, int]]:
    """Every (token, id) of a tokenizer.json, its own and the added ones, after checking the structure. Raises FormatError."""
    model = spec.get("model")
    if not isinstance(model, dict):
        refuse("no model in it", where)
    if "type" not in model:  # files of before 2020 leave it out
        model["type"] = "BPE" if "merges" in model else "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"
    if model["type"] not in MODELS:
        refuse(f"a tokenizer model of kind {str(model['type'])[:40]!r}", where, "known are " + ", ".join(MODELS))
    merges = model.get("merges")
    good = lambda m: isinstance(m, str) or (isinstance(m, list) and all(isinstance(half, str) for half in m))
    if merges is not None and not (isinstance(merges, list) and all(map(good, merges))):
        refuse("merges that are no pairs of texts", where)
    prefix = model.get("continuing_subword_prefix")
    if isinstance(prefix, str) and prefix and model["type"] == "BPE":  # the library cuts it off without looking
        halves = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges or ())
        if not all(pair and pair[-1].startswith(prefix) for pair in halves):
            refuse(f"a merge whose second half does not begin with {prefix[:20]!r}", where)
    pairs = _names(model, where)
    own = dict(pairs)
    added = spec.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > VOCAB:
        refuse("added_tokens is not a list", where)
    for token in added:
        if not isinstance(token, dict) or type(token.get("content")) is not str or type(token.get("id")) is not int:
            refuse("an added token without content and id", where)
        name, i = token["content"], token["id"]
        if not name or len(name) > TOKEN or not 0 <= i < VOCAB:
            refuse(f"an added token that is none: {name[:40]!r} -> {i}", where)
        if own.setdefault(name, i) != i:
            refuse(f"the added token {name[:40]!r} has ids {own[name]} and {i}", where)
    if sum(len(token["content"]) for token in added) > ADDED:
        refuse(f"added tokens of more than {ADDED:,} characters", where)
    ids = sorted(own.values())
    if not ids:
        refuse("an empty vocabulary", where)
    if ids != list(range(len(ids))):
        wrong = next(k for k, i in enumerate(ids) if k != i)
        fault = f"two tokens have id {ids[wrong]}" if ids[wrong] < wrong else f"no token has id {wrong}"
        refuse(f"ids are not 0 to {len(ids) - 1}: {fault}", where)
    for key in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        for part in parts(spec.get(key)):
            pattern = part.get("pattern")
            if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
                check_regex(pattern["Regex"], where)
    return list(own.items())
