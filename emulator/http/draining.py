"""Reads what a handler left of a request's body.

The server closes a connection whose request was not read to its end: a client that is still sending, or that
sends its next request on it, would see a broken connection and not the answer.
"""

from __future__ import annotations

import contextlib
import time

from flask import request

from amlocal.emulator.http.errors import AzureError

_CHUNK = 64 * 1024
_MOST = 64 * 1024**2
_SECONDS = 10.0


def drain() -> None:
    """Reads the rest of the body, at most 64 MiB or for 10 s; one larger or without end is cut off."""
    announced = request.content_length or 0
    if announced > _MOST or (not announced and "Transfer-Encoding" not in request.headers):
        return
    stream, left, until = request.environ["wsgi.input"], _MOST, time.monotonic() + _SECONDS
    with contextlib.suppress(AzureError):  # the client has stopped sending; the handler's answer stands
        while left > 0 and time.monotonic() < until and (chunk := stream.read(_CHUNK)):
            left -= len(chunk)
