"""A lock between trials that want to make the same file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amlocal.trainers import heartbeat
from amlocal.trainers.progress import say

try:
    import fcntl
except ImportError:  # not a POSIX system: trials then may both do the work, the rename keeps it whole
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`; says once what it waits for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is not None:
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        say(f"waiting for another trial: {waiting_for}")
                        told = True
                    # Whoever holds the lock makes the progress; where it hangs, it is ended itself.
                    heartbeat.beat("waiting for another trial")
                    time.sleep(0.1)
        yield
