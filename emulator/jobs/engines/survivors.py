"""Finds and ends what is left of an attempt whose shim died (killed, say, for memory)."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amlocal.emulator.processes import boot_id, kill_group, process_start_time

# In the environment of every process of an attempt; also finds those that left the process group.
MARK = "AMLOCAL_ATTEMPT"
KILL_PATIENCE = 5.0


def mark(job_dir: Path, attempt: int) -> str:
    """The value of MARK for one attempt."""
    return f"{job_dir}:{attempt}"


def end_survivors(job_dir: Path, attempt: int, identity: Mapping[str, Any], grace: float) -> bool:
    """End all processes of an attempt whose shim is gone; False if some could not be ended.

    `identity` is the content of attempt-N.started. Blocks up to `grace` seconds plus what SIGKILL takes.
    A pid alone is never trusted: it may belong to somebody else by now, so start time and boot must match.
    """
    if identity.get("boot_id") not in (None, boot_id()):
        return True
    pid, started = identity.get("pid"), identity.get("start_time")
    if isinstance(pid, int) and started is not None and process_start_time(pid) == started:
        kill_group(pid, grace)
    deadline = time.monotonic() + grace
    while left := _marked(job_dir, attempt):
        late = time.monotonic() - deadline
        if late > KILL_PATIENCE:
            return False
        for process in left:
            _signal(process, signal.SIGKILL if late >= 0 else signal.SIGTERM)
        time.sleep(0.05)
    return True


def _marked(job_dir: Path, attempt: int) -> list[int]:
    if sys.platform != "linux":
        return []
    needle = f"{MARK}={mark(job_dir, attempt)}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            # Ended meanwhile, or somebody else's.
            continue
        if needle in variables and process_start_time(int(entry.name)) is not None:
            found.append(int(entry.name))
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
