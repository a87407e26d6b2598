"""Whether a trial hangs: its heartbeat has not changed for too long.

The trainer touches heartbeat.json in its job folder wherever it gets on (trainers/heartbeat.py). Nothing is
compared with the clock of the day: what counts is how long this process has seen no change, on a clock that
stands still while the machine sleeps. So a suspended machine, a changed clock and a restarted server are no
reason to end a trial; after a restart the time begins anew.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amlocal.emulator.store.folder import write_atomic

HEARTBEAT = "heartbeat.json"
STALLED = "stalled.json"


@dataclass(frozen=True)
class Beat:
    """One heartbeat; `mark` is another number for each. `doing`: with what the trial is busy."""

    mark: int
    doing: str


NOTHING = Beat(0, "starting")
"""Of a trial that has not begun to beat."""


def read(job_dir: Path) -> Beat:
    """The last heartbeat of the trial in `job_dir`."""
    path = job_dir / HEARTBEAT
    try:
        mark = path.stat().st_mtime_ns
        doing = json.loads(path.read_text(encoding="utf-8"))["doing"]
    except (OSError, ValueError, KeyError, TypeError):
        return NOTHING
    return Beat(mark, str(doing)[:100])


def reason(beat: Beat, silent: float, limit: float) -> str | None:
    """Why a trial is to be ended whose last heartbeat has been `silent` for so many seconds; None as long as
    that is less than `limit`, or for ever where `limit` is 0."""
    if not limit or silent < limit:
        return None
    minutes = limit / 60
    return (
        f"The trial made no progress for {minutes:g} minute{'' if minutes == 1 else 's'} while it was "
        f"{beat.doing}, so it was ended. The setting trial_stall_minutes says how long it may take; 0 lets "
        "it hang."
    )


class Stalls:
    """What was seen of the trials that run. `limit` in seconds, 0: nothing ever hangs."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._guard = threading.Lock()
        # By job folder and attempt: the last heartbeat, and when it was first seen.
        self._seen: dict[tuple[Path, int], tuple[Beat, float]] = {}

    def look(self, job_dir: Path, attempt: int) -> str | None:
        """Why the attempt, which runs, is to be ended now; None while it gets on."""
        if not self._limit:
            return None
        now, beat, key = self._clock(), read(job_dir), (job_dir, attempt)
        with self._guard:
            before, since = self._seen.get(key, (None, now))
            if before != beat:
                since = now
            self._seen[key] = beat, since
        return reason(beat, now - since, self._limit)

    def forget(self, job_dir: Path) -> None:
        """The trial runs no more."""
        with self._guard:
            for key in [key for key in self._seen if key[0] == job_dir]:
                del self._seen[key]


def write(job_dir: Path, attempt: int, why: str) -> None:
    """Note that this attempt is being ended, and why; to be done before its process is told."""
    write_atomic(job_dir / STALLED, json.dumps({"attempt": attempt, "reason": why}).encode())


def noted(job_dir: Path, attempt: int) -> str | None:
    """Why this attempt was ended as one that hangs; None when it was not."""
    try:
        found = json.loads((job_dir / STALLED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("attempt") != attempt:
        return None
    return str(found.get("reason") or "The trial made no progress.")
