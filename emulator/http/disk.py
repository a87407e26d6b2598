"""A full disk, however it shows itself, as the one answer that clients get."""

from __future__ import annotations

import errno
import sqlite3

from amlocal.emulator.http.errors import AzureError

# The shared memory of the write-ahead log cannot grow: an I/O error of its own.
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_FULL = (errno.ENOSPC, errno.EDQUOT)
MESSAGE = "The disk of the data folder is full. Free some space and try again."


def is_disk_full(error: BaseException) -> bool:
    """Whether the error, or one that it came from, is that of a full disk (or a quota that is used up)."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in _FULL:
            return True
        if isinstance(current, sqlite3.Error) and getattr(current, "sqlite_errorcode", 0) in _SQLITE_FULL:
            return True
        current = current.__cause__ or current.__context__
    return False


def disk_full() -> AzureError:
    """507, Azure Resource Manager's and HTTP's word for it."""
    return AzureError(507, "InsufficientStorage", MESSAGE)
