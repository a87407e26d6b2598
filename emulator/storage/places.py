"""Where the folders of containers lie: below the blob root, or in a folder that the user mounted."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.storage.files import CHUNK, folder, prune
from amlocal.emulator.storage.mounts import CONTAINER_PREFIX, Mounts
from amlocal.emulator.storage.staging import disk_errors, write_all

# Of a file on its way into a mounted folder; one that a power cut left is not listed.
_ARRIVING = ".amlocal-"
_ARRIVING_END = ".part"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Place:
    """The folder `parts` below `root`. The first `keep` parts stay when they are empty.

    `mounted`: it is the user's own, so nothing but blobs is made there and no folder of theirs is removed.
    """

    root: Path
    parts: tuple[str, ...]
    keep: int
    mounted: bool

    def below(self, parts: Sequence[str]) -> Place:
        return Place(self.root, (*self.parts, *parts), self.keep, self.mounted)

    @contextmanager
    def opened(self, *, create: bool = False) -> Iterator[int]:
        """As `files.folder`. AzureError 403 where the system refuses a mounted folder."""
        with self.refusals(), folder(self.root, self.parts, create=create) as here:
            yield here

    def prune(self) -> None:
        """Removes the innermost folders while they are empty."""
        prune(self.root, self.parts, self.keep)

    def depth(self) -> int:
        """How many of the parts are there now."""
        for count in range(len(self.parts), 0, -1):
            try:
                with self.refusals(), folder(self.root, self.parts[:count]):
                    return count
            except (FileNotFoundError, NotADirectoryError):
                continue
        return 0

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """In a mounted folder the user's own permissions count: AzureError 403 where they forbid."""
        try:
            yield
        except OSError as error:
            if not self.mounted or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise AzureError(
                403,
                "AuthorizationPermissionMismatch",
                f"The system forbids this in {self.root}: {error.strerror}.",
            ) from error


class Places:
    """Finds the place of a container."""

    def __init__(self, root: Path, mounts: Mounts | None) -> None:
        self._root = root
        self._mounts = mounts

    def container(self, account: str, container: str, *, writing: bool = False) -> Place:
        """AzureError 403 and 404 as `Mounts.check`; FileNotFoundError for a mount that is no more."""
        if not container.startswith(CONTAINER_PREFIX):
            return Place(self._root, (account, container), 2, mounted=False)
        mount = self._mounts.find(account, container) if self._mounts else None
        if mount is None or self._mounts is None:
            raise FileNotFoundError(errno.ENOENT, "no such mount", container)
        return Place(self._mounts.check(mount, writing=writing), (), 0, mounted=True)


def is_arriving(name: str) -> bool:
    """Whether a file of this name (its path in the container) is one that is still on its way."""
    leaf = name.rpartition("/")[2]
    return leaf.startswith(_ARRIVING) and leaf.endswith(_ARRIVING_END)


@contextmanager
def at_hand(part: Path, place: Place, parent: int) -> Iterator[tuple[str, int | None]]:
    """The received file as (name, its folder's descriptor) from which one rename brings it into `parent`.

    A mounted folder can be on another file system: there the file is copied beside its target first.
    """
    if not place.mounted:
        yield str(part), None
        return
    name = f"{_ARRIVING}{os.urandom(8).hex()}{_ARRIVING_END}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        with disk_errors(), os.fdopen(descriptor, "wb", buffering=0), part.open("rb") as source:
            while chunk := source.read(CHUNK):
                write_all(descriptor, chunk)
            os.fsync(descriptor)
        yield name, parent
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)


def link_new(name: str, source: int | None, leaf: str, parent: int) -> None:
    """The file under the name `leaf`, only if that is free: FileExistsError."""
    try:
        os.link(name, leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if source is None or error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: the caller has looked just now, under the blob's lock.
        os.rename(name, leaf, src_dir_fd=source, dst_dir_fd=parent)
