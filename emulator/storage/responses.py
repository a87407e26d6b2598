"""Answers of the Blob service: headers, streamed bodies, errors as XML."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Iterator

from flask import Response, g, request

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.storage.documents import error_document, http_date
from amlocal.emulator.storage.files import CHUNK, Identity
from amlocal.emulator.storage.properties import BlobProperties, OpenBlob

DEFAULT_VERSION = "2024-11-04"
_MAX_MD5_RANGE = 4 << 20
_VERSION = re.compile(r"\d{4}-\d\d-\d\d")
_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,1024}")
_BODILESS = (204, 304)


class FileBody:
    """`length` bytes of an open blob from `offset` on, a chunk at a time; closes the blob with the answer."""

    def __init__(self, blob: OpenBlob, offset: int, length: int) -> None:
        self._blob = blob
        self._left = length
        blob.file.seek(offset)

    def __iter__(self) -> Iterator[bytes]:
        # A file that a job cuts short meanwhile ends early; the server then drops the connection.
        while self._left and (chunk := self._blob.file.read(min(CHUNK, self._left))):
            self._left -= len(chunk)
            yield chunk

    def close(self) -> None:
        self._blob.file.close()


def request_id() -> str:
    """The id of the present request, the same each time."""
    if "storage_request_id" not in g:
        g.storage_request_id = str(uuid.uuid4())
    return str(g.storage_request_id)


def finish(response: Response) -> Response:
    """Adds what every answer of the service carries."""
    version = request.headers.get("x-ms-version", "")
    response.headers["x-ms-version"] = version if _VERSION.fullmatch(version) else DEFAULT_VERSION
    response.headers["x-ms-request-id"] = request_id()
    client_id = request.headers.get("x-ms-client-request-id", "")
    if _CLIENT_ID.fullmatch(client_id):
        response.headers["x-ms-client-request-id"] = client_id
    # A blob is anyone's content on the origin of our own pages: a browser must not run it.
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response


def error_response(error: AzureError) -> Response:
    """The error as the service gives it; HEAD and 304 have no body."""
    response = Response(status=error.status)
    if request.method != "HEAD" and error.status not in _BODILESS:
        response.set_data(error_document(error, request_id()))
        response.content_type = "application/xml"
    response.headers.update(error.headers)
    response.headers["x-ms-error-code"] = error.code
    return response


def empty(status: int, identity: Identity | None = None) -> Response:
    """An answer without a body, with ETag and Last-Modified where there is something to name."""
    response = Response(status=status)
    response.headers.pop("Content-Type", None)
    if identity is not None:
        response.headers["ETag"] = identity.etag
        response.headers["Last-Modified"] = http_date(identity.modified)
    return response


def metadata_headers(blob: BlobProperties, response: Response) -> Response:
    for name, value in blob.metadata.items():
        response.headers[f"x-ms-meta-{name}"] = value
    return response


def blob_response(blob: OpenBlob, span: tuple[int, int] | None, *, range_md5: bool = False) -> Response:
    """The blob, or the (offset, length) of it, streamed; takes over the open blob."""
    properties = blob.properties
    offset, length = span or (0, properties.size)
    response = Response(FileBody(blob, offset, length), status=206 if span else 200)
    response.headers["Content-Type"] = "application/octet-stream"
    for name, value in properties.headers.items():
        response.headers[name] = value
    response.headers["Content-Length"] = str(length)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["ETag"] = properties.etag
    response.headers["Last-Modified"] = http_date(properties.last_modified)
    response.headers["x-ms-blob-type"] = "BlockBlob"
    if span:
        response.headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{properties.size}"
        if range_md5 and length <= _MAX_MD5_RANGE:
            content = blob.file.read(length)
            blob.file.seek(offset)
            digest = hashlib.md5(content, usedforsecurity=False).digest()
            response.headers["Content-MD5"] = base64.b64encode(digest).decode()
    if properties.md5:
        response.headers["x-ms-blob-content-md5" if span else "Content-MD5"] = properties.md5
    return metadata_headers(properties, response)
