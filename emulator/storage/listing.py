"""The blobs of a container in Azure's order, straight from the folders: nothing to keep up to date.

Order is by the whole name, code point by code point, so a folder sorts as its name with the slash. Links,
pipes and files whose names no client could ask for are passed over.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amlocal.emulator.http.errors import bad_request
from amlocal.emulator.storage.files import folder
from amlocal.emulator.storage.names import is_blob_name, shown

_MARKER = "1!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A blob's name, or a common prefix (`is_prefix`) that ends with the delimiter."""

    name: str
    is_prefix: bool


def entries(container: Path, prefix: str, delimiter: str, start: str) -> Iterator[Entry]:
    """What is in `container` under `prefix`, from the name `start` on, grouped at `delimiter` if given."""
    if delimiter in ("", "/"):
        yield from _walk(container, prefix, start, shallow=delimiter == "/")
        return
    last = ""
    for entry in _walk(container, prefix, start, shallow=False):
        cut = entry.name.find(delimiter, len(prefix))
        if cut < 0:
            yield entry
        elif (group := entry.name[: cut + len(delimiter)]) != last:
            last = group
            yield Entry(group, is_prefix=True)


def encode_marker(name: str) -> str:
    """The marker of the page that begins with `name`."""
    return _MARKER + base64.urlsafe_b64encode(name.encode()).decode()


def decode_marker(marker: str) -> str:
    """The name in a marker, '' for none; AzureError 400 for a marker that is not ours."""
    if not marker:
        return ""
    try:
        if marker.startswith(_MARKER):
            return base64.b64decode(marker[len(_MARKER) :], altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        pass
    raise bad_request(
        "InvalidQueryParameterValue",
        f"The marker {shown(marker)} is not one that this server gave as NextMarker.",
        target="marker",
    )


def _walk(container: Path, prefix: str, start: str, *, shallow: bool) -> Iterator[Entry]:
    base = prefix[: prefix.rfind("/") + 1]
    if base and not is_blob_name(base[:-1]):
        return
    stack = [iter(_children(container, base, prefix, start))]
    while stack:
        name = next(stack[-1], None)
        if name is None:
            stack.pop()
        elif not is_blob_name(name.rstrip("/")):
            continue
        elif not name.endswith("/"):
            yield Entry(name, is_prefix=False)
        elif not shallow:
            stack.append(iter(_children(container, name, prefix, start)))
        elif _has_blob(container, name):
            yield Entry(name, is_prefix=True)


def _children(container: Path, base: str, prefix: str, start: str) -> list[str]:
    """Sorted full names in the folder `base` ('' or ending with a slash); folders end with a slash."""
    return sorted(
        name
        for name in _scan(container, base)
        if name.startswith(prefix) and (name >= start or (name.endswith("/") and start.startswith(name)))
    )


def _has_blob(container: Path, base: str) -> bool:
    stack = [base]
    while stack:
        for name in _scan(container, stack.pop()):
            if not is_blob_name(name.rstrip("/")):
                continue
            if not name.endswith("/"):
                return True
            stack.append(name)
    return False


def _scan(container: Path, base: str) -> list[str]:
    names = []
    try:
        with folder(container, base.split("/")[:-1]) as here, os.scandir(here) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    names.append(f"{base}{item.name}/")
                elif item.is_file(follow_symlinks=False):
                    names.append(base + item.name)
    except (FileNotFoundError, NotADirectoryError):
        return []  # deleted meanwhile, or never there
    except PermissionError:
        return []  # in a mounted folder: not the server's to read, so no blob in it could be either
    return names
