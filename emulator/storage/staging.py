"""Bytes on their way in: received into a temporary file, checked, then renamed into place by the store."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amlocal.emulator.http.disk import disk_full, is_disk_full
from amlocal.emulator.http.errors import AzureError, bad_request
from amlocal.emulator.storage.files import CHUNK
from amlocal.emulator.storage.names import shown


class Source(Protocol):
    """Anything that bytes can be read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Staged:
    """A received file. `md5`: base64. It is removed after use unless it was renamed away."""

    path: Path
    size: int
    md5: str


@contextmanager
def staged(
    folder: Path,
    source: Source,
    *,
    content_md5: str | None = None,
    expected_size: int | None = None,
    max_size: int | None = None,
) -> Iterator[Staged]:
    """`source` as a file in `folder`, durable, mode 0600.

    AzureError 400 Md5Mismatch, InvalidMd5, IncompleteBody (not `expected_size` bytes); 413
    RequestBodyTooLarge beyond `max_size` bytes; 507 where the disk is full.
    """
    if content_md5 is not None:
        _check_md5(content_md5)
    descriptor, name = tempfile.mkstemp(dir=folder, suffix=".part")
    path = Path(name)
    try:
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        with disk_errors(), os.fdopen(descriptor, "wb", buffering=0) as file:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if max_size is not None and size > max_size:
                    raise too_large(max_size)
                digest.update(chunk)
                write_all(file.fileno(), chunk)
            os.fsync(descriptor)
        if expected_size is not None and size != expected_size:
            raise bad_request(
                "IncompleteBody", f"The body ended after {size} bytes; Content-Length says {expected_size}."
            )
        md5 = base64.b64encode(digest.digest()).decode()
        if content_md5 is not None and md5 != content_md5:
            raise bad_request("Md5Mismatch", f"The body's MD5 is {md5}, Content-MD5 says {content_md5}.")
        yield Staged(path, size, md5)
    finally:
        path.unlink(missing_ok=True)


def write_all(descriptor: int, content: bytes) -> None:
    """All of `content`, however often the system takes only a part."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns a full disk into AzureError 507, which says so."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full() from error
        raise


def too_large(max_size: int) -> AzureError:
    """413: the body has more than `max_size` bytes."""
    return AzureError(
        413,
        "RequestBodyTooLarge",
        f"The body is larger than the {max_size} bytes that this server takes at once. Send it in blocks, "
        "or raise the limit in the settings.",
    )


def _check_md5(text: str) -> None:
    try:
        if len(base64.b64decode(text, validate=True)) == 16:
            return
    except (binascii.Error, ValueError):
        pass
    raise bad_request(
        "InvalidMd5", f"Content-MD5 is not the base64 of 16 bytes: {shown(text)}.", target="Content-MD5"
    )
