"""The XML of the Blob service: listings and errors out, block lists in.

Source: Azure Storage REST, List Blobs, Put Block List, status and error codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from email.utils import format_datetime
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from amlocal.emulator.http.errors import AzureError, bad_request
from amlocal.emulator.storage.blocks import MAX_BLOCKS, BlockKind
from amlocal.emulator.storage.properties import BlobPage, BlobProperties

MAX_BLOCK_LIST_BYTES = 16 << 20
_HEAD = '<?xml version="1.0" encoding="utf-8"?>'
_KINDS: dict[str, BlockKind] = {
    "Latest": "Latest",
    "Uncommitted": "Uncommitted",
    "Committed": "Committed",
}
_ILLEGAL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LISTED_HEADERS = {
    "content-type": "Content-Type",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
}


def http_date(time: datetime) -> str:
    """RFC 9110's form of an aware time in UTC."""
    return format_datetime(time, usegmt=True)


def error_document(error: AzureError, request_id: str) -> str:
    """The body of a failed request."""
    message = _ILLEGAL.sub("?", f"{error.message}\nRequestId:{request_id}")
    return f"{_HEAD}<Error><Code>{escape(error.code)}</Code><Message>{escape(message)}</Message></Error>"


def list_document(
    page: BlobPage,
    *,
    endpoint: str,
    container: str,
    prefix: str,
    delimiter: str,
    marker: str,
    max_results: int | None,
    metadata: bool,
) -> str:
    """The body of a listing; with `metadata`, each blob's too."""
    return "".join(
        (
            f"{_HEAD}<EnumerationResults ServiceEndpoint={quoteattr(endpoint)} "
            f"ContainerName={quoteattr(container)}>",
            f"<Prefix>{escape(prefix)}</Prefix>" if prefix else "",
            f"<Marker>{escape(marker)}</Marker>" if marker else "",
            f"<MaxResults>{max_results}</MaxResults>" if max_results is not None else "",
            f"<Delimiter>{escape(delimiter)}</Delimiter>" if delimiter else "",
            "<Blobs>",
            *(
                f"<BlobPrefix><Name>{escape(item)}</Name></BlobPrefix>"
                if isinstance(item, str)
                else _blob(item, metadata=metadata)
                for item in page.items
            ),
            f"</Blobs><NextMarker>{escape(page.next_marker)}</NextMarker></EnumerationResults>",
        )
    )


def is_xml_text(text: str) -> bool:
    """Whether XML can carry the text."""
    return _ILLEGAL.search(text) is None


def parse_block_list(body: bytes) -> list[tuple[BlockKind, str]]:
    """The entries of a block list, in order. AzureError 400 InvalidXmlDocument, BlockListTooLong.

    A document type is refused, and with it every entity that could be expanded.
    """
    entries: list[tuple[BlockKind, str]] = []
    path: list[str] = []
    text: list[str] = []

    def start(name: str, _attributes: dict[str, str]) -> None:
        if (len(path) == 0 and name != "BlockList") or len(path) > 1 or (path and name not in _KINDS):
            raise _bad_list(f"<{name[:40]}> is not expected {'in ' + path[-1] if path else 'as its root'}")
        path.append(name)
        text.clear()

    def end(name: str) -> None:
        path.pop()
        if name in _KINDS:
            entries.append((_KINDS[name], "".join(text).strip()))
            if len(entries) > MAX_BLOCKS:
                raise bad_request("BlockListTooLong", f"The block list has more than {MAX_BLOCKS} blocks.")

    def doctype(*_ignored: object) -> None:
        raise _bad_list("a document type is not allowed")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise _bad_list(str(error)) from error
    return entries


def _blob(blob: BlobProperties, *, metadata: bool) -> str:
    return "".join(_blob_parts(blob, metadata=metadata))


def _blob_parts(blob: BlobProperties, *, metadata: bool) -> Iterator[str]:
    yield f"<Blob><Name>{escape(blob.ref.blob)}</Name><Properties>"
    yield f"<Last-Modified>{http_date(blob.last_modified)}</Last-Modified>"
    # Azure leaves the quotes out here, and only here.
    yield f"<Etag>{blob.etag.strip(chr(34))}</Etag><Content-Length>{blob.size}</Content-Length>"
    for name, element in _LISTED_HEADERS.items():
        if value := blob.headers.get(name, "application/octet-stream" if name == "content-type" else ""):
            yield f"<{element}>{escape(value)}</{element}>"
    if blob.md5:
        yield f"<Content-MD5>{blob.md5}</Content-MD5>"
    yield "<BlobType>BlockBlob</BlobType></Properties>"
    if metadata:
        pairs = (f"<{name}>{escape(value)}</{name}>" for name, value in blob.metadata.items())
        yield f"<Metadata>{''.join(pairs)}</Metadata>"
    yield "</Blob>"


def _bad_list(why: str) -> AzureError:
    return bad_request("InvalidXmlDocument", f"The block list is not valid: {why}.")
