"""What a run can code exactly, and how: bytes as one running text, files as items of its codec, or neither."""
from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.coding import blocks
from morphogen.coding.container import beats, expand, squeeze
from morphogen.coding.rans import damaged
from morphogen.coding.steps import NetSteps, build
from morphogen.contracts import HasRunning, HasSteps, HasWholeNumbers
from morphogen.errors import DataError, FormatError, MorphogenError
from morphogen.run import Run
from morphogen.spaces import Tokens

TEXT_BLOCK = 1 << 20
PLAIN_BLOCK = 1 << 24
ITEM_BLOCK = 4096
MODEL, XZ, STORED = "model", "xz", "stored"


def fingerprint(run: Run) -> str:
    """What decoding depends on of a run: weights, tokeniser or grey levels, and how they are put together."""
    digest = hashlib.sha256((run.path / "model.safetensors").read_bytes())
    parts = {"codec": run.recipe["codec"], "family": run.recipe["family"], "conditions": run.recipe.get("conditions", {})}
    digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    digest.update((run.path / "codec" / "state.json").read_bytes())
    return digest.hexdigest()[:32]


@dataclass
class Blocks:
    """Blocks and what the header says of each: [how, size before, tokens, rows, digest]."""

    data: list[bytes] = field(default_factory=list)
    about: list[list[Any]] = field(default_factory=list)

    def add(self, data: bytes, how: str, size: int, tokens: int = 0, rows: int = 0, digest: str = "") -> None:
        self.data.append(data)
        self.about.append([how, size, tokens, rows, digest])


class Lossless:
    """A model as a coder of bytes and of items."""

    def __init__(self, model: Any, progress: Callable[[float], None] | None = None) -> None:
        self.model, self.space, self.progress = model, model.family.space, progress
        self.portable: Any = model.family.portable() if isinstance(model.family, HasWholeNumbers) else None
        fits = isinstance(self.space, Tokens) and self.space.streams == 1 and self.space.vocab <= 1 << 15
        self.steps: Any = None
        if fits and self.portable is not None:
            self.steps = self.portable.steps
        elif fits and isinstance(model.family, HasSteps):
            self.steps = lambda: NetSteps(model.family, self.space)
        self.running: blocks.Running | None = None

    @property
    def runs(self) -> bool:
        """Whether any bytes can be coded as a running text."""
        return self.steps is not None and isinstance(self.model.codec, HasRunning) and not len(self.model.bridges)

    @property
    def itemises(self) -> bool:
        """Whether items can be coded."""
        return self.steps is not None and not self.runs

    def build(self) -> dict[str, Any]:
        """What must be the same for decoding; {} for whole-number models, which are the same everywhere."""
        return {} if self.portable is not None or self.steps is None else build(self.steps(), blocks.ITEM_ROWS)

    # ---------------------------------------------------------------- bytes
    def _running(self, size: int) -> blocks.Running:
        if self.running is None:
            size = min(size, TEXT_BLOCK)
            seam, order = self.model.codec.seam, np.array(self.model.codec.alike)
            if self.portable is not None:
                self.running = blocks.Running(self.space, seam, order, counts=self.portable.counts(seam), expected=size)
            else:
                self.running = blocks.Running(self.space, seam, order, steps=self.steps(), expected=size)
        return self.running

    def encode_bytes(self, data: bytes) -> Blocks:
        """Blocks of a megabyte by the model, or by xz, or as they are: whichever is smallest."""
        out, at = Blocks(), 0
        self.running = None
        while at < len(data):
            piece = data[at : at + (TEXT_BLOCK if self.runs else PLAIN_BLOCK)]
            if self.runs and at + len(piece) < len(data):
                piece = piece[: whole_characters(piece)]
            self._encode_piece(piece, out, len(data))
            at += len(piece)
            if self.progress:
                self.progress(at / len(data))
        return out

    def _encode_piece(self, piece: bytes, out: Blocks, total: int) -> None:
        small = None
        tokens = self.model.codec.tokens_of(piece) if self.runs else None
        if tokens is not None:
            running = self._running(total)
            rows = running.rows_for(len(tokens))
            coded = running.encode(tokens, rows)
            small = squeeze(piece) if beats(piece, coded) else None
            if len(coded) < min(len(piece), len(piece) if small is None else len(small)):
                out.add(coded, MODEL, len(piece), len(tokens), rows, blocks.digest(tokens))
                return
        self.running = None  # what it has learned from this block the decoder will not know
        small = small or squeeze(piece)
        if len(small) < len(piece):
            out.add(small, XZ, len(piece))
        else:
            out.add(piece, STORED, len(piece))

    def decode_bytes(self, data: Sequence[bytes], about: Sequence[Sequence[Any]]) -> bytes:
        """The inverse. Raises FormatError when a block is not what went in."""
        self.running, out = None, []
        for i, (block, (how, size, count, rows, digest)) in enumerate(zip(data, about, strict=True)):
            if how == MODEL:
                if not self.runs or not 0 < rows <= count <= size <= TEXT_BLOCK:
                    raise damaged("a block's header")
                tokens = self._running(sum(a[1] for a in about)).decode(block, count, rows)
                blocks.check([tokens], digest, "a block")
                piece = self.model.codec.bytes_of(tokens)
            else:
                self.running = None
                piece = block if how == STORED else expand(block, size)
            if len(piece) != size:
                raise damaged("a block's size")
            out.append(piece)
            if self.progress:
                self.progress((i + 1) / len(data))
        return b"".join(out)

    # ---------------------------------------------------------------- items
    def tokens_of_items(self, raws: Sequence[Any]) -> list[np.ndarray]:
        """Each item's tokens, up to and with its end."""
        from morphogen.model import collate

        out: list[np.ndarray] = []
        for at in range(0, len(raws), 256):
            x, mask = collate([self.model.codec.encode(raw) for raw in raws[at : at + 256]], self.model.codec.space)
            rows = self.model.inward(x, mask)[0].numpy()
            for row in rows:
                ends = np.flatnonzero(row == (-1 if self.space.end is None else self.space.end))
                out.append(row[: int(ends[0]) + 1] if len(ends) else row)
        return out

    def items_of_tokens(self, tokens: Sequence[np.ndarray]) -> list[Any]:
        """The items that tokens stand for."""
        import torch

        from morphogen.model import sample_of

        out: list[Any] = []
        for at in range(0, len(tokens), 256):
            part = tokens[at : at + 256]
            x = np.full((len(part), self.space.length), self.space.end or 0, np.int64)
            for row, item in zip(x, part, strict=True):
                row[: len(item)] = item
            z = self.model.outward(torch.from_numpy(x), torch.zeros(len(part), dtype=torch.int64))
            out += [self.model.codec.decode(sample_of(z, j)) for j in range(len(part))]
        return out

    def encode_items(self, tokens: Sequence[np.ndarray]) -> Blocks:
        """Blocks of whole items."""
        out = Blocks()
        steps = self.steps()
        for at in range(0, len(tokens), ITEM_BLOCK):
            part = list(tokens[at : at + ITEM_BLOCK])
            rows = blocks.item_rows(len(part), self.space.length)
            data = blocks.encode_items(steps, self.space, part, rows)
            out.add(data, MODEL, len(part), sum(map(len, part)), rows, blocks.digest(np.concatenate(part)))
            if self.progress:
                self.progress((at + len(part)) / len(tokens))
        return out

    def decode_items(self, data: Sequence[bytes], about: Sequence[Sequence[Any]]) -> list[np.ndarray]:
        """The inverse. Raises FormatError when a block is not what went in."""
        out: list[np.ndarray] = []
        for block, (_, count, _, rows, digest) in zip(data, about, strict=True):
            if self.steps is None or not 0 < rows <= 1024 or not 0 < count <= ITEM_BLOCK:
                raise damaged("a block's header")
            part = blocks.decode_items(self.steps(), self.space, block, count, rows)
            blocks.check(part, digest, "a block of items")
            out += part
        return out


