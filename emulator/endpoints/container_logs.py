"""The logs of a deployment's two containers, as Azure names them: kept below a bound, and over restarts."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

INFERENCE_SERVER = "inference-server.log"
STORAGE_INITIALIZER = "storage-initializer.log"
# Bytes of one file. When it has more, it becomes FILE.1 and begins anew.
BOUND = 16 * 1024**2
TAIL_BYTES = 1024 * 1024
_CHUNK = 1024 * 1024

_guard = threading.Lock()


def write(path: Path, *lines: str) -> None:
    """Append lines with the time."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S ")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        # One write: processes that append to the same file do not come in between.
        file.write("".join(f"{now}{line}\n" for text in lines for line in text.splitlines()).encode())


def bound(path: Path, most: int = BOUND) -> bool:
    """Begin a file of more than `most` bytes anew, its end kept in FILE.1; whether that was so.

    It is copied and emptied, not renamed: the processes that append to it keep it open. Raises OSError when
    nothing can be kept, for example on a full disk; then too the file is emptied.
    """
    with _guard:
        try:
            if path.stat().st_size <= most:
                return False
        except FileNotFoundError:
            return False
        old = path.with_name(f"{path.name}.1")
        staged = old.with_name(f".{old.name}")
        try:
            with path.open("rb") as file, staged.open("wb") as copy:
                staged.chmod(0o600)
                file.seek(-most, os.SEEK_END)
                # No more than that: a process may be appending faster than this reads.
                left = most
                while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                    copy.write(chunk)
                    left -= len(chunk)
            staged.replace(old)
        except OSError:
            with contextlib.suppress(OSError):
                staged.unlink()
            raise
        finally:
            os.truncate(path, 0)
        return True


def tail(path: Path, lines: int) -> str:
    """The last lines of the log; empty when there is none. At most TAIL_BYTES are read."""
    text = _end(path, TAIL_BYTES)
    found = text.splitlines()
    if len(found) < lines and len(text) < TAIL_BYTES:
        found = [*_end(path.with_name(f"{path.name}.1"), TAIL_BYTES - len(text)).splitlines(), *found]
    return "\n".join(found[-lines:] if lines > 0 else [])


def _end(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return file.read(most).decode(errors="replace")
    except FileNotFoundError:
        return ""
