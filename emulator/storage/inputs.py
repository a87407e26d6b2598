"""What a Blob request says in its headers and query, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from amlocal.emulator.http.errors import AzureError, bad_request
from amlocal.emulator.storage.blobs import MAX_RESULTS
from amlocal.emulator.storage.conditions import HeaderView
from amlocal.emulator.storage.names import shown

MAX_METADATA_BYTES = 8192
_MAX_HEADER = 1024
_META = "HTTP_X_MS_META_"
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*")
_STORED = {
    "content-type": ("x-ms-blob-content-type", "Content-Type"),
    "content-encoding": ("x-ms-blob-content-encoding", "Content-Encoding"),
    "content-language": ("x-ms-blob-content-language", "Content-Language"),
    "cache-control": ("x-ms-blob-cache-control", "Cache-Control"),
    "content-disposition": ("x-ms-blob-content-disposition",),
}
# Each would change what the body or the answer means; passing it over would store or give something else.
_REFUSED_HEADERS = {
    "x-ms-copy-source": "copying from a URL",
    "x-ms-structured-body": "structured message bodies",
    "x-ms-encryption-key": "customer-provided keys",
    "x-ms-if-tags": "conditions on blob index tags",
}
_REFUSED_QUERY = {"snapshot": "snapshots", "versionid": "versions"}


def check_supported(headers: HeaderView, query: Mapping[str, str]) -> None:
    """AzureError 400 for what this server does not do and must not pass over."""
    for name, feature in _REFUSED_HEADERS.items():
        if headers.get(name):
            raise bad_request(
                "UnsupportedHeader", f"This server does not do {feature} (header {name}).", target=name
            )
    for name, feature in _REFUSED_QUERY.items():
        if name in query:
            raise bad_request(
                "UnsupportedQueryParameter", f"This server does not do {feature} (query {name}).", target=name
            )


def metadata_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """The request's metadata. Names are lower-case: WSGI does not keep the case of headers.

    AzureError 400 InvalidMetadata, MetadataTooLarge (8 KiB of names and values).
    """
    metadata: dict[str, str] = {}
    for key, value in environ.items():
        if not key.startswith(_META):
            continue
        name = key[len(_META) :].lower()
        text = str(value).strip()
        if not _IDENTIFIER.fullmatch(name):
            raise bad_request(
                "InvalidMetadata",
                f"The metadata name {shown(name)} is refused: letters, digits and underscores, no digit "
                "first.",
            )
        # granian hands on a value that is not ASCII as an empty one: keeping that would be a loss.
        if not text or not _PRINTABLE.fullmatch(text):
            raise bad_request(
                "InvalidMetadata", f"The value of metadata {name} is empty or not printable ASCII."
            )
        metadata[name] = text
    size = sum(len(name) + len(value) for name, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        raise bad_request(
            "MetadataTooLarge", f"The metadata has {size} bytes; {MAX_METADATA_BYTES} are allowed."
        )
    return metadata


def stored_headers(headers: HeaderView, *, own_only: bool) -> dict[str, str]:
    """The headers that are kept with the blob.

    `own_only`: those of the request itself (Content-Type) describe its body, not the blob, as for a block
    list.
    """
    kept = {"content-type": "application/octet-stream"}
    for name, sources in _STORED.items():
        for source in sources[:1] if own_only else sources:
            value = headers.get(source)
            if not value:
                continue
            if len(value) > _MAX_HEADER or not _PRINTABLE.fullmatch(value):
                raise bad_request(
                    "InvalidHeaderValue",
                    f"The header {source} is longer than {_MAX_HEADER} characters or not printable ASCII.",
                    target=source,
                )
            kept[name] = value
            break
    return kept


def byte_range(headers: HeaderView, size: int) -> tuple[int, int] | None:
    """(offset, length) in bytes, or None where the whole of the `size` bytes is asked for.

    A range that cannot be read, or several, is passed over, as RFC 9110 allows. AzureError 416 InvalidRange
    for one outside the blob: every range of an empty one.
    """
    match = _RANGE.fullmatch(headers.get("x-ms-range") or headers.get("Range") or "")
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first = int(match[1])
        last = int(match[2]) if match[2] else size - 1
        if match[2] and last < first:
            return None
    else:
        first, last = max(0, size - int(match[2])), size - 1
        if not int(match[2]):
            first = size
    if first >= size:
        raise AzureError(
            416,
            "InvalidRange",
            f"The range begins at byte {first}; the blob has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, min(last, size - 1) - first + 1


def max_results(query: Mapping[str, str]) -> int | None:
    """The page size asked for, at most 5,000; None where none is.

    AzureError 400 OutOfRangeQueryParameterValue.
    """
    text = query.get("maxresults")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise bad_request(
            "OutOfRangeQueryParameterValue",
            f"maxresults is {shown(text)}; a number from 1 to {MAX_RESULTS} is needed.",
            target="maxresults",
        )
    return min(int(text), MAX_RESULTS)
