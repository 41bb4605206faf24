"""Tokenizers from the files models come with. No torch here.

A folder is searched for, in this order: tokenizer.json; tokenizer.model, spiece.model, sentencepiece.bpe.model (sentencepiece);
*.tiktoken; vocab.json with merges.txt; vocab.txt. Nothing in any of them is imported or run.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from morphogen.tokens.build import around, byte_level, from_ranks, text_of, word_pieces
from morphogen.tokens.ggml import from_gguf
from morphogen.tokens.patterns import NAMES, PRE
from morphogen.tokens.spm import from_sentencepiece
from morphogen.tokens.strict import VOCAB, read_bytes, read_object, refuse
from morphogen.tokens.tokenizer import Tokenizer

__all__ = ["from_gguf", "load_tokenizer"]
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
BEGINS = ("llama", "mistral", "mixtral", "gemma", "phi3")  # of those with sentencepiece, the models that begin a text with a token
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model folder or of one file (any of the kinds above). Raises FormatError in one line."""
    path = Path(path)
    try:
        return _from_file(_in_folder(path) if path.is_dir() else path)
    except OSError as error:
        refuse(f"cannot be read ({error.strerror or error})", path, "check the path and its permissions")


def _in_folder(folder: Path) -> Path:
    kinds = [folder / name for name in ("tokenizer.json", *SENTENCEPIECE)]
    kinds += [*sorted(folder.glob("*.tiktoken"))[:1], folder / "vocab.json", folder / "vocab.txt"]
    found = next((file for file in kinds if file.is_file()), None)
    if found is None:
        refuse(
            "no tokenizer in this folder",
            folder,
            "looked for tokenizer.json, tokenizer.model, *.tiktoken, vocab.json with merges.txt, vocab.txt",
        )
    return found


def _from_file(path: Path) -> Tokenizer:
    config = _side(path.parent, "tokenizer_config.json")
    kind = f"{config.get('tokenizer_class')} {_side(path.parent, 'config.json').get('model_type')}".lower().replace("-", "")
    if path.name == "vocab.json":
        spec = _gpt2(path, config)
    elif path.suffix == ".json":
        spec = read_object(path)
    elif path.suffix == ".model" and not _is_ranks(path):
        spec = from_sentencepiece(read_bytes(path), path, shifted="xlmroberta" in kind)
    elif path.suffix in (".tiktoken", ".model"):  # Llama 3's tokenizer.model is a list of ranks
        spec = _tiktoken(path, config)
    elif path.suffix == ".txt":
        spec = _wordpiece(path, config)
    else:
        refuse("not a tokenizer file of a kind we read", path, "known are .json, .model, .tiktoken, vocab.json, vocab.txt")
    _append(spec, config)
    special, roles = _roles(path.parent, spec, config)
    if path.suffix == ".model" or path.name == "vocab.json":
        spec["post_processor"] = _around(kind, spec, config, roles)
    return Tokenizer(spec, special=special, roles=roles, where=path)


def _around(kind: str, spec: dict[str, Any], config: dict[str, Any], roles: dict[str, Any]) -> dict[str, Any] | None:
    """What the code of a kind of model puts around a text, where the files leave it to that code."""
    pieces = spec["normalizer"] is not None  # of sentencepiece
    begin = "roberta" in kind or (pieces and any(k in kind for k in BEGINS))
    end = "roberta" in kind or (pieces and "t5" in kind)
    ids = vocab_of(spec)
    names = {i: n for n, i in ids.items()}

    def named(role: str, i: int | None, usual: bool) -> list[str]:
        asked = config.get(f"add_{role}_token")
        return [names[i]] if (asked if isinstance(asked, bool) else usual) and i in names else []

    before, after = named("bos", roles["bos"], begin), named("eos", next(iter(roles["eos"]), None), end)
    return around(before, after, ids) if before or after else None


def _side(folder: Path, name: str) -> dict[str, Any]:
    return read_object(folder / name) if (folder / name).is_file() else {}


def vocab_of(spec: dict[str, Any]) -> dict[str, int]:
    """Token -> id of an unchecked tokenizer.json, as far as it is one."""
    model = spec.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    own: dict[str, int] = {}
    if isinstance(vocab, dict):
        own = {k: i for k, i in vocab.items() if isinstance(i, int)}
    elif isinstance(vocab, list):
        own = {p[0]: i for i, p in enumerate(vocab) if isinstance(p, list) and p and isinstance(p[0], str)}
    return own | {token["content"]: token["id"] for token in _added(spec)}


