"""Start-up time: python -m benchmarks.startup"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import record


def median(command: list[str], times: int = 5) -> float:
    """Median seconds of whole processes after one warm-up."""
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def main() -> None:
    tool = str(Path(sys.executable).parent / "morphogen")
    record(
        "startup",
        {
            "morphogen --help": median([tool, "--help"]),
            "import morphogen": median([sys.executable, "-c", "import morphogen"]),
            "python alone": median([sys.executable, "-c", ""]),
        },
    )


if __name__ == "__main__":
    main()
