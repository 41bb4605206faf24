"""compress and decompress: lossless coding by what a run has learned. Bytes that come back are the bytes that went in, or none."""
from __future__ import annotations

import hashlib
import lzma
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.api.common import Watch
from morphogen.api.lossless import Blocks, Lossless, fingerprint, items_in, read_all, safe_name, written
from morphogen.coding.blocks import encodable
from morphogen.coding.container import pack, unpack
from morphogen.coding.rans import damaged
from morphogen.coding.steps import alone
from morphogen.errors import DataError, FormatError, ResourceError
from morphogen.files import check_output, new_folder, write_bytes
from morphogen.run import Run

LARGEST = 1 << 30
BESIDE = 64 << 20  # xz is run beside for comparison up to this size
PLAIN, ITEMS, CONTENT = "bytes", "items", "content"


def compress(
    source: str | Path, run: Run | str | Path, out: str | Path, *, items: bool = False, force: bool = False, watch: Watch | None = None
) -> dict[str, Any]:
    """Code a file or a folder into the one file `out`, which the same run turns back into the same bytes.

    What the run's model cannot represent, or does not know better than xz, is coded by xz. `items`: of files that the codec
    reads but would write differently, keep what it reads (pixels, rows) and not the file's own bytes; they come back as the
    codec writes them. The result is decoded and compared before anything is written. Returns sizes, speeds and notes.
    Raises UsageError, DataError, FormatError, ResourceError.
    """
    watch, source, out = watch or Watch(), Path(source).expanduser(), Path(out).expanduser()
    folder = run if isinstance(run, Run) else Run.load(run)
    kind, files, empty = read_all(source)
    check_output(out, force=force, inputs=(source, folder.path))
    total = sum(map(len, files.values()))
    if total > LARGEST:
        raise ResourceError(f"{total:,} bytes are more than {LARGEST:,}", where=source, remedy="compress parts of it")
    with alone():
        coder = Lossless(folder.model("cpu"))
        about = (empty, fingerprint(folder))
        try:
            data, plan, taken = _checked(coder, kind, files, about, (source, out), _Wish(items, coder.itemises), watch)
        except FormatError:
            if not coder.itemises:
                raise
            data, plan, taken = _checked(coder, kind, files, about, (source, out), _Wish(items, False), watch)
    watch.progress("checking", 1.0)
    write_bytes(out, data)
    notes = _notes(coder, plan)
    for line in notes:
        watch.say(line)
    facts = {"out": str(out), "files": len(files), "bytes": total, "compressed": len(data), "by_model": plan.by_model, "notes": notes}
    facts |= {"bits_per_byte": 8 * len(data) / total if total else None, "tokens": plan.tokens, "payload": plan.payload}
    return facts | {"encode_seconds": taken[0], "decode_seconds": taken[1]} | beside(b"".join(files.values()))


def _checked(
    coder: Lossless, kind: str, files: dict[str, bytes], about: tuple[list[str], str], places: tuple[Path, Path], wish: _Wish, watch: Watch
) -> tuple[bytes, _Plan, tuple[float, float]]:
    """The container, decoded again and compared, and how long each way took. Raises FormatError when it does not come back."""
    source, out = places
    begun = time.perf_counter()
    coder.progress = lambda share: watch.progress("coding", share)
    data, plan = _encode(coder, kind, files, about, source, wish)
    coded = time.perf_counter()
    coder.progress = lambda share: watch.progress("checking", share)
    _compare(files, plan, _decode(coder, *unpack(data, out), out))
    return data, plan, (coded - begun, time.perf_counter() - coded)