def _added(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The added tokens of an unchecked tokenizer.json that look like such."""
    tokens = spec.get("added_tokens")
    good = lambda t: isinstance(t, dict) and isinstance(t.get("content"), str) and isinstance(t.get("id"), int)
    return [t for t in tokens if good(t)] if isinstance(tokens, list) else []


def _append(spec: dict[str, Any], config: dict[str, Any]) -> None:
    """Tokens only tokenizer_config.json names: appended where their ids follow on, as transformers does."""
    decoder = config.get("added_tokens_decoder")
    if spec.get("added_tokens") is None:
        spec["added_tokens"] = []
    if not isinstance(decoder, dict) or not isinstance(spec["added_tokens"], list):
        return
    known = vocab_of(spec)
    named = [(int(k), v) for k, v in decoder.items() if k.isascii() and k.isdigit() and len(k) < 9 and isinstance(v, dict)]
    held = {t["content"]: t for t in _added(spec)}
    for i, token in sorted(named, key=lambda pair: pair[0]):
        name = token.get("content")
        if not isinstance(name, str) or not name:
            continue
        if name in held:
            held[name]["special"] = bool(held[name].get("special") or token.get("special"))
        elif known.get(name, i) == i:
            flags = {k: bool(token.get(k)) for k in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            spec["added_tokens"].append({"id": i, "content": name, **flags})


def _roles(folder: Path, spec: dict[str, Any], config: dict[str, Any]) -> tuple[set[str], dict[str, Any]]:
    """The special tokens' texts, and bos, eos (all ids that end a text) and the rest as ids."""
    ids = vocab_of(spec)
    named = {**_side(folder, "special_tokens_map.json"), **config}
    roles: dict[str, Any] = {}
    special: set[str] = set()
    for role in ROLES:
        name = text_of(named.get(f"{role}_token"))
        if name is not None and name in ids:
            roles[role] = ids[name]
            special.add(name)
    more = named.get("additional_special_tokens") or ()
    special |= {t for t in map(text_of, more if isinstance(more, list) else ()) if t in ids}  # type: ignore[misc]
    ends = [roles["eos"]] if "eos" in roles else []
    for file in ("config.json", "generation_config.json"):
        side = _side(folder, file)
        for role in ("bos", "pad"):
            if role not in roles and _is_id(side.get(f"{role}_token_id"), ids):
                roles[role] = side[f"{role}_token_id"]
        value = side.get("eos_token_id")
        ends += [i for i in (value if isinstance(value, list) else [value]) if _is_id(i, ids)]
    roles["eos"] = tuple(dict.fromkeys(ends))
    names = {i: n for n, i in ids.items()}
    special |= {names[i] for i in roles["eos"] if i in names and names[i].startswith("<") and names[i].endswith(">")}
    return special, _from_spec(spec, ids, roles)


def _from_spec(spec: dict[str, Any], ids: dict[str, int], roles: dict[str, Any]) -> dict[str, Any]:
    """Roles that nothing names, taken from the names everybody uses."""
    usual = {
        "bos": ("<s>", "<bos>"),
        "unk": ("<unk>", "[UNK]"),
        "pad": ("<pad>", "[PAD]"),
        "mask": ("[MASK]", "<mask>"),
        "cls": ("[CLS]",),
        "sep": ("[SEP]",),
    }
    special = {t["content"] for t in _added(spec) if t.get("special")}
    for role, names in usual.items():
        roles.setdefault(role, next((ids[n] for n in names if n in special and n in ids), None))
    if not roles.get("eos"):
        roles["eos"] = tuple(ids[n] for n in ("</s>", "<eos>", "<|endoftext|>") if n in special and n in ids)[:1]
    return roles


def _is_id(value: Any, ids: dict[str, int]) -> bool:
    return type(value) is int and 0 <= value <= max(ids.values(), default=-1)


def _lines(path: Path) -> list[str]:
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        refuse("not UTF-8", path)
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) > VOCAB + 1:
        refuse(f"{len(lines):,} lines", path)
    return [line.removesuffix("\r") for line in lines]


def _gpt2(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    vocab = read_object(path)
    lines = _lines(path.with_name("merges.txt"))
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(m) != 2 for m in merges):
        refuse("a line is not two tokens", path.with_name("merges.txt"))
    pre = {**PRE["gpt-2"], "add_prefix_space": bool(config.get("add_prefix_space"))}
    return byte_level(vocab, merges, pre)


def _wordpiece(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    names = _lines(path)
    if len(set(names)) != len(names):
        refuse("a token stands twice", path)
    return word_pieces({name: i for i, name in enumerate(names)}, config)


def _is_ranks(path: Path) -> bool:
    word, _, rest = read_bytes(path)[:4096].partition(b" ")
    return word.isascii() and word.replace(b"=", b"").replace(b"/", b"").replace(b"+", b"").isalnum() and rest[:1].isdigit()


def _tiktoken(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_lines(path), 1):
        word, _, rank = line.partition(" ")
        try:
            token = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            token = b""
        if not token or not (rank.isascii() and rank.isdigit() and len(rank) < 9) or token in ranks or len(token) > 4096:
            refuse("not `base64 rank`, or a token twice", f"{path}, line {number}")
        ranks[token] = int(rank)
    # cl100k and Llama 3 share all but a quirk of their patterns; other families say theirs in a name.
    name = str(config.get("pre_tokenizer") or "")
    model = str(config.get("tokenizer_class") or "")
    kind = NAMES.get(name) or (
        "qwen2"
        if "qwen" in (path.name + model).lower()
        else "gpt-4o"
        if "o200k" in path.name
        else "gpt-2"
        if "gpt2" in path.name
        else "llama-bpe"
    )
    return from_ranks(ranks, PRE[kind], path)
