"""Files below a root, reached without following links and changed durably.

Every folder is opened from the one above it with O_NOFOLLOW, so a link that a job left (or swaps in
meanwhile) is an error and never a way out of the root, and the length of the whole path does not matter.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe must not wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Identity:
    """What changes whenever a file's content does. `size` in bytes, `mtime_ns` in ns since 1970."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    @property
    def modified(self) -> datetime:
        """When, to the second, as HTTP has it."""
        return datetime.fromtimestamp(self.mtime_ns // 1_000_000_000, UTC)

    @property
    def etag(self) -> str:
        """A strong entity tag, quoted."""
        digest = hashlib.sha256(f"{self.mtime_ns}.{self.size}.{self.inode}".encode()).hexdigest()
        return f'"0x{digest[:16].upper()}"'


@contextmanager
def folder(root: Path, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` below `root`.

    FileNotFoundError where one is missing, NotADirectoryError where a file or a link stands in its place.
    """
    here = os.open(root, _FOLDER)
    try:
        for part in parts:
            below = _enter(here, part, create=create)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _enter(parent: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, "a symbolic link, not a folder", name) from error
        raise
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)
    except FileExistsError:
        pass
    return _enter(parent, name, create=False)


def open_regular(name: str, parent: int) -> BinaryIO:
    """The regular file `name` in the folder, for reading. FileNotFoundError for anything else.

    What is no regular file is not opened at all: opening can already have effects in a device.
    """
    status = status_of(name, parent)
    if status is None or not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", name)
    try:
        descriptor = os.open(name, _FILE, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", name) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", name)
    return os.fdopen(descriptor, "rb")


def status_of(name: str, parent: int) -> os.stat_result | None:
    """The entry's own status (a link's, not its target's), or None where there is none."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def prune(root: Path, parts: Sequence[str], keep: int) -> None:
    """Removes the folders `parts` below `root`, innermost first, while empty; never the first `keep`."""
    for depth in range(len(parts), keep, -1):
        try:
            with folder(root, parts[: depth - 1]) as parent:
                os.rmdir(parts[depth - 1], dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
                return
            raise


def replace_durably(path: Path, content: bytes, temporary: Path, *, sync: bool = True) -> None:
    """`content` at `path`, whole or not at all; on disk when this returns, if `sync`. Mode 0600."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the folder's entries durable."""
    descriptor = os.open(path, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