def decompress(
    source: str | Path, run: Run | str | Path, out: str | Path, *, force: bool = False, watch: Watch | None = None
) -> dict[str, Any]:
    """Turn a compressed file back into what it was: a file, or a folder.

    Raises FormatError when it is damaged, made with another run, or by a build that rounds differently: never wrong bytes.
    """
    watch, source, out = watch or Watch(), Path(source).expanduser(), Path(out).expanduser()
    folder = run if isinstance(run, Run) else Run.load(run)
    if not source.is_file():
        raise DataError("no such file", where=source, remedy="check the path")
    header, blocks = unpack(source.read_bytes(), source)
    check_output(out, force=force, inputs=(folder.path, source))
    mine = fingerprint(folder)
    if header.get("run") != mine:
        raise FormatError(f"made with another run (model {str(header.get('run'))[:12]}, this one is {mine[:12]})", where=source,
                          remedy="give the run it was compressed with")
    empty = header.get("empty", [])
    if not isinstance(header.get("kind"), str) or not isinstance(empty, list) or not all(isinstance(name, str) for name in empty):
        raise FormatError("the header does not say what lies in the file", where=source, remedy="get the file again")
    begun = time.perf_counter()
    with alone():
        coder = Lossless(folder.model("cpu"), lambda share: watch.progress("decoding", share))
        if header.get("build"):
            _same_build(header["build"], coder.build(), source)
        files = _decode(coder, header, blocks, source)
    watch.progress("decoding", 1.0)
    if header["kind"] == "file":
        write_bytes(out, next(iter(files.values())))
    else:
        with new_folder(out) as target:
            for name in empty:
                (target / safe_name(name)).mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (target / safe_name(name)).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(data)
    return {"out": str(out), "files": len(files), "bytes": sum(map(len, files.values())), "seconds": time.perf_counter() - begun}


def beside(data: bytes) -> dict[str, Any]:
    """What xz -9e, and zstd -19 where it is installed, make of the same bytes."""
    if len(data) > BESIDE:
        return {}
    facts: dict[str, Any] = {"xz": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))}
    try:
        import zstandard  # type: ignore[import-not-found]
    except ImportError:
        return facts
    return facts | {"zstd": len(zstandard.ZstdCompressor(level=19).compress(data))}


# ------------------------------------------------------------------ encoding
@dataclass(frozen=True)
class _Wish:
    """`content`: items count, not files' own bytes. `items`: try to code items at all."""

    content: bool
    items: bool


@dataclass
class _Plan:
    """How each file is kept: [name, size of plain bytes, way, items, ending of what is written]; and a digest of all of them."""

    files: list[list[Any]] = field(default_factory=list)
    digest: str = ""
    tokens: int = 0
    payload: int = 0
    by_model: int = 0
    differ: int = 0
    "Files that the codec reads and would write differently."


def _digest(contents: Iterable[bytes]) -> str:
    """One for all files: a digest each would weigh more than small files do."""
    whole = hashlib.blake2b(digest_size=16)
    for data in contents:
        whole.update(hashlib.blake2b(data, digest_size=16).digest())
    return whole.hexdigest()


def _encode(
    coder: Lossless, kind: str, files: dict[str, bytes], about: tuple[list[str], str], source: Path, wish: _Wish
) -> tuple[bytes, _Plan]:
    plan, tokens, rest, contents = _Plan(), [], [], []
    found = _find_items(coder, files, source, wish, plan) if wish.items else {}
    for name, data in files.items():
        if name in found:
            way, own, suffix, content = found[name]
            plan.files.append([name, 0, way, len(own), suffix])
            contents.append(content)
            tokens += own
        else:
            plan.files.append([name, len(data), PLAIN, 0, ""])
            contents.append(data)
            rest.append(data)
    plan.digest = _digest(contents)
    items = coder.encode_items(tokens) if tokens else Blocks()
    plain = coder.encode_bytes(b"".join(rest))
    plan.tokens = sum(a[2] for a in [*items.about, *plain.about])
    used = [a for a in [*items.about, *plain.about] if a[0] == "model"]
    plan.payload = sum(len(d) for d, a in zip([*items.data, *plain.data], [*items.about, *plain.about], strict=True) if a[0] == "model")
    plan.by_model = sum(a[1] for a in plain.about if a[0] == "model") + sum(len(files[n]) for n in found)
    header = {
        "kind": kind, "run": about[1], "build": coder.build() if used else {}, "files": plan.files, "empty": about[0],
        "digest": plan.digest, "items": items.about, "plain": plain.about,
    }
    return pack(header, [*items.data, *plain.data]), plan


