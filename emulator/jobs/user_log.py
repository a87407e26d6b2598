"""A run's `user_logs/std_log.txt`: the job's own output, and the lines that the server adds to it.

Clients print what is new by comparing lines, so the file only ever grows once its job may run.
"""

from __future__ import annotations

import os
from pathlib import Path

from amlocal.emulator.store.folder import fsync_folder

USER_LOG = Path("user_logs") / "std_log.txt"
_TAIL_BYTES = 32 * 1024
_TAIL_LINES = 20
_TAIL_CHARACTERS = 4000


def start(path: Path, lines: list[str]) -> None:
    """Begin a log with the server's lines; what a crashed earlier try wrote is replaced."""
    # Not by way of a temporary file: a killed server would leave one among the artifacts that clients list.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write("".join(f"amlocal: {line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(path.parent)


def append(path: Path, line: str) -> None:
    """Add one line of the server's, on a line of its own."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(f"\namlocal: {line}\n".encode())


def last_lines(path: Path) -> str:
    """The last lines that are not empty; "" when there are none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            raw = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    clean = "".join(char if char.isprintable() or char == "\n" else " " for char in raw.replace("\r", "\n"))
    lines = [line.rstrip() for line in clean.split("\n") if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]
