"""Room for decoded images: one bound for a folder of files that several processes and trials share.

Who reads a file holds it with a shared lock (flock), who makes one with an exclusive lock. A file that nobody
holds may be unlinked, the least recently used first; one in use never is. Everything that makes or unlinks a
file happens under the folder's own lock, so that two trials cannot both take the last room.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not a POSIX system: nobody can know whether a file is in use, so none is unlinked
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
_SUFFIXES = frozenset({".u8", ".slots", TEMPORARY})
_LOCK = "room.lock"


def hold(path: Path, *, write: bool = False) -> BinaryIO:
    """Open a file so that it is not unlinked while it is in use, and mark it as used now.

    Raises FileNotFoundError when it is not there, or was unlinked in this moment.
    """
    file = path.open("r+b" if write else "rb")
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_SH)
    if _gone(file, path):
        file.close()
        raise FileNotFoundError(path)
    os.utime(file.fileno())
    return file


def _gone(file: BinaryIO, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return True


class Room:
    """The room in `folder`: at most `max_bytes` in all its files together, or no bound with None."""

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else makes or unlinks a file meanwhile. Not reentrant."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("a") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def free(self, wanted: int) -> int:
        """Bytes that a new file may take, `wanted` at most; unlinks old files until they are there or no
        unused one is left. To be called under the lock, and the bytes to be taken under it."""
        found = self._files()
        for path in [path for path in found if path.suffix == TEMPORARY]:
            # Left behind by a process that was killed, unless somebody holds it.
            if self.remove(path):
                del found[path]
        if self.max_bytes is None:
            return wanted
        for path in sorted(found, key=lambda path: found[path].st_mtime_ns):
            if self.max_bytes - _total(found) >= wanted:
                break
            if self.remove(path):
                del found[path]
        return max(0, min(wanted, self.max_bytes - _total(found)))

    def used(self) -> int:
        """Bytes taken by all files now."""
        return _total(self._files())

    def most(self, without: Path) -> int | None:
        """Bytes that a file in place of `without` could take if every unused file were unlinked; None for no
        bound."""
        if self.max_bytes is None:
            return None
        held = [status.st_size for path, status in self._files().items() if path != without and _held(path)]
        return self.max_bytes - sum(held)

    def remove(self, path: Path) -> bool:
        """Unlink a file that nobody holds; whether it is gone. To be called under the lock."""
        if fcntl is None:
            return False
        try:
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                path.unlink()
        except FileNotFoundError:
            pass
        return True

    def keep(self, file: BinaryIO, temporary: Path, path: Path) -> None:
        """Give a finished file its name; `file` holds it as a reader from now on."""
        with self.lock():
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH)
            temporary.replace(path)

    def make(self, temporary: Path) -> BinaryIO:
        """A new file that only its maker holds. To be called under the lock."""
        file = temporary.open("w+b")
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _files(self) -> dict[Path, os.stat_result]:
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if os.path.splitext(entry.name)[1] in _SUFFIXES:  # noqa: PTH122
                    try:
                        found[Path(entry.path)] = entry.stat()
                    except FileNotFoundError:
                        continue
        return found


def _total(found: dict[Path, os.stat_result]) -> int:
    return sum(status.st_size for status in found.values())


def _held(path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
