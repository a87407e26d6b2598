"""What the kernel says of a process that somebody else may end and reap at any moment."""

from __future__ import annotations

from pathlib import Path


def state(pid: int) -> str | None:
    """Its letter in /proc (R, S, D, Z, ...); None for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def gone(pid: int) -> bool:
    """Whether it has ended; one that nobody has waited for yet counts as ended."""
    return state(pid) in (None, "Z")
