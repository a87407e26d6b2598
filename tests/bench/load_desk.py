"""Load from a native tool (wrk), and comparisons in turns."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SECONDS, CLIENTS, ROUNDS = 4, 16, 3
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Load(NamedTuple):
    """Answers per second, and the median time of one in milliseconds."""

    rate: float
    p50: float


def load(url: str, script: Path, clients: int = CLIENTS, seconds: int = SECONDS) -> Load:
    """What `url` bears; every answer must be a success."""
    how = ["-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", str(script)]
    done = subprocess.run(["wrk", *how, url], capture_output=True, text=True, check=True)
    assert "Non-2xx" not in done.stdout and "Socket errors" not in done.stdout, done.stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    middle = re.search(r"50%\s+([\d.]+)(us|ms|s)", done.stdout)
    assert found and middle, done.stdout
    return Load(float(found[1]), float(middle[1]) * _MILLISECONDS[middle[2]])


def rate(url: str, script: Path, clients: int = CLIENTS) -> float:
    """Answers per second at `url`."""
    return load(url, script, clients).rate


def in_turns(*works: Callable[[], float]) -> list[float]:
    """The median of each over some rounds, measured in turns, so that what else runs here hits all."""
    rounds = [[work() for work in works] for _ in range(ROUNDS)]
    return [statistics.median(one[index] for one in rounds) for index in range(len(works))]
