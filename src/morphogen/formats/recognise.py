"""What a file really is, told by its first bytes: for one clear line when a model file is something else. No torch here."""

from __future__ import annotations

from pathlib import Path

from morphogen.errors import DataError, FormatError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_PICKLE = ("this is a pickle file, which can run code when it is opened", "convert it to safetensors elsewhere")
_ARCHIVE = ("this is an archive, not a model", "unpack it and give the model inside")


def short(name: object) -> str:
    """A name out of a file we do not trust, short enough for one line."""
    text = str(name)
    return f"'{text}'" if len(text) <= 80 else f"'{text[:77]}...'"


def regular_file(path: Path) -> None:
    """Refuse what is missing or no regular file (a pipe would block for ever). Raises DataError."""
    if not path.exists():
        raise DataError("no such file or folder", where=path, remedy="check the path")
    if not path.is_file():
        raise DataError("not a regular file", where=path, remedy="give a model file")


def is_safetensors(head: bytes) -> bool:
    """A length of eight bytes, then JSON. A header of 640 bytes begins like a pickle, so this is asked first."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def foreign(head: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) for the kinds of file that are often found under a model's name, from the first 512 bytes."""
    if not head.strip(b"\0"):
        return "the file is empty" if not head else "the file begins with zeros only", "the download did not finish: fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-LFS pointer, not the model", "fetch the real file with git lfs pull"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        return "this is a web page, not a model", "the download went wrong: fetch the file again"
    if head.startswith(b"GGUF"):
        return "this is a GGUF file", "give it a name that ends in .gguf"
    if head.startswith(b"PK\x03\x04"):
        if head[6:7] and head[6] & 1:
            return "this is an encrypted zip file, not a model", "unpack it and give the model inside"
        return _PICKLE if b"data.pkl" in head else _ARCHIVE
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ")):
        return _ARCHIVE
    if is_safetensors(head):
        return "this is a safetensors file", "give it a name that ends in .safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _PICKLE
    return None


def refuse_foreign(head: bytes, path: Path, wanted: str) -> FormatError:
    """The error for a file that is no `wanted`: what it is where that can be told."""
    found = foreign(head)
    what, remedy = found or (f"this is no {wanted}", "the file is damaged or of another kind: fetch it again")
    return FormatError(what, where=path, remedy=remedy)
