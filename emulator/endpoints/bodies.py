"""Reads a request's body: within the limit, in pieces that are never put together, and not for ever."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from amlocal.emulator.endpoints.scorer_client import Chunk
from amlocal.emulator.http.errors import AzureError

# A client that sends nothing for so long while its body is awaited is not waited for any longer.
STALL_SECONDS = 60.0
# Smaller pieces are put together: each has an overhead, and a client may send a byte at a time.
SMALL_PIECE = 64 * 1024


def check_length(request: Request, limit: int) -> None:
    """Raises 413 for a body that says itself that it is over the limit, before any of it is read."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)


async def read_body(request: Request, limit: int) -> list[Chunk]:
    """The body's pieces. Raises 413 as soon as they pass `limit` bytes, 408 for a client that stalls."""
    check_length(request, limit)
    chunks: list[Chunk] = []
    size = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            text = f"The request's body did not arrive: nothing came for {STALL_SECONDS:.0f} seconds."
            raise AzureError(408, "RequestTimeout", text) from error
        if chunk is None:
            return chunks
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if chunks and len(chunks[-1]) < SMALL_PIECE:
            last = chunks[-1]
            if isinstance(last, bytes):
                last = chunks[-1] = bytearray(last)
            last += chunk
        elif chunk:
            chunks.append(chunk)


def _too_large(limit: int) -> AzureError:
    return AzureError(413, "PayloadTooLarge", f"The request's body has more bytes than the {limit} allowed.")
