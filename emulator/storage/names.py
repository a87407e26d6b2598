"""What may name a storage account, a container and a blob, and where a blob's bytes lie.

Account names are this product's own (`aml` and 12 hex digits). Container names follow Azure's rule. Blob
names are narrower than Azure's, because a blob is a plain file: every segment must be a file name of its own.
The sidecar files live in another tree (see `sidecar.py`), so no name is reserved and none can collide with
ours.

Source: Azure Storage's naming rules for containers, blobs and metadata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from amlocal.emulator.http.errors import AzureError, bad_request

ACCOUNT_PATTERN = r"aml[0-9a-f]{12}"
MAX_BLOB_CHARACTERS = 1024
MAX_SEGMENT_BYTES = 255
_ACCOUNT = re.compile(ACCOUNT_PATTERN)
_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
# Control characters, the backslash, surrogates, and what XML cannot carry. U+FFFD is what undecodable bytes
# turn into: two different names would meet in one file.
_NEVER = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\ufffd-\uffff]")


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob's full name.

    One that exists is valid: making it raises AzureError 400 for a name that is refused.
    """

    account: str
    container: str
    blob: str

    def __post_init__(self) -> None:
        check_account(self.account)
        check_container(self.container)
        check_blob(self.blob)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders from the blob root down to the one that holds the file."""
        return (self.account, self.container, *self.blob.split("/")[:-1])

    @property
    def leaf(self) -> str:
        """The file's own name."""
        return self.blob.rsplit("/", 1)[-1]


def check_account(account: str) -> str:
    """`account` itself, or AzureError 400."""
    if not _ACCOUNT.fullmatch(account):
        raise bad_request(
            "InvalidResourceName",
            f"{shown(account)} is not a storage account of this server: their names are 'aml' and 12 hex "
            "digits.",
        )
    return account


def check_container(container: str) -> str:
    """`container` itself, or AzureError 400."""
    if not 3 <= len(container) <= 63 or not _CONTAINER.fullmatch(container):
        raise bad_request(
            "InvalidResourceName",
            f"{shown(container)} is not a container name: 3 to 63 lower-case letters, digits and single "
            "hyphens, beginning and ending with a letter or digit.",
        )
    return container


def check_blob(name: str) -> str:
    """`name` itself, or AzureError 400."""
    if not name:
        _refuse(name, "it is empty")
    if len(name) > MAX_BLOB_CHARACTERS:
        raise bad_request(
            "OutOfRangeInput",
            f"The blob name has {len(name)} characters; {MAX_BLOB_CHARACTERS} are allowed: {shown(name)}.",
        )
    if never := _NEVER.search(name):
        _refuse(name, f"character U+{ord(never[0]):04X} is not allowed")
    for segment in name.split("/"):
        if not segment:
            _refuse(name, "a segment between slashes is empty")
        if segment in (".", ".."):
            _refuse(name, f"the segment {segment!r} is not allowed")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            _refuse(name, f"a segment is longer than {MAX_SEGMENT_BYTES} bytes")
    return name


def is_blob_name(name: str) -> bool:
    """Whether a client could address a blob of this name."""
    try:
        check_blob(name)
    except AzureError:
        return False
    return True


def shown(name: str) -> str:
    """A client's text, safe and short enough for a message."""
    return ascii(name if len(name) <= 100 else name[:97] + "...")


def _refuse(name: str, why: str) -> NoReturn:
    raise bad_request("InvalidResourceName", f"The blob name {shown(name)} is refused: {why}.")
