"""Request bodies that stop coming: answered 408 after a while, so that they do not hold threads for ever.

A thread that waits for a body cannot be interrupted, and the server's library says nothing about connections.
So the connections on which the client was the last to speak, long ago, are found among this process's sockets
and no longer read from: the waiting read then ends as if the client had, and its request is answered. The
system's clock for that is coarse: an idle connection whose last answer was very quick may be closed as well,
as any server may do with idle connections.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from amlocal.emulator.http.errors import AzureError

log = logging.getLogger("amlocal.http")

PATIENCE = 30.0
_PIECE = 128 * 1024
# struct tcp_info of linux/tcp.h: milliseconds since data was last sent and received.
_LAST_SENT, _LAST_RECEIVED = 44, 52


class StalledBodies:
    """WSGI middleware of a server that listens on `port`; `patience` is in seconds. Linux only; else idle."""

    def __init__(self, app: Callable[..., Iterable[bytes]], port: int, patience: float = PATIENCE) -> None:
        self._app = app
        self._port = port
        self.patience = patience
        # Reads under way, by thread: since when they wait (monotonic seconds).
        self.waiting: dict[int, float] = {}
        if sys.platform == "linux":
            threading.Thread(target=self._watch, name="stalled-bodies", daemon=True).start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"] = _Body(environ["wsgi.input"], environ.get("CONTENT_LENGTH"), self)
        return self._app(environ, start_response)

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self.patience / 4))
            limit = time.monotonic() - self.patience
            if any(since < limit for since in list(self.waiting.values())):
                for connection in _silent(self._port, self.patience):
                    # The client may close it at this very moment; the watch must outlive that.
                    with connection, contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RD)
                        log.info("a client stopped in the middle of a request: fd %d", connection.fileno())


class _Body:
    """The body of one request, read in pieces."""

    def __init__(self, inner: Any, length: str | None, watch: StalledBodies) -> None:
        self._inner = inner
        self._left = int(length) if length and length.isdigit() else None
        self._watch = watch

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, fewer only at the end. AzureError 408 when the client stopped before."""
        pieces: list[bytes] = []
        left = size if size is not None and size >= 0 else None
        while left is None or left > 0:
            asked = _PIECE if left is None else min(_PIECE, left)
            piece = self._piece(asked)
            pieces.append(piece)
            if left is not None:
                left -= len(piece)
            if len(piece) < asked:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        thread = threading.get_ident()
        self._watch.waiting[thread] = time.monotonic()
        try:
            piece: bytes = self._inner.read(size)
        finally:
            del self._watch.waiting[thread]
        if self._left is not None:
            self._left -= len(piece)
        if len(piece) < size and self._left:
            # Whether we cut it or the client closed it: what came is not what was meant.
            left, self._left = self._left, 0
            raise AzureError(
                408,
                "RequestTimeout",
                f"The body stopped coming {left} bytes before its end. Send the request again.",
            )
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _silent(port: int, seconds: float) -> list[socket.socket]:
    """Own connections to `port` whose client sent last, `seconds` ago or more; to be closed by the caller."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # closed meanwhile
            continue
        if _is_silent(connection, port, seconds * 1000):
            found.append(connection)
        else:
            connection.close()
    return found


def _is_silent(connection: socket.socket, port: int, milliseconds: float) -> bool:
    try:
        inet = connection.family in (socket.AF_INET, socket.AF_INET6)
        if not inet or connection.type != socket.SOCK_STREAM or connection.getsockname()[1] != port:
            return False
        connection.getpeername()
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except OSError:  # it only listens, or has ended
        return False
    sent, received = (struct.unpack_from("I", info, offset)[0] for offset in (_LAST_SENT, _LAST_RECEIVED))
    return bool(received >= milliseconds and sent >= received)
