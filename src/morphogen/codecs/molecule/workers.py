"""Chemistry over many molecules on all given cores.

Workers are plain child processes that talk JSON lines: a fork would cut the threads of other libraries in half, and with
`multiprocessing` a person's script would need a main guard.
"""
from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from morphogen.config import cores

CHUNK = 1000
LEAST = 5000  # below that, starting processes costs more than they save


def over(job: str, items: Sequence[Any], least: int = LEAST, **options: Any) -> list[Any]:
    """`jobs()[job](items, **options)` in chunks, in order; on all cores when there are more than `least` items.

    What a worker cannot do (it died, it could not start) is done here.
    """
    work = jobs()[job]
    if len(items) <= least or cores() < 2 or not sys.executable:
        return work(items, **options)
    size = min(CHUNK, -(-len(items) // cores()))
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    try:
        pool = _Pool(min(cores(), len(chunks)))
    except OSError:
        return work(items, **options)
    try:
        with ThreadPoolExecutor(len(pool.processes)) as threads:
            parts = list(threads.map(lambda chunk: pool.ask(job, chunk, options), chunks))
    finally:
        pool.close()
    return [one for chunk, part in zip(chunks, parts) for one in (work(chunk, **options) if part is None else part)]


def jobs() -> dict[str, Callable[..., list[Any]]]:
    """What can be asked of a worker."""
    from morphogen.codecs.molecule import chemistry, outputs

    return {"survey": chemistry.survey, "vary": chemistry.vary, "derive": chemistry.derive, "features": chemistry.features,
            "shape": outputs.shape}


class _Pool:
    """Processes and the threads that each talk to one of them."""

    def __init__(self, n: int) -> None:
        code = "from morphogen.codecs.molecule.workers import serve; serve()"
        root = str(Path(__file__).parents[3])
        paths = os.pathsep.join([root, os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [root])
        self.processes: list[subprocess.Popen[str]] = []
        self.free: list[subprocess.Popen[str]] = []
        self.own = threading.local()
        for _ in range(n):
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": paths},
            )
            self.processes.append(process)
            self.free.append(process)

    def ask(self, job: str, chunk: Sequence[Any], options: dict[str, Any]) -> list[Any] | None:
        """The answer of this thread's process, None when it gave none."""
        if not hasattr(self.own, "process"):
            self.own.process = self.free.pop()
        process = self.own.process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps([job, list(chunk), options]) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            return None
        return answer if isinstance(answer, list) and len(answer) == len(chunk) else None

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            with contextlib.suppress(OSError):
                if process.stdin:
                    process.stdin.close()
            process.terminate()
            process.wait()
            if process.stdout:
                process.stdout.close()


def serve() -> None:
    """A worker's life: a line in, a line out, until the input ends."""
    known = jobs()
    for line in sys.stdin:
        job, items, options = json.loads(line)
        try:
            answer: Any = known[job](items, **options)
        except Exception as error:  # the asker does the chunk itself and meets the error there
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
