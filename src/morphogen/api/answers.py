"""Text from a language model: one prompt as it is written, or a file of prompts, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from morphogen.api.answered import recipe
from morphogen.api.common import Watch
from morphogen.errors import DataError, UsageError
from morphogen.files import check_output, lock, write_text
from morphogen.trust.provenance import stamp

LONGEST_LINE = 16 << 20
TILE = 8  # prompts under way together; their answers are written before the next ones are begun


def answer(model: Any, prompt: str, out: str | Path, *, force: bool = False, metadata: bool = True, **options: Any) -> list[Any]:
    """The answers to one prompt, also written to `out` as text, with their recipe beside it."""
    out = Path(out)
    check_output(out, force=force)
    found = model.answers([prompt], **options)[0]
    write_text(out, "\n".join(a.text for a in found) + "\n")
    stamp(out, recipe(model, out, options, tile=1, metadata=metadata, prompt=prompt))
    return found


def answers(
    model: Any, prompts: str | Path, out: str | Path, *, force: bool = False, metadata: bool = True, watch: Watch | None = None,
    **options: Any,
) -> Path:
    """Answer every line of a JSONL file of {"prompt"} or {"messages"} into another one; begun files are gone on with.

    Each answer is the line with `text`, `reason` and `tokens` put in; with n above 1 `texts`. Answer i depends on the seed and
    its line's number alone. Their recipe lies beside them. Raises DataError naming the line that cannot be read, before
    anything is drawn.
    """
    watch, out, prompts = watch or Watch(), Path(out), Path(prompts)
    rows = [*_lines(prompts)]
    check_output(out, force=force, inputs=(prompts,))
    part = out.with_name(f".{out.name}.part")
    asked = recipe(model, out, options, tile=TILE, metadata=metadata, input=prompts)
    with lock(out.with_name(f".{out.name}.lock")):
        done = _begun(part, asked)
        if done:
            watch.say(f"{len(done)} of {len(rows)} answers were there already")
        with part.open("a" if done else "w", encoding="utf-8") as file:
            if not done:
                file.write(json.dumps(asked) + "\n")
            for first in range(len(done), len(rows), TILE):
                made = [*_tile(model, rows, first, options, metadata)]
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made))
                done += made
                file.flush()
                watch.progress("answering", len(done) / len(rows), f"{len(done)} of {len(rows)}")
        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in done))
        stamp(out, asked)
        part.unlink()
    return out


def _tile(
    model: Any, rows: list[dict[str, Any]], first: int, options: dict[str, Any], metadata: bool = True
) -> Iterator[dict[str, Any]]:
    """Answers to the rows from `first` on, drawn together; which rows are together depends on their numbers alone.

    Without `metadata` the prompts are left out of them.
    """
    part = rows[first:first + TILE]
    prompts = [row["prompt"] if "prompt" in row else model.prompt_of(row["messages"]) for row in part]
    for row, found in zip(part, model.answers(prompts, slots=TILE, first=first, **options)):
        new: dict[str, Any] = {"text": found[0].text} if len(found) == 1 else {"texts": [a.text for a in found]}
        kept = row if metadata else {k: v for k, v in row.items() if k not in ("prompt", "messages")}
        yield {**kept, **new, "reason": found[0].reason, "tokens": len(found[0].ids)}


def _begun(part: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Whole lines of an earlier try that asked the same; the last one may have been cut."""
    if not part.is_file():
        return []
    lines = part.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    try:
        if not lines or json.loads(lines[0]) != asked:
            return []
        done = [json.loads(line) for line in lines[1:]]
    except ValueError:
        return []
    whole = len(done) // TILE * TILE  # a tile is drawn together, or again
    part.write_text("".join(line + "\n" for line in lines[:1 + whole]), encoding="utf-8")
    return done[:whole]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UsageError("no such file", where=path, remedy="check --input")
    with path.open(encoding="utf-8", errors="strict") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row(line, f"{path}:{number}")
        except UnicodeDecodeError:
            raise DataError("not UTF-8", where=path, remedy="save the file as UTF-8") from None


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line) if len(line) <= LONGEST_LINE else None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"not readable as JSON ({' '.join(str(error).split())[:80]})", where=where, remedy="write one object a line"
        ) from None
    if not isinstance(row, dict) or isinstance(row.get("prompt"), str) == isinstance(row.get("messages"), list):
        raise DataError("a line needs either `prompt` or `messages`", where=where, remedy='write {"prompt": "…"}')
    return row


def read_schema(value: str | Path) -> Any:
    """A JSON schema from a file, or written out. Raises UsageError."""
    text = str(value)
    if not text.lstrip().startswith(("{", "[")):
        path = Path(value).expanduser()
        if not path.is_file():
            raise UsageError("no such file", where=path, remedy="give a file with a JSON schema")
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the schema is not JSON ({' '.join(str(error).split())[:80]})", where=value, remedy="mend it") from None


def said(answer: Any, model: Any, began: float) -> Mapping[str, Any]:
    """What --json prints about one answer."""
    stats = answer.stats
    return {
        "model": model.name,
        "text": answer.text,
        "reason": answer.reason,
        "prompt_tokens": int(stats.get("prompt_tokens", 0)),
        "tokens": int(stats.get("tokens", len(answer.ids))),
        "prefill_tok_s": _round(stats.get("prefill_tok_s")),
        "decode_tok_s": _round(stats.get("decode_tok_s")),
        "seconds": round(time.monotonic() - began, 3),
        **({"logprobs": answer.logprobs} if answer.logprobs else {}),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
