"""One request to one scorer over its unix socket: HTTP/1.1, a connection for each request.

A connection kept open might be closed by a stopping scorer just when it is used again, and such a request
could not safely be repeated; connecting costs some 50 microseconds.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

# A scorer's answers are kept whole until they are passed on; a script may not fill the router's memory.
MAX_ANSWER = 256 * 1024 * 1024
# How long to wait before a socket is tried again whose queue of connections is full.
_FULL_QUEUE_PAUSE = 0.005
_LOADING = 503

Headers = Sequence[tuple[bytes, bytes]]
Chunk = bytes | bytearray


class NotStarted(Exception):
    """No scorer took the request: it was not started anywhere and may be sent again."""


class Died(Exception):
    """The scorer ended, or broke off, while it worked on the request."""


@dataclass(frozen=True)
class ScorerRequest:
    """What a scorer is to be sent; the body in pieces, so that it need not be copied."""

    method: str
    target: bytes
    headers: Headers = ()
    body: Sequence[Chunk] = ()

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(len(chunk) for chunk in self.body)

    def head(self) -> bytes:
        lines = [
            b"%b %b HTTP/1.1\r\nHost: localhost\r\n" % (self.method.encode(), self.target),
            *(b"%b: %b\r\n" % header for header in self.headers),
            b"Content-Length: %d\r\nConnection: close\r\n\r\n" % self.size,
        ]
        return b"".join(lines)


@dataclass
class ScorerAnswer:
    """What a scorer said: header names are in small letters."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


async def exchange(path: str, request: ScorerRequest) -> ScorerAnswer:
    """Send the request to the scorer at `path`. Raises NotStarted and Died; has no time limit of its own."""
    connection = await _connect(path)
    loop = asyncio.get_running_loop()
    transport, exchange_ = await loop.create_unix_connection(lambda: _Exchange(loop), sock=connection)
    try:
        transport.write(request.head())
        for chunk in request.body:
            if exchange_.answer.done():
                break
            transport.write(chunk)
            await exchange_.writable()
        return await exchange_.answer
    finally:
        transport.abort()


async def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        while True:
            try:
                connection.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_FULL_QUEUE_PAUSE)
            else:
                return connection
    except OSError as error:
        connection.close()
        raise NotStarted(error.strerror or str(error)) from error
    except BaseException:
        connection.close()
        raise


class _Exchange(asyncio.Protocol):
    """Takes the answer apart as it comes in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[ScorerAnswer] = loop.create_future()
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._parts = ScorerAnswer()
        self._size = 0
        self._room: asyncio.Future[None] | None = None

    async def writable(self) -> None:
        """Return when the connection takes more, or there is no sense in sending more."""
        if self._room is not None and not self.answer.done():
            await self._room

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Died(f"it did not answer in HTTP ({error})"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._parts.headers.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self._fail(Died(f"its answer has more than {MAX_ANSWER} bytes"))
        elif not self.answer.done():
            self._parts.body.append(data)

    def on_message_complete(self) -> None:
        self._parts.status = self._parser.get_status_code()
        if self._parts.status == _LOADING and not _from_the_model(self._parts):
            self._fail(NotStarted("its model is still being loaded"))
        elif not self.answer.done():
            self.answer.set_result(self._parts)
        self.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Died(str(exc) if exc else "it closed the connection without an answer"))

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # read, so that nobody is told of it when the caller has gone
        self.resume_writing()


def _from_the_model(answer: ScorerAnswer) -> bool:
    """Whether the status was chosen by the model's code, not by the scorer."""
    return answer.header(b"ms-azureml-model-error-statuscode") is not None
