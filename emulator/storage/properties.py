"""What the store answers with: a blob's properties, an open blob, a page of a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import BinaryIO

from amlocal.emulator.storage.files import Identity
from amlocal.emulator.storage.names import BlobRef
from amlocal.emulator.storage.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """What is known about a blob. `headers`: lower-case names such as content-type; `md5`: base64 or None."""

    ref: BlobRef
    identity: Identity
    sidecar: Sidecar

    @property
    def size(self) -> int:
        """In bytes."""
        return self.identity.size

    @property
    def etag(self) -> str:
        return self.identity.etag

    @property
    def last_modified(self) -> datetime:
        return self.identity.modified

    @property
    def md5(self) -> str | None:
        return self.sidecar.md5

    @property
    def headers(self) -> Mapping[str, str]:
        return self.sidecar.headers

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.sidecar.metadata


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """A blob opened for reading; close it, or use it in a with statement."""

    properties: BlobProperties
    file: BinaryIO

    def __enter__(self) -> OpenBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class BlobPage:
    """One page of a listing: blobs and common prefixes in order; `next_marker` is '' on the last one."""

    items: Sequence[BlobProperties | str]
    next_marker: str
