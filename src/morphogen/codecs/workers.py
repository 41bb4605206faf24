"""Work on many items on all given cores.

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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from morphogen.config import cores

CHUNK = 1000
LEAST = 5000  # below that, starting processes costs more than they save


def each(
    work: Callable[..., list[Any]], items: Sequence[Any], *, least: int = LEAST, chunk: int = CHUNK, **options: Any
) -> Iterator[Any]:
    """What `work(some items, **options)` makes of each item, in order; on all cores when there are more than `least` items.

    `work`: a function of a module, list to list; items and answers are JSON. Only a few chunks are under way at once, however
    slow the asker. What a worker cannot do (it died, it could not start) is done here.
    """
    size = max(1, min(chunk, -(-len(items) // cores())))
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    pool = _pool(work, min(cores(), len(chunks))) if len(items) > least and cores() > 1 and sys.executable else None
    if pool is None:
        for some in chunks:
            yield from work(some, **options)
        return
    asked: deque[Any] = deque()

    def next_answer() -> list[Any]:
        some, answer = asked.popleft()
        found = answer.result()
        return work(some, **options) if found is None else found

    try:
        with ThreadPoolExecutor(len(pool.processes)) as threads:
            for some in chunks:
                asked.append((some, threads.submit(pool.ask, some, options)))
                if len(asked) > 2 * len(pool.processes):
                    yield from next_answer()
            while asked:
                yield from next_answer()
    finally:
        pool.close()


def _pool(work: Callable[..., Any], n: int) -> _Pool | None:
    try:
        return _Pool(work, n)
    except OSError:
        return None


class _Pool:
    """Processes and the threads that each talk to one of them."""

    def __init__(self, work: Callable[..., Any], n: int) -> None:
        code = f"from morphogen.codecs.workers import serve; from {work.__module__} import {work.__name__} as work; serve(work)"
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join([root, os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [root])
        self.processes: list[subprocess.Popen[str]] = []
        self.free: list[subprocess.Popen[str]] = []
        self.own = threading.local()
        for _ in range(n):
            process = subprocess.Popen(  # -P: a json.py where the person stands is not imported
                [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": paths},
            )
            self.processes.append(process)
            self.free.append(process)

    def ask(self, some: Sequence[Any], options: dict[str, Any]) -> list[Any] | None:
        """The answer of this thread's process, None when it gave none."""
        if not hasattr(self.own, "process"):
            self.own.process = self.free.pop()
        process = self.own.process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps([list(some), options]) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            return None
        return answer if isinstance(answer, list) and len(answer) == len(some) else None

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


def serve(work: Callable[..., list[Any]]) -> None:
    """A worker's life: a line in, a line out, until the input ends."""
    for line in sys.stdin:
        items, options = json.loads(line)
        try:
            answer: Any = work(items, **options)
        except Exception as error:  # the asker does the chunk itself and meets the error there
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