def _find_items(coder: Lossless, files: dict[str, bytes], source: Path, wish: _Wish, plan: _Plan) -> dict[str, tuple]:
    """name -> (way, tokens, suffix, content) of files whose items the model codes exactly."""
    codec, names, groups = coder.model.codec, [], []  # type: ignore[var-annotated]
    for name in files:
        raws = items_in(codec, source / name if source.is_dir() else source)
        if raws is not None:
            names.append(name)
            groups.append(raws)
    if not names:
        return {}
    try:
        tokens = coder.tokens_of_items([raw for group in groups for raw in group])
        back = coder.items_of_tokens(tokens)
    except (DataError, ValueError, KeyError):
        return {}
    bounds = np.cumsum([0, *(len(g) for g in groups)])
    suffixes = [Path(name).suffix for name in names]
    parts = [slice(a, b) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    out: dict[str, tuple] = {}
    for name, part, group, file in zip(names, parts, groups, written(codec, [back[p] for p in parts], suffixes), strict=True):
        own = tokens[part]
        if file is None or not all(encodable(coder.space, t) for t in own):
            continue
        if file[1] == files[name]:
            out[name] = (ITEMS, own, Path(name).suffix, file[1])
        elif same_items(group, back[part]):
            plan.differ += 1
            if wish.content and (Path(name).suffix == file[0] or str(Path(name).with_suffix(file[0])) not in files):
                out[name] = (CONTENT, own, file[0], file[1])
    return out


def same_items(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether raw items are equal, arrays included."""
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------ decoding
def _decode(coder: Lossless, header: dict[str, Any], blocks: list[bytes], where: object) -> dict[str, bytes]:
    """Every file by name. Raises FormatError when one is not what went in."""
    try:
        about, entries = header["items"], header["files"]
        sizes = [size for _, size, *_ in header["plain"]]
        if sum(sizes) > LARGEST:  # no file of ours holds more: a few bytes of xz could fill the memory
            raise damaged("its header")
        tokens = coder.decode_items(blocks[: len(about)], about)
        plain = coder.decode_bytes(blocks[len(about) :], header["plain"])
        kept = [e for e in entries if e[2] != PLAIN]
        bounds = np.cumsum([0, *(e[3] for e in kept)]).tolist()
        items = coder.items_of_tokens(tokens) if tokens else []
        groups = [items[a:b] for a, b in pairwise(bounds)]
        files = written(coder.model.codec, groups, [Path(e[0]).suffix for e in kept])
        out, at = {}, 0
        for name, size, way, _, suffix in entries:
            if way == PLAIN:
                data, at = plain[at : at + size], at + size
            else:
                file = next(files)
                data = b"" if file is None else file[1]
                name = str(Path(name).with_suffix(suffix)) if way == CONTENT else name
            out[safe_name(name)] = data
        if _digest(out.values()) != header["digest"]:
            raise FormatError("the files came out different", where=where,
                              remedy="another version of a library writes them; use the versions they were compressed with")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise damaged(f"its header, {type(error).__name__}") from None
    if len(out) != len(entries) or at != len(plain):
        raise damaged("its header")
    return out


def _compare(files: dict[str, bytes], plan: _Plan, back: dict[str, bytes]) -> None:
    """Raises FormatError unless all came back (digests were compared by decoding; here the bytes are)."""
    kept = {e[0] for e in plan.files if e[2] != CONTENT}
    if any(back.get(name) != data for name, data in files.items() if name in kept) or len(back) != len(files):
        raise FormatError("decoding did not give the same bytes back, so nothing was written", remedy="report this: a fault of ours")


def _same_build(there: dict[str, Any], here: dict[str, Any], where: Path) -> None:
    if not isinstance(there, dict):
        raise FormatError("the header does not say what made it", where=where, remedy="get the file again")
    for name, value in there.items():
        if here.get(name) != value:
            raise FormatError(f"made by a build that rounds differently ({name} {value} there, {here.get(name)} here)", where=where,
                              remedy="decompress on the kind of machine and versions it was made with")


def _notes(coder: Lossless, plan: _Plan) -> list[str]:
    notes = []
    if coder.steps is None:
        notes.append("this run's model does not write tokens one after another: all was coded by xz; train one with "
                     "--family ngram, latent_class or autoregressive")
    elif not plan.by_model and any(e[1] for e in plan.files):
        notes.append("nothing here is better known to the model than to xz: all was coded by xz, or stored")
    content = sum(e[2] == CONTENT for e in plan.files)
    if content:
        notes.append(f"{content:,} files come back as their content (--items), not with the file's own bytes")
    elif plan.differ:
        notes.append(f"{plan.differ:,} files hold items the model knows, but other bytes than we would write: coded by xz; --items keeps "
                     "only what the codec reads")
    return notes