def whole_characters(data: bytes) -> int:
    """How many bytes end with a whole UTF-8 character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80 or byte >= 0xC0:
            needs = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) if needs <= back else len(data) - back
    return len(data)


# ------------------------------------------------------------ files as items
def items_in(codec: Any, path: Path) -> list[Any] | None:
    """What the codec reads in one file; None when it does not."""
    from morphogen.codecs.sources import Listing

    try:
        raws = [item.raw for item in codec.read(Listing(path.parent, (path,)))]
    except MorphogenError:
        return None
    return raws or None


def written(codec: Any, groups: Sequence[Sequence[Any]], suffixes: Sequence[str]) -> Iterator[tuple[str, bytes] | None]:
    """(suffix, bytes) of the file that the codec writes for each group of items; None where it writes no single file.

    All groups of one item go in one call.
    """
    single = [g[0] for g in groups if len(g) == 1]
    files = iter(_write(codec, single, next((s for s, g in zip(suffixes, groups, strict=True) if len(g) == 1), "")))
    for group, suffix in zip(groups, suffixes, strict=True):
        yield next(files) if len(group) == 1 else next(iter(_write(codec, [list(group)], suffix, whole=True)))


def _write(codec: Any, raws: list[Any], suffix: str, whole: bool = False) -> list[tuple[str, bytes] | None]:
    if not raws:
        return []
    with tempfile.TemporaryDirectory() as folder:
        items = raws[0] if whole else raws
        try:
            paths = codec.write(items, Path(folder) / f"items{suffix}", [{}] * len(items))
        except (MorphogenError, ValueError, TypeError):
            return [None] * len(raws)
        if len(paths) == len(raws):
            return [(path.suffix, path.read_bytes()) for path in paths]
        if whole or len(raws) == 1:
            return [None] * len(raws)
    return [next(iter(_write(codec, [raw], suffix))) for raw in raws]  # the codec puts many in one file: one at a time


def read_all(source: Path) -> tuple[str, dict[str, bytes], list[str]]:
    """("file" or "folder", every file's bytes by relative path, empty folders). Raises DataError for what is no plain file."""
    if source.is_file():
        return "file", {source.name: source.read_bytes()}, []
    if not source.is_dir():
        raise DataError("no such file or folder", where=source, remedy="check the path")
    found: dict[str, bytes] = {}
    empty: list[str] = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DataError("a link or device, which is not kept", where=path, remedy="replace it by a file or take it away")
        if path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            empty.append(name)
    return "folder", found, empty


def safe_name(name: Any) -> str:
    """A relative path that stays inside. Raises FormatError for any other."""
    parts = name.split("/") if isinstance(name, str) else [""]
    if any(p in ("", ".", "..") or "\\" in p or "\0" in p or ":" in p for p in parts):
        raise FormatError("a file name leads outside", where=repr(name), remedy="do not trust this file")
    return name
